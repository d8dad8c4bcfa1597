"""SpeakerEmbedder: one vector whatever the batch, any audio in, long audio in bounded memory, mistakes in one line."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tiny_model import RATE_HZ, make_model, voice

from espnet_ext.audio.io import AudioError, resample
from espnet_ext.errors import UserError
from espnet_ext.inference.spk import SpeakerEmbedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("exp") / "spk_tiny")


@pytest.fixture(scope="module")
def embedder(folder):
    return SpeakerEmbedder.from_pretrained(folder)


def test_an_embedding_does_not_depend_on_its_batch(embedder):
    wavs = [voice(seconds, seed) for seed, seconds in enumerate((0.3, 1.0, 1.01, 2.5, 4.0, 0.07, 3.3))]
    together = embedder.embed(wavs)
    assert together.dtype == np.float32 and together.shape == (7, 12)
    assert np.abs(together - np.stack([embedder(wav) for wav in wavs])).max() < 1e-5
    assert np.abs(together[::-1] - embedder.embed(wavs[::-1])).max() < 1e-5
    assert np.linalg.norm(together[0] - together[3]) > 0.1  # they are not simply all alike


def test_a_file_and_its_samples_give_the_same_vector(embedder, tmp_path):
    path = tmp_path / "mit Leerzeichen ü.flac"
    soundfile.write(path, voice(2.0), RATE_HZ, subtype="PCM_24")
    wav, _ = soundfile.read(path, dtype="float32")
    vector = embedder(path)
    assert np.array_equal(vector, embedder(wav))
    assert np.array_equal(vector, embedder(str(path)))
    import torch

    assert np.array_equal(vector, embedder(torch.from_numpy(wav)))
    integers = np.round(wav * 2**31).astype(np.int64).clip(-(2**31), 2**31 - 1).astype(np.int32)
    assert np.allclose(vector, embedder(integers), atol=1e-5)


def test_any_rate_and_channel_count_is_taken(embedder, tmp_path):
    wav = voice(2.0)
    vector = embedder(wav)
    stereo = np.stack([wav, wav], axis=1)
    assert np.allclose(embedder(stereo), vector, atol=1e-6)
    assert np.allclose(embedder(stereo.T), vector, atol=1e-6)
    opposite = np.stack([0.5 * wav, 1.5 * wav], axis=1)  # the mean is what counts
    soundfile.write(tmp_path / "two.wav", opposite, RATE_HZ, subtype="FLOAT")
    assert np.allclose(embedder(tmp_path / "two.wav"), vector, atol=1e-5)
    soundfile.write(tmp_path / "44k.wav", resample(wav, RATE_HZ, 44100), 44100, subtype="FLOAT")
    close = embedder(tmp_path / "44k.wav")
    assert _cosine(close, vector) > 0.999
    narrow = resample(wav, RATE_HZ, 8000)
    soundfile.write(tmp_path / "8k.wav", narrow, 8000, subtype="FLOAT")
    assert np.allclose(embedder(narrow, rate_hz=8000), embedder(tmp_path / "8k.wav"), atol=1e-6)


def test_short_audio_is_repeated_as_in_training(embedder):
    wav = voice(0.1)
    assert np.array_equal(embedder(wav), embedder(np.concatenate([wav, wav, wav])[: RATE_HZ // 4]))


def test_long_audio_is_the_mean_of_equal_windows(folder, tmp_path):
    embedder = SpeakerEmbedder.from_pretrained(folder, max_window_s=2.0, batch_s=5.0)
    wav = voice(7.0)
    expected = np.mean([embedder(piece) for piece in np.split(wav, 4)], axis=0)
    assert np.allclose(embedder(wav), expected, atol=1e-6)
    soundfile.write(tmp_path / "long.wav", wav, RATE_HZ, subtype="FLOAT")
    assert np.allclose(embedder(tmp_path / "long.wav"), expected, atol=1e-6)
    half = np.concatenate([wav[: 2 * RATE_HZ], np.zeros(2 * RATE_HZ, np.float32)])
    assert np.allclose(embedder(half), embedder(wav[: 2 * RATE_HZ]), atol=1e-6)  # silent windows do not count
    together = embedder.embed([wav, voice(1.0), half])
    assert np.allclose(together[0], expected, atol=1e-6) and np.allclose(together[1], embedder(voice(1.0)), atol=1e-6)


def test_crops_are_those_of_espnet(embedder, folder):
    """Against ESPnet's SpkPreprocessor itself: its 'num_eval' crops of 'target_duration', embedded one by one."""
    from espnet2.train.preprocessor import SpkPreprocessor

    peer = SpkPreprocessor(train=False, target_duration=1.5, num_eval=4, rir_apply_prob=0, noise_apply_prob=0)
    wavs = [voice(5.2), voice(1.0, 3), voice(1.5, 4)]
    ours = embedder.embed_crops(wavs, num_crops=4, crop_s=1.5)
    assert ours.shape == (3, 4, 12)
    for wav, vectors in zip(wavs, ours, strict=True):
        pieces = peer("utt", {"speech": wav, "speech2": wav, "spk_labels": "1"})["speech"]
        assert np.allclose(vectors, embedder.embed(list(pieces)), atol=1e-5)
    short = SpeakerEmbedder.from_pretrained(folder, max_window_s=2.0)  # the long clip is now read crop by crop
    assert np.allclose(short.embed_crops(wavs, 4, 1.5), ours, atol=1e-5)


def test_verification_without_calibration_gives_the_score_only(embedder):
    result = embedder.verify(voice(1.0), voice(2.0, 5))
    assert result.llr is None and result.same_speaker is None and -1 <= result.score <= 1
    expected = _cosine(embedder(voice(1.0)), embedder(voice(2.0, 5)))
    assert result.score == pytest.approx(expected, abs=1e-6)


def _cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    "audio, words",
    [
        (np.zeros(0, np.float32), "zero length"),
        (np.array([0.1, np.nan, 0.2], np.float32), "NaN"),
        (np.zeros(16000, np.float32), "silent"),
        (np.zeros((2, 3, 4), np.float32), "shape"),
        (np.array(["a"]), "no audio"),
        (None, "path or an array"),
        ("nowhere/to be found.wav", "does not exist"),
    ],
)
def test_broken_audio_is_said_in_one_line(embedder, audio, words):
    with pytest.raises(UserError, match=words) as caught:
        embedder(audio)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_said(embedder, tmp_path):
    soundfile.write(tmp_path / "whole.wav", voice(2.0), RATE_HZ)
    data = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match="truncated"):
        embedder(tmp_path / "cut.wav")


def test_no_audio_at_all_is_said(embedder):
    with pytest.raises(UserError, match="nothing to embed"):
        embedder.embed([])


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_gpu_that_is_not_there_is_said(folder, device, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        SpeakerEmbedder.from_pretrained(folder, device)
    with pytest.raises(UserError, match="not known"):
        SpeakerEmbedder.from_pretrained(folder, "gpu")


def test_weights_that_do_not_fit_the_config_are_refused(folder, tmp_path):
    import torch

    state = torch.load(folder / "valid.eer.best.pth", weights_only=True)
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    name = next(name for name in state if name.startswith("encoder."))
    torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "less.pth")
    with pytest.raises(UserError, match=f"1 missing .{name}"):
        SpeakerEmbedder.from_pretrained(tmp_path / "less.pth")
    torch.save(state | {"encoder.more": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(UserError, match="1 unknown .encoder.more"):
        SpeakerEmbedder.from_pretrained(tmp_path / "more.pth")
    torch.save(state | {name: torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="size mismatch"):
        SpeakerEmbedder.from_pretrained(tmp_path / "other.pth")


_TWO_HOURS = """
import sys, numpy as np
from espnet_ext.inference.spk import SpeakerEmbedder
def peak_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
embedder = SpeakerEmbedder.from_pretrained(sys.argv[1], batch_s=60)
embedder(sys.argv[2])
before = peak_mb()
vector = embedder(sys.argv[3])
assert np.isfinite(vector).all()
print(peak_mb() - before)
"""


def test_two_hours_need_no_more_memory_than_five_minutes(folder, tmp_path):
    minute = voice(60.0, rate_hz=8000)
    for minutes in (5, 120):
        with soundfile.SoundFile(tmp_path / f"{minutes} minutes.wav", "w", 8000, 1, subtype="PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
    files = [str(tmp_path / f"{minutes} minutes.wav") for minutes in (5, 120)]
    command = [sys.executable, "-c", _TWO_HOURS, str(folder), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The samples alone are 439 MB; the bar leaves room for an allocator that keeps what it was given back.
    samples_mb = 2 * 3600 * 16000 * 4 / 2**20
    assert float(done.stdout.split()[-1]) < samples_mb / 2


@pytest.mark.gpu
def test_a_gpu_gives_the_same_vector(folder, embedder):
    wavs = [voice(seconds, seed) for seed, seconds in enumerate((0.3, 1.0, 2.5))]
    there = SpeakerEmbedder.from_pretrained(folder, "cuda").embed(wavs)
    assert np.allclose(there, embedder.embed(wavs), atol=1e-3)
