"""Iterative pseudo-labelling with several seeds: is the last round better than the start, and how sure is that?

The two are compared on the same trials and the same resampled speakers: what makes a speaker hard is hard for both, so
that their difference is known far better than either of them.
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


@dataclass
class Paired:
    """One trial list scored by the start and by the last round of every seed; rates are fractions.

    ``start`` and ``end``: (seeds,) EERs. ``resampled``: (samples, 2) EERs of start and end, means over the seeds, of
    resampled speakers.
    """

    where: tuple[str, str]
    count: int
    rounds: list[str]
    start: np.ndarray
    end: np.ndarray
    resampled: np.ndarray

    @property
    def reduction(self) -> float:
        """How much lower the mean EER of the end is, relative to the start's: 0.4 is 40 % fewer errors."""
        return float(1 - self.end.mean() / self.start.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 95 % of the reductions over resampled speakers; NaN where there are fewer than two."""
        known = self.resampled[self.resampled[:, 0] > 0]
        if len(known) < 2:
            return float("nan"), float("nan")
        low, high = np.quantile(1 - known[:, 1] / known[:, 0], [0.025, 0.975])
        return float(low), float(high)

    @property
    def share_better(self) -> float:
        """The share of resamplings in which the end has the lower EER; NaN without any."""
        better = self.resampled[:, 1] < self.resampled[:, 0]
        return float(better.mean()) if len(better) else float("nan")


def compare(experiments: Sequence[Path], tests: Yardstick) -> list[Paired]:
    """Score the start and the last round of every experiment, one per seed, on every trial list of ``tests``.

    Cosine after the mean of the unlabelled set is taken off, as in the report. A fine-tuned model counts as the last.

    Raises:
        UserError: an experiment has no round beside its start.
    """
    systems: dict[tuple[str, str], list[list]] = {}
    lists: dict[tuple[str, str], tuple] = {}
    names = []
    for exp in experiments:
        rounds = find_rounds(exp, tests)
        if len(rounds) < 2:
            raise UserError(f"{exp} has its start alone; the stage loop makes rounds to compare it with")
        names.append(rounds[-1][0])
        for _, folder in (rounds[0], rounds[-1]):
            backend = Backend(mean_embedding(EmbeddingTable.read(tests.scp(folder, tests.train)).vectors))
            for one in (tests.read(name, folder) for name in tests.sets):
                prepared, speakers = one.prepare(backend), one.speaker_numbers()
                for trials in one.lists:
                    key = (one.name, trials.condition)
                    scores = backend.scores(prepared, trials.enroll, trials.test)["raw"]
                    systems.setdefault(key, []).append(RankedTrials(scores, trials.labels))
                    lists.setdefault(key, (trials.labels, speakers[trials.enroll], speakers[trials.test]))
    return [paired(key, names, systems[key], *lists[key], tests.num_bootstrap, tests.seed) for key in lists]


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
    """Measure ``systems``, the start and the end of each seed in turn, all on the same trials.

    labels, speaker_a, speaker_b: (N,) per trial, speakers numbered from 0. Resamplings that lose all target or all
    non-target trials are left out.
    """
    eers = np.array([ranked.curve().eer() for ranked in systems]).reshape(-1, 2)
    rng = np.random.default_rng(seed)
    num_speakers = int(max(speaker_a.max(), speaker_b.max())) + 1
    resampled = []
    for _ in range(num_samples):
        weights = speaker_weights(rng, speaker_a, speaker_b, num_speakers)
        if 0 < weights @ (labels == 1) < weights.sum():
            each = [ranked.curve(weights).eer() for ranked in systems]
            resampled.append(np.reshape(each, (-1, 2)).mean(0))
    return Paired(where, len(labels), rounds, eers[:, 0], eers[:, 1], np.array(resampled).reshape(-1, 2))


def seeds_table(found: Sequence[Paired], seeds: Sequence[int]) -> str:
    """Markdown: a row per trial list and seed, then the mean with its spread and the paired comparison."""
    columns = ["trials", "seed", "last round", "EER % of the start", "EER % of the last", "fewer errors, %"]
    rows = []
    for one in found:
        name = f"{one.where[0]}, {one.where[1]} ({one.count:,})"
        for seed, last, start, end in zip(seeds, one.rounds, one.start, one.end, strict=True):
            less = f"{100 * (1 - end / start):.1f}" if start > 0 else "–"
            rows.append([name, str(seed), last, f"{100 * start:.2f}", f"{100 * end:.2f}", less])
        low, high = one.interval
        ends = "" if np.isnan(low) else f" ({100 * low:.1f} to {100 * high:.1f})"
        less = f"{100 * one.reduction:.1f}{ends}" if one.start.mean() > 0 else "–"
        rows.append([name, "mean", "", mean_and_spread(one.start), mean_and_spread(one.end), less])
    return markdown_table(columns, rows)


def mean_and_spread(rates: np.ndarray) -> str:
    """Mean of rates in per cent, and ± the deviation of a sample where there are several."""
    text = f"{100 * rates.mean():.2f}"
    return text if len(rates) < 2 else f"{text} ± {100 * rates.std(ddof=1):.2f}"


def seeds_results(found: Sequence[Paired], seeds: Sequence[int]) -> list[Result]:
    """The same numbers for ``results.json``."""
    results = []
    for one in found:
        where = {"set": one.where[0], "condition": one.where[1]}
        for what, rates in (("start", one.start), ("end", one.end)):
            results += [
                Result("eer", float(rate), None, "fraction", one.count, where | {"round": what, "seed": str(seed)})
                for seed, rate in zip(seeds, rates, strict=True)
            ]
        results.append(Result("relative_reduction", one.reduction, one.interval, "fraction", one.count, where))
        results.append(Result("share_of_resamplings_better", one.share_better, None, "fraction", one.count, where))
    return results
