"""The three i-vector commands: what comes out, in shards and batches, killed and gone on, and every wrong input."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpus import UBM, extract, extractor, make_corpus, ubm, vectors
from tiny_model import RATE_HZ, voice

from espnet_ext.bin import train_ivector_extractor, train_ubm
from espnet_ext.inference.ivector import IvectorExtractor
from espnet_ext.ivector.rounds import load


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    """Folder with ``ubm`` and ``ivector``, made by one job each."""
    folder = tmp_path_factory.mktemp("exp")
    assert ubm(data, folder / "ubm") == 0
    assert extractor(data, folder / "ubm", folder / "ivector") == 0
    return folder


@pytest.fixture(scope="module")
def whole(data, models, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert extract(data, models / "ivector", out) == 0
    return vectors(out)


def same(a: Path, b: Path) -> bool:
    """Whether two models are the same but for rounding."""
    one, other = load(a), load(b)
    numbers = [name for name, value in one.items() if value.dtype.kind == "f"]
    return one.keys() == other.keys() and all(np.allclose(one[n], other[n], rtol=1e-6, atol=1e-7) for n in numbers)


def test_every_utterance_has_the_vector_of_its_file(data, models, whole):
    model = IvectorExtractor.from_pretrained(models / "ivector")
    assert whole.shape == (14, 3) and whole.dtype == np.float32 and whole.std(axis=0).min() > 0
    paths = [line.split(" ", 1)[1] for line in (data / "wav.scp").read_text().splitlines()]
    np.testing.assert_allclose(model(paths[3]), whole[3], atol=1e-5)
    wav, _ = soundfile.read(paths[4], dtype="float32")
    np.testing.assert_allclose(model.embed([paths[0], wav]), whole[[0, 4]], atol=1e-5)


def test_the_likelihoods_rise_at_every_step(models):
    for path, name in (
        (models / "ubm" / "ubm.npz", "log_likelihoods"),
        (models / "ivector" / "ivector.npz", "objectives"),
    ):
        history = load(path)[name]
        assert len(history) >= 3 and (np.diff(history) >= -1e-6 * np.abs(history[0])).all()
    assert not (models / "ubm" / "work").exists() and not (models / "ivector" / "work").exists()


def test_jobs_change_nothing(data, models, whole, tmp_path):
    for _ in range(6):  # frames, start, 2 + 2 iterations; every call does this job's share of one step
        assert not (tmp_path / "ubm" / "ubm.npz").exists()
        for job in (2, 3, 1):
            assert ubm(data, tmp_path / "ubm", "--shard", f"{job}/3") == 0
    assert same(tmp_path / "ubm" / "ubm.npz", models / "ubm" / "ubm.npz")
    for _ in range(6):
        for job in (1, 2):
            assert extractor(data, models / "ubm", tmp_path / "iv", "--shard", f"{job}/2") == 0
    assert same(tmp_path / "iv" / "ivector.npz", models / "ivector" / "ivector.npz")
    for job in (2, 1):
        assert extract(data, models / "ivector", tmp_path / "out", "--shard", f"{job}/2") == 0
    np.testing.assert_allclose(vectors(tmp_path / "out"), whole, atol=1e-5)


def test_processes_on_one_machine_change_nothing(data, models, tmp_path):
    assert extractor(data, models / "ubm", tmp_path, "--nj", 2) == 0
    assert same(tmp_path / "ivector.npz", models / "ivector" / "ivector.npz")


def test_batches_and_chunks_change_nothing(data, models, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("espnet_ext.ivector.ubm.CHUNK_S", 2.0)
    monkeypatch.setattr("espnet_ext.ivector.training.CHUNK_S", 2.0)
    for name in ("gmm", "statistics"):
        monkeypatch.setattr(f"espnet_ext.ivector.{name}.CPU_BLOCK", 50)
    monkeypatch.setattr("espnet_ext.ivector.extractor.BATCH_BYTES", 1)
    monkeypatch.setattr("espnet_ext.inference.ivector.BATCH_FRAMES", 1)
    assert ubm(data, tmp_path / "ubm") == 0
    assert same(tmp_path / "ubm" / "ubm.npz", models / "ubm" / "ubm.npz")
    assert extractor(data, tmp_path / "ubm", tmp_path / "iv") == 0
    assert extract(data, tmp_path / "iv", tmp_path / "out") == 0
    np.testing.assert_allclose(vectors(tmp_path / "out"), whole, atol=1e-4)


def test_a_second_call_does_nothing_and_other_settings_start_afresh(data, models, tmp_path, monkeypatch):
    assert ubm(data, tmp_path) == 0
    before = (tmp_path / "ubm.npz").stat().st_mtime_ns
    assert ubm(data, tmp_path) == 0 and (tmp_path / "ubm.npz").stat().st_mtime_ns == before
    assert ubm(data, tmp_path, "--seed", 1) == 0
    assert not same(tmp_path / "ubm.npz", models / "ubm" / "ubm.npz")


_SLOW = """
import sys, time
from espnet_ext.bin import {command}
from espnet_ext.ivector import rounds
save = rounds.save
def slow(*arguments):
    save(*arguments)
    print("saved", flush=True)
    time.sleep(0.2)
rounds.save = slow
sys.exit({command}.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("after", [1, 6])
def test_kill_9_and_go_on(data, models, tmp_path, after):
    words = ["--data", data, "--ubm", models / "ubm", "--out", tmp_path, "--dim", 3, "--iterations", 3]
    words = [str(word) for word in words]
    code = _SLOW.format(command="train_ivector_extractor")
    child = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for _ in range(after):
        assert child.stdout.readline() == b"saved\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "ivector.npz").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("chunks/*.npz")}
    assert kept
    assert train_ivector_extractor.main(words) == 0
    assert same(tmp_path / "ivector.npz", models / "ivector" / "ivector.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ivector.npz"]


def test_an_out_that_cannot_be_made_is_one_line(data, models, tmp_path, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    for ends in (ubm(data, out), extractor(data, models / "ubm", out), extract(data, models / "ivector", out)):
        assert ends == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert len(lines) == 3 and all("a file is in the way" in line and str(tmp_path / "file") in line for line in lines)


def test_another_number_of_jobs_goes_on(data, models, tmp_path):
    assert ubm(data, tmp_path, "--shard", "1/2") == 0  # half of the frames are there
    assert ubm(data, tmp_path) == 0
    assert same(tmp_path / "ubm.npz", models / "ubm" / "ubm.npz")


def test_labels_are_not_read(data, models, whole, tmp_path):
    for name, text in (("utt2spk", "nonsense\n"), ("utt2session", ""), ("text", "\xff")):
        (data / name).write_text(text)
    try:
        assert ubm(data, tmp_path / "ubm") == 0
        assert extractor(data, tmp_path / "ubm", tmp_path / "iv") == 0
        assert extract(data, tmp_path / "iv", tmp_path / "out") == 0
    finally:
        for name in ("utt2spk", "utt2session", "text"):
            (data / name).unlink()
    assert (vectors(tmp_path / "out") == whole).all()


def test_post_processing(data, models, whole, tmp_path):
    model = load(models / "ivector" / "ivector.npz")
    np.testing.assert_allclose(model["vector_mean"], whole.mean(0), atol=1e-4)
    np.testing.assert_allclose(model["vector_covariance"], np.cov(whole.T, bias=True), atol=1e-4)
    assert extract(data, models / "ivector", tmp_path / "mean", "--subtract_mean", "true") == 0
    np.testing.assert_allclose(vectors(tmp_path / "mean"), whole - whole.mean(0), atol=1e-4)
    assert extract(data, models / "ivector", tmp_path / "white", "--whiten", "true") == 0
    white = vectors(tmp_path / "white")
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(3), atol=1e-3)
    assert extract(data, models / "ivector", tmp_path / "norm", "--whiten", "true", "--length_norm", "true") == 0
    expected = white / np.linalg.norm(white, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(tmp_path / "norm"), expected, atol=1e-5)


def test_the_posterior_scale_draws_vectors_to_the_prior(data, models, whole, tmp_path):
    assert extract(data, models / "ivector", tmp_path, "--posterior_scale", 1e-6, "--min_posterior", 0) == 0
    assert np.abs(vectors(tmp_path)).max() < 1e-2 < np.abs(whole).max()


def test_one_gaussian_is_enough(data, tmp_path):
    assert ubm(data, tmp_path / "ubm", "--num_gaussians", 1) == 0
    assert extractor(data, tmp_path / "ubm", tmp_path / "iv", "--dim", 2) == 0
    assert extract(data, tmp_path / "iv", tmp_path / "out") == 0
    assert vectors(tmp_path / "out").shape == (14, 2)


def test_no_full_stage_is_a_diagonal_mixture(data, tmp_path):
    assert ubm(data, tmp_path / "ubm", "--full_iterations", 0) == 0
    assert load(tmp_path / "ubm" / "ubm.npz")["covariances"].shape == (4, 60)
    assert extractor(data, tmp_path / "ubm", tmp_path / "iv") == 0


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives(data, models, whole, tmp_path):
    device = ("--device", "cuda")
    assert ubm(data, tmp_path / "ubm", *device) == 0
    assert same(tmp_path / "ubm" / "ubm.npz", models / "ubm" / "ubm.npz")
    assert extractor(data, models / "ubm", tmp_path / "iv", *device) == 0
    assert same(tmp_path / "iv" / "ivector.npz", models / "ivector" / "ivector.npz")
    assert extract(data, models / "ivector", tmp_path / "out", *device) == 0
    np.testing.assert_allclose(vectors(tmp_path / "out"), whole, atol=1e-4)


def last_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert not [line for line in lines if "Traceback" in line]
    return lines[-1]


@pytest.fixture
def broken(data, tmp_path):
    """The corpus, with one utterance of noise too faint to be voiced, and one that is not there."""
    faint = tmp_path / "faint.wav"
    soundfile.write(faint, 1e-4 * np.random.default_rng(0).normal(size=8000), RATE_HZ, subtype="FLOAT")
    folder = tmp_path / "broken"
    folder.mkdir()
    lines = f"faint {faint}\nmissing {tmp_path}/no.wav\n" + (data / "wav.scp").read_text()
    (folder / "wav.scp").write_text(lines)
    return folder


def test_unvoiced_and_missing_audio_stops_by_its_id(broken, models, tmp_path, capsys):
    for run in (
        lambda: ubm(broken, tmp_path / "ubm"),
        lambda: extractor(broken, models / "ubm", tmp_path / "iv"),
        lambda: extract(broken, models / "ivector", tmp_path / "out"),
    ):
        assert run() == 2
        line = last_line(capsys)
        assert ("utterance faint" in line and "voiced" in line) or "utterance missing" in line
        assert "--skip_broken true" in line
    assert not [path for path in tmp_path.rglob("*.npz") if "work" not in path.parts]
    assert not (tmp_path / "out" / "embedding.scp").exists()


def test_broken_utterances_are_left_out_and_listed(broken, models, whole, tmp_path):
    skip = ("--skip_broken", "true")
    assert ubm(broken, tmp_path / "ubm", *skip) == 0
    assert extractor(broken, models / "ubm", tmp_path / "iv", *skip) == 0
    assert extract(broken, models / "ivector", tmp_path / "out", *skip) == 0
    for name in ("ubm", "iv", "out"):
        reasons = dict(line.split(" ", 1) for line in (tmp_path / name / "broken").read_text().splitlines())
        assert reasons.keys() == {"faint", "missing"} and "voiced" in reasons["faint"]
    assert same(tmp_path / "ubm" / "ubm.npz", models / "ubm" / "ubm.npz")
    assert same(tmp_path / "iv" / "ivector.npz", models / "ivector" / "ivector.npz")
    np.testing.assert_allclose(vectors(tmp_path / "out"), whole, atol=1e-5)


def test_too_few_frames_for_the_gaussians(data, tmp_path, capsys):
    assert ubm(data, tmp_path, "--num_gaussians", 5000) == 2
    assert "too few for 5000 Gaussians" in last_line(capsys)
    assert ubm(data, tmp_path, "--num_gaussians", 30, "--init_frames", 2) == 2
    assert "raise --init_frames" in last_line(capsys)
    assert not (tmp_path / "ubm.npz").exists()


def corpus_of(folder: Path, *wavs: np.ndarray) -> Path:
    folder.mkdir()
    for number, wav in enumerate(wavs):
        soundfile.write(folder / f"{number}.wav", wav, RATE_HZ, subtype="FLOAT")
    lines = [f"utt{number} {folder}/{number}.wav\n" for number in range(len(wavs))]
    (folder / "wav.scp").write_text("".join(lines))
    return folder


def test_a_corpus_of_one_utterance(models, tmp_path, capsys):
    data = corpus_of(tmp_path / "one", voice(2.0))
    assert ubm(data, tmp_path / "ubm", "--num_gaussians", 2) == 0
    assert extractor(data, tmp_path / "ubm", tmp_path / "iv") == 2
    assert "fewer than two" in last_line(capsys) and not (tmp_path / "iv" / "ivector.npz").exists()


def test_constant_features_are_a_singular_covariance(tmp_path, capsys):
    data = corpus_of(tmp_path / "flat", np.zeros(RATE_HZ), np.zeros(2 * RATE_HZ))
    assert ubm(data, tmp_path / "ubm", "--vad_threshold", -100) == 2
    assert "singular" in last_line(capsys)


def test_what_is_floored_is_said(data, tmp_path, caplog):
    caplog.set_level("INFO")
    # Fewer frames than a covariance has rows in some components: they keep theirs, and it is said.
    assert ubm(data, tmp_path, "--num_gaussians", 40, "--variance_floor", 0.9) == 0
    assert re.search(r"[1-9]\d* components of too few frames kept theirs, [1-9]\d* floored", caplog.text)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--num_gaussians", 0], "at least 1"),
        (["--nj", 0], "--nj"),
        (["--nj", 2, "--shard", "1/2"], "--nj"),
        (["--shard", "3/2"], "--shard 3/2"),
        (["--device", "gpu"], "not known"),
        (["--num_ceps", 50], "no more cepstra than mels"),
        (["--f_max_hz", 9000], "f_min < f_max"),
        (["--variance_floor", 2], "--variance_floor"),
    ],
)
def test_a_wrong_option_is_one_line(data, tmp_path, capsys, options, words):
    assert train_ubm.main([str(word) for word in ("--data", data, "--out", tmp_path, *UBM, *options)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and words in error[0]
    assert not list(tmp_path.rglob("*.npz"))


def test_what_is_missing_is_named(data, models, tmp_path, capsys):
    assert ubm(tmp_path / "nowhere", tmp_path) == 2 and "no such data directory" in last_line(capsys)
    assert extractor(data, tmp_path / "nowhere", tmp_path) == 2 and "train_ubm makes it" in last_line(capsys)
    assert extract(data, tmp_path / "no", tmp_path) == 2 and "train_ivector_extractor makes it" in last_line(capsys)
    (tmp_path / "ivector.npz").write_bytes(b"PK nonsense")
    assert extract(data, tmp_path, tmp_path / "out") == 2 and "cannot be read" in last_line(capsys)
    assert extractor(data, models / "ubm", tmp_path / "iv", "--dim", 0) == 2 and "--dim" in last_line(capsys)
    assert extract(data, models / "ivector", tmp_path / "o", "--posterior_scale", 0) == 2
    assert "--posterior_scale" in last_line(capsys)


def test_help_comes_at_once():
    for command in ("train_ubm", "train_ivector_extractor", "extract_ivectors"):
        start = time.process_time()
        done = subprocess.run(
            [sys.executable, "-m", f"espnet_ext.bin.{command}", "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0 and "usage:" in done.stdout and not done.stderr
        assert time.process_time() - start < 3
