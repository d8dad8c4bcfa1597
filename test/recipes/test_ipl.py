"""The loop of egs2/TEMPLATE/ipl1 on a tiny corpus: no label is read, a killed round goes on, mistakes are one line."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from corpora import TINY, voice, write
from watched import error_of, kill_in, read_vectors, recipe_fixtures, run, write_set

from espnet_ext.datadir import DataDir, read_scp

EXP = "exp/ipl_mfcc_train_ecapa"
RECIPE = "mini_espeak/ipl1"
RUN = (
    "ipl1/ipl.sh --init mfcc --method ahc --num_kmeans 0 --num_clusters 7 --min_utterances 3 --max_rounds 2 "
    f'--num_dev_utterances 8 --nj 1 --num_bootstrap 10 --stop_stage loop --train_args "{TINY}"'
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight unlabelled and four test speakers, with sessions, and noise and rooms for the augmentation."""
    folder = tmp_path_factory.mktemp("corpüs")
    for name, speakers in (("train", range(8)), ("test", range(10, 14))):
        write_set(
            folder, name, speakers, 6,
            wav_of=lambda s, u: (voice(10 * s + u, s, 0.8), 16000),
            utt_of=lambda s, u: f"s{s}" if u is None else f"x{(7 * s + 5 * u) % 89:02d}{s}{u}",
            utt2session=lambda s, u, _: f"s{s}-{u // 2}",
        )  # fmt: skip
    rng = np.random.default_rng(0)
    for kind, wav in (("noise", rng.standard_normal(16000)), ("music", rng.standard_normal(16000))):
        write(folder / f"{kind}.wav", 0.1 * wav)
        DataDir.write(folder / "data" / kind, {"wav.scp": {kind: folder / f"{kind}.wav"}})
    write(folder / "rir.wav", np.exp(-np.arange(800) / 100) * rng.standard_normal(800))
    DataDir.write(folder / "data/rirs", {"wav.scp": {"rir": folder / "rir.wav"}})
    return folder / "data"


finished, fresh = recipe_fixtures(RECIPE, RUN)


@pytest.mark.timeout(900)
def test_without_labels_and_killed_it_gives_the_same_embeddings(finished, fresh):
    """No label of the training set is there; kill -9 in a training and in an embedding; it ends as it would have."""
    recipe = fresh
    for name in ("utt2spk", "spk2utt"):
        (recipe / "data/train" / name).unlink()
    run(recipe, "--stage", "format", "--stop_stage", "init")
    kill_in(recipe, "loop", f"{EXP}/r1/model/checkpoint.pth", True)
    kill_in(recipe, "loop", f"{EXP}/r1/embeddings/train_unlabelled/parts/*/*.ark", True)
    assert not (recipe / EXP / "r1/report.json").exists()
    kill_in(recipe, "loop", f"{EXP}/r2/pseudo_labels", False)
    told = run(recipe, "--stage", "loop")
    assert "round 1 of at most 2" not in told and "round 2 of at most 2" in told  # a finished round is not redone
    for number in (1, 2):
        assert read_scp(recipe / EXP / f"r{number}/pseudo_labels") == read_scp(
            finished / EXP / f"r{number}/pseudo_labels"
        )
        for name in ("train_unlabelled", "test"):
            one, two = (read_vectors(r, f"{EXP}/r{number}/embeddings/{name}") for r in (finished, recipe))
            assert one.keys() == two.keys() and all(np.array_equal(one[utt], two[utt]) for utt in one)
    blind, seeing = (json.loads((r / EXP / "results.json").read_text())["results"] for r in (recipe, finished))
    assert [row for row in seeing if not row["metric"].startswith("oracle")] == blind and len(seeing) > len(blind)


def test_what_the_student_has_seen(finished):
    """No true speaker's name in any file of the loop; what was held out is not trained on."""
    speakers = set(read_scp(finished / "data/train/spk2utt"))
    for number in (1, 2):
        folder = finished / EXP / f"r{number}"
        labels = read_scp(folder / "train/utt2spk")
        assert not speakers & set(labels.values()) and not labels.keys() & read_scp(folder / "dev/wav.scp").keys()
        assert {path.name for path in (folder / "train").iterdir()} >= {"wav.scp", "utt2spk", "spk2utt"}
        assert not (folder / "train/spk2gender").exists() and not (folder / "train/text").exists()
    assert set(read_scp(finished / "dump/train_unlabelled/utt2spk").values()).isdisjoint(speakers)
    found = json.loads((finished / EXP / "r2/labels.json").read_text())
    assert found["round"] == 2 and found["kept"]["sessions"]["per_cluster"] >= 1 and 0 < found["agreement"] <= 1


def test_finished_rounds_and_other_options(finished):
    """The same command finds everything done; another setting is refused; more rounds go on."""
    stamps = {path: path.stat().st_mtime_ns for path in (finished / EXP).glob("r*/model/*.pth")}
    told = run(finished, "--stage", "loop")
    assert "round 1" not in told and "bin.train" not in told
    said = error_of(finished, "--stage", "loop", "--num_clusters", "5")
    assert f"{EXP} was made with other settings: num_clusters was 7, is 5; name another --ipl_tag" in said
    config = finished / "conf/train_ecapa.yaml"
    text = config.read_text()
    config.write_text(text + "\n# changed\n")
    assert "train_config was" in error_of(finished, "--stage", "loop")
    config.write_text(text)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_a_mistake_is_one_line_and_the_next_start_goes_on(finished):
    """One cluster is no training; settings bind only once a student was trained with them."""
    options = ["--ipl_tag", "one", "--stage", "loop"]
    for name in ("train_unlabelled", "test"):  # as if stage init had run
        shutil.copytree(finished / EXP / "r0/embeddings" / name, finished / "exp/ipl_one/r0/embeddings" / name)
    said = error_of(finished, *options, "--num_clusters", "1")
    assert re.search("1 of 1 clusters have 3 utterances or more .* student needs two classes", said), said
    said = error_of(finished, *options, "--cluster_candidates", "5 60")
    assert "38 of 48 vectors cannot make 60 clusters" in said
    kill_in(finished, "loop", "exp/ipl_one/r1/labels.json", True, *options, "--cluster_candidates", "5 8")
    assert (finished / "exp/ipl_one/r1/num_clusters").read_text() in ("5\n", "8\n")


def test_a_method_that_finds_the_number_of_clusters(finished):
    """HDBSCAN is not told how many; what it calls noise has no pseudo-speaker."""
    for name in ("train_unlabelled", "test"):
        shutil.copytree(finished / EXP / "r0/embeddings" / name, finished / "exp/ipl_hdbscan/r0/embeddings" / name)
    options = ["--stage", "loop", "--method", "hdbscan", "--cluster_args", "--min_size 3", "--ipl_tag", "hdbscan"]
    kill_in(finished, "loop", "exp/ipl_hdbscan/r1/labels.json", True, *options)
    labels = read_scp(finished / "exp/ipl_hdbscan/r1/clusters/utt2cluster")
    assert 2 <= len(set(labels.values())) < len(labels) <= 48


def test_a_warm_start(finished):
    """The second student begins with the weights of the first, all but its head; at a rate of 0 it keeps them."""
    exp = finished / "exp/ipl_warm"
    for round_ in ("r0", "r1"):
        shutil.copytree(finished / EXP / round_, exp / round_)
    options = ["--ipl_tag", "warm", "--stage", "loop", "--train_args", f"{TINY} --scheduler none --optim_conf lr=0"]
    told = run(finished, *options, "--warm_start", "true")
    assert "round 1 of" not in told
    one, two, cold = (
        torch.load(folder / "model/latest.pth", weights_only=True)
        for folder in (exp / "r1", exp / "r2", finished / EXP / "r2")
    )
    learned = [name for name in one if name.endswith("weight") and not name.startswith("loss.")]
    assert len(learned) > 10 and all(torch.equal(one[name], two[name]) for name in learned)
    assert not all(torch.equal(one[name], cold[name]) for name in learned)
    heads = [name for name in one if name.startswith("loss.")]
    assert heads and not any(one[name].shape == two[name].shape and torch.equal(one[name], two[name]) for name in heads)
    began = [yaml.safe_load((exp / r / "model/config.yaml").read_text())["init_param"] for r in ("r1", "r2")]
    assert began[0] == [] and began[1][0].startswith("exp/ipl_warm/r1/model/latest.pth")


def test_extractors_are_not_overwritten(finished):
    """Another training set makes an extractor of its own; other settings of the same one are refused."""
    options = ["--stage", "format", "--stop_stage", "init", "--init", "ivector", "--num_gaussians", "4"]
    options += ["--ivector_dim", "3", "--ivector_iterations", "1"]
    run(finished, *options, "--ipl_tag", "iv")
    first = finished / "exp/ivector_4_3_s0/ivector.npz"
    before = first.read_bytes()
    said = error_of(finished, *options, "--ipl_tag", "iv2", "--ivector_args", "--posterior_scale 0.5")
    assert "exp/ivector_4_3_s0 was made with other settings: ivector_args was empty" in said
    assert "name another --ivector_tag" in said
    tables = {name: read_scp(finished / "data/train" / name) for name in ("wav.scp", "utt2spk", "utt2session")}
    some = {name: dict(list(table.items())[:30]) for name, table in tables.items()}
    DataDir.write(finished / "data/some", some)
    run(finished, *options, "--ipl_tag", "iv3", "--train_set", "some")
    assert (finished / "exp/ivector_some_4_3_s0/ivector.npz").is_file() and first.read_bytes() == before
    assert len(read_vectors(finished, "exp/ipl_iv3/r0/embeddings/some_unlabelled")) == 30


def test_a_start_that_is_none(finished):
    assert "--init is ivector, upstream, model or mfcc, not 'dino'" in error_of(
        finished, "--stage", "init", "--init", "dino", "--ipl_tag", "dino"
    )


def test_other_starts(finished, tmp_path):
    """A pretrained encoder, zero-shot, and a trained model: their embeddings are round 0."""
    from transformers import HubertConfig, HubertModel

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    conv = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    HubertModel(HubertConfig(**small, **conv)).save_pretrained(tmp_path / "tiny hubert")
    starts = {
        "upstream": (["--upstream", tmp_path / "tiny hubert", "--upstream_layer", "1"], 32),  # mean and deviation of 16
        "model": (["--init_model", f"{EXP}/r1/model"], 8),
    }
    for init, (options, size) in starts.items():
        run(finished, "--stage", "init", "--stop_stage", "init", "--init", init, "--ipl_tag", init, *options)
        vectors = read_vectors(finished, f"exp/ipl_{init}/r0/embeddings/test")
        assert len(vectors) == 24 and {vector.shape for vector in vectors.values()} == {(1, size)}
        assert f"--init {init} needs --" in error_of(finished, "--stage", "init", "--init", init, "--ipl_tag", "none")
