"""Data preparation of egs2/voxceleb on a tiny tree in VoxCeleb's layout."""

import os
import subprocess

import pytest
from corpora import ROOT, data_prep, voxceleb

from espnet_ext.datadir import DataDir, read_scp, read_trials

RECIPE = ROOT / "egs2/voxceleb/spk1"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return voxceleb(tmp_path_factory.mktemp("Vox Celeb é"))


def options(tree, out, *more):
    return [
        *("--vox1", str(tree / "vox1"), "--vox2", str(tree / "vox2"), "--lists_dir", str(tree / "meta")),
        *("--musan", str(tree / "musan"), "--rirs", str(tree / "RIRS_NOISES"), "--out", str(out), *more),
    ]


def test_training_and_trials_as_in_the_official_lists(tree, tmp_path):
    lists = ["--lists_dir", str(tree / "meta"), "--out", str(tmp_path)]
    assert data_prep("voxceleb/spk1").main(["--corpus", str(tree), *lists]) == 0
    train, test = DataDir(tmp_path / "train"), DataDir(tmp_path / "vox1")
    assert sorted(train.spk2utt) == ["id00012", *(f"id000{s}" for s in range(13, 20)), "id10001", "id10002"]
    count = "find vox1/dev vox2 -name '*.wav' | wc -l"
    assert len(train.wav_scp) == int(subprocess.check_output(count, shell=True, cwd=tree)) == 60
    assert sorted(test.spk2utt) == ["id10270", "id10271", "id10272"]
    assert all(os.path.exists(path) for path in train.wav_scp.values())
    assert test.table("spk2gender") == {"id10270": "m", "id10271": "f", "id10272": "m"}
    assert set(train.table("utt2session").values()) >= {"id10001--v_010001", "id00012--v_212"}
    cleaned, original = (test.trials(f"trials.{name}") for name in ("o_cleaned", "o"))
    assert (len(original), len(cleaned)) == (18 * 17 // 2, 18 * 17 // 2 - 2)
    same = [test.utt2spk[a] == test.utt2spk[b] for a, b in zip(original.enroll, original.test, strict=True)]
    assert same == original.labels.astype(bool).tolist()
    official = read_trials(tree / "meta/veri_test.txt")
    assert original.enroll[0] == official.enroll[0].replace("/", "-").removesuffix(".wav")
    assert len(read_scp(tmp_path / "rirs/wav.scp")) == 2  # small and medium rooms
    assert {len(read_scp(tmp_path / f"musan_{kind}/wav.scp")) for kind in ("noise", "music", "speech")} == {2}


def test_test_speakers_are_never_trained_on_in_the_merged_layout(tree, tmp_path):
    (tmp_path / "v").mkdir()
    for part in ("dev", "test"):
        subprocess.run(["cp", "-r", str(tree / "vox1" / part / "wav"), str(tmp_path / "v")], check=True)
    assert data_prep("voxceleb/spk1").main(options(tree, tmp_path / "d", "--vox1", str(tmp_path / "v"))) == 0
    speakers = DataDir(tmp_path / "d/train").spk2utt
    assert "id10001" in speakers and not {"id10270", "id10271", "id10272"} & set(speakers)
    assert len(DataDir(tmp_path / "d/vox1").wav_scp) == 18


@pytest.mark.parametrize(
    "more, message",
    [
        (["--lists", "o,e_cleaned"], "e_cleaned: E and H try speakers of VoxCeleb1's dev part"),
        (["--lists", "o_clean"], "o_clean: not one of o,o_cleaned"),
        (["--train_on", "vox3"], "vox3: not one of vox1,vox2"),
        (["--vox2", ""], "needs --vox2"),
        (["--vox1", ""], "--vox1 DIR, or --corpus DIR with vox1/"),
        (["--vox2", "."], "no id*/video/*.wav below dev/wav"),
        (["--musan", "/nowhere"], "/nowhere: no noise/*/*.wav"),
    ],
)
def test_mistakes_are_told_in_one_line(tree, tmp_path, capsys, more, message):
    assert data_prep("voxceleb/spk1").main(options(tree, tmp_path, *more)) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1 and message in error[0]


def test_e_and_h_are_allowed_when_only_voxceleb2_is_trained_on(tree, tmp_path):
    for name in ("list_test_all2.txt", "list_test_hard2.txt"):
        (tree / "meta" / name).write_text((tree / "meta/veri_test2.txt").read_text())
    more = ["--train_on", "vox2", "--lists", "o_cleaned,e_cleaned,h_cleaned"]
    assert data_prep("voxceleb/spk1").main(options(tree, tmp_path, *more)) == 0
    assert {s[:4] for s in DataDir(tmp_path / "train").spk2utt} == {"id00"}
    assert {p.name for p in (tmp_path / "vox1").glob("trials*")} == {f"trials.{x}_cleaned" for x in "oeh"}


def test_a_trial_of_a_missing_file_is_named(tree, tmp_path, capsys):
    lists = tmp_path / "meta"
    lists.mkdir()
    (lists / "veri_test2.txt").write_text("1 id10270/-v_010270/00001.wav id10270/gone/00001.wav\n")
    more = ["--lists", "o_cleaned", "--lists_dir", str(lists)]
    assert data_prep("voxceleb/spk1").main(options(tree, tmp_path / "d", *more)) == 2
    assert "line 1: utterance 'id10270-gone-00001' is not in VoxCeleb1" in capsys.readouterr().err


def test_m4a_is_refused_and_converted(tree, tmp_path, capsys):
    """The conversion loop is tried with a stand-in for ffmpeg that writes its last argument."""
    source = tmp_path / "aac in"
    for number in (1, 2):
        path = source / "dev/aac/id00012/-v" / f"{number:05d}.m4a"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"m4a")
    assert data_prep("voxceleb/spk1").main(options(tree, tmp_path / "d", "--vox2", str(source))) == 2
    assert "2 .m4a files" in capsys.readouterr().err
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "ffmpeg"
    fake.write_text('#!/bin/sh\necho x >> "$0.calls"\nfor out; do :; done\necho flac > "$out"\n')
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for _ in range(2):  # the second call finds everything done
        subprocess.run([RECIPE / "local/convert_m4a.sh", source, tmp_path / "flac", "2"], check=True, env=env)
    made = sorted(p.relative_to(tmp_path / "flac") for p in (tmp_path / "flac").rglob("*.*"))
    assert [str(p) for p in made] == [f"dev/aac/id00012/-v/{n:05d}.flac" for n in (1, 2)]
    assert (tmp_path / "bin" / "ffmpeg.calls").read_text() == "x\nx\n"
