"""Audio in and out, against the standard library's wave module and analytic sines; and every way a file breaks."""

import errno
import os
import struct
import subprocess
import sys
import wave

import numpy as np
import pytest
import soundfile
from small_disk import small_disk  # noqa: F401

from espnet_ext.audio.io import (
    AudioError,
    AudioWriter,
    audio_info,
    is_silent,
    open_audio,
    read_audio,
    resample,
    resampled_length,
    stream_audio,
    write_audio,
)
from espnet_ext.files import atomic_write

RATE_HZ = 16000


def sine(rate_hz, duration_s=1.0, frequency_hz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * frequency_hz * np.arange(round(rate_hz * duration_s)) / rate_hz)).astype("f4")


def write_wave(path, channels, rate_hz):
    """Write int16 (samples, channels) with the standard library: an implementation that is not libsndfile's."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(channels.astype("<i2").tobytes())


@pytest.fixture
def noise():
    return (np.random.default_rng(0).standard_normal(30000) * 0.1).astype(np.float32)


def test_samples_are_those_of_the_file_and_channels_are_averaged(tmp_path):
    pcm = np.random.default_rng(1).integers(-32768, 32768, (1000, 2))
    write_wave(tmp_path / "mono.wav", pcm[:, :1], RATE_HZ)
    write_wave(tmp_path / "stereo.wav", pcm, RATE_HZ)
    mono, stereo = read_audio(tmp_path / "mono.wav"), read_audio(str(tmp_path / "stereo.wav"))
    assert mono.dtype == stereo.dtype == np.float32 and mono.shape == stereo.shape == (1000,)
    np.testing.assert_array_equal(mono, pcm[:, 0] / 32768)
    np.testing.assert_allclose(stereo, pcm.mean(axis=1) / 32768, atol=1e-7)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000])
def test_resampling_gives_the_analytic_sine(tmp_path, rate_hz):
    write_audio(tmp_path / "a.wav", sine(rate_hz), rate_hz)
    wav = read_audio(tmp_path / "a.wav", RATE_HZ)
    inner = slice(800, -800)  # at the ends the filter sees silence
    np.testing.assert_allclose(wav[inner], sine(RATE_HZ)[inner], atol=1e-3)
    assert abs(len(wav) - RATE_HZ) <= 1


def test_resampling_removes_what_would_fold_back():
    folded = resample(sine(48000, frequency_hz=11000), 48000, RATE_HZ)
    assert 20 * np.log10(np.abs(folded[800:-800]).max() / 0.5) < -80


def test_length_is_known_beforehand(noise):
    rng = np.random.default_rng(2)
    for _ in range(300):
        samples = int(rng.integers(1, 5000))
        in_hz, out_hz = rng.choice([8000, 11025, 16000, 22050, 44100, 48000], 2)
        wav = resample(noise[:samples], int(in_hz), int(out_hz))
        assert len(wav) == resampled_length(samples, in_hz, out_hz)
        assert abs(len(wav) - samples * out_hz / in_hz) <= 0.5


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, None])
@pytest.mark.parametrize(("start_s", "end_s"), [(0, 0.4), (0.3333, 1.2345), (1.5, None), (1.87, 1.875), (1.0, -1)])
def test_section_is_the_slice_of_the_whole(tmp_path, noise, rate_hz, start_s, end_s):
    write_audio(tmp_path / "a.flac", noise, RATE_HZ)
    whole, out_hz = read_audio(tmp_path / "a.flac", rate_hz), rate_hz or RATE_HZ
    stop = len(whole) if end_s in (None, -1) else round(end_s * out_hz)
    section = read_audio(tmp_path / "a.flac", rate_hz, start_s, end_s)
    np.testing.assert_allclose(section, whole[round(start_s * out_hz) : stop], atol=1e-6)


@pytest.mark.parametrize(("start_s", "end_s"), [(-1, 1), (1, 1), (1.5, 1.0), (0, 3.0), (2, 2.1)])
def test_section_outside_the_file(tmp_path, noise, start_s, end_s):
    write_audio(tmp_path / "a.wav", noise, RATE_HZ)
    with pytest.raises(AudioError, match=r"a\.wav"):
        read_audio(tmp_path / "a.wav", RATE_HZ, start_s, end_s)


def test_section_may_end_a_little_late(tmp_path, noise):
    write_audio(tmp_path / "a.wav", noise, RATE_HZ)
    assert len(read_audio(tmp_path / "a.wav", RATE_HZ, 1.0, 2.3)) == len(noise) - RATE_HZ


@pytest.fixture
def two_hours(tmp_path):
    """Two hours of 8 kHz stereo WAV that take no room on the disk: a header, zeros not stored, and a second of sine."""
    path, rate_hz = tmp_path / "two hours.wav", 8000
    size = 2 * 3600 * rate_hz * 4
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 2, 8000, 32000, 4, 16,
                         b"data", size)  # fmt: skip
    with open(path, "wb") as file:
        file.write(header)
        file.seek(44 + 3600 * rate_hz * 4)
        file.write(np.repeat((sine(rate_hz) * 32767).astype("<i2"), 2).tobytes())
        file.truncate(44 + size)
    return path


def test_two_hours_are_read_in_parts(two_hours, monkeypatch):
    read, frames = soundfile.SoundFile.read, []
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, n, **kw: frames.append(n) or read(self, n, **kw))
    assert audio_info(two_hours).duration_s == 7200 and not frames  # the header alone
    wav = read_audio(two_hours, RATE_HZ, 3600.0, 3601.0)
    np.testing.assert_allclose(wav[800:-800], sine(RATE_HZ)[800:-800], atol=1e-3)
    assert sum(frames) < 1.2 * 8000


def broken_file(folder, how, wav):
    """Make a file that is broken in one way and return its path."""
    path = folder / f"{how} ünï.{'flac' if 'flac' in how else 'mp3' if 'mp3' in how else 'wav'}"
    if how == "missing":
        return path
    if how == "directory":
        path.mkdir()
    elif how == "empty":
        path.touch()
    elif how == "text":
        path.write_text("this is not audio\n" * 100)
    elif how.startswith("truncated"):
        soundfile.write(path, wav, RATE_HZ)
        os.truncate(path, os.path.getsize(path) // 2)
    elif how == "header only":
        soundfile.write(path, wav, RATE_HZ)
        os.truncate(path, 20)
    elif how == "zero length":
        soundfile.write(path, wav[:0], RATE_HZ)
    else:
        wav = wav.copy()
        wav[len(wav) // 2] = {"nan": np.nan, "inf": -np.inf, "integers as floats": 20000.0}[how]
        soundfile.write(path, wav, RATE_HZ, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "does not exist"),
        ("directory", "is a directory"),
        ("empty", "empty"),
        ("text", "not audio"),
        ("header only", "not audio|truncated"),
        ("truncated wav", "truncated, .* of 30000"),
        ("truncated flac", "truncated"),
        ("truncated mp3", "truncated"),
        ("zero length", "zero length"),
        ("nan", "NaN"),
        ("inf", "NaN or inf"),
        ("integers as floats", "20000"),
    ],
)
def test_broken_file_is_said_by_name(tmp_path, noise, how, said):
    path = broken_file(tmp_path, how, noise)
    with pytest.raises(AudioError, match=said) as caught:
        read_audio(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("container", ["WAV", "RF64", "AIFF", "NIST"])
def test_a_short_uncompressed_file_shows_in_its_header(tmp_path, noise, container):
    path = tmp_path / "a"
    soundfile.write(path, noise, RATE_HZ, format=container, subtype="PCM_16")
    assert audio_info(path).num_samples == len(noise)
    os.truncate(path, os.path.getsize(path) - 2)
    with pytest.raises(AudioError, match="29999 of 30000"):
        audio_info(path)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_is_not_truncated(tmp_path, noise, size):
    write_audio(tmp_path / "a.wav", noise, RATE_HZ)
    with open(tmp_path / "a.wav", "r+b") as file:
        at = file.read().index(b"data")
        file.seek(at + 4)
        file.write(struct.pack("<I", size))
    if size == 0:  # libsndfile takes that literally
        with pytest.raises(AudioError, match="zero length"):
            read_audio(tmp_path / "a.wav")
    else:
        assert len(read_audio(tmp_path / "a.wav")) == len(noise)


def test_commands_are_refused_unless_asked_for(tmp_path, noise):
    write_audio(tmp_path / "a.wav", noise, RATE_HZ)
    command = f"cat '{tmp_path}/a.wav' |"
    with pytest.raises(AudioError, match="allow_commands"):
        read_audio(command)
    np.testing.assert_array_equal(read_audio(command, allow_commands=True), read_audio(tmp_path / "a.wav"))
    with pytest.raises(AudioError, match="failed with code 1: .*nowhere"):
        read_audio("cat /nowhere/a.wav |", allow_commands=True)


@pytest.mark.parametrize("extension", ["flac", "wav"])
def test_sixteen_bits_survive_writing(tmp_path, extension):
    pcm = np.arange(-32768, 32768)
    path = tmp_path / "näme with blanks" / f"a.{extension}"
    write_audio(path, (pcm / 32768).astype(np.float32), 8000)
    np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], pcm)
    assert audio_info(path).rate_hz == 8000 and audio_info(path).coding == "PCM_16"
    write_audio(path, np.float32([2, -2, 0]), 8000)
    np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], [32767, -32768, 0])


@pytest.mark.parametrize("wav", [np.float32([0, np.nan]), np.zeros((10, 2), np.float32)])
def test_what_cannot_be_written_leaves_nothing(tmp_path, wav):
    with pytest.raises(AudioError, match=r"a\.wav"):
        write_audio(tmp_path / "a.wav", wav, RATE_HZ)
    with pytest.raises(AudioError, match="flac or"):
        write_audio(tmp_path / "a.txt", wav, RATE_HZ)
    assert not list(tmp_path.iterdir())


def test_silence_is_below_80_db():
    assert is_silent(np.zeros(100)) and is_silent(np.zeros(0))
    for level_db, silent in ((-79, False), (-81, True)):
        wav = sine(RATE_HZ, level=np.sqrt(2) * 10 ** (level_db / 20))  # RMS of a sine: amplitude / sqrt(2)
        assert is_silent(wav) == silent


def test_a_full_disk_leaves_the_old_file(small_disk, noise):  # noqa: F811
    path = small_disk / "a.flac"
    write_audio(path, noise, RATE_HZ)
    before = path.read_bytes()
    with pytest.raises(OSError) as caught:
        write_audio(path, np.tile(noise, 50), RATE_HZ)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert [entry.name for entry in small_disk.iterdir()] == ["a.flac"] and path.read_bytes() == before


def test_a_limit_on_file_size_is_an_error_too(tmp_path, noise):
    """The same without root: what libsndfile cannot write is not taken for written."""
    code = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from espnet_ext.audio.io import write_audio\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "write_audio(sys.argv[1], np.random.default_rng(0).standard_normal(30000).astype('f4') / 10, 16000)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code, tmp_path / "a.flac"], capture_output=True, text=True)
    assert answer.returncode != 0 and "File too large" in answer.stderr
    assert not list(tmp_path.iterdir())


def test_writing_block_by_block_equals_writing_at_once(tmp_path, noise):
    write_audio(tmp_path / "whole.flac", noise, RATE_HZ)
    path = tmp_path / "blocks.flac"
    with atomic_write(path, "wb") as file, AudioWriter(file, path, RATE_HZ) as writer:
        for start in range(0, len(noise), 7000):
            writer.write(noise[start : start + 7000])
    assert writer.num_samples == len(noise)
    np.testing.assert_array_equal(read_audio(path), read_audio(tmp_path / "whole.flac"))


def test_atomic_write_keeps_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "new folder" / "a"
    with atomic_write(path) as file:
        file.write("älter\n")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "älter\n" and [p.name for p in path.parent.iterdir()] == ["a"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_streaming_equals_reading(tmp_path, noise):
    path = tmp_path / "a.wav"
    write_audio(path, np.tile(noise, 80), 44100)  # longer than a block
    with open_audio(path) as sound:
        blocks = list(stream_audio(sound, path, RATE_HZ, 0.0, sound.frames / 44100))
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate(blocks), resample(read_audio(path, None), 44100, RATE_HZ))
