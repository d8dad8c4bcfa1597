"""The format stage: what is right stays, what is not is written, what is broken is named, and kill -9 harms nothing."""

import json
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from small_disk import small_disk  # noqa: F401

from espnet_ext.audio.io import read_audio, write_audio
from espnet_ext.bin import format_data as command
from espnet_ext.datadir import DataDir, Trials, read_scp, write_trials
from espnet_ext.datadir.format import BrokenUtterances, format_data
from espnet_ext.datadir.validate import find_problems
from espnet_ext.errors import UserError

RATE_HZ = 16000


def noise(samples, seed=0):
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def make(folder, files, segments=None, trials=True):
    """Write a data directory over ``{utterance: path}``; the speaker is what stands before the dash."""
    tables = {"wav.scp": files, **({"segments": segments} if segments else {})}
    utts = list(segments or files)
    tables["utt2spk"] = {utt: utt.split("-")[0] for utt in utts}
    tables["text"] = {utt: f"words of {utt}" for utt in utts}
    tables["spk2gender"] = {utt.split("-")[0]: "f" for utt in utts}
    data = DataDir.write(folder, tables)
    if trials:
        write_trials(folder / "trials", Trials(utts[:1] * (len(utts) - 1), utts[1:], np.zeros(len(utts) - 1, int)))
    return data


def tree(folder):
    """Every file below a folder with its content; time stamps and scratch count too, for nothing may be left."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def kinds(tmp_path):
    """One utterance of each kind a corpus may hold, under a path with blanks and other letters."""
    folder = tmp_path / "my cörpus"
    folder.mkdir()
    files = {}
    for name, rate_hz, channels, container in [
        ("right-wav", 16000, 1, "wav"),
        ("right-flac", 16000, 1, "flac"),
        ("rate-8", 8000, 1, "wav"),
        ("rate-44", 44100, 1, "wav"),
        ("channels-2", 16000, 2, "wav"),
        ("container-ogg", 16000, 1, "ogg"),
        ("ids/with-ü%", 8000, 1, "flac"),
    ]:
        wav = np.stack([noise(rate_hz, seed) for seed in range(channels)], axis=1)
        files[name] = folder / f"{name.replace('/', ' ')}.{container}"
        soundfile.write(files[name], wav, rate_hz)
    return make(tmp_path / "data", files)


@pytest.mark.parametrize("nj", [1, 2])
def test_only_what_needs_it_is_written(kinds, tmp_path, nj):
    report = format_data(kinds.path, tmp_path / "dump", nj=nj, progress=False)
    dump = DataDir(tmp_path / "dump")
    assert find_problems(dump.path, spk_sort=False) == []
    assert (report.kept, report.written, report.resumed, report.broken) == (7, 5, 0, {})
    for utt in kinds.utterances:
        assert (dump.wav_scp[utt] == kinds.wav_scp[utt]) == utt.startswith("right")
        wav, rate_hz = soundfile.read(dump.wav_scp[utt], dtype="float32")
        assert rate_hz == RATE_HZ and wav.ndim == 1 and len(wav) == dump.utt2num_samples[utt]
        # 16 bits: half a step; the reader itself is checked in test_io.py.
        np.testing.assert_allclose(wav, kinds.audio(utt), atol=0.51 / 32768)
    assert dump.text == kinds.text and dump.table("spk2gender") == kinds.table("spk2gender")
    assert (dump.path / "trials").read_bytes() == (kinds.path / "trials").read_bytes()


def test_segments_become_utterances(tmp_path):
    wav = noise(2 * RATE_HZ)
    write_audio(tmp_path / "r.wav", wav, RATE_HZ)
    kinds = make(
        tmp_path / "data", {"r": tmp_path / "r.wav"}, {"a-1": "r 0.25 0.75", "a-2": "r 1 -1", "b-1": "r 0 2.2"}
    )
    format_data(kinds.path, tmp_path / "dump", progress=False)
    dump = DataDir(tmp_path / "dump")
    assert dump.utterances == ["a-1", "a-2", "b-1"] and not dump.segments and find_problems(dump.path) == []
    pcm = np.rint(wav * 32768) / 32768
    for utt, start, stop in (("a-1", 4000, 12000), ("a-2", 16000, 32000), ("b-1", 0, 32000)):
        np.testing.assert_array_equal(dump.audio(utt), pcm[start:stop].astype("f4"))


def test_a_second_run_does_nothing_and_a_changed_file_is_done_again(kinds, tmp_path):
    format_data(kinds.path, tmp_path / "dump", progress=False)
    first = tree(tmp_path / "dump")
    times = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "dump" / "audio").rglob("*.flac")}
    assert format_data(kinds.path, tmp_path / "dump", progress=False).resumed == 7
    assert tree(tmp_path / "dump") == first
    assert {path: os.stat(path).st_mtime_ns for path in times} == times
    write_audio(kinds.wav_scp["rate-8"], noise(4000, 5), 8000)
    next(iter(times)).unlink()
    report = format_data(kinds.path, tmp_path / "dump", progress=False)
    assert report.resumed in (5, 6) and DataDir(tmp_path / "dump").utt2num_samples["rate-8"] == 8000
    assert format_data(kinds.path, tmp_path / "dump", rate_hz=8000, progress=False).resumed == 0


@pytest.fixture
def broken(tmp_path):
    """Two sound utterances among one of each broken kind."""
    files = {"ok-1": noise(RATE_HZ), "ok-2": noise(RATE_HZ, 1), "short-1": noise(800), "zero-length": noise(0)}
    files["silent-1"], files["nan-1"] = np.zeros(RATE_HZ, "f4"), noise(RATE_HZ)
    files["nan-1"][77] = np.nan
    files["cut-wav"] = files["cut-flac"] = noise(RATE_HZ)
    paths = {}
    for utt, wav in files.items():
        paths[utt] = tmp_path / f"{utt}.{'flac' if 'flac' in utt else 'wav'}"
        soundfile.write(paths[utt], wav, RATE_HZ, subtype="FLOAT" if "nan" in utt else None)
        if "cut" in utt:
            os.truncate(paths[utt], os.path.getsize(paths[utt]) // 2)
    paths["empty-1"] = tmp_path / "empty.wav"
    paths["empty-1"].touch()
    paths["missing-1"] = tmp_path / "missing.wav"
    paths["command-1"] = f"cat {paths['ok-1']} |"
    return make(tmp_path / "data", paths)


REASONS = {
    "command-1": "is a command",
    "cut-flac": "truncated",
    "cut-wav": "truncated",
    "empty-1": "empty",
    "missing-1": "does not exist",
    "nan-1": "NaN",
    "silent-1": "silent",
    "zero-length": "zero length",
}


def test_broken_utterances_stop_the_run_and_are_all_listed(broken, tmp_path, capsys):
    dump = tmp_path / "dump"
    assert command.main(["--in", str(broken.path), "--out", str(dump), "--nj", "1"]) == 2
    said = capsys.readouterr().err
    listed = read_scp(dump / "broken")
    assert list(listed) == list(REASONS)
    for utt, reason in REASONS.items():
        assert reason in listed[utt] and f"broken: {utt}: " in said
    assert "8 of 11 utterances are broken" in said.splitlines()[-1] and "--skip_broken true" in said.splitlines()[-1]
    assert not (dump / "wav.scp").exists()


def test_broken_utterances_are_dropped_and_counted_when_asked(broken, tmp_path, capsys):
    dump = tmp_path / "dump"
    options = ["--in", str(broken.path), "--out", str(dump), "--nj", "1", "--skip_broken", "true"]
    assert command.main([*options, "--min_duration_s", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "2 utterances" in said and "8 broken, 1 shorter than 0.1 s, 9 trials" in said
    assert DataDir(dump).utterances == sorted(DataDir(dump).text) == ["ok-1", "ok-2"]
    assert find_problems(dump) == []
    assert command.main(options) == 0 and DataDir(dump).utterances == ["ok-1", "ok-2", "short-1"]


def test_mended_utterances_are_looked_at_again(broken, tmp_path):
    for _ in range(2):
        with pytest.raises(BrokenUtterances) as caught:
            format_data(broken.path, tmp_path / "dump", nj=1, progress=False)
        assert list(caught.value.broken) == list(REASONS)
    for utt in REASONS:
        if utt != "command-1":
            soundfile.write(broken.wav_scp[utt], noise(RATE_HZ, 3), RATE_HZ)
    report = format_data(broken.path, tmp_path / "dump", nj=1, allow_commands=True, progress=False)
    assert report.kept == 11 and report.resumed == 3 and not (tmp_path / "dump" / "broken").exists()


def test_a_faulty_directory_stops_before_any_work(kinds, tmp_path):
    with open(kinds.path / "trials", "a") as file:
        file.write("right-wav nobody target\n")
    with pytest.raises(UserError, match="utterance 'nobody' is not in"):
        format_data(kinds.path, tmp_path / "dump", progress=False)
    (kinds.path / "spk2utt").unlink()
    with pytest.raises(UserError, match="spk2utt: the file does not exist; make it"):
        format_data(kinds.path, tmp_path / "dump", progress=False)
    assert not (tmp_path / "dump").exists()
    with pytest.raises(UserError, match="the same directory"):
        format_data(kinds.path, kinds.path, progress=False)


@pytest.fixture
def many(tmp_path):
    """Enough to be killed in the middle of: 120 utterances of 4 s at 44.1 kHz in two channels."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([noise(4 * 44100), noise(4 * 44100, 1)], axis=1), 44100)
    return make(tmp_path / "data", {f"s{i // 10:02d}-u{i:03d}": path for i in range(120)})


@pytest.mark.parametrize("nj", [1, 2])
def test_kill_and_the_same_command_again_give_the_same_result(many, tmp_path, nj):
    def run(out):
        line = [sys.executable, "-m", "espnet_ext.bin.format_data", "--in", many.path, "--out", out, "--nj", str(nj)]
        return subprocess.Popen(line, stderr=subprocess.PIPE, start_new_session=True, cwd=tmp_path)

    assert run("whole").wait() == 0
    out, kills = tmp_path / "killed", 0
    for finished in (1, 40, 90):
        process = run("killed")
        while process.poll() is None and len(list(out.rglob("*.flac"))) < finished:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers have to end by themselves
            kills += 1
        process.wait()
        assert kills == 0 or not (out / "wav.scp").exists()
        for _ in range(100):
            if not alive(process.pid):
                break
            time.sleep(0.1)
        assert not alive(process.pid)
    assert kills >= 2
    again = run("killed")
    assert again.wait() == 0
    whole, killed = tree(tmp_path / "whole"), tree(out)
    assert killed == {name: content.replace(b"whole/", b"killed/") for name, content in whole.items()}


def alive(session):
    """Whether a process of that session still runs."""
    answer = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True)
    return any("Z" not in line.split()[1] for line in answer.stdout.splitlines())


def test_a_journal_line_that_was_cut_is_ignored(kinds, tmp_path):
    format_data(kinds.path, tmp_path / "dump", progress=False)
    before = tree(tmp_path / "dump")
    journal = tmp_path / "dump" / ".format" / "done.jsonl"
    content = journal.read_bytes()
    assert [json.loads(line)["utt"] for line in content.splitlines()] == kinds.utterances
    journal.write_bytes(content[: len(content) - 40])
    (tmp_path / "dump" / "audio" / "00").mkdir(exist_ok=True)
    (tmp_path / "dump" / "audio" / "00" / ".x.flac.abc.tmp").write_bytes(b"left by a killed run")
    assert format_data(kinds.path, tmp_path / "dump", progress=False).resumed == 6
    assert tree(tmp_path / "dump") == before


def test_a_full_disk_is_said_plainly_and_the_same_command_goes_on(many, small_disk, capsys):  # noqa: F811
    options = ["--in", str(many.path), "--out", str(small_disk / "dump"), "--nj", "2"]
    assert command.main(options) == 2
    assert "no space left" in capsys.readouterr().err.splitlines()[-1]
    assert not (small_disk / "dump" / "wav.scp").exists()
    assert not list(small_disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    assert command.main(options) == 0
    assert "0 finished before" not in capsys.readouterr().out
    dump = DataDir(small_disk / "dump")
    assert find_problems(dump.path) == [] and len(dump.utterances) == 120
    for utt in dump.utterances[::17]:
        assert len(read_audio(dump.wav_scp[utt])) == dump.utt2num_samples[utt] == 4 * RATE_HZ


def test_a_killed_worker_is_said_plainly(tmp_path, monkeypatch):
    from espnet_ext.datadir import workers

    with pytest.raises(UserError, match="a worker process was killed.*--nj"):
        list(workers.run(_kill_oneself, [1, 2, 3], 2))


def _kill_oneself(_chunk):
    os.kill(os.getpid(), signal.SIGKILL)


def test_two_hours_take_bounded_memory(tmp_path):
    rate_hz, size = 8000, 2 * 3600 * 8000 * 2
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, rate_hz, 16000, 2, 16,
                         b"data", size)  # fmt: skip
    with open(tmp_path / "a.wav", "wb") as file:  # zeros that take no room, and a second of noise
        file.write(header + (noise(rate_hz) * 32768).astype("<i2").tobytes())
        file.truncate(44 + size)
    data = make(tmp_path / "data", {"s-1": tmp_path / "a.wav"}, trials=False)
    code = (
        "import sys\n"
        "from espnet_ext.datadir.format import format_data\n"
        "format_data(sys.argv[1], sys.argv[2], nj=1, progress=False)\n"
        # Not ru_maxrss: Linux lets it start at the size of the process that started this one.
        "print(next(row.split()[1] for row in open('/proc/self/status') if row.startswith('VmHWM')))\n"
    )
    line = [sys.executable, "-c", code, data.path, tmp_path / "dump"]
    answer = subprocess.run(line, capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 200 * 1024  # KiB; the samples alone would be 450 MiB
    assert DataDir(tmp_path / "dump").utt2num_samples == {"s-1": 7200 * RATE_HZ}
