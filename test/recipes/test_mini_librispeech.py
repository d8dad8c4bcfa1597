"""Data preparation of egs2/mini_librispeech: on small trees in its layout, and on the real part where that is."""

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from corpora import ROOT, TINY, checkout, data_prep, librispeech, run, voice, write

from espnet_ext.audio.io import audio_info, read_audio
from espnet_ext.datadir import DataDir

REAL = ROOT.parent / "shared" / "data" / "LibriSpeech"
TRAIN = {reader: [1] for reader in range(100, 106)}
TEST = {reader: [2, 2] for reader in range(200, 208)} | {208: [3], 209: [3]}


def prepare(tmp_path, corpus, *options):
    assert (
        data_prep("mini_librispeech/spk1").main(["--corpus", str(corpus), "--out", str(tmp_path / "data"), *options])
        == 0
    )
    return {name: DataDir(tmp_path / "data" / name) for name in ("train", "dev", "test")}


def test_readers_of_the_test_part_are_divided_where_there_is_no_dev_part(tmp_path):
    corpus = librispeech(tmp_path, {"train-clean-100": TRAIN, "test-clean": TEST})
    sets = prepare(tmp_path, corpus, "--num_dev_speakers", "2", "--num_test_speakers", "4")
    speakers = {name: set(d.spk2utt) for name, d in sets.items()}
    assert {name: len(s) for name, s in speakers.items()} == {"train": 6 + 2 + 2, "dev": 2, "test": 4}
    assert len(set.union(*speakers.values())) == 16  # disjoint
    assert {"208", "209"} <= speakers["train"]  # one chapter: no trials across chapters
    assert sorted(sets["test"].table("spk2gender").values()) == ["f", "f", "m", "m"]
    for d in sets.values():
        for utt, session in d.table("utt2session").items():
            assert utt.startswith(session + "-") and session.startswith(d.utt2spk[utt] + "-")
            assert audio_info(d.source(utt)[0]).rate_hz == 16000
    assert set(sets["test"].text) == set(sets["test"].utt2spk)
    assert not sets["test"].has("segments") and not sets["train"].has("text")  # pieces have no transcript


def test_training_utterances_are_cut_evenly_and_stay_one_session(tmp_path):
    corpus = librispeech(tmp_path, {"train-clean-5": TRAIN, "test-clean": TEST, "dev-clean": {300: [1]}})
    long = corpus / "train-clean-5/100/10000/100-10000-0000.flac"
    write(long, voice(0, 100, 9.0))
    train = prepare(tmp_path, corpus)["train"]
    names = [utt for utt in train.utterances if utt.startswith("100-")]
    assert names == ["100-10000-0000-00", "100-10000-0000-01"]
    assert np.array_equal(np.concatenate([train.audio(utt) for utt in names]), read_audio(long))
    assert {train.table("utt2session")[utt] for utt in names} == {"100-10000"}
    assert len(train.utterances) == len(TRAIN) + 1
    whole = prepare(tmp_path, corpus, "--cut_s", "0")["train"]
    assert not whole.has("segments") and set(whole.text) == set(whole.utt2spk) == set(whole.wav_scp)


def test_parts_keep_their_roles_where_all_three_are_there(tmp_path):
    corpus = librispeech(tmp_path, {"train-clean-5": TRAIN, "dev-clean": {300: [1, 1]}, "test-clean": TEST})
    sets = prepare(tmp_path, corpus)
    assert set(sets["train"].spk2utt) == {str(r) for r in TRAIN}
    assert set(sets["dev"].spk2utt) == {"300"}
    assert set(sets["test"].spk2utt) == {str(r) for r in TEST}


@pytest.mark.parametrize(
    "parts, options, message",
    [
        ({"train-clean-5": TRAIN, "test-clean": {200: [2, 2]}}, (), "only 1 readers"),
        ({"train-clean-5": TRAIN}, ("--parts", "dev-clean"), "dev-clean holds no reader/chapter/"),
    ],
)
def test_too_little_is_told_in_one_line(tmp_path, capsys, parts, options, message):
    corpus = librispeech(tmp_path, parts)
    out = ["--out", str(tmp_path / "data"), *options]
    assert data_prep("mini_librispeech/spk1").main(["--corpus", str(corpus), *out]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "data").exists()


def test_a_folder_that_is_not_librispeech(tmp_path, capsys):
    assert data_prep("mini_librispeech/spk1").main(["--corpus", str(tmp_path)]) == 2
    assert "SPEAKERS.TXT is missing" in capsys.readouterr().err


def test_download_unpacks_what_the_md5_confirms(tmp_path, capsys, monkeypatch):
    module = data_prep("mini_librispeech/spk1")
    corpus = librispeech(tmp_path / "site", {"train-clean-5": TRAIN, "test-clean": TEST, "dev-clean": {300: [1, 1]}})
    for part, (resource, _) in list(module.ARCHIVES.items()):
        if (corpus / part).is_dir():
            archive = tmp_path / "site" / resource / f"{part}.tar.gz"
            archive.parent.mkdir(exist_ok=True)
            with tarfile.open(archive, "w:gz") as t:
                for path in (corpus / "SPEAKERS.TXT", corpus / part):
                    t.add(path, arcname=path.relative_to(tmp_path / "site"))
            md5 = hashlib.md5(archive.read_bytes()).hexdigest()
            monkeypatch.setitem(module.ARCHIVES, part, (resource, md5))
    folders = ["--download_dir", str(tmp_path / "down"), "--out", str(tmp_path / "data")]
    assert module.main(["--url", (tmp_path / "site").as_uri(), *folders]) == 0
    assert len(DataDir(tmp_path / "data" / "train").wav_scp) == len(TRAIN)
    assert module.main(["--url", "http://127.0.0.1:9", *folders]) == 0  # everything is there: nothing is asked for
    monkeypatch.setitem(module.ARCHIVES, "dev-clean", ("12", "0" * 32))
    (tmp_path / "down" / "dev-clean.tar.gz").unlink()
    assert module.main(["--url", (tmp_path / "site").as_uri(), *folders]) == 2
    assert "MD5" in capsys.readouterr().err


def test_every_stage(tmp_path):
    corpus = librispeech(tmp_path / "official é", {"train-clean-100": TRAIN, "test-clean": TEST})
    recipe = checkout(tmp_path / "here", "mini_librispeech/spk1") / "egs2/mini_librispeech/spk1"
    options = "--local_data_opts '--num_dev_speakers 3 --num_test_speakers 4' --num_bootstrap 20"
    run(f"./run.sh --corpus '{corpus}' {options} --train_args '{TINY}'", recipe)
    exp = recipe / "exp/spk_train_ecapa_small"
    rows = json.loads((exp / "results.json").read_text())["results"]
    assert {row["where"]["condition"] for row in rows} == {"all", "cross_session", "same_gender"}
    assert "MFCC" in (exp / "RESULTS.md").read_text() and (recipe / "exp/spk_train_ecapa_small.zip").is_file()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not here")
def test_the_real_part_counted_with_find_and_awk(tmp_path):
    sets = prepare(tmp_path, REAL, "--cut_s", "0")
    assert {name: (len(d.spk2utt), len(d.wav_scp)) for name, d in sets.items()} == {
        "train": (112, 388),
        "dev": (8, 192),
        "test": (12, 288),
    }
    counted = "find . -name '*.flac' | awk -F/ '{n++; s[$3]} END {for (k in s) m++; print n, m}'"
    assert subprocess.check_output(counted, shell=True, cwd=REAL, text=True).split() == ["868", "132"]
    words = subprocess.check_output("cat test-clean/*/*/*.trans.txt | wc -w", shell=True, cwd=REAL, text=True)
    ours = sum(1 + len(text.split()) for d in sets.values() for text in d.text.values())
    assert ours == int(words)
    sexes = dict(line.split("|")[:2] for line in Path(REAL / "SPEAKERS.TXT").read_text().splitlines() if line[0] != ";")
    sexes = {k.strip(): v.strip().lower() for k, v in sexes.items()}
    assert all(sexes[s] == g for d in sets.values() for s, g in d.table("spk2gender").items())
