"""Every fault of a data directory is found, named and, where that is safe, mended."""

import numpy as np
import pytest

from espnet_ext.datadir import DataDir, Trials, write_trials
from espnet_ext.datadir.fix import fix
from espnet_ext.datadir.validate import find_problems, find_warnings, validate
from espnet_ext.errors import UserError


@pytest.fixture
def data(tmp_path):
    """Four speakers with three utterances each, every table there is, and a path with a blank and an umlaut."""
    path = tmp_path / "my dätä"
    (tmp_path / "ä b.wav").write_bytes(b"not looked into")
    utts = {f"s{i}-u{j}": f"s{i}" for i in range(4) for j in range(3)}
    DataDir.write(
        path,
        {
            "wav.scp": {utt: tmp_path / "ä b.wav" for utt in utts},
            "utt2spk": utts,
            "text": {utt: f"words of {utt}" for utt in utts},
            "spk2gender": {speaker: "f" for speaker in utts.values()},
            "utt2num_samples": dict.fromkeys(utts, 16000),
        },
    )
    write_trials(path / "trials", Trials(["s1-u1", "s1-u1"], ["s1-u2", "s2-u0"], np.array([1, 0])))
    return path


def edit(path, change):
    """Replace the lines of a table by ``change(lines)``."""
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(line + "\n" for line in change(lines)), encoding="utf-8", newline="")


def test_a_sound_directory_has_no_problem_and_fixing_it_changes_nothing(data):
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    assert find_problems(data) == [] and find_warnings(data) == []
    validate(data)
    DataDir(data).check()
    assert fix(data) == []
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before


# (table, change, what is said, whether fix mends it)
FAULTS = {
    "unsorted": ("text", lambda x: [x[1], x[0], *x[2:]], "text line 2: key 's0-u0' is not in C order after", True),
    "repeated": ("text", lambda x: [x[0], *x], "text line 2: key 's0-u0' was on line 1 with the same", True),
    "two values": ("utt2spk", lambda x: [*x, "s3-u2 s0"], "line 13: key 's3-u2' was on line 12 with another", False),
    "unknown key": ("text", lambda x: [*x, "zz hello"], "text line 13: 'zz' is not in utt2spk", True),
    "missing key": ("wav.scp", lambda x: x[1:], "utt2spk line 1: 's0-u0' is not in wav.scp", True),
    "no value": ("text", lambda x: ["s0-u0", *x[1:]], "text line 1: key 's0-u0' has no value", True),
    "empty line": ("utt2spk", lambda x: [*x, ""], "utt2spk line 13: is empty", True),
    "windows": ("text", lambda x: [line + "\r" for line in x], "text line 1: ends with a Windows line end", True),
    "byte order mark": ("wav.scp", lambda x: ["\ufeff" + x[0], *x[1:]], "line 1: starts with a byte order", True),
    "two speakers": ("utt2spk", lambda x: [x[0] + " s1", *x[1:]], "line 1: key 's0-u0' needs one speaker", False),
    "wrong spk2utt": ("spk2utt", lambda x: ["s0 s0-u0 s0-u1 s1-u0", *x[1:]], "spk2utt line 1: 's1-u0' belongs", True),
    "lacking spk2utt": ("spk2utt", lambda x: x[:-1], "utt2spk line 10: 's3-u0' belongs to 's3' here, but", True),
    "lacking speaker": ("spk2gender", lambda x: x[:-1], "utt2spk line 10: 's3' is not in spk2gender", True),
    "not a number": ("utt2num_samples", lambda x: ["s0-u0 -1", *x[1:]], "'s0-u0' needs a whole number", False),
    "missing audio": ("wav.scp", lambda x: ["s0-u0 /no/where.wav", *x[1:]], "there is no file '/no/where.wav'", False),
    "relative audio": ("wav.scp", lambda x: ["s0-u0 where.wav", *x[1:]], "from .*, where relative paths", False),
    "command": ("wav.scp", lambda x: ["s0-u0 sox a |", *x[1:]], "'s0-u0' is a command", False),
    "unprintable": ("text", lambda x: [x[0] + "\u200b", *x[1:]], r"the unprintable character U\+200B", False),
    "unknown in trial": ("trials", lambda x: [*x, "s0-u0 who target"], "trials line 3: utterance 'who' is", False),
    "broken trial": ("trials", lambda x: [*x, "s0-u0 s0-u1"], "trials line 3: .* is not a trial", False),
    "empty": ("text", lambda x: [], "text: the file is empty", False),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_named_and_mended(data, fault):
    table, change, said, mended = FAULTS[fault]
    edit(data / table, change)
    problems = find_problems(data)
    with pytest.raises(UserError, match=said):
        raise UserError("\n".join(problems))
    assert all(problem.startswith(str(data)) and "\n" not in problem for problem in problems)
    with pytest.raises(UserError, match=problems[0][:40].replace("\\", ".")):
        validate(data)
    if not mended:
        return
    assert all("espnet_ext.bin.fix_data_dir" in problem for problem in problems)
    report = fix(data)
    assert report and find_problems(data) == []
    assert (data / ".backup").is_dir()
    assert fix(data) == []


def test_not_utf8_is_found(data):
    (data / "text").write_bytes((data / "text").read_bytes().replace(b"words of s1-u0", b"W\xf6rter"))
    assert any("text line 4: not UTF-8" in problem for problem in find_problems(data))
    with pytest.raises(UserError, match="text line 4: not UTF-8"):
        fix(data)


def test_missing_files_and_options(data):
    (data / "text").unlink()
    (data / "spk2utt").unlink()
    said = find_problems(data)
    assert len(said) == 2 and "--no-text" in said[1] and "fix_data_dir" in said[0]
    assert len(find_problems(data, text=False)) == 1
    assert "spk2utt: written" in fix(data) and find_problems(data, text=False) == []
    (data / "wav.scp").unlink()
    assert find_problems(data, text=False, wav=False) == []
    (data / "utt2spk").unlink()
    assert any("utt2spk: made from spk2utt" in line for line in fix(data)) and (data / "utt2spk").is_file()
    with pytest.raises(UserError, match="no such data directory"):
        find_problems(data / "nothing")


def test_options_let_pass(data):
    edit(data / "text", lambda lines: [lines[0] + "\u200b", *lines[1:]])
    assert find_problems(data, non_print=True) == []
    edit(data / "text", lambda lines: [lines[0].rstrip("\u200b"), *lines[1:]])
    edit(data / "wav.scp", lambda lines: ["s0-u0 cat a.wav |", *lines[1:]])
    assert find_problems(data, allow_commands=True) == []
    DataDir(data, allow_commands=True).check()
    with pytest.raises(UserError, match="is a command"):
        DataDir(data).check()
    edit(data / "wav.scp", lambda lines: ["s0-u0 /no/where.wav", *lines[1:]])
    assert find_problems(data, files=False) == []


def test_speakers_have_to_sort_with_utterances_unless_told(data):
    utt2spk = {f"u{i}": f"s{i % 2}" for i in range(4)}
    wav = next(iter(DataDir(data).wav_scp.values()))
    DataDir.write(data.parent / "other", {"utt2spk": utt2spk, "wav.scp": dict.fromkeys(utt2spk, wav)})
    said = find_problems(data.parent / "other", text=False)
    assert len(said) == 1 and "utt2spk line 3: in utterance order, speaker 's0' of 'u2' follows 's1'" in said[0]
    assert find_problems(data.parent / "other", text=False, spk_sort=False) == []


def test_fix_keeps_the_common_set_and_says_what_it_drops(data):
    edit(data / "wav.scp", lambda lines: lines[2:])  # loses s0-u0, s0-u1
    edit(data / "text", lambda lines: [line for line in lines if not line.startswith("s2")])
    before = (data / "utt2spk").read_bytes()
    report = fix(data)
    kept = ["s0-u2", "s1-u0", "s1-u1", "s1-u2", "s3-u0", "s3-u1", "s3-u2"]
    fixed = DataDir(data)
    assert fixed.utterances == sorted(fixed.text) == sorted(fixed.utt2spk) == kept
    assert list(fixed.table("spk2gender")) == list(fixed.spk2utt) == ["s0", "s1", "s3"]
    assert "dropped 2 of 12 utterances that are not in wav.scp: s0-u0 s0-u1" in report
    assert "dropped 3 of 12 utterances that are not in text: s2-u0 s2-u1 s2-u2" in report
    assert (data / ".backup" / "utt2spk").read_bytes() == before
    # Trials are an evaluation: what they name is not dropped in silence.
    assert [problem for problem in find_problems(data) if "trials line 2" in problem]


def test_fix_changes_nothing_where_a_person_has_to_choose(data):
    edit(data / "text", lambda lines: [lines[1], lines[0], *lines[2:]])
    edit(data / "utt2spk", lambda lines: [*lines, "s0-u0 s3"])
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    with pytest.raises(UserError, match="utt2spk lines 1 and 13: key 's0-u0' has two values, 's0' and 's3'"):
        fix(data)
    edit(data / "utt2spk", lambda lines: [line.replace("-", "_") for line in lines[:-1]])
    before["utt2spk"] = (data / "utt2spk").read_bytes()
    with pytest.raises(UserError, match="no utterance is in every table .*nothing was changed"):
        fix(data)
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before


def test_segments(data):
    wav = next(iter(DataDir(data).wav_scp.values()))
    tables = {
        "wav.scp": {"r1": wav, "r2": wav},
        "segments": {"s-1": "r1 0 1", "s-2": "r1 1 -1", "s-3": "r9 0 1"},
        "utt2spk": {"s-1": "s", "s-2": "s", "s-3": "s"},
        "reco2dur": {"r1": "2.0", "r2": "2.0"},
    }
    path = data.parent / "segmented"
    DataDir.write(path, tables)
    said = "\n".join(find_problems(path, text=False))
    assert "wav.scp line 2: 'r2' is not in segments" in said and "segments line 3: 'r9' is not in wav.scp" in said
    assert "dropped 1 of 3 utterances that are not in wav.scp: s-3" in fix(path)
    assert find_problems(path, text=False) == []
    assert list(DataDir(path).wav_scp) == list(DataDir(path).table("reco2dur")) == ["r1"]
    edit(path / "segments", lambda lines: ["s-1 r1 2 1", "s-2 r1 one two"])
    said = find_problems(path, text=False)
    assert len(said) == 2 and "key 's-1' needs 'recording start_s end_s'" in said[0]


def test_a_speaker_with_one_utterance_is_a_warning(data):
    for name in ("wav.scp", "utt2spk", "text", "utt2num_samples"):
        edit(data / name, lambda lines: lines[2:])
    fix(data)
    assert find_problems(data) == []
    assert "1 of 4 speakers have a single utterance (first: 's0', 's0-u2')" in find_warnings(data)[0]
