"""The aligner on synthetic speech whose phone times are known: far better than the even start, and than chance."""

import numpy as np
import pytest

from espnet_ext.audio.espeak import Espeak
from espnet_ext.bin.align_phones import main as align_phones
from espnet_ext.bin.phonemize import main as phonemize
from espnet_ext.datadir import DataDir, read_scp, write_scp
from espnet_ext.datadir.alignment import Interval, format_intervals, read_intervals
from espnet_ext.datadir.pronunciation import format_pronunciation
from espnet_ext.inference.align import Aligned, compare, describe
from espnet_ext.inference.phone_aligner import (
    PAUSE,
    PhoneAligner,
    cepstra,
    flat_start,
    frame_edge_s,
    intervals,
    shortest,
)

SUBJECTS = ("The old man", "My sister", "A big dog", "The teacher", "Our neighbour", "One of the men", "A white horse")
VERBS = ("saw", "wanted", "carried", "looked for", "gave away", "found", "painted", "never liked")
OBJECTS = ("six small ships", "the yellow house", "a book of stories", "this heavy table", "their new garden", "fish")


def sentences(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        a, b, c, d = (rng.choice(part) for part in (SUBJECTS, VERBS, OBJECTS, OBJECTS))
        yield f"{a} {b} {c}, and {d}."


@pytest.fixture(scope="module")
def spoken():
    """[(wav, phones of the words, Speech)] of two voices at several speeds."""
    espeak, found = Espeak(), []
    for number, text in enumerate(sentences(80)):
        voice = ("en-us+f2", "en-us+m3")[number % 2]
        speech = espeak.synthesise(text, voice, rate_wpm=130 + number % 5 * 15)
        words = [[] for _ in speech.words]
        for phone in speech.phones:
            inside = [k for k, word in enumerate(speech.words) if word.start_s <= phone.start_s < word.end_s]
            if phone.label != PAUSE:
                words[inside[0]].append(phone.label)
        noise = 0.001 * np.random.default_rng(number).standard_normal(len(speech.wav)).astype(np.float32)
        found.append((speech.wav + noise, words, speech))
    return found


@pytest.fixture(scope="module")
def aligner(spoken):
    train = spoken[:60]
    return PhoneAligner.train(cepstra(wav for wav, *_ in train), [words for _, words, _ in train])


def test_boundaries_of_unseen_sentences(spoken, aligner):
    test = dict(enumerate(spoken[60:]))
    frames = cepstra(wav for wav, *_ in test.values())
    found = aligner.align(frames, [words for _, words, _ in test.values()])
    phones = {k: one[0] for k, one in enumerate(found)}
    words = {k: one[1] for k, one in enumerate(found)}
    truth = {k: speech.phones for k, (*_, speech) in test.items()}
    ours = compare(truth, phones, labels=True)
    assert ours.other == 0 and len(ours.errors_s) > 500
    even = {}
    for k, (_, chained, _) in test.items():
        chain = aligner.chain(chained)
        start = flat_start(frames[k][:, 0], chain)
        labels = [PAUSE if c == 0 else aligner.phones[(c - 1) // 3] for c in start]
        even[k] = [Interval(x, frame_edge_s(t), frame_edge_s(t + 1)) for t, x in enumerate(labels)]
    chance = compare(truth, even, labels=True)
    assert ours.within(0.02) > 0.6 and ours.within(0.05) > 0.85
    assert ours.frames > 0.7 and ours.frames > chance.frames + 0.3
    by_word = compare({k: speech.words for k, (*_, speech) in test.items()}, words, labels=False)
    assert by_word.other == 0 and by_word.within(0.05) > 0.85


def test_intervals_have_no_gaps_and_keep_every_phone(spoken, aligner):
    for wav, words, _ in spoken[60:64]:
        ((phones, said),) = aligner.align(cepstra([wav]), [words])
        assert [one.label for one in phones if one.label != PAUSE] == [phone for word in words for phone in word]
        assert phones[0].start_s == 0 and len(said) == len(words)
        assert all(a.end_s == b.start_s for a, b in zip(phones, phones[1:], strict=False))
        assert all(a.end_s - a.start_s >= 0.0299 for a in phones[1:-1])
        assert [one.label for one in said] == ["".join(word) for word in words]


def test_a_path_by_hand():
    words = [["a", "b"], ["c"]]
    # Three states each: pause 0-2, a 3-5, b 6-8, pause 9-11, c 12-14, pause 15-17. No pause between, none at the start.
    path = np.array([3, 4, 4, 5, 6, 7, 8, 12, 13, 14, 15, 16, 17])
    phones, said = intervals(path, words)
    edges = [0.0, 0.0475, 0.0775, 0.1075, 0.1375]
    assert [one.label for one in phones] == ["a", "b", "c", PAUSE]
    assert [one.start_s for one in phones] == pytest.approx(edges[:4])
    assert [one.end_s for one in phones] == pytest.approx(edges[1:])
    assert said == [Interval("ab", 0.0, phones[1].end_s), Interval("c", phones[2].start_s, phones[2].end_s)]
    chain = PhoneAligner(["a", "b", "c"]).chain(words)
    assert chain.classes.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 7, 8, 9, 0, 0, 0]
    assert np.flatnonzero(chain.origin >= 0).tolist() == [12] and chain.origin[12] == 8
    assert np.flatnonzero(chain.first).tolist() == [0, 3] and np.flatnonzero(chain.last).tolist() == [14, 17]
    assert shortest(words) == 9


def test_the_even_start():
    chain = PhoneAligner(["a", "b"]).chain([["b", "a"]])
    energy = np.array([0, 0] + 12 * [10] + [0], dtype=float)
    assert flat_start(energy, chain).tolist() == [0, 0, 4, 4, 5, 5, 6, 6, 1, 1, 2, 2, 3, 3, 0]
    assert flat_start(energy[2:8], chain).tolist() == [4, 5, 6, 1, 2, 3]  # all alike: nothing is quiet


def test_scores_are_log_ratios_and_unheard_classes_say_nothing(spoken, aligner):
    frames = cepstra([spoken[0][0]])[0]
    scores = aligner.scores(frames)
    posterior = np.exp(scores + aligner.log_priors)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-9)
    # A phone that was never trained on takes the frames that are left to it.
    wav, words, _ = spoken[61]
    strange = [[*words[0][:-1], "x"], *words[1:]]
    ((phones, _),) = aligner.align(cepstra([wav]), [strange])
    ((known, _),) = aligner.align(cepstra([wav]), [words])
    apart = [abs(a.start_s - b.start_s) for a, b in zip(phones, known, strict=False)]
    assert "x" in [one.label for one in phones] and np.median(apart) < 0.05


def test_agreement_by_hand():
    a = {"u": [Interval("sil", 0, 0.1), Interval("p", 0.1, 0.2), Interval("q", 0.2, 0.4)], "v": [Interval("p", 0, 1)]}
    b = {"u": [Interval("p", 0, 0.23), Interval("q", 0.23, 0.4)], "v": [Interval("r", 0, 1)], "w": []}
    found = compare(a, b, labels=True)
    assert np.sort(found.errors_s) == pytest.approx([0.03, 0.1]) and found.other == 1
    assert found.within(0.05) == 0.5 and found.frames == pytest.approx((40 - 10 - 3) / 140)
    assert compare(a, b, labels=False).errors_s.tolist() == pytest.approx([0.1, 0.03, 0])
    text = describe(Aligned({"u": a["u"]}, {}, []))
    assert text == (
        "1 utterances, 0.0 min; 2 phones of 2 kinds, 150 ms on average; sil 25.0 % of the time, "
        "the commonest phone (q) 50.0 %"
    )


def write_corpus(folder, spoken):
    import soundfile

    tables = {name: {} for name in ("wav.scp", "utt2spk", "text", "utt2phones")}
    for number, (wav, _, speech) in enumerate(spoken):
        utt = f"s{number % 2}-{number:02d}"
        path = folder / "audio" / f"{utt}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wav, 16000)
        tables["wav.scp"][utt], tables["utt2spk"][utt] = path, f"s{number % 2}"
        tables["text"][utt] = " ".join(word.label for word in speech.words).upper()
        tables["utt2phones"][utt] = format_intervals(speech.phones)
    return DataDir.write(folder, tables)


def test_the_commands(spoken, tmp_path, capsys):
    train, test = (write_corpus(tmp_path / name, part) for name, part in (("a", spoken[:40]), ("b", spoken[40:60])))
    paths = [str(train.path), str(test.path)]
    assert align_phones(["--train", paths[0], "--data", paths[1], "--table", "utt2found"]) == 2
    assert "espnet_ext phonemize" in capsys.readouterr().err
    assert phonemize(["--data", *paths]) == 0
    table = read_scp(test.path / "utt2pronunciation")
    assert format_pronunciation(spoken[40][1]) == table["s0-00"]  # capitals, and no comma: the same phones
    arguments = ["--train", paths[0], "--data", *paths]
    assert align_phones(arguments) == 2
    assert "replace it with --overwrite true" in capsys.readouterr().err
    assert align_phones([*arguments, "--table", "utt2found", "--compare", "utt2phones"]) == 0
    said = capsys.readouterr().out
    assert f"{paths[1]} against utt2phones" in said and "within 20 ms" in said
    found = read_intervals(test.path / "utt2found")
    assert list(found) == test.utterances
    assert compare(read_intervals(test.path / "utt2phones"), found, True).within(0.05) > 0.8
    # A text that is too long for its audio is named, and nothing is written.
    (test.path / "text").write_text((test.path / "text").read_text().replace("s0-00 ", "s0-00 " + 40 * "LONG TEXT "))
    assert phonemize(["--data", paths[1]]) == 0
    (test.path / "utt2found").unlink()
    arguments = ["--train", paths[0], "--data", paths[1], "--table", "utt2found", "--iterations", "1"]
    assert align_phones(arguments) == 2
    assert "s0-00 is too short for its phones (1 such" in capsys.readouterr().err
    assert not (test.path / "utt2found").exists()
    assert align_phones([*arguments, "--skip_broken", "true"]) == 0
    assert list(read_scp(test.path / "utt2found")) == test.utterances[1:]
    # One directory of which nothing can be aligned: none is written.
    (train.path / "utt2found").unlink()
    (test.path / "utt2found").unlink()
    write_scp(test.path / "utt2pronunciation", dict.fromkeys(test.utterances, " | ".join(999 * ["a"])))
    arguments = ["--train", paths[0], "--data", *paths, "--table", "utt2found", "--iterations", "1"]
    assert align_phones([*arguments, "--skip_broken", "true"]) == 2
    assert "b: no utterance is long enough for its phones" in capsys.readouterr().err
    assert not (train.path / "utt2found").exists()
    (test.path / "text").write_text("s0-00 ?!\n")
    assert phonemize(["--data", paths[1]]) == 2
    assert "b/text: s0-00: espeak: the text '?!' has no word" in capsys.readouterr().err
