"""Start against end over several seeds: paired resampling, against a computation by hand; the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from kaldiio import WriteHelper

from espnet_ext.bin.ipl_seeds import main
from espnet_ext.datadir import Trials, write_scp, write_trials
from espnet_ext.metrics.detection import RankedTrials
from espnet_ext.spk.ipl_seeds import paired, seeds_table

SPEAKERS, UTTERANCES = 6, 4
A, B = np.triu_indices(SPEAKERS * UTTERANCES, 1)
LABELS = (A // UTTERANCES == B // UTTERANCES).astype(np.int8)


def scores(seed, distance):
    return LABELS * distance + np.random.default_rng(seed).standard_normal(len(A))


def eer_by_hand(score, weights):
    """The larger error rate where the two are nearest; the higher threshold where two points are equally near."""
    target, other = weights * LABELS, weights * (1 - LABELS)
    rates = [
        (target[score < t].sum() / target.sum(), other[score >= t].sum() / other.sum())
        for t in [np.inf, *np.unique(score)[::-1]]
    ]
    return max(min(rates, key=lambda pair: round(abs(pair[0] - pair[1]), 9)))


def test_pairs_against_a_computation_by_hand():
    lists = [scores(k, distance) for k, distance in enumerate((1.0, 2.5, 2.0, 1.2, 2.2, 1.9))]  # of two seeds
    ranked = [RankedTrials(score, LABELS) for score in lists]
    found = paired(("t", "all"), ["3", "2"], ranked, LABELS, A // UTTERANCES, B // UTTERANCES, 20, seed=5)
    plain = [eer_by_hand(score, np.ones(len(A))) for score in lists]
    assert found.eer == pytest.approx(np.reshape(plain, (2, 3)))
    assert found.reduction("end") == pytest.approx(1 - (plain[1] + plain[4]) / (plain[0] + plain[3]))
    assert found.reduction("both") == pytest.approx(1 - (plain[2] + plain[5]) / (plain[0] + plain[3]))
    rng = np.random.default_rng(5)
    expected = []
    for _ in range(20):
        times = rng.multinomial(SPEAKERS, np.full(SPEAKERS, 1 / SPEAKERS))
        a, b = times[A // UTTERANCES], times[B // UTTERANCES]
        each = [eer_by_hand(score, np.where(LABELS == 1, a, a * b).astype(float)) for score in lists]
        expected.append(np.reshape(each, (2, 3)).mean(0))
    assert found.resampled == pytest.approx(np.array(expected))
    low, high = found.interval("end")
    assert low < found.reduction("end") < high and found.share_better("end") > 0.9


def test_the_same_system_twice_differs_in_no_resampling():
    ranked = [RankedTrials(scores(0, 1.0), LABELS)] * 3
    found = paired(("t", "all"), ["1"], ranked, LABELS, A // UTTERANCES, B // UTTERANCES, 10)
    for system in ("end", "both"):
        assert found.reduction(system) == 0 and found.interval(system) == (0, 0) and found.share_better(system) == 0
    without = paired(("t", "all"), ["1"], ranked, LABELS, A // UTTERANCES, B // UTTERANCES, 0)
    assert np.isnan(without.interval("end")).all() and "nan" not in seeds_table([without], [7])


RECIPE = """#!/usr/bin/env bash
echo "$*" >> calls
[[ " $* " != *" 9 "* ]]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two finished experiments in which round 1 is better than the start, and a stand-in for the recipe."""
    monkeypatch.chdir(tmp_path)
    Path("run.sh").write_text(RECIPE)
    Path("run.sh").chmod(0o755)
    names = [f"u{i:02d}" for i in range(SPEAKERS * UTTERANCES)]
    Path("dump/test").mkdir(parents=True)
    write_trials("dump/test/trials", Trials([names[i] for i in A], [names[j] for j in B], LABELS))
    write_scp("dump/test/utt2spk", {name: f"s{i // UTTERANCES}" for i, name in enumerate(names)})
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((SPEAKERS, 8))
        for round_, noise in ((0, 1.5), (1, 0.7)):
            for part in ("all", "test"):
                folder = Path(f"exp/ipl_seed{seed}/r{round_}/embeddings/{part}")
                folder.mkdir(parents=True)
                with WriteHelper(f"ark,scp:{folder}/e.ark,{folder}/embedding.scp") as writer:
                    for i, name in enumerate(names):
                        vector = centres[i // UTTERANCES] + noise * rng.standard_normal(8)
                        writer(name if part == "test" else f"x{name}", vector.astype(np.float32))
    return tmp_path


def test_the_command(here, capsys):
    base = ["--train", "all", "--test", "test", "dump/test/trials", "--num_bootstrap", "50", "--seeds"]
    assert main([*base, "0", "1", "--options", "--nj 1"]) in (0, None)
    assert "| mean |" in capsys.readouterr().out
    calls = Path("calls").read_text().splitlines()
    assert calls == [f"--stage init --stop_stage score --seed {s} --ipl_tag seed{s} --nj 1" for s in (0, 1)]
    rows = json.loads(Path("exp/seeds.json").read_text())["results"]
    eers = {(r["where"]["system"], r["where"]["seed"]): r["value"] for r in rows if r["metric"] == "eer"}
    for system in ("end", "both"):
        (less,) = [r for r in rows if r["metric"] == "relative_reduction" and r["where"]["system"] == system]
        assert (
            0
            < less["value"]
            == pytest.approx(1 - (eers[system, "0"] + eers[system, "1"]) / (eers["start", "0"] + eers["start", "1"]))
        )
    assert len(eers) == 6
    assert "0.00" not in Path("exp/seeds.md").read_text().splitlines()[4]
    assert main([*base, "9"]) == 2 and "seed 9 failed" in capsys.readouterr().err
    for path in Path("exp/ipl_seed1/r1").rglob("embedding.scp"):
        path.unlink()
    assert main([*base, "0", "1"]) == 2 and "ipl_seed1 has its start alone" in capsys.readouterr().err
