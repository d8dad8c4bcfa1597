"""Iterative pseudo-labelling with several seeds: is the last round better than the start, and how sure is that?

The two are compared on the same trials and the same resampled speakers: what makes a speaker hard is hard for both, so
that their difference is known far better than either of them. A third system is the mean of their two cosines: how much
the student knows that the start does not, and the other way round. No label is needed for any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.metrics.bootstrap import speaker_weights
from espnet_ext.metrics.detection import RankedTrials
from espnet_ext.metrics.report import Result, markdown_table
from espnet_ext.spk.backend import Backend
from espnet_ext.spk.embeddings import EmbeddingTable
from espnet_ext.spk.ipl_report import Yardstick, find_rounds
from espnet_ext.spk.scoring import mean_embedding

SYSTEMS = ("start", "end", "both")


@dataclass
class Paired:
    """One trial list scored by the start, by the last round, and by the mean of their cosines; rates are fractions.

    ``eer``: (seeds, 3). ``resampled``: (samples, 3), means over the seeds, of resampled speakers. Columns: ``SYSTEMS``.
    """

    where: tuple[str, str]
    count: int
    rounds: list[str]
    eer: np.ndarray
    resampled: np.ndarray

    def reduction(self, system: str) -> float:
        """How much lower the mean EER of a system is, relative to the start's: 0.4 is 40 % fewer errors."""
        start, other = self.eer.mean(0)[[0, SYSTEMS.index(system)]]
        return float(1 - other / start) if start > 0 else float("nan")

    def interval(self, system: str) -> tuple[float, float]:
        """The middle 95 % of the reductions over resampled speakers; NaN where there are fewer than two."""
        start, other = self.resampled[self.resampled[:, 0] > 0][:, [0, SYSTEMS.index(system)]].T
        if len(start) < 2:
            return float("nan"), float("nan")
        low, high = np.quantile(1 - other / start, [0.025, 0.975])
        return float(low), float(high)

    def share_better(self, system: str) -> float:
        """The share of resamplings in which a system has a lower EER than the start; NaN without any."""
        better = self.resampled[:, SYSTEMS.index(system)] < self.resampled[:, 0]
        return float(better.mean()) if len(better) else float("nan")


def compare(experiments: Sequence[Path], tests: Yardstick) -> list[Paired]:
    """Score the start and the last round of every experiment, one per seed, on every trial list of ``tests``.

    Cosine after the mean of the unlabelled set is taken off, as in the report. A fine-tuned model counts as the last.

    Raises:
        UserError: an experiment has no round beside its start.
    """
    systems: dict[tuple[str, str], list[RankedTrials]] = {}
    lists: dict[tuple[str, str], tuple] = {}
    names = []
    for exp in experiments:
        rounds = find_rounds(exp, tests)
        if len(rounds) < 2:
            raise UserError(f"{exp} has its start alone; the stage loop makes rounds to compare it with")
        names.append(rounds[-1][0])
        scored = [cosines(folder, tests) for _, folder in (rounds[0], rounds[-1])]
        for key, (start, trials) in scored[0].items():
            end = scored[1][key][0]
            each = [RankedTrials(scores, trials[0]) for scores in (start, end, (start + end) / 2)]
            systems.setdefault(key, []).extend(each)
            lists[key] = trials
    return [paired(key, names, systems[key], *lists[key], tests.num_bootstrap, tests.seed) for key in lists]


def cosines(folder: Path, tests: Yardstick) -> dict[tuple[str, str], tuple[np.ndarray, tuple]]:
    """Score every trial list with the embeddings of one round.

    Returns ``{(set, condition): (scores (N,), (labels, speaker_a, speaker_b))}``.
    """
    backend = Backend(mean_embedding(EmbeddingTable.read(tests.scp(folder, tests.train)).vectors))
    found = {}
    for one in (tests.read(name, folder) for name in tests.sets):
        prepared, speakers = one.prepare(backend), one.speaker_numbers()
        for trials in one.lists:
            scores = backend.scores(prepared, trials.enroll, trials.test)["raw"]
            about = (trials.labels, speakers[trials.enroll], speakers[trials.test])
            found[one.name, trials.condition] = scores, about
    return found


def paired(
    where: tuple[str, str],
    rounds: list[str],
    systems: Sequence[RankedTrials],
    labels: np.ndarray,
    speaker_a: np.ndarray,
    speaker_b: np.ndarray,
    num_samples: int,
    seed: int = 0,
) -> Paired:
    """Measure ``systems``, those of ``SYSTEMS`` for each seed in turn, all on the same trials.

    labels, speaker_a, speaker_b: (N,) per trial, speakers numbered from 0. Resamplings that lose all target or all
    non-target trials are left out.
    """
    eers = np.array([ranked.curve().eer() for ranked in systems]).reshape(-1, len(SYSTEMS))
    rng = np.random.default_rng(seed)
    num_speakers = int(max(speaker_a.max(), speaker_b.max())) + 1
    resampled = []
    for _ in range(num_samples):
        weights = speaker_weights(rng, speaker_a, speaker_b, num_speakers)
        if 0 < weights @ (labels == 1) < weights.sum():
            each = [ranked.curve(weights).eer() for ranked in systems]
            resampled.append(np.reshape(each, (-1, len(SYSTEMS))).mean(0))
    return Paired(where, len(labels), rounds, eers, np.array(resampled).reshape(-1, len(SYSTEMS)))


def seeds_table(found: Sequence[Paired], seeds: Sequence[int]) -> str:
    """Markdown: a row per trial list and seed, then the mean with its spread and the paired comparison."""
    columns = ["trials", "seed", "last round", "EER %, start", "EER %, last", "fewer errors, %"]
    columns += ["EER %, mean of both scores", "fewer errors, %"]
    rows = []
    for one in found:
        name = f"{one.where[0]}, {one.where[1]} ({one.count:,})"
        for seed, last, eers in zip(seeds, one.rounds, one.eer, strict=True):
            less = ["–" if eers[0] == 0 else f"{100 * (1 - eer / eers[0]):.1f}" for eer in eers[1:]]
            start, end, both = (f"{100 * eer:.2f}" for eer in eers)
            rows.append([name, str(seed), last, start, end, less[0], both, less[1]])
        start, end, both = map(mean_and_spread, one.eer.T)
        rows.append([name, "mean", "", start, end, fewer(one, "end"), both, fewer(one, "both")])
    return markdown_table(columns, rows)


def fewer(one: Paired, system: str) -> str:
    """The relative reduction in per cent, with its interval where there is one."""
    if np.isnan(one.reduction(system)):
        return "–"
    low, high = one.interval(system)
    return f"{100 * one.reduction(system):.1f}" + ("" if np.isnan(low) else f" ({100 * low:.1f} to {100 * high:.1f})")


def mean_and_spread(rates: np.ndarray) -> str:
    """Mean of rates in per cent, and ± the deviation of a sample where there are several."""
    text = f"{100 * rates.mean():.2f}"
    return text if len(rates) < 2 else f"{text} ± {100 * rates.std(ddof=1):.2f}"


def seeds_results(found: Sequence[Paired], seeds: Sequence[int]) -> list[Result]:
    """The same numbers for ``seeds.json``."""
    results = []
    for one in found:
        list_ = {"set": one.where[0], "condition": one.where[1]}
        for k, system in enumerate(SYSTEMS):
            where = list_ | {"system": system}
            results += [
                Result("eer", float(eer), None, "fraction", one.count, where | {"seed": str(seed)})
                for seed, eer in zip(seeds, one.eer[:, k], strict=True)
            ]
            if k:
                ends, better = one.interval(system), one.share_better(system)
                results.append(Result("relative_reduction", one.reduction(system), ends, "fraction", one.count, where))
                results.append(Result("share_of_resamplings_better", better, None, "fraction", one.count, where))
    return results
