"""What a recipe's user meets when something goes wrong: kill -9, a full disk, broken audio, mistakes of every kind."""

import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
from corpora import TINY, voice, write
from small_disk import small_disk  # noqa: F401  (a fixture)
from watched import contents, error_of, kill_in, odd_name, read_vectors, recipe_fixtures, run, write_set

from espnet_ext.datadir import DataDir, read_scp
from espnet_ext.files import only_writer

EXP = "exp/spk_train_ecapa_small"
RECIPE = "mini_librispeech/spk1"
RUN = (
    "spk1/spk.sh --train_config conf/train_ecapa_small.yaml --num_dev_speakers 3 --nj 2 --num_bootstrap 10 "
    f'--stop_stage score --train_args "{TINY.replace("--max_epoch 2", "--max_epoch 3")}"'
)


def quarter_at_22_khz(s, u):
    rate_hz = 16000 if u else 22050
    return voice(10 * s + u, s, 0.8, rate_hz), rate_hz


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Ten training and four test speakers, one file in four at 22 kHz; what shells read in the path."""
    folder = tmp_path_factory.mktemp("it's a #1 %s corpüs $HOME")
    for name, speakers in (("train", range(10)), ("test", range(10, 14))):
        write_set(folder, name, speakers, 4, quarter_at_22_khz, odd_name)
    return folder / "data"


finished, fresh = recipe_fixtures(RECIPE, RUN)


def test_kill_9_in_every_stage_and_the_same_command_again(finished, fresh):
    """Whole tree or command alone: what comes out at the end is what an undisturbed run gives."""
    kill_in(fresh, "format", "dump/train/.format/done.jsonl", whole_tree=True)
    assert not (fresh / "dump/test/wav.scp").exists()
    run(fresh, "--stage", "format", "--stop_stage", "trials")
    kill_in(fresh, "train", f"{EXP}/checkpoint.pth", whole_tree=True)
    run(fresh, "--stage", "train", "--stop_stage", "train")
    # What was done as three jobs is not mixed with what is then done as two.
    kill_in(fresh, "infer", f"{EXP}/embeddings/train_dev/parts/*/*of3.*.scp", True, "--nj", "3")
    said = kill_in(fresh, "infer", f"{EXP}/embeddings/train_dev/parts/*/*of2.*.scp", whole_tree=False)
    assert "was killed by SIGKILL" in said and not (fresh / EXP / "embeddings/test/embedding.scp").exists()
    run(fresh, "--stage", "infer", "--stop_stage", "infer")
    said = kill_in(fresh, "score", f"{EXP}/scores/test/*", whole_tree=False)
    assert "was killed" in said and "the same command goes on" in said
    run(fresh, "--stage", "score")

    for pattern in ("dump/*/[a-z]*", "dump/*/audio/*/*", f"{EXP}/scores/*/*"):
        assert contents(fresh, pattern) == contents(finished, pattern)
    for name in ("train_dev", "train_fit_cohort", "test"):
        one, two = (read_vectors(recipe, f"{EXP}/embeddings/{name}") for recipe in (finished, fresh))
        assert one.keys() == two.keys() and all(np.array_equal(one[utt], two[utt]) for utt in one)
    one, two = (json.loads((recipe / EXP / "results.json").read_text())["results"] for recipe in (finished, fresh))
    assert one == two
    # Nothing hidden is left but the journal of the format stage.
    assert {path.name for path in [*fresh.glob("dump/**/.*"), *fresh.glob("exp/**/.*")]} == {".format"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--stage train --train_config conf/bad.yaml",
            "conf/bad.yaml: unknown key 'bach_size'; did you mean batch_size?",
        ),
        ("--stage train --train_config conf/none.yaml", "--config conf/none.yaml: no such file"),
        ("--stage train --spk_tag new --ngpu 1", "--ngpu 1, but PyTorch finds none; give --ngpu 0"),
        ("--stage train --seed 1", f"{EXP} holds a finished training with other settings: seed was 0, is 1"),
        ("--stage trials --num_dev_speakers 9", "dump/train: 9 dev speakers would leave 1 of 10 .* ask for at most 8"),
        ("--stage trials --num_dev_speakers 1", "dump/train: 1 dev speakers make no non-target trials"),
        ("--stage format --test_sets nothing", "data/nothing/wav.scp is missing or empty; stage 1 .data. makes it"),
        ("--stage infer --spk_tag new", r"exp/spk_new/valid.eer.best.pth is missing or empty; stage 4 \(train\) makes"),
        ("--stage score --test_sets train", r"embeddings/train/embedding.scp is missing or empty; stage 5 \(infer\)"),
        ("--stage score --score euclid", "--score: invalid choice: 'euclid'"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(finished, options, message):
    if "--ngpu 1" in options:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    config = finished / "conf/train_ecapa_small.yaml"
    (finished / "conf/bad.yaml").write_text(config.read_text() + "bach_size: 3\n")
    kept = {path: path.read_bytes() for path in [*finished.glob("dump/*/*.scp"), finished / EXP / "config.yaml"]}
    said = error_of(finished, *options.split())
    assert re.search(message, said), said
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert {path.name for path in (finished / "exp").glob("spk_*")} <= {"spk_train_ecapa_small", "spk_new"}
    assert not list(finished.glob("exp/spk_new/*.pth"))


def test_trials_that_cannot_be_scored(finished):
    trials = finished / "dump/test/trials"
    text = trials.read_text()
    try:
        for lines, message in (
            (text + "ş10-(#0) nobody target\n", f"trials line {text.count(chr(10)) + 1}: utterance 'nobody' is not in"),
            (text.replace("nontarget", "target"), "trials: no non-target trial among"),
            ("", "trials: the file is empty"),
            (None, "dump/test/trials is missing; stage 3 (trials) makes it"),
        ):
            trials.unlink()
            if lines is not None:
                trials.write_text(lines)
            assert message in error_of(finished, "--stage", "score")
            trials.touch()
    finally:
        trials.write_text(text)


def test_speakers_with_one_utterance(fresh):
    """One such speaker is no obstacle; a test set of nothing else is."""
    test = DataDir(fresh / "data/test")
    for last in (3, 12):  # how many utterances are left out, always those after the first of a speaker
        left_out = [utt for utt in test.utterances if not utt.endswith("#0)")][:last]
        kept = {
            name: {k: v for k, v in test.table(name).items() if k not in left_out} for name in ("wav.scp", "utt2spk")
        }
        DataDir.write(fresh / "data/test", kept)
        options = ["--stage", "format", "--stop_stage", "trials"]
        if last == 3:
            run(fresh, *options)
            assert "ş10-(#0)" in (fresh / "dump/test/trials").read_text()
        else:
            assert "no target trial is possible: no speaker has two utterances" in error_of(fresh, *options)


def test_broken_audio_in_the_corpus(fresh):
    """All of it is named at once and nothing is left for the next stage; 8 kHz and stereo are not broken."""
    folder, scp = fresh / "broken", read_scp(fresh / "data/train/wav.scp")
    wav = voice(0, 0, 1.0)
    broken = {name: utt for name, utt in zip(("missing", "empty", "cut", "nan", "silent"), scp, strict=False)}
    write(folder / "cut.wav", wav)
    (folder / "empty.wav").touch()
    os.truncate(folder / "cut.wav", 4000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(16000) == 99, np.nan, wav), 16000, "FLOAT")
    write(folder / "silent.wav", np.zeros(16000))
    fine = dict(zip(("telephone", "stereo"), list(scp)[10:], strict=False))
    write(folder / "telephone.wav", wav[::2], 8000)
    write(folder / "stereo.wav", np.stack([wav, 0.5 * wav], axis=1))
    for name, utt in (broken | fine).items():
        scp[utt] = folder / f"{name}.wav"
    DataDir.write(fresh / "data/train", {"wav.scp": scp, "utt2spk": read_scp(fresh / "data/train/utt2spk")})
    options = ["--stage", "format", "--stop_stage", "format"]
    assert "5 of 40 utterances are broken" in error_of(fresh, *options)
    named = {line.split(": ")[1] for line in (fresh / "said").read_text().splitlines() if line.startswith("broken: ")}
    assert named == set(broken.values()) and not (fresh / "dump/train/wav.scp").exists()
    assert "dump/train/wav.scp is missing or empty; stage 2" in error_of(fresh, "--stage", "trials")
    assert "dropped: 5 broken" in run(fresh, *options, "--skip_broken", "true")
    kept = DataDir(fresh / "dump/train")
    assert len(kept.utterances) == 35 and {kept.num_samples(utt) for utt in fine.values()} == {16000}


@pytest.mark.parametrize(
    ("stage", "folder", "lock"),
    [
        ("format", "dump/train", ".lock"),
        ("train", EXP, ".lock"),
        ("infer", f"{EXP}/embeddings/train_dev", ".1of1.lock"),
    ],
)
def test_two_runs_of_one_stage(finished, stage, folder, lock):
    """The second says who is there, and disturbs nothing."""
    more = ["--nj", "1", "--crop_s", "0.5", "--num_crops", "2"] if stage == "infer" else []
    before = {path: path.read_bytes() for path in (finished / folder).glob("*") if path.is_file()}
    with only_writer(finished / folder, lock):
        said = error_of(finished, "--stage", stage, "--stop_stage", stage, *more)
        assert f"{folder}: another process ({os.getpid()} on " in said
    assert all(path.read_bytes() == content for path, content in before.items() if path.name != "train.log")


def test_a_full_disk(finished, small_disk):  # noqa: F811
    """Said plainly, with what was being written; with more room the same command ends as an undisturbed one."""
    exp = small_disk / "exp"
    options = ["--expdir", exp, "--log_dir", exp / "log", "--stage_times", exp / "stage_times.tsv"]
    options += ["--stage", "train", "--stop_stage", "train"]
    said = error_of(finished, *options)
    assert "no space left on the disk while writing" in said and "give the same command again" in said
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    run(finished, *options)
    weights = f"{EXP.partition('/')[2]}/valid.eer.best.pth"
    assert (exp / weights).read_bytes() == (finished / "exp" / weights).read_bytes()


def test_data_that_changed_after_format(finished, tmp_path):
    """The same command sees it: what is new is looked at again, and embeddings of other audio are not reused."""
    recipe = tmp_path / "copy" / "egs2/mini_librispeech/spk1"
    shutil.copytree(finished.parents[2], tmp_path / "copy", symlinks=True)
    before = read_vectors(recipe, f"{EXP}/embeddings/test")
    changed, other = "ş10-(#1)", "ş11-(#1)"
    tables = {name: read_scp(recipe / "data/test" / name) for name in ("wav.scp", "utt2spk")}
    tables["wav.scp"][changed] = tables["wav.scp"][other]
    DataDir.write(recipe / "data/test", tables)
    assert "warning: " not in run(recipe, "--stage", "format")
    after = read_vectors(recipe, f"{EXP}/embeddings/test")
    assert {utt for utt in before if not np.array_equal(before[utt], after[utt])} == {changed}
    assert np.array_equal(after[changed], after[other])
    # A model that is newer than what is scored or packed with it.
    (recipe / EXP / "valid.eer.best.pth").touch()
    assert f"{EXP}/embeddings/test/embedding.scp is older than {EXP}/valid.eer.best.pth" in run(
        recipe, "--stage", "score"
    )
