"""Kaldi tables and trial lists: order, separators, Unicode, and one line that says file, line and key."""

import subprocess

import numpy as np
import pytest

from espnet_ext.audio.io import write_audio
from espnet_ext.datadir import DataDir, Segment, Trials, read_scp, read_trials, write_broken, write_scp, write_trials
from espnet_ext.errors import UserError


def test_tables_are_sorted_as_sort_does_it(tmp_path):
    keys = ["b", "a-1", "a", "ab", "a_1", "A", "ü", "z", "€", "a.1", "Z", "10", "9", "𝄞", "ﬁ"]
    write_scp(tmp_path / "t", {key: f"value of {key}" for key in keys})
    answer = subprocess.run(["sort", tmp_path / "t"], env={"LC_ALL": "C"}, capture_output=True, check=True)
    assert (tmp_path / "t").read_bytes() == answer.stdout
    assert list(read_scp(tmp_path / "t")) == sorted(keys)


def test_what_was_left_out_is_listed_anew(tmp_path):
    write_broken(tmp_path, {"b": "is silent", "a": "is cut off"})
    assert (tmp_path / "broken").read_text() == "a is cut off\nb is silent\n"
    write_broken(tmp_path, {})
    write_broken(str(tmp_path), {})
    assert not (tmp_path / "broken").exists()


def test_only_the_first_blank_separates(tmp_path):
    table = {"utt1": "/data/my corpus/säge\u00a0blatt  2.wav", "utt\u00a02": "x\u2028y", "utt3": "a\tb"}
    write_scp(tmp_path / "wav.scp", table)
    assert read_scp(tmp_path / "wav.scp") == table
    (tmp_path / "wav.scp").write_text("a\t  b c \n", encoding="utf-8")
    assert read_scp(tmp_path / "wav.scp") == {"a": "b c"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"a 1\nb 2\na 3\n", "line 3: key 'a' occurs a second time"),
        (b"a 1\nb\n", "line 2: key 'b' has no value"),
        (b"a 1\n\nb 2\n", "line 2: is empty"),
        (b"a 1\n b 2\n", "line 2: is empty or starts with a blank"),
        (b"a 1\r\nb 2\r\n", "line 1: ends with a Windows line end"),
        (b"a 1\nb \xe4\n", "line 2: not UTF-8 .*0xe4"),
        (b"\xef\xbb\xbfa 1\n", "line 1: starts with a byte order mark"),
    ],
)
def test_a_broken_table_is_said_with_file_line_and_command(tmp_path, content, said):
    path = tmp_path / "my data" / "utt2spk"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_scp(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    if said not in ("empty",) and "UTF-8" not in said:
        assert f"fix_data_dir '{path.parent}'" in str(caught.value)


def test_missing_table_and_values_that_may_be_empty(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_scp(tmp_path / "nothing")
    (tmp_path / "list").write_text("a\nb\n")
    assert read_scp(tmp_path / "list", allow_empty=True) == {"a": "", "b": ""}


@pytest.mark.parametrize("table", [{"a b": "1"}, {"": "1"}, {"a": "1\n2"}, {"a\n": "1"}])
def test_what_would_break_the_format_is_not_written(tmp_path, table):
    with pytest.raises(UserError, match=str(tmp_path)):
        write_scp(tmp_path / "t", table)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "lines",
    ["u1 u2 target\nu1 u3 nontarget\n", "1 u1 u2\n0 u1 u3\n", "u1*u2 1\nu1*u3 0\n", "u1\tu2  target\nu1 u3 nontarget"],
)
def test_three_trial_formats(tmp_path, lines):
    (tmp_path / "trials").write_text(lines)
    trials = read_trials(tmp_path / "trials")
    assert (trials.enroll, trials.test) == (["u1", "u1"], ["u2", "u3"]) and len(trials) == 2
    np.testing.assert_array_equal(trials.labels, [1, 0])
    assert trials.labels.dtype == np.int8 and trials.utterances == ["u1", "u2", "u3"]
    write_trials(tmp_path / "again", trials)
    assert (tmp_path / "again").read_text() == "u1 u2 target\nu1 u3 nontarget\n"


@pytest.mark.parametrize(
    ("lines", "number"),
    [("a b\n", 1), ("a b target\na b\n", 2), ("a b target\n1 a b\n", 2), ("1 a b\n2 a b\n", 2), ("a b maybe\n", 1),
     ("a b target\n\n", 2)],
)  # fmt: skip
def test_a_broken_trial_is_said_with_its_line(tmp_path, lines, number):
    (tmp_path / "trials").write_text(lines)
    with pytest.raises(UserError, match=f"trials line {number}: .*nontarget"):
        read_trials(tmp_path / "trials")


def test_a_trial_that_names_an_unknown_utterance(tmp_path):
    trials = Trials(["a", "b"], ["b", "x"], np.array([1, 0]))
    trials.check({"a", "b", "x"}, "trials", "data/test")
    with pytest.raises(UserError, match=r"trials line 2: utterance 'x' is not in data/test \(1 such"):
        trials.check(["a", "b"], "trials", "data/test")


def test_data_directory_reads_audio_and_segments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wav = (np.random.default_rng(0).standard_normal(32000) * 0.1).astype(np.float32)
    write_audio("my wavs/übung 1.wav", wav, 16000)
    tables = {
        "wav.scp": {"rec": "my wavs/übung 1.wav"},
        "segments": {"s-2": Segment("rec", 0.5, 1.25), "s-1": Segment("rec", 1.0, -1)},
        "utt2spk": {"s-2": "s", "s-1": "s"},
        "text": {"s-1": "ein  Wort", "s-2": "zwei"},
    }
    data = DataDir.write(tmp_path / "my data", tables)
    pcm = np.rint(wav * 32768) / 32768
    assert data.utterances == ["s-1", "s-2"] and data.spk2utt == {"s": ["s-1", "s-2"]}
    assert data.text["s-1"] == "ein  Wort" and data.segments["s-2"] == Segment("rec", 0.5, 1.25)
    np.testing.assert_array_equal(data.audio("s-1"), pcm[16000:].astype("f4"))
    np.testing.assert_array_equal(data.audio("s-2"), pcm[8000:20000].astype("f4"))
    for utt in data.utterances:
        for rate_hz in (8000, 16000, 44100):
            assert data.num_samples(utt, rate_hz) == len(data.audio(utt, rate_hz))
    with pytest.raises(UserError, match="segments: no line for 'nobody'"):
        data.audio("nobody")


def test_data_directory_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="no such data directory"):
        DataDir(tmp_path / "data")
    data = DataDir.write(tmp_path, {"wav.scp": {"a": "a.wav"}, "utt2num_samples": {"a": "many"}})
    with pytest.raises(UserError, match="utt2spk: the file does not exist"):
        _ = data.utt2spk
    with pytest.raises(UserError, match="'a' has 'many'"):
        _ = data.utt2num_samples
    short = DataDir.write(tmp_path / "short", {"wav.scp": {"a": "a.wav", "b": "b.wav"}, "utt2num_samples": {"a": 5}})
    assert short.num_samples("a") == 5
    with pytest.raises(UserError, match="utt2num_samples: no line for utterance 'b'; mend it"):
        short.num_samples("b")
    (tmp_path / "segments").write_text("u a 1\n")
    with pytest.raises(UserError, match="segments: utterance 'u' needs"):
        _ = data.segments


def test_samples_are_counted_at_the_rate_that_is_asked_for(tmp_path):
    """utt2num_samples counts at the rate of the files."""
    write_audio(tmp_path / "a.wav", np.zeros(8001, dtype=np.float32) + 0.1, 8000)
    tables = {"wav.scp": {"a": str(tmp_path / "a.wav")}, "utt2num_samples": {"a": 8001}}
    data = DataDir.write(tmp_path / "data", tables)
    assert data.num_samples("a", 8000) == 8001 and data.num_samples("a") == len(data.audio("a")) == 16002
    gone = DataDir.write(tmp_path / "gone", {**tables, "wav.scp": {"a": "gone.wav"}})
    assert gone.num_samples("a") == 8001
