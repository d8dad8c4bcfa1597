"""Trial lists: balance, conditions, determinism, and what is said where none can be made."""

import itertools
from collections import Counter

import numpy as np
import pytest

from espnet_ext.bin.make_trials import main
from espnet_ext.datadir import read_trials
from espnet_ext.datadir.pairing import choose_trials
from espnet_ext.errors import UserError


def make_tables(num_speakers=10, num_utterances=6, num_sessions=3):
    utt2spk = {f"s{s:02d}-{u}": f"s{s:02d}" for s in range(num_speakers) for u in range(num_utterances)}
    utt2session = {utt: f"{utt[:3]}_{int(utt[-1]) % num_sessions}" for utt in utt2spk}
    spk2gender = {spk: "fm"[int(spk[1:]) % 2] for spk in utt2spk.values()}
    return utt2spk, utt2session, spk2gender


def write_tables(folder, **tables):
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        (folder / name).write_text("".join(f"{key} {value}\n" for key, value in sorted(table.items())))


def test_all_pairs_are_found_and_labelled():
    utt2spk, _, _ = make_tables(4, 3)
    pairing = choose_trials(utt2spk, 10**6)
    pairs = set(map(frozenset, zip(pairing.trials.enroll, pairing.trials.test, strict=True)))
    targets = {frozenset(p) for p in itertools.combinations(utt2spk, 2) if utt2spk[p[0]] == utt2spk[p[1]]}
    assert len(pairs) == len(pairing.trials) == 2 * len(targets)
    for enroll, test, label in zip(pairing.trials.enroll, pairing.trials.test, pairing.trials.labels, strict=True):
        assert label == (utt2spk[enroll] == utt2spk[test])
    assert targets <= pairs


@pytest.mark.parametrize("seed", range(3))
def test_balanced_even_over_speakers_and_without_repeats(seed):
    utt2spk, utt2session, spk2gender = make_tables()
    utt2spk["lonely-0"], utt2session["lonely-0"], spk2gender["lonely"] = "lonely", "lonely_0", "f"
    pairing = choose_trials(utt2spk, 100, seed, utt2session, spk2gender, "true", same_gender=True)
    trials = pairing.trials
    assert len(trials) == 100 and trials.labels.sum() == 50
    assert len(set(map(frozenset, zip(trials.enroll, trials.test, strict=True)))) == 100
    per_speaker = Counter(utt2spk[e] for e, label in zip(trials.enroll, trials.labels, strict=True) if label)
    assert set(per_speaker.values()) == {5} and len(per_speaker) == 10
    assert (pairing.num_speakers, pairing.num_target_speakers) == (11, 10)
    for enroll, test, label in zip(trials.enroll, trials.test, trials.labels, strict=True):
        assert utt2session[enroll] != utt2session[test]
        assert label or spk2gender[utt2spk[enroll]] == spk2gender[utt2spk[test]]


def test_nontarget_pairs_are_uniform():
    utt2spk, _, _ = make_tables(4, 2)
    seen = Counter()
    for seed in range(600):
        trials = choose_trials(utt2spk, 4, seed).trials
        seen.update(
            frozenset(pair) for *pair, label in zip(trials.enroll, trials.test, trials.labels, strict=True) if not label
        )
    counts = np.array(list(seen.values()))
    assert len(counts) == 24  # 28 pairs, 4 of them of one speaker
    assert abs(counts - 50).max() < 5 * np.sqrt(50)
    order = [choose_trials(utt2spk, 4, seed).trials for seed in range(200)]
    first = np.mean([e < t for trials in order for e, t in zip(trials.enroll, trials.test, strict=True)])
    assert 0.4 < first < 0.6


def test_prefer_takes_one_session_only_where_there_is_no_other():
    utt2spk, utt2session, _ = make_tables(6, 4, 2)
    utt2session |= {utt: "s00_0" for utt, spk in utt2spk.items() if spk == "s00"}
    chosen = {
        mode: choose_trials(utt2spk, 1000, 0, utt2session, cross_session=mode) for mode in ("true", "prefer", "false")
    }
    within = {
        mode: {
            utt2spk[e]
            for e, t, label in zip(one.trials.enroll, one.trials.test, one.trials.labels, strict=True)
            if label and utt2session[e] == utt2session[t]
        }
        for mode, one in chosen.items()
    }
    assert within == {"true": set(), "prefer": {"s00"}, "false": set(utt2spk.values())}
    assert chosen["true"].num_target_speakers == 5 and chosen["prefer"].num_target_speakers == 6


def test_command_writes_lists_and_conditions(tmp_path, capsys):
    utt2spk, utt2session, spk2gender = make_tables()
    data = tmp_path / "dump dir"
    write_tables(data, utt2spk=utt2spk, utt2session=utt2session, spk2gender=spk2gender)
    words = ["--data", str(data), "--out", str(data / "trials"), "--max_trials", "200", "--cross_session", "false"]
    assert main([*words, "--conditions", "cross_session", "same_gender"]) == 0
    shown = capsys.readouterr().out
    assert "200 trials, 100 target and 100 non-target" in shown and "10 speakers, 10 of them" in shown
    whole = read_trials(data / "trials")
    for name in ("cross_session", "same_gender"):
        part = read_trials(data / f"trials.{name}")
        assert 0 < len(part) < 200
        assert set(zip(part.enroll, part.test, strict=True)) < set(zip(whole.enroll, whole.test, strict=True))
        for enroll, test, label in zip(part.enroll, part.test, part.labels, strict=True):
            if name == "cross_session":
                assert utt2session[enroll] != utt2session[test]
            else:
                assert spk2gender[utt2spk[enroll]] == spk2gender[utt2spk[test]]
            assert label == (utt2spk[enroll] == utt2spk[test])
    before = (data / "trials").read_bytes()
    assert main(words) == 0 and (data / "trials").read_bytes() == before
    assert main([*words, "--seed", "1"]) == 0 and (data / "trials").read_bytes() != before


def test_size_of_voxceleb_in_little_memory():
    import tracemalloc

    utt2spk = {f"id{s:04d}-{u:03d}": f"id{s:04d}" for s in range(1000) for u in range(50)}
    tracemalloc.start()
    pairing = choose_trials(utt2spk, 20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pairing.trials) == 20_000
    assert peak < 200e6  # all pairs would be 1.25e9


@pytest.mark.parametrize(
    "tables, options, message",
    [
        ({"utt2spk": {"a-0": "a", "b-0": "b"}}, [], "no target trial is possible"),
        ({"utt2spk": {"a-0": "a", "a-1": "a"}}, [], "no non-target trial is possible"),
        ({"utt2spk": {"a-0": "a", "a-1": "a", "b-0": "b"}}, ["--cross_session", "true"], "utt2session"),
        ({"utt2spk": {"a-0": "a", "a-1": "a", "b-0": "b"}}, ["--same_gender", "true"], "spk2gender"),
        ({"utt2spk": {"a-0": "a", "a-1": "a", "b-0": "b"}}, ["--conditions", "same_gender"], "needs the table"),
        ({"utt2spk": {"a-0": "a", "a-1": "a", "b-0": "b"}, "utt2session": {"a-0": "x"}}, [], "'a-1'"),
        ({"utt2spk": {"a-0": "a", "a-1": "a", "b-0": "b"}}, ["--max_trials", "1"], "at least 2"),
        ({}, [], "does not exist"),
        (
            {"utt2spk": {"a-0": "a", "a-1": "a", "b-0": "b"}, "utt2session": {"a-0": "x", "a-1": "x", "b-0": "y"}},
            ["--cross_session", "true"],
            "of two sessions",
        ),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, tables, options, message):
    write_tables(tmp_path, **tables)
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "trials"), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "trials").exists()


def test_incomplete_gender_table():
    utt2spk, _, _ = make_tables(3, 2)
    with pytest.raises(UserError, match="spk2gender has no line for 's01'"):
        choose_trials(utt2spk, 10, spk2gender={"s00": "f"})


def test_a_condition_that_holds_no_target_writes_nothing(tmp_path, capsys):
    utt2spk, _, _ = make_tables(3, 2)
    write_tables(tmp_path, utt2spk=utt2spk, utt2session={utt: spk for utt, spk in utt2spk.items()})
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "trials"), "--conditions", "cross_session"]
    assert main(words) == 2
    assert "trials.cross_session would have 0 target trials" in capsys.readouterr().err
    assert not (tmp_path / "trials").exists()
