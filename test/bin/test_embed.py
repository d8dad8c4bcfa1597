"""The embed command: once per utterance, shards, crops, killed and gone on, broken audio by id, odd paths."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from tiny_model import RATE_HZ, make_model, voice

from espnet_ext.bin import embed
from espnet_ext.inference import extract
from espnet_ext.inference.spk import SpeakerEmbedder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("exp") / "spk_tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty utterances in a folder with a blank and an umlaut; one of them is a segment of a longer file."""
    folder = tmp_path_factory.mktemp("dätä set")
    paths = {f"utt{number:02d}": folder / f"wav {number}.flac" for number in range(20)}
    for number, path in enumerate(paths.values()):
        soundfile.write(path, voice(0.5 + 0.1 * number, number), RATE_HZ)
    (folder / "wav.scp").write_text("".join(f"{utt} {path}\n" for utt, path in paths.items()))
    (folder / "utt2spk").write_text("".join(f"{utt} spk\n" for utt in paths))
    return folder


def run(*words) -> int:
    return embed.main([str(word) for word in words])


def read(out: Path) -> dict[str, np.ndarray]:
    return dict(kaldiio.load_scp(str(out / "embedding.scp")).items())


@pytest.fixture(scope="module")
def whole(model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "öut put"
    assert run("--model", model, "--data", data, "--out", out) == 0
    return read(out)


def test_every_utterance_has_the_vector_of_its_file(whole, model, data):
    embedder = SpeakerEmbedder.from_pretrained(model)
    assert list(whole) == [f"utt{number:02d}" for number in range(20)]
    for utt, line in zip(whole, (data / "wav.scp").read_text().splitlines(), strict=True):
        vector = embedder(line.split(" ", 1)[1])
        assert whole[utt].dtype == np.float32 and np.abs(whole[utt] - vector).max() < 1e-5


def test_shards_batches_and_options_do_not_change_a_vector(whole, model, data, tmp_path):
    for job in (2, 3, 1):
        options = ("--train_config", model / "config.yaml", "--model_file", model / "valid.eer.best.pth")
        assert run(*options, "--data", data, "--out", tmp_path, "--shard", f"{job}/3", "--max_batch_s", 1.3) == 0
        assert (tmp_path / "embedding.scp").is_file() == (job == 1)  # whoever comes last
    there = read(tmp_path)
    assert list(there) == list(whole) and max(np.abs(there[utt] - whole[utt]).max() for utt in whole) < 1e-5


def test_crops_give_one_row_each(model, data, tmp_path):
    assert run("--model", model, "--data", data, "--out", tmp_path, "--num_crops", 3, "--crop_s", 0.7) == 0
    there = read(tmp_path)
    embedder = SpeakerEmbedder.from_pretrained(model)
    path = (data / "wav.scp").read_text().splitlines()[5].split(" ", 1)[1]
    assert there["utt05"].shape == (3, 12)
    assert np.abs(there["utt05"] - embedder.embed_crops([path], 3, 0.7)[0]).max() < 1e-5


def test_segments_are_embedded_and_not_their_recordings(model, data, tmp_path):
    path = (data / "wav.scp").read_text().splitlines()[19].split(" ", 1)[1]
    (tmp_path / "wav.scp").write_text(f"rec {path}\n")
    (tmp_path / "segments").write_text("rec-a rec 0.2 1.0\nrec-b rec 1.0 -1\n")
    assert run("--model", model, "--data", tmp_path, "--out", tmp_path / "out") == 0
    wav, _ = soundfile.read(path, dtype="float32")
    there, embedder = read(tmp_path / "out"), SpeakerEmbedder.from_pretrained(model)
    assert np.abs(there["rec-a"] - embedder(wav[3200:16000])).max() < 1e-5
    assert np.abs(there["rec-b"] - embedder(wav[16000:])).max() < 1e-5


def test_the_mfcc_floor_is_embedded_the_same_way(data, tmp_path):
    from espnet_ext.audio.mfcc import mfcc

    assert run("--floor", "mfcc", "--data", data, "--out", tmp_path) == 0
    there = read(tmp_path)
    wav, _ = soundfile.read((data / "wav.scp").read_text().splitlines()[3].split(" ", 1)[1], dtype="float32")
    frames = mfcc(wav, RATE_HZ)
    expected = [f(frames, axis=0) for f in (np.mean, np.std)]
    assert len(there) == 20 and np.allclose(there["utt03"], np.concatenate(expected), atol=1e-4)
    assert run("--floor", "mfcc", "--data", data, "--out", tmp_path / "c", "--num_crops", 2, "--crop_s", 0.4) == 0
    assert read(tmp_path / "c")["utt03"].shape == (2, 40)


def test_a_second_call_does_nothing_and_another_model_starts_afresh(whole, model, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run("--model", model, "--data", data, "--out", out) == 0
    before = read(out)

    def never(*_):
        raise AssertionError("there is nothing to do")

    with monkeypatch.context() as patch:
        patch.setattr(SpeakerEmbedder, "stream", never)
        assert run("--model", model, "--data", data, "--out", out) == 0
    assert run("--model", make_model(tmp_path / "other", seed=1), "--data", data, "--out", out) == 0
    after = read(out)
    assert all(np.abs(after[utt] - before[utt]).max() > 1e-3 for utt in before)
    assert len(list((out / "parts").iterdir())) == 1


_SLOW = """
import sys, time
from espnet_ext.bin import embed
from espnet_ext.inference import extract
from espnet_ext.inference.spk import SpeakerEmbedder
extract.CHUNK_S = 4.0
forward = SpeakerEmbedder._forward
def slow(self, wavs):
    print("batch", flush=True)
    time.sleep(0.3)
    return forward(self, wavs)
SpeakerEmbedder._forward = slow
sys.exit(embed.main(sys.argv[1:]))
"""


def test_kill_9_loses_one_chunk_at_most(whole, model, data, tmp_path, monkeypatch):
    options = [str(word) for word in ("--model", model, "--data", data, "--out", tmp_path)]
    child = subprocess.Popen([sys.executable, "-c", _SLOW, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("parts/*/*.scp"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("parts/*/*.ark")}
    assert len(finished) >= 3 and not (tmp_path / "embedding.scp").exists()
    monkeypatch.setattr(extract, "CHUNK_S", 4.0)
    embedded = []
    stream = SpeakerEmbedder.stream

    def counted(self, clips, *rest, **options):
        embedded.extend(clips)
        return stream(self, clips, *rest, **options)

    monkeypatch.setattr(SpeakerEmbedder, "stream", counted)
    assert embed.main(options) == 0
    there = read(tmp_path)
    assert list(there) == list(whole) and max(np.abs(there[utt] - whole[utt]).max() for utt in whole) < 1e-5
    assert 0 < len(embedded) < 20
    for path in tmp_path.glob("parts/*/*.ark"):
        assert finished.get(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns


def broken_data(folder: Path) -> Path:
    good = folder / "good.wav"
    soundfile.write(good, voice(1.0), RATE_HZ)
    data = good.read_bytes()
    (folder / "cut.wav").write_bytes(data[: len(data) // 3])
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan, np.float32), RATE_HZ, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(8000), RATE_HZ)
    names = ("cut", "empty", "good", "missing", "nan", "silent")
    (folder / "wav.scp").write_text("".join(f"{name} {folder / name}.wav\n" for name in names))
    return folder


def test_broken_audio_stops_the_run_by_its_id(model, tmp_path, capsys):
    data = broken_data(tmp_path)
    assert run("--model", model, "--data", data, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("embed: error: ") and "utterance " in error and "--skip_broken true" in error
    assert not (tmp_path / "out" / "embedding.scp").exists()


def test_broken_audio_is_left_out_and_listed_when_asked(model, tmp_path):
    data = broken_data(tmp_path)
    assert run("--model", model, "--data", data, "--out", tmp_path / "out", "--skip_broken", "true") == 0
    assert list(read(tmp_path / "out")) == ["good"]
    reasons = dict(line.split(" ", 1) for line in (tmp_path / "out" / "broken").read_text().splitlines())
    words = {"cut": "truncated", "empty": "empty", "missing": "not exist", "nan": "NaN", "silent": "silent"}
    assert reasons.keys() == words.keys() and all(word in reasons[utt] for utt, word in words.items())


def test_all_broken_is_an_error(model, tmp_path, capsys):
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/no.wav\n")
    assert run("--model", model, "--data", tmp_path, "--out", tmp_path / "out", "--skip_broken", "true") == 2
    assert "all 1 utterances are broken" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_that_looks_finished(whole, model, data, tmp_path, capsys, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run("--model", model, "--data", data, "--out", tmp_path) == 2
    assert "no space left" in capsys.readouterr().err.splitlines()[-1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert run("--model", model, "--data", data, "--out", tmp_path) == 0 and list(read(tmp_path)) == list(whole)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--model", "nowhere"], "nowhere: no such model"),
        ([], "give one of --model"),
        (["--model", "a", "--floor", "mfcc"], "give one of --model"),
        (["--model", "a", "--shard", "3/2"], "--shard 3/2"),
        (["--model", "a", "--num_crops", "-1"], "--num_crops"),
        (["--model", "a", "--max_batch_s", "0"], "--max_batch_s"),
    ],
)
def test_a_wrong_option_is_one_line(data, tmp_path, capsys, options, words):
    assert run(*options, "--data", data, "--out", tmp_path) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and words in error[0]


def test_no_gpu_is_one_line(model, data, tmp_path, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--model", model, "--data", data, "--out", tmp_path, "--device", "cuda") == 2
    assert "torch sees none here; use --device cpu" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["embed", "verify", "enroll", "identify", "pack", "upload", "export_onnx", "main"])
def test_help_comes_at_once(command):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"espnet_ext.bin.{command}", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "usage:" in done.stdout and not done.stderr
    assert time.perf_counter() - start < 3
