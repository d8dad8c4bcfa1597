"""What users of egs2/TEMPLATE/ssl1 meet: kill -9 anywhere, other settings, two runs at once, odd and broken data."""

import json
import os
import shlex
import shutil

import numpy as np
import pytest
import torch
from corpora import voice, write
from watched import contents, error_of, inside, kill_in, odd_name, recipe_fixtures, run, write_set

from espnet_ext.datadir import DataDir, read_scp
from espnet_ext.files import only_writer
from espnet_ext.ssl.units import UnitFolder, read_units

RECIPE, EXP = "mini_espeak/ssl1", "exp/ssl_train_hubert"
MODEL = "--encoder_conf hidden_size=16 --encoder_conf num_attention_heads=2 --encoder_conf intermediate_size=16"
TRAINING = f"--max_epoch 2 --num_workers 0 --batch_bins 100000 --encoder_conf conv_dim=[8,8,8,12] {MODEL}"
RUN = (
    'ssl1/ssl.sh --test_sets test --num_dev_speakers 2 --features "mfcc previous" --layers "- 2" --num_units "8 6" '
    f'--max_frames 2000 --nj 1 --stop_stage score --train_args "{TRAINING}"'
)


def phones_of(speaker, number, wav):
    """Made-up phones, a tenth of a second each."""
    return " ".join(f"{'abc'[(speaker + i) % 3]}:{i / 10:g}:{(i + 1) / 10:g}" for i in range(len(wav) // 1600))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six training and two test speakers; what shells read in the path and in the ids."""
    folder = tmp_path_factory.mktemp("it's a #1 %s corpüs $HOME")
    for name, speakers in (("train", range(6)), ("test", range(10, 12))):
        write_set(
            folder, name, speakers, 5, lambda s, u: (voice(10 * s + u, s, 0.7 + 0.1 * u), 16000), odd_name,
            utt2phones=phones_of,
        )  # fmt: skip
    return folder / "data"


finished, fresh = recipe_fixtures(RECIPE, RUN)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished recipe, to be changed."""
    shutil.copytree(finished.parents[2], tmp_path / "copy", symlinks=True)
    return tmp_path / "copy" / finished.relative_to(finished.parents[2])


@pytest.mark.timeout(900)
def test_kill_9_anywhere_and_the_same_command_again(finished, fresh):
    """In the fit, in a shard of labels, in a training, between the stages of iteration 2: the end is the same."""
    it1, it2 = fresh / EXP / "it1", fresh / EXP / "it2"
    kill_in(fresh, "format", f"{EXP}/it1/centroids/.lock", True, "--stop_stage", "clusters")
    assert not (it1 / "centroids/quantizer.json").exists()
    shard = f"{EXP}/it1/units/train_fit/.1of2.lock"
    said = kill_in(fresh, "clusters", shard, False, "--stop_stage", "labels", "--nj", "2")
    assert "was killed by SIGKILL" in said and not (it1 / "units/train_fit/units.scp").exists()
    kill_in(fresh, "labels", f"{EXP}/it1/model/checkpoint.pth", True, "--stop_stage", "train")
    assert (it1 / "units/test/units.json").exists() and not (it1 / "hf").exists()
    kill_in(fresh, "clusters", f"{EXP}/it2/units/train_dev/units.json", True, "--stop_stage", "train")
    assert (it1 / "hf/model.safetensors").exists() and not (it2 / "model").exists()
    said = run(fresh, "--stage", "format")
    assert "centroids is finished; nothing to do" in said
    for pattern in ("it*/centroids/*.npz", "it*/hf/*", "it*/model/valid.loss_m.best.pth", "it*/settings.json"):
        assert contents(fresh, f"{EXP}/{pattern}") == contents(finished, f"{EXP}/{pattern}")
    for name in ("it1/units/train_fit", "it2/units/train_dev", "it2/units/test"):
        assert units_of(fresh, name) == units_of(finished, name)
    tables = [next(iter(contents(recipe, f"{EXP}/units_test/RESULTS.md").values())) for recipe in (fresh, finished)]
    assert [line for line in tables[0].splitlines() if b"|" in line] == [
        line for line in tables[1].splitlines() if b"|" in line
    ]
    assert not [path for path in fresh.glob(f"{EXP}/**/.*") if path.is_file()]


def units_of(recipe, name):
    """Units by utterance."""
    with inside(recipe):
        return {utt: read_units(place).tolist() for utt, place in UnitFolder.read(f"{EXP}/{name}").places().items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('--stage clusters --num_units "9 6"', "it1 was made with other settings: num_units was 8, is 9; name"),
        (
            '--stage clusters --features "logmel previous"',
            "it1 was made with other settings: features was mfcc, is logmel; name",
        ),
        (
            '--stage labels --levels "1 2"',
            "it2 was made with other settings: levels was 1, is 2; name another",
        ),
        (
            '--stage train --quantizer "random_projection kmeans"',
            "it1 was made with other settings: quantizer was empty, is random_projection; name another",
        ),
        ("--stage train --kmeans_opts --iterations=3", "it1 was made with other settings: kmeans_opts was empty, is "),
        ("--stage clusters --num_dev_speakers 3 --stage split", "it1 was made with other settings: train_set was "),
        (
            '--stage train --train_args "LESS"',
            "it1/model holds a finished training with other settings: batch_bins",
        ),
        (
            "--stage train --start_iter 2 --warm_start true",
            "it2/model holds a finished training with other settings: init_param was [], is ['exp/",
        ),
        ("--stage clusters --features previous --ssl_tag new", "--features: iteration 1 has no previous one; give "),
        ("--stage labels --ssl_tag new", r"exp/ssl_new/it1/centroids/quantizer.json is missing or empty; stage 4"),
    ],
)
def test_other_settings_are_refused_and_change_nothing(copied, options, message):
    before = contents(copied, f"{EXP}/it*/**/*")
    words = [word.replace("LESS", TRAINING.replace("100000", "90000")) for word in shlex.split(options)]
    assert message in error_of(copied, *words)
    after = contents(copied, f"{EXP}/it*/**/*")
    changed = {str(path) for path in before if before[path] != after.get(path)}
    assert all(name.endswith(".log") for name in changed), changed


def test_an_earlier_iteration_that_goes_on(copied):
    """A longer first training gives another encoder, with which the second iteration is not mixed."""
    longer = ["--train_args", TRAINING.replace("--max_epoch 2", "--max_epoch 3"), "--inference_model", "latest.pth"]
    model = copied / EXP / "it1/hf/model.safetensors"
    before = model.read_bytes()
    run(
        copied,
        "--stage",
        "train",
        "--stop_stage",
        "train",
        "--stop_iter",
        "1",
        *longer,
        "--inference_model",
        "latest.pth",
    )
    assert model.read_bytes() != before
    said = error_of(copied, "--start_iter", "2", "--stage", "clusters")
    assert f"{EXP}/it2 was made with other settings: encoder was {EXP}/it1/hf/model.safetensors (" in said
    # Under another name it goes on from there; here with two layers, each with a number of units of its own.
    options = ["--start_iter", "2", "--features", f"- hf:{EXP}/it1/hf", "--layers", "- 1,2", "--ssl_tag", "other"]
    run(copied, *options, "--num_units", "- 4,7", "--stage", "clusters", "--stop_stage", "clusters")
    streams = json.loads((copied / "exp/ssl_other/it2/centroids/quantizer.json").read_text())["streams"]
    assert [(stream["name"], stream["num_units"]) for stream in streams] == [("layer1", 4), ("layer2", 7)]


def test_a_later_stage_goes_on_with_the_next_iteration(copied):
    """--stage train, and no iteration after the first has centroids yet: they are made when their turn comes."""
    units = units_of(copied, "it2/units/test")
    shutil.rmtree(copied / EXP / "it2")
    run(copied, "--stage", "train", "--stop_stage", "train")
    assert units_of(copied, "it2/units/test") == units and (copied / EXP / "it2/hf/model.safetensors").is_file()


def test_stage_by_stage(fresh):
    """--stop_stage labels: as far as it goes without a training, with no error."""
    said = run(fresh, "--stage", "format", "--stop_stage", "split")
    assert "iteration" not in said
    said = run(fresh, "--stage", "clusters", "--stop_stage", "labels")
    assert f"iteration 2 needs {EXP}/it1/hf, which stage 6 (train) makes; this is all that --stop_stage leaves" in said
    assert (fresh / EXP / "it1/units/test/units.json").is_file() and not (fresh / EXP / "it2").exists()


def test_a_warm_start(copied):
    """The second encoder begins with the weights of the first, its heads anew; at a rate of 0 it keeps them."""
    one = torch.load(copied / EXP / "it1/model/valid.loss_m.best.pth", weights_only=True)
    cold = torch.load(copied / EXP / "it2/model/latest.pth", weights_only=True)
    shutil.rmtree(copied / EXP / "it2/model")
    options = ["--start_iter", "2", "--stage", "train", "--stop_stage", "train", "--warm_start", "true"]
    run(copied, *options, "--train_args", f"{TRAINING} --scheduler none --optim_conf lr=0")
    two = torch.load(copied / EXP / "it2/model/latest.pth", weights_only=True)
    encoder = [name for name in one if name.startswith("encoder.")]
    assert len(encoder) > 20 and all(torch.equal(one[name], two[name]) for name in encoder)
    assert not all(torch.equal(one[name], cold[name]) for name in encoder)
    assert two["heads.0.label_embeddings"].shape != one["heads.0.label_embeddings"].shape


@pytest.mark.parametrize(
    ("stage", "folder", "lock"),
    [
        ("clusters", "it1/centroids", ".lock"),
        ("labels", "it1/units/test", ".1of1.lock"),
        ("train", "it1/model", ".lock"),
    ],
)
def test_two_runs_of_one_experiment(copied, stage, folder, lock):
    """The second says who is there, and disturbs nothing."""
    if stage == "labels":  # the first run is at work there
        (copied / EXP / folder / "units.scp").unlink()
    with only_writer(copied / EXP / folder, lock):
        said = error_of(copied, "--stage", stage, "--stop_stage", stage)
        assert f"{EXP}/{folder}: another process ({os.getpid()} on " in said


def test_short_and_broken_utterances(fresh):
    """One shorter than a frame is named where labels are made, or left out; one of a frame has a unit."""
    tables = {name: read_scp(fresh / "data/train" / name) for name in ("wav.scp", "utt2spk", "utt2phones")}
    for name, samples in (("one-click", 300), ("one-frame", 400)):
        write(fresh / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(samples))
        tables["wav.scp"][name], tables["utt2spk"][name] = str(fresh / f"{name}.wav"), odd_name(0, None)
        tables["utt2phones"][name] = "a:0:0.01"
    DataDir.write(fresh / "data/train", tables)
    options = ["--stop_iter", "1", "--stop_stage", "labels"]
    said = error_of(fresh, "--stage", "format", *options)
    assert "utterance one-click: " in said and "300 samples are shorter than one frame (400)" in said
    assert "--skip_broken true" in said
    run(fresh, "--stage", "labels", *options, "--skip_broken", "true")
    units = units_of(fresh, "it1/units/train_fit") | units_of(fresh, "it1/units/train_dev")
    assert "one-click" not in units and len(units["one-frame"]) == 1


def test_short_utterances_among_those_that_ranks_are_measured_on(copied):
    """The recipe's --skip_broken holds there too."""
    write(copied / "click.wav", 0.1 * np.random.default_rng(0).standard_normal(300))
    values = {"wav.scp": copied / "click.wav", "utt2spk": odd_name(0, None), "utt2num_samples": 300}
    dev = copied / "dump/train_dev"
    DataDir.write(dev, {name: read_scp(dev / name) | {"one-click": value} for name, value in values.items()})
    options = ["--stage", "rank", "--stop_stage", "rank", "--stop_iter", "1"]
    assert "utterance one-click: 300 samples are shorter than one frame" in error_of(copied, *options)
    run(copied, *options, "--skip_broken", "true")
    assert (copied / EXP / "it1/rank/RESULTS.md").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--dev_set dev", "data/dev/wav.scp is missing or empty; stage 1 (data) makes it"),
        ("--num_dev_speakers 6", "6 dev speakers would leave 0 of 6 for training; ask for at most 5"),
        ("--test_sets nothing", "data/nothing/wav.scp is missing or empty; stage 1 (data) makes it"),
        ("--features hf:no/where --stop_iter 1", "no/where"),
        ('--num_units ""', "--num_units is empty; give a word per iteration"),
        ("--start_iter 0", "--start_iter 0 --stop_iter 2: iterations count from 1"),
        ("--stop_iter 1.5", "iterations count from 1"),
        ("--start_iter 3", "--start_iter 3 --stop_iter 2: nothing to run, the first is behind the last"),
        # What only the second iteration would meet, before anything is made.
        (
            '--layers "- 6"',
            "iteration 2: --layers: the encoder of iteration 1 has the layers 0 (input of the first) to 3",
        ),
        ('--features "mfcc hf:./no/where"', "iteration 2: "),
        ('--num_units "8 3000"', "iteration 2: --num_units: 3000 centroids cannot be fitted to 2000 frames"),
        (
            '--train_config "conf/train_hubert.yaml conf/none.yaml"',
            "iteration 2: --config conf/none.yaml: no such file",
        ),
    ],
)
def test_a_mistake_is_one_line(fresh, options, message):
    (fresh / "data/dev").mkdir()
    (fresh / "data/dev/wav.scp").touch()
    said = error_of(fresh, "--stage", "format", *shlex.split(options))
    assert message in said and not ((fresh / "dump").exists() and "iteration 2" in said)


def test_lists_for_ranks_are_there_before_a_training(fresh):
    """Stage rank comes last."""
    said = error_of(fresh, "--stage", "format", "--stop_stage", "pack", "--rank_lists", "other=dump/other")
    assert "--rank_lists other=dump/other: there is no data directory dump/other" in said and not (fresh / EXP).exists()


def test_without_phones(copied):
    """A corpus without phone times: units are not compared, and probes are of what is known, the speakers."""
    (reports := copied / EXP / "units_test/RESULTS.md").unlink()
    for path in copied.glob("dump/*/utt2phones"):
        path.unlink()
    said = run(copied, "--stage", "score", "--stop_stage", "probe", "--skip_stages", "rank")
    assert "dump/test has no utt2phones (doc/data_formats.md): its units are not compared with phones" in said
    assert not reports.exists()
    for folder in ("probe_test", "study_test"):
        text = (copied / EXP / "it2" / folder / "RESULTS.md").read_text()
        assert "speaker accuracy (%)" in text and "phone accuracy (%)" not in text


def test_packed_without_s3prl(copied):
    run(copied, "--stage", "pack", "--stop_stage", "pack", "--s3prl", "false")
    assert (copied / EXP / "hf/model.safetensors").is_file() and not (copied / EXP / "s3prl.pt").exists()
    run(copied, "--stage", "pack", "--stop_stage", "pack")
    assert (copied / EXP / "s3prl.pt").is_file()


def test_without_test_sets(copied):
    """Nothing to compare with: the stage is passed over."""
    before = contents(copied, f"{EXP}/**/*")
    run(copied, "--stage", "score", "--test_sets", "")
    assert contents(copied, f"{EXP}/**/*") == before
