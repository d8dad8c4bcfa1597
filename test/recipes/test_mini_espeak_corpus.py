"""The embedded corpus: what it holds, the same bytes every time, finished after a kill, refused with one line."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from espnet_ext.audio.io import read_audio
from espnet_ext.datadir import read_scp
from espnet_ext.datadir.alignment import read_intervals

ROOT = Path(__file__).resolve().parents[2] / "egs2" / "mini_espeak"
SMALL = ["--num_speakers", "3", "--num_utts", "4", "--num_test_speakers", "2", "--num_test_utts", "3"]
SMALL += ["--num_sessions", "3", "--num_clips", "8"]


def make(out, *options, nj=2):
    """Run the command as a user does."""
    command = [sys.executable, str(ROOT / "make_corpus.py"), "--out", str(out), "--nj", str(nj), *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "näme with space"
    done = make(out, *SMALL)
    assert done.returncode == 0, done.stderr
    return out


def contents(out):
    """{path: sha256} of everything that does not name the folder it is in."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("wav.scp", ".completed")
    }


def test_tables_fit_together(corpus):
    speakers = {}
    for subset, num_speakers, num_utts in (("train", 3, 4), ("test", 2, 3)):
        folder = corpus / subset
        tables = {name: read_scp(folder / name) for name in os.listdir(folder)}
        assert {"wav.scp", "utt2spk", "spk2utt", "text", "spk2gender", "utt2session", "utt2phones", "utt2words"} <= set(
            tables
        )
        utterances = sorted(tables["wav.scp"])
        assert len(utterances) == num_speakers * num_utts
        assert all(sorted(t) == utterances for name, t in tables.items() if not name.startswith("spk2"))
        assert {u for row in tables["spk2utt"].values() for u in row.split()} == set(utterances)
        assert all(u.startswith(s + "-") for u, s in tables["utt2spk"].items())
        assert set(tables["spk2gender"].values()) == {"m", "f"}
        speakers[subset] = set(tables["spk2utt"])
        for speaker in speakers[subset]:
            sessions = {tables["utt2session"][u] for u in tables["spk2utt"][speaker].split()}
            assert len(sessions) == 3 and all(s.startswith(speaker) for s in sessions)
    assert not speakers["train"] & speakers["test"]


def test_audio_is_speech_where_the_phones_say_so(corpus):
    paths, texts = read_scp(corpus / "train" / "wav.scp"), read_scp(corpus / "train" / "text")
    phones, words = (read_intervals(corpus / "train" / name) for name in ("utt2phones", "utt2words"))
    louder = []
    for utterance, path in paths.items():
        wav = read_audio(path)
        assert np.abs(wav).max() < 1 and 1.0 < len(wav) / 16000 < 12
        row = phones[utterance]
        assert row[0].start_s == 0 and abs(row[-1].end_s - len(wav) / 16000) < 1e-3
        assert row[0].label == row[-1].label == "sil"
        assert all(a.start_s < a.end_s == b.start_s for a, b in zip(row, row[1:], strict=False))
        assert " ".join(w.label for w in words[utterance]) == texts[utterance]
        assert words[utterance][0].start_s == row[0].end_s and words[utterance][-1].end_s == row[-1].start_s
        power = [np.mean(wav[int(a * 16000) : int(b * 16000)] ** 2) for _, a, b in row]
        loud = np.mean([p for p, x in zip(power, row, strict=True) if x.label != "sil"])
        louder.append(loud / power[0])
    assert np.median(louder) > 10


def test_clips_for_augmentation(corpus):
    for kind in ("noise", "music", "rirs"):
        clips = read_scp(corpus / kind / "wav.scp")
        assert len(clips) == 8
        for path in clips.values():
            wav = read_audio(path)
            assert 0.4 < np.abs(wav).max() <= 0.51
    # The direct path of a room comes first and is the loudest.
    assert all(np.argmax(np.abs(read_audio(p))) == 0 for p in read_scp(corpus / "rirs" / "wav.scp").values())


def test_same_bytes_from_another_process_and_nj(corpus, tmp_path):
    assert make(tmp_path / "again", *SMALL, nj=1).returncode == 0
    assert contents(tmp_path / "again") == contents(corpus)
    listed = dict(reversed(line.split("  ", 1)) for line in (corpus / "SHA256SUMS").read_text().splitlines())
    actual = {k: v for k, v in contents(corpus).items() if k in listed}
    assert actual == listed and sum(k.endswith(".flac") for k in listed) == 3 * 4 + 2 * 3 + 3 * 8


def test_a_speaker_does_not_depend_on_how_many_there_are(corpus, tmp_path):
    fewer = ["--num_speakers", "2", "--num_utts", "4", "--num_test_speakers", "0", "--num_sessions", "3", "--num_clips"]
    assert make(tmp_path, *fewer, "0").returncode == 0
    audio = {k: v for k, v in contents(tmp_path).items() if k.endswith(".flac")}
    assert len(audio) == 8 and audio.items() <= contents(corpus).items()
    assert not (tmp_path / "test").exists() and not (tmp_path / "noise").exists()


def test_killed_and_called_again(corpus, tmp_path):
    command = [sys.executable, str(ROOT / "make_corpus.py"), "--out", str(tmp_path / "c"), "--nj", "1", *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1000):
        if list((tmp_path / "c").glob("audio/train/*/rows.json")) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "c" / ".completed").exists()
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "c").glob("audio/train/train*/*.flac")}
    time.sleep(0.5)  # the worker notices that its parent is gone
    assert make(tmp_path / "c", *SMALL).returncode == 0
    assert contents(tmp_path / "c") == contents(corpus)
    assert all(p.stat().st_mtime_ns == before for p, before in finished.items())


def test_a_finished_corpus_is_left_alone_and_a_moved_one_gets_new_paths(corpus, tmp_path):
    assert make(tmp_path / "a", *SMALL).returncode == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    again = make(tmp_path / "a", *SMALL)
    assert again.returncode == 0 and "already complete" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")} == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert make(tmp_path / "b", *SMALL).returncode == 0
    assert all(Path(p).is_file() for p in read_scp(tmp_path / "b" / "train" / "wav.scp").values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--num_speakers", "0"], "--num_speakers is 0; give at least 1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--num_utts", "many"], "invalid int value"),
        (["--speakers", "3"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments(tmp_path, options, words):
    done = make(tmp_path / "x", *options)
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_foreign_folder_or_other_options_are_refused(corpus, tmp_path):
    (tmp_path / "mine").write_text("precious")
    for out, options, words in (
        (tmp_path, ["--overwrite", "true"], "holds no corpus of ours"),
        (tmp_path / "mine", [], "is a file"),
        (corpus, [*SMALL, "--seed", "7"], "seed 0 instead of 7"),
    ):
        done = make(out, *options)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert (tmp_path / "mine").read_text() == "precious" and (corpus / ".completed").is_file()


def test_overwrite_replaces_the_corpus_and_nothing_else(tmp_path):
    few = [
        "--num_speakers",
        "1",
        "--num_utts",
        "1",
        "--num_test_speakers",
        "0",
        "--num_sessions",
        "1",
        "--num_clips",
        "0",
    ]
    assert make(tmp_path, *few).returncode == 0
    (tmp_path / "notes").write_text("mine")
    text = (tmp_path / "train" / "text").read_text()
    assert make(tmp_path, *few, "--seed", "3", "--overwrite", "true").returncode == 0
    assert (tmp_path / "train" / "text").read_text() != text and (tmp_path / "notes").read_text() == "mine"


def run_code(code):
    """Run Python beside the corpus package, which is importable only from its recipe; return what it prints."""
    head = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport numpy as np\n"
    return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=True).stdout


def test_grammar_says_every_word_of_its_vocabulary():
    printed = run_code(
        "from corpus.grammar import sentence, vocabulary\n"
        "rng = np.random.default_rng(0)\n"
        "print(' '.join(sorted(vocabulary())))\n"
        "for _ in range(3000): print(sentence(rng))\n"
    )
    vocabulary, *sentences = printed.splitlines()
    said = {word.strip(",") for text in sentences for word in text.split()}
    assert len(vocabulary.split()) > 350 and set(vocabulary.split()) <= said
    assert all(5 <= len(text.split()) <= 14 for text in sentences) and all(word.isalpha() for word in said)
    assert len(set(sentences)) > 2950 and not any(" ," in text for text in sentences)


def test_room_response_decays_as_asked():
    """Reverberation time by Schroeder's backward integration, an independent measure of what ``rt60_s`` asked for."""
    printed = run_code(
        "from corpus.channel import room_response\n"
        "for rt60_s in (0.3, 0.45):\n"
        "    h = room_response([5, 4, 3], [1.5, 2, 1.4], [3.6, 1.2, 1.7], rt60_s=rt60_s, max_s=1)\n"
        "    level_db = 10 * np.log10(np.cumsum(h[::-1] ** 2)[::-1] / np.sum(h**2) + 1e-20)\n"
        "    print(3 * (np.argmax(level_db < -25) - np.argmax(level_db < -5)) / 16000)\n"
    )
    for measured_s, asked_s in zip(printed.split(), (0.3, 0.45), strict=True):
        assert abs(float(measured_s) / asked_s - 1) < 0.2
