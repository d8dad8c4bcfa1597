"""Metrics of a two-class trial list, safe with tied scores: EER, minDCF, actDCF, Cllr, min-Cllr and the DET curve.

Conventions, for every function here:

- ``scores`` are real numbers ``(N,)``, higher means "more likely a target"; ``labels`` are 1 for target and 0 for
  non-target trials; ``weights`` (optional, ``(N,)``, not negative) says how often each trial counts, which is how the
  bootstrap resamples.
- A trial is accepted when its score is at or above the threshold. Equal scores are accepted or rejected together: no
  threshold lies inside a tie. The operating points are therefore the distinct scores, plus "reject everything".
- NaN scores, labels other than 0/1, an empty list, or a list with one class only raise ``UserError``.

EER and minDCF follow the NIST SRE definitions as ESPnet-SPK reports them (arXiv 2401.17230); Cllr and min-Cllr follow
Brümmer and du Preez, "Application-independent evaluation of speaker detection", 2006.
"""

import functools
from typing import NamedTuple

import numpy as np

from espnet_ext.errors import UserError


class Roc(NamedTuple):
    """Error rates at every operating point, from "accept everything" to "reject everything".

    ``thresholds`` ``(G+1,)`` ascend and end with +inf; ``fnr`` ascends from 0 to 1 and ``fpr`` descends from 1 to 0.
    """

    fnr: np.ndarray
    fpr: np.ndarray
    thresholds: np.ndarray


class RankedTrials:
    """A trial list sorted once, so that many weightings of the same trials (a bootstrap) cost one pass each.

    Args:
        scores: ``(N,)`` real, NaN refused.
        labels: ``(N,)`` of 0 and 1 (or bool).

    Raises:
        UserError: the list cannot be scored; the message says why.
    """

    def __init__(self, scores, labels):
        self._scores, self._is_target = checked_trials(scores, labels)
        ranked = np.sort(self._scores)
        starts = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
        # First rank of every group of equal scores, and N: a threshold at group g rejects the ranks before bounds[g].
        self.bounds = np.concatenate([[0], starts, [len(ranked)]])
        self.distinct = ranked if len(starts) == len(ranked) - 1 else ranked[self.bounds[:-1]]

    @functools.cached_property
    def order(self) -> np.ndarray:
        """Trial numbers by ascending score ``(N,)``. Only weights need it: sorting values alone is far faster."""
        return np.argsort(self._scores)

    @functools.cached_property
    def is_target(self) -> np.ndarray:
        """Which trials are targets, in the order of ``order``, ``(N,)``."""
        return self._is_target[self.order]

    @functools.cached_property
    def bits(self) -> tuple[np.ndarray, np.ndarray]:
        """What a target and a non-target cost at every distinct score read as a natural-log LLR, in bits."""
        return np.logaddexp(0, -self.distinct) / np.log(2), np.logaddexp(0, self.distinct) / np.log(2)

    def curve(self, weights=None, is_ranked: bool = False) -> "Curve":
        """Count the errors of every operating point; ``is_ranked`` says that ``weights`` follow ``self.order``."""
        if weights is None:
            groups = np.searchsorted(self.distinct, np.sort(self._scores[self._is_target]))
            target = np.cumsum(np.bincount(groups + 1, minlength=len(self.bounds)))
            return Curve(self, target.astype(np.float64), (self.bounds - target).astype(np.float64))
        weights = np.asarray(weights, dtype=np.float64)
        weights = weights if is_ranked else weights[self.order]
        below = np.concatenate([[0.0], np.cumsum(weights)])[self.bounds]
        target = np.concatenate([[0.0], np.cumsum(weights * self.is_target)])[self.bounds]
        if target[-1] <= 0 or below[-1] - target[-1] <= 0:
            raise UserError("all trials of one class have weight 0: both target and non-target trials are needed")
        return Curve(self, target, below - target)


class Curve:
    """All operating points of a weighted trial list, and the metrics that are read from them.

    ``target`` and ``nontarget`` ``(G+1,)`` are the weights of the trials below each threshold.
    """

    def __init__(self, ranked: RankedTrials, target: np.ndarray, nontarget: np.ndarray):
        self.ranked, self.target, self.nontarget = ranked, target, nontarget

    def roc(self) -> Roc:
        """Error rates at every operating point; see ``Roc``."""
        return Roc(
            self.target / self.target[-1],
            (self.nontarget[-1] - self.nontarget) / self.nontarget[-1],
            np.append(self.ranked.distinct, np.inf),
        )

    def eer(self) -> float:
        """Equal error rate in [0, 1]; see the function ``eer`` for its exact definition."""
        return self.eer_and_threshold()[0]

    def eer_and_threshold(self) -> tuple[float, float]:
        """Equal error rate and the threshold (accept at or above it) of the operating point it was read at."""
        above = self.nontarget[-1] - self.nontarget
        # fnr - fpr times both totals: with whole-number weights every product is exact, so that equal distances from
        # the crossing are seen as equal.
        difference = self.target * self.nontarget[-1] - above * self.target[-1]
        right = int(np.searchsorted(difference, 0.0, side="left"))
        left = right - 1
        thresholds = np.append(self.ranked.distinct[left : right + 1], np.inf)
        fnr = self.target[[left, right]] / self.target[-1]
        fpr = above[[left, right]] / self.nontarget[-1]
        if difference[right] > 0 and fnr[1] > fnr[0] and fpr[0] > fpr[1]:
            # The rates cross inside a group of equal scores of both classes: splitting it at random meets the crossing.
            part = -difference[left] / (difference[right] - difference[left])
            return float(fnr[0] + part * (fnr[1] - fnr[0])), float(thresholds[0])
        nearer = 1 if difference[right] <= -difference[left] else 0
        return float(max(fnr[nearer], fpr[nearer])), float(thresholds[nearer])

    def min_dcf(self, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """Smallest normalised detection cost; see the function ``min_dcf``."""
        miss, false_alarm, default = _costs(p_target, c_miss, c_fa)
        total, other = self.target[-1], self.nontarget[-1]
        best = int(np.argmin((miss / total) * self.target - (false_alarm / other) * self.nontarget))
        fnr, fpr = self.target[best] / total, (other - self.nontarget[best]) / other
        return float((miss * fnr + false_alarm * fpr) / default)

    def act_dcf(self, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """Normalised detection cost at the Bayes threshold; see the function ``act_dcf``."""
        miss, false_alarm, default = _costs(p_target, c_miss, c_fa)
        point = np.searchsorted(self.ranked.distinct, bayes_threshold(p_target, c_miss, c_fa))
        fnr = self.target[point] / self.target[-1]
        fpr = 1 - self.nontarget[point] / self.nontarget[-1]
        return float((miss * fnr + false_alarm * fpr) / default)

    def cllr(self) -> float:
        """Cost of scores read as log-likelihood ratios, in bits; see the function ``cllr``."""
        miss, false_alarm = self.ranked.bits
        with np.errstate(invalid="ignore"):
            # An infinite LLR costs 0 or infinity; where no trial of that class has it, 0 * inf has to be 0.
            miss = np.nansum(np.diff(self.target) * miss) / self.target[-1]
            false_alarm = np.nansum(np.diff(self.nontarget) * false_alarm) / self.nontarget[-1]
        return float((miss + false_alarm) / 2)

    def min_cllr(self) -> float:
        """Cllr after the best non-decreasing calibration; see the function ``min_cllr``."""
        # The only metric that needs more than numpy: pool adjacent violators is a loop, and compiled there.
        from scipy.optimize import isotonic_regression

        target, nontarget = np.diff(self.target), np.diff(self.nontarget)
        kept = target + nontarget > 0
        target, nontarget = target[kept], nontarget[kept]
        blocks = isotonic_regression(target / (target + nontarget), weights=target + nontarget).blocks[:-1]
        p_target = np.add.reduceat(target, blocks) / self.target[-1]
        p_nontarget = np.add.reduceat(nontarget, blocks) / self.nontarget[-1]
        # A block without non-targets has LLR +inf and costs its targets nothing, and the other way round.
        both = (p_target > 0) & (p_nontarget > 0)
        p_target, p_nontarget = p_target[both], p_nontarget[both]
        miss = p_target @ np.log2(1 + p_nontarget / p_target)
        false_alarm = p_nontarget @ np.log2(1 + p_target / p_nontarget)
        return float((miss + false_alarm) / 2)


def checked_trials(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float64 and labels as bool, both ``(N,)``; ``UserError`` where no metric can be computed."""
    scores = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise UserError(f"one score and one label per trial are needed, got {scores.shape} and {labels.shape}")
    if not len(scores):
        raise UserError("there are no trials to score: the trial list is empty")
    bad = np.isnan(scores)
    if bad.any():
        raise UserError(
            f"{int(bad.sum())} of {len(scores)} scores are NaN, the first is trial {int(bad.argmax()) + 1}: "
            "look for NaN in the embeddings of its two utterances"
        )
    is_target = labels.astype(bool)
    if labels.dtype != bool and not np.array_equal(is_target, labels):
        raise UserError("labels must be 1 (target) or 0 (non-target)")
    num_targets = int(is_target.sum())
    if num_targets in (0, len(labels)):
        kind = "target" if num_targets == 0 else "non-target"
        raise UserError(f"no {kind} trial among {len(labels)} trials: both kinds are needed for an error rate")
    return scores, is_target


def roc(scores, labels, weights=None) -> Roc:
    """False-negative and false-positive rates at every operating point, never inside a group of equal scores."""
    return RankedTrials(scores, labels).curve(weights).roc()


def eer(scores, labels, weights=None) -> float:
    """Equal error rate in [0, 1]: ``max(FNR, FPR)`` at the operating point where ``|FNR - FPR|`` is smallest.

    Where two points are equally near, the one with the higher threshold is taken (scikit-learn's ``roc_curve`` lists
    it first; all points count, as with its ``drop_intermediate=False``). Where FNR and FPR cross inside a group of
    equal scores that holds both classes, the rate at the crossing is returned, which is what splitting that group at
    random gives on average: constant scores have EER 0.5.
    """
    return RankedTrials(scores, labels).curve(weights).eer()


def min_dcf(scores, labels, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0, weights=None) -> float:
    """Minimum normalised detection cost over all thresholds (NIST SRE 2016, equations 2 to 4).

    ``min_t [c_miss FNR(t) p_target + c_fa FPR(t) (1 - p_target)] / min(c_miss p_target, c_fa (1 - p_target))``.
    Never above 1, and 1 for constant scores whatever the order of the labels.
    """
    return RankedTrials(scores, labels).curve(weights).min_dcf(p_target, c_miss, c_fa)


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """The LLR at which accepting and rejecting cost the same: ``log(c_fa (1 - p_target) / (c_miss p_target))``."""
    miss, false_alarm, _ = _costs(p_target, c_miss, c_fa)
    return float(np.log(false_alarm / miss))


def act_dcf(llrs, labels, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0, weights=None) -> float:
    """Normalised detection cost of natural-log LLRs at the Bayes threshold; above 1 when badly calibrated."""
    return RankedTrials(llrs, labels).curve(weights).act_dcf(p_target, c_miss, c_fa)


def cllr(llrs, labels, weights=None) -> float:
    """Cost of natural-log LLRs in bits: ``(mean_tgt log2(1 + e^-llr) + mean_non log2(1 + e^llr)) / 2``.

    0 is perfect, 1 is what ``llr = 0`` for every trial costs, more than 1 does harm.
    """
    return RankedTrials(llrs, labels).curve(weights).cllr()


def min_cllr(scores, labels, weights=None) -> float:
    """Cllr after the best non-decreasing map from score to LLR (pool adjacent violators): discrimination alone."""
    return RankedTrials(scores, labels).curve(weights).min_cllr()


def det_points(scores, labels, max_points: int = 2000) -> Roc:
    """The operating points of a DET curve, thinned to at most ``max_points``, evenly along the logs of both rates.

    Plot ``fpr`` against ``fnr`` on probit axes, where rates of 0 and 1 have no place: clip them to the axes' limits.
    """
    points = roc(scores, labels)
    last = len(points.fnr) - 1
    if last < max_points:
        return points
    rates = np.geomspace(1e-7, 1.0, (max_points - 2) // 2)
    keep = np.concatenate([[0, last], np.searchsorted(points.fnr, rates), np.searchsorted(-points.fpr, -rates)])
    keep = np.unique(np.minimum(keep, last))
    return Roc(points.fnr[keep], points.fpr[keep], points.thresholds[keep])


def _costs(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float, float]:
    """Cost of a sure miss, of a sure false alarm, and of the better of the two (the normaliser)."""
    if not 0 < p_target < 1 or c_miss <= 0 or c_fa <= 0:
        raise UserError(
            "a detection cost needs 0 < p_target < 1 and positive costs, got "
            f"p_target={p_target}, c_miss={c_miss}, c_fa={c_fa}"
        )
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    return miss, false_alarm, min(miss, false_alarm)
