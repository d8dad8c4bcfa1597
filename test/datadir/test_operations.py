"""Subset, split, combine, copy and the speaker-disjoint cut: nothing lost, nothing twice, same seed same answer."""

import errno
import os
import subprocess

import numpy as np
import pytest

from espnet_ext.bin import combine_data, copy_data_dir, fix_data_dir, split_data, split_speakers, subset_data_dir
from espnet_ext.bin import validate_data_dir as validate_command
from espnet_ext.datadir import DataDir, Trials, read_trials, write_trials
from espnet_ext.datadir.operations import combine, split, subset
from espnet_ext.datadir.validate import find_problems
from espnet_ext.errors import UserError


@pytest.fixture
def data(tmp_path):
    """Speaker s<i> has i + 1 utterances, i = 0 … 7; 36 in all; utterance k is 100 - k samples long."""
    (tmp_path / "a.wav").touch()
    utt2spk = {f"s{i}-u{j}": f"s{i}" for i in range(8) for j in range(i + 1)}
    tables = {
        "wav.scp": dict.fromkeys(utt2spk, tmp_path / "a.wav"),
        "utt2spk": utt2spk,
        "text": {utt: f"words {utt}" for utt in utt2spk},
        "utt2num_samples": {utt: 100 - k for k, utt in enumerate(utt2spk)},
        "spk2gender": {speaker: "fm"[int(speaker[1]) % 2] for speaker in utt2spk.values()},
    }
    data = DataDir.write(tmp_path / "data", tables)
    write_trials(data.path / "trials", Trials(["s1-u0", "s1-u0"], ["s1-u1", "s2-u0"], np.array([1, 0])))
    return data


def read(path):
    return {name: (path / name).read_bytes() for name in sorted(os.listdir(path)) if (path / name).is_file()}


@pytest.mark.parametrize("how", ["random", "first", "last", "shortest", "per_spk", "speakers"])
def test_subset(data, tmp_path, how):
    part = subset(data.path, tmp_path / "part", 5, how)
    counts = [len(utts) for utts in part.spk2utt.values()]
    if how == "per_spk":
        assert counts == [min(5, i + 1) for i in range(8)]
    elif how == "speakers":
        assert all(len(data.spk2utt[speaker]) == len(utts) for speaker, utts in part.spk2utt.items())
        assert 5 <= sum(counts) < 5 + 8
    else:
        assert sum(counts) == 5
    expected = {"first": data.utterances[:5], "last": data.utterances[-5:], "shortest": data.utterances[-5:]}
    assert part.utterances == expected.get(how, part.utterances)
    assert find_problems(part.path) == []
    assert {utt: part.text[utt] for utt in part.utterances} == {utt: data.text[utt] for utt in part.utterances}


def test_random_subset_depends_on_the_seed_alone(data, tmp_path):
    parts = [subset(data.path, tmp_path / str(i), 10, seed=seed).utterances for i, seed in enumerate([1, 1, 2])]
    assert parts[0] == parts[1] != parts[2]


def test_subset_by_list_carries_the_trials_that_are_left_and_removes_old_tables(data, tmp_path):
    subset(data.path, tmp_path / "part", 36)
    part = subset(data.path, tmp_path / "part", utterances=["s1-u0", "s1-u1", "s5-u3"])
    assert part.utterances == ["s1-u0", "s1-u1", "s5-u3"] and find_problems(part.path) == []
    assert (part.path / "trials").read_text() == "s1-u0 s1-u1 target\n"
    part = subset(data.path, tmp_path / "part", speakers=["s3"])
    assert part.utterances == [f"s3-u{j}" for j in range(4)] and not (part.path / "trials").exists()
    with pytest.raises(UserError, match="speaker 'nobody' of the list is not there"):
        subset(data.path, tmp_path / "part", speakers=["nobody"])
    with pytest.raises(UserError, match="has 36 utterances, fewer than the 37"):
        subset(data.path, tmp_path / "part", 37)
    with pytest.raises(UserError, match="also a source"):
        subset(data.path, data.path, 3)


@pytest.mark.parametrize(("num", "per_utt"), [(1, False), (3, False), (8, False), (5, True), (36, True)])
def test_split_gives_every_utterance_once_in_order(data, num, per_utt):
    parts = [DataDir(path) for path in split(data.path, num, per_utt)]
    assert [utt for part in parts for utt in part.utterances] == data.utterances
    assert [part.path.name for part in parts] == [str(i + 1) for i in range(num)]
    assert all(find_problems(part.path) == [] for part in parts)
    if not per_utt:
        speakers = [speaker for part in parts for speaker in part.spk2utt]
        assert len(speakers) == len(set(speakers))
    if per_utt:
        assert max(len(part.utterances) for part in parts) - min(len(part.utterances) for part in parts) <= 1


def test_split_into_too_many(data):
    with pytest.raises(UserError, match="into 9 parts, it has 8 speakers .*--per-utt"):
        split(data.path, 9)


def test_parts_combine_to_the_whole(data, tmp_path):
    (data.path / "trials").unlink()
    assert combine(tmp_path / "all", split(data.path, 3)) == []
    assert read(tmp_path / "all") == read(data.path)


def test_combine_refuses_clashes_and_says_what_is_left_out(data, tmp_path):
    tables = {"wav.scp": {"s0-u0": tmp_path / "b.wav"}, "utt2spk": {"s0-u0": "s0"}}
    other = DataDir.write(tmp_path / "other", tables)
    with pytest.raises(UserError, match="wav.scp: key 's0-u0' is .*--utt-prefix"):
        combine(tmp_path / "all", [data.path, other.path])
    assert not (tmp_path / "all").exists()
    assert copy_data_dir.main(["--utt-prefix", "x-", "--spk-prefix", "x-", str(other.path), str(tmp_path / "x")]) == 0
    left_out = combine(tmp_path / "all", [data.path, tmp_path / "x"])
    assert [line.split(":")[0] for line in left_out] == ["spk2gender", "text", "utt2num_samples"]
    assert len(DataDir(tmp_path / "all").utterances) == 37


def test_combine_with_and_without_segments(data, tmp_path):
    tables = {"wav.scp": {"r": tmp_path / "a.wav"}, "utt2spk": {"t-1": "t"}, "segments": {"t-1": "r 1 2"}}
    DataDir.write(tmp_path / "seg", tables)
    combine(tmp_path / "all", [data.path, tmp_path / "seg"])
    combined = DataDir(tmp_path / "all")
    assert combined.segments["t-1"] == ("r", 1, 2) and combined.segments["s0-u0"] == ("s0-u0", 0, -1)
    assert find_problems(combined.path, text=False) == []


def test_copy_renames_everywhere(data, tmp_path, capsys):
    command = ["--utt-prefix", "x-", "--spk-prefix", "x-", str(data.path), str(tmp_path / "x")]
    assert copy_data_dir.main(command) == 0 and "36 utterances, 8 speakers" in capsys.readouterr().out
    copied = DataDir(tmp_path / "x")
    assert find_problems(copied.path) == [] and copied.utterances == [f"x-{utt}" for utt in data.utterances]
    assert read_trials(copied.path / "trials").enroll == ["x-s1-u0", "x-s1-u0"]
    assert copied.table("spk2gender")["x-s1"] == "m" and copied.text["x-s1-u0"] == "words s1-u0"
    assert copy_data_dir.main([str(data.path), str(tmp_path / "same")]) == 0
    assert read(tmp_path / "same") == read(data.path)


def test_speakers_are_disjoint_and_drawn_by_the_seed(data, tmp_path):
    def cut(seed):
        train, dev = tmp_path / f"train{seed}", tmp_path / f"dev{seed}"
        options = f"--in {data.path} --train {train} --dev {dev} --num_dev_speakers 3 --seed {seed}"
        assert split_speakers.main(options.split()) == 0
        return DataDir(train), DataDir(dev)

    train, dev = cut(1)
    assert len(dev.spk2utt) == 3 and len(train.spk2utt) == 5 and not set(dev.spk2utt) & set(train.spk2utt)
    assert sorted(train.utterances + dev.utterances) == data.utterances
    assert find_problems(train.path) == find_problems(dev.path) == []
    before = read(dev.path)
    assert read(cut(1)[1].path) == before
    seen = {tuple(cut(seed)[1].spk2utt) for seed in range(20)}
    assert len(seen) > 5
    assert all("s0" not in speakers for speakers in seen)  # one utterance makes no target trial


@pytest.mark.parametrize(("num", "said"), [(1, "at least 2"), (7, "leave 1 of 8 .*at most 6"), (9, "at most 6")])
def test_too_few_speakers_to_cut(data, tmp_path, capsys, num, said):
    options = f"--in {data.path} --train {tmp_path}/t --dev {tmp_path}/d --num_dev_speakers {num}"
    assert split_speakers.main(options.split()) == 2
    with pytest.raises(UserError, match=said):
        raise UserError(capsys.readouterr().err)
    assert not (tmp_path / "t").exists() and not (tmp_path / "d").exists()


def test_speakers_need_no_second_utterance_where_there_are_no_trials(data, tmp_path, capsys):
    """Recordings of nobody knows whom, each its own speaker: a dev set for a loss."""
    alone = {utt: f"{utt}-" for utt in data.utterances}
    nobody = DataDir.write(tmp_path / "nobody", {"wav.scp": data.wav_scp, "utt2spk": alone})
    options = f"--in {nobody.path} --train {tmp_path}/t --dev {tmp_path}/d --num_dev_speakers".split()
    assert split_speakers.main([*options, "5"]) == 2
    assert "0 have the two utterances that dev needs" in capsys.readouterr().err
    assert split_speakers.main([*options, "5", "--trials", "false"]) == 0
    assert len(DataDir(tmp_path / "d").utterances) == 5 and len(DataDir(tmp_path / "t").utterances) == 31
    assert split_speakers.main([*options, "36", "--trials", "false"]) == 2
    assert "leave 0 of 36 for training; ask for at most 35" in capsys.readouterr().err
    assert split_speakers.main([*options, "0", "--trials", "false"]) == 2
    assert "0 dev speakers are no dev set; ask for at least 1" in capsys.readouterr().err


def test_commands_take_kaldis_arguments(data, tmp_path, capsys):
    path, part = str(data.path), str(tmp_path / "part")
    assert validate_command.main(["--no-feats", path]) == 0
    assert subset_data_dir.main(["--per-spk", path, "2", part]) == 0
    assert len(DataDir(part).utterances) == 15
    assert subset_data_dir.main(["--first", path, "7", part]) == 0
    assert subset_data_dir.main(["--utt-list", f"{part}/text", path, part + "2"]) == 0
    assert read(tmp_path / "part") == read(tmp_path / "part2")
    assert split_data.main(["--per-utt", path, "4"]) == 0 and (data.path / "split4utt" / "4").is_dir()
    assert combine_data.main([part + "3", f"{path}/split4utt/1", f"{path}/split4utt/2"]) == 0
    assert len(DataDir(part + "3").utterances) == 18
    capsys.readouterr()
    for command, said in (([path, part], "SOURCE NUM DEST"), ([path, "x", part], "'x' is not a number")):
        assert subset_data_dir.main(command) == 2 and said in capsys.readouterr().err


def test_a_faulty_source_is_said_before_anything_is_written(data, tmp_path, capsys):
    with open(data.path / "text", "a") as file:
        file.write("zz top\n")
    assert subset_data_dir.main([str(data.path), "3", str(tmp_path / "part")]) == 2
    assert "text line 37: 'zz' is not in utt2spk" in capsys.readouterr().err and not (tmp_path / "part").exists()


def test_a_full_disk_keeps_the_old_tables(data, tmp_path, capsys, monkeypatch):
    before = read(data.path)
    (data.path / "text").write_text("".join(reversed(data.path.joinpath("text").open().readlines())))

    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert fix_data_dir.main([str(data.path)]) == 2
    said = capsys.readouterr().err
    assert f"no space left on the disk while writing {data.path}/text" in said and len(said.splitlines()) == 1
    assert {name: content for name, content in read(data.path).items() if name != "text"}.items() <= before.items()
    monkeypatch.undo()
    assert fix_data_dir.main([str(data.path)]) == 0 and read(data.path) == before


def test_validate_lists_problems_and_fix_mends_them(data, capsys):
    lines = (data.path / "text").read_text().splitlines(keepends=True)
    (data.path / "text").write_text("".join(reversed(lines)) + "zz top\n")
    assert validate_command.main([str(data.path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "text line 2" in said[0] and "'zz'" in said[1] and "2 problems" in said[2]
    assert fix_data_dir.main([str(data.path)]) == 0 and "text: mended" in capsys.readouterr().out
    assert validate_command.main([str(data.path)]) == 0


@pytest.mark.parametrize("name", ["validate_data_dir", "fix_data_dir", "copy_data_dir", "split_data"])
def test_shell_commands(repository, data, tmp_path, name):
    arguments = {"copy_data_dir": [tmp_path / "copy of it"], "split_data": ["2"]}.get(name, [])
    command = [repository / "utils" / f"{name}.sh", data.path, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    command[1] = tmp_path / "nothing"
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 2 and len(answer.stderr.splitlines()) == 1 and "nothing" in answer.stderr
