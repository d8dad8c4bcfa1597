"""verify, enroll and identify: decisions by the packaged calibration, and a gallery that stays what it was."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from tiny_model import RATE_HZ, make_model, voice

from espnet_ext.bin import enroll, identify, verify
from espnet_ext.errors import UserError
from espnet_ext.inference.decision import Decision
from espnet_ext.inference.gallery import Gallery
from espnet_ext.inference.spk import SpeakerEmbedder
from espnet_ext.metrics.calibration import Calibration
from espnet_ext.zoo.package import read_experiment

TABLE = {"features": ["score"], "weights": [10.0], "bias": -5.0, "p_target": 0.05, "threshold": 2.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with a mean that makes the cosines of an untrained network spread."""
    folder = make_model(tmp_path_factory.mktemp("exp") / "spk_tiny")
    vectors = SpeakerEmbedder.from_pretrained(folder).embed([voice(1.0, seed) for seed in range(8)])
    np.save(folder / "embedding_mean.npy", vectors.mean(axis=0))
    (folder / "calibration.json").write_text(json.dumps(TABLE))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vöices of people")
    paths = {}
    for seed in range(4):
        for take, seconds in (("a", 1.0), ("b", 1.4)):
            paths[f"{seed}{take}"] = str(folder / f"{seed} {take}.wav")
            soundfile.write(paths[f"{seed}{take}"], voice(seconds, seed), RATE_HZ)
    return paths


def test_a_decision_is_the_affine_of_the_cosine():
    decision = Decision(np.array([1.0, 0.0], np.float32), Calibration([10.0], -5.0, ["score"], 0.05), 2.5)
    same = decision.verify(np.array([2.0, 1.0]), np.array([3.0, 2.0]))  # (1, 1) and (2, 2) after the mean
    assert same.score == pytest.approx(1) and same.llr == pytest.approx(5) and same.same_speaker is True
    other = decision.verify(np.array([2.0, 1.0]), np.array([2.0, 0.0]))  # 45 degrees
    assert other.score == pytest.approx(0.5**0.5) and other.llr == pytest.approx(10 * 0.5**0.5 - 5)
    assert other.same_speaker is False and decision.with_threshold(2.0).decide(0.8).same_speaker is True
    bare = Decision().with_threshold(0.7).verify(np.array([1.0, 1.0]), np.array([1.0, 0.0]))
    assert bare.llr is None and bare.same_speaker is True and Decision().decide(0.9).same_speaker is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is no JSON"),
        ("[1]", "no JSON object"),
        ("{}", "not a calibration"),
        (json.dumps(TABLE | {"weights": [1, 2], "features": ["a", "b"]}), "one weight"),
        (json.dumps(TABLE | {"threshold": "high"}), "finite threshold"),
        (json.dumps(TABLE | {"bias": float("nan")}), "finite"),
    ],
)
def test_a_broken_calibration_is_said(tmp_path, model, text, words):
    package = read_experiment(model)
    (tmp_path / "calibration.json").write_text(text)
    package.files["calibration"] = tmp_path / "calibration.json"
    with pytest.raises(UserError, match=words) as caught:
        Decision.of(package)
    assert "\n" not in str(caught.value)


def test_a_mean_with_code_in_it_is_refused(tmp_path, model):
    package = read_experiment(model)
    np.save(tmp_path / "mean.npy", np.array([{}], dtype=object), allow_pickle=True)
    package.files["embedding_mean"] = tmp_path / "mean.npy"
    with pytest.raises(UserError, match="refused"):
        Decision.of(package)


def test_a_calibration_of_distances_is_left_alone(tmp_path, model):
    package = read_experiment(model)
    (tmp_path / "calibration.json").write_text(json.dumps(TABLE | {"score": "distance"}))
    package.files["calibration"] = tmp_path / "calibration.json"
    assert Decision.of(package).calibration is None


def test_verify_prints_score_llr_and_answer(model, files, capsys):
    assert verify.main(["--model", str(model), files["0a"], files["0b"]]) == 0
    shown = capsys.readouterr().out
    assert "score" in shown and "LLR" in shown and "yes from LLR 2.5 on" in shown
    assert verify.main(["--model", str(model), "--json", files["0a"], files["0a"]]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["score"] == pytest.approx(1, abs=1e-5) and result["llr"] == pytest.approx(5, abs=1e-4)
    assert result["same_speaker"] is True and result["threshold"] == 2.5
    assert verify.main(["--model", str(model), "--json", "--threshold", "9", files["0a"], files["0a"]]) == 0
    assert json.loads(capsys.readouterr().out)["same_speaker"] is False


def test_verify_without_calibration_says_so(tmp_path, files, capsys):
    model = make_model(tmp_path / "bare")
    assert verify.main(["--model", str(model), files["0a"], files["1a"]]) == 0
    shown = capsys.readouterr().out
    assert "brings no calibration" in shown and "give one with --threshold" in shown


@pytest.mark.parametrize("command", [verify, enroll, identify])
def test_a_wrong_path_is_one_line_at_once(command, model, files, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(SpeakerEmbedder, "from_pretrained", None)  # the model is not even loaded
    more = {verify: [], enroll: ["--gallery", str(tmp_path / "g"), "--name", "x"], identify: ["--gallery", "g"]}
    assert command.main(["--model", str(model), files["0a"], "no such.wav", *more[command]]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "no such.wav" in error[0]


def enrolled(model, files, gallery, names=("0", "1", "2")) -> None:
    for name in names:
        assert (
            enroll.main(["--model", str(model), "--gallery", str(gallery), "--name", f"Näme {name}", files[f"{name}a"]])
            == 0
        )


def test_a_person_is_found_and_a_stranger_is_not(model, files, tmp_path, capsys):
    gallery = tmp_path / "team é.json"
    enrolled(model, files, gallery)
    capsys.readouterr()
    command = ["--model", str(model), "--gallery", str(gallery), "--json"]
    assert identify.main([*command, files["1a"], files["3a"]]) == 0
    known, stranger = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert known["name"] == "Näme 1" and known["ranking"][0]["score"] == pytest.approx(1, abs=1e-5)
    highest = stranger["ranking"][0]["llr"]
    assert identify.main([*command, "--threshold", str(highest + 0.01), files["3a"]]) == 0
    assert json.loads(capsys.readouterr().out)["name"] is None
    assert identify.main([*command, "--threshold", str(highest - 0.01), "--top", "1", files["3a"]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == stranger["ranking"][0]["name"] and len(found["ranking"]) == 1
    assert identify.main([*command[:-1], files["1a"]]) == 0
    assert ": Näme 1   [Näme 1 1.000" in capsys.readouterr().out


def test_several_recordings_count_the_same_in_any_portion(model, files, tmp_path):
    common = ["--model", str(model), "--name", "Ada"]
    assert enroll.main([*common, "--gallery", str(tmp_path / "once"), files["0a"], files["0b"], files["1a"]]) == 0
    assert enroll.main([*common, "--gallery", str(tmp_path / "twice"), files["0a"]]) == 0
    assert enroll.main([*common, "--gallery", str(tmp_path / "twice"), files["0b"], files["1a"]]) == 0
    once, twice = (json.loads((tmp_path / name).read_text())["people"]["Ada"] for name in ("once", "twice"))
    assert once["recordings"] == twice["recordings"] == 3 and np.allclose(once["vector"], twice["vector"], atol=1e-6)
    embedder = SpeakerEmbedder.from_pretrained(model)
    centred = embedder.embed([files["0a"], files["0b"], files["1a"]]) - embedder.decision.mean
    expected = (centred / np.linalg.norm(centred, axis=1, keepdims=True)).mean(axis=0)
    assert np.allclose(once["vector"], expected, atol=1e-5)
    assert enroll.main([*common, "--gallery", str(tmp_path / "twice"), "--replace", files["0a"]]) == 0
    assert json.loads((tmp_path / "twice").read_text())["people"]["Ada"]["recordings"] == 1


def test_the_same_people_give_the_same_bytes(model, files, tmp_path):
    enrolled(model, files, tmp_path / "one", ("0", "1"))
    enrolled(model, files, tmp_path / "two", ("1", "0"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_gallery_survives_a_full_disk(model, files, tmp_path, monkeypatch):
    enrolled(model, files, tmp_path / "g", ("0",))
    before = (tmp_path / "g").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert enroll.main(["--model", str(model), "--gallery", str(tmp_path / "g"), "--name", "x", files["1a"]]) == 2
    assert (tmp_path / "g").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["g"]


def test_a_gallery_of_another_model_or_a_damaged_one_is_refused(model, files, tmp_path, capsys):
    enrolled(model, files, tmp_path / "g", ("0",))
    other = SpeakerEmbedder.from_pretrained(make_model(tmp_path / "other", seed=1))
    with pytest.raises(UserError, match="another model"):
        Gallery.read(tmp_path / "g", other)
    embedder = SpeakerEmbedder.from_pretrained(model)
    moved = SpeakerEmbedder.from_pretrained(model)
    moved.decision = replace(moved.decision, mean=moved.decision.mean + 1)  # scored again, on other speakers
    with pytest.raises(UserError, match="another model"):
        Gallery.read(tmp_path / "g", moved)
    table = json.loads((tmp_path / "g").read_text())
    for people in ({"A": {"vector": [None]}}, {"A": {}}, [1], {"A": {"vector": [[1.0]], "recordings": 1}}):
        (tmp_path / "bad").write_text(json.dumps(table | {"people": people}))
        with pytest.raises(UserError, match="damaged"):
            Gallery.read(tmp_path / "bad", embedder)
    with pytest.raises(UserError, match="no such gallery"):
        Gallery.read(tmp_path / "none", embedder)
    with pytest.raises(UserError, match="empty"):
        Gallery.of(embedder).identify(np.ones(12, np.float32))
