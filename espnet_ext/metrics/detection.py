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
        scores, is_target = checked_trials(scores, labels)
        self.order = np.argsort(scores)
        ranked = scores[self.order]
        starts = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
        self.is_target = is_target[self.order]
        self.distinct = ranked[np.concatenate([[0], starts])]
        # First rank of every group of equal scores, and N: a threshold at group g rejects the ranks before bounds[g].
        self.bounds = np.concatenate([[0], starts, [len(ranked)]])

    def _counts(self, weights=None) -> tuple[np.ndarray, np.ndarray]:
        """Weight of targets and of non-targets below each operating point, both ``(G+1,)``."""
        if weights is None:
            below_target = np.concatenate([[0], np.cumsum(self.is_target)])[self.bounds]
            return below_target.astype(np.float64), (self.bounds - below_target).astype(np.float64)
        weights = np.asarray(weights, dtype=np.float64)[self.order]
        target = np.concatenate([[0.0], np.cumsum(np.where(self.is_target, weights, 0.0))])[self.bounds]
        nontarget = np.concatenate([[0.0], np.cumsum(np.where(self.is_target, 0.0, weights))])[self.bounds]
        if target[-1] <= 0 or nontarget[-1] <= 0:
            raise UserError("all trials of one class have weight 0: both target and non-target trials are needed")
        return target, nontarget

    def roc(self, weights=None) -> Roc:
        """Error rates at every operating point; see ``Roc``."""
        target, nontarget = self._counts(weights)
        thresholds = np.concatenate([self.distinct, [np.inf]])
        return Roc(target / target[-1], (nontarget[-1] - nontarget) / nontarget[-1], thresholds)

    def eer(self, weights=None) -> float:
        """Equal error rate in [0, 1]; see the function ``eer`` for its exact definition."""
        return self.eer_and_threshold(weights)[0]

    def eer_and_threshold(self, weights=None) -> tuple[float, float]:
        """Equal error rate and the score threshold (accept at or above it) of the operating point it was read at."""
        target, nontarget = self._counts(weights)
        above = nontarget[-1] - nontarget
        # fnr - fpr times both totals: with whole-number weights every product is exact, so a tie of |fnr - fpr| is seen
        # as one.
        difference = target * nontarget[-1] - above * target[-1]
        right = int(np.searchsorted(difference, 0.0, side="left"))
        left = right - 1
        thresholds = np.append(self.distinct[left : right + 1], np.inf)
        fnr = target[[left, right]] / target[-1]
        fpr = above[[left, right]] / nontarget[-1]
        if difference[right] > 0 and fnr[1] > fnr[0] and fpr[0] > fpr[1]:
            # The curves cross inside a group of equal scores of both classes: splitting that group at random reaches
            # the crossing.
            part = -difference[left] / (difference[right] - difference[left])
            return float(fnr[0] + part * (fnr[1] - fnr[0])), float(thresholds[0])
        nearer = 1 if difference[right] <= -difference[left] else 0
        return float(max(fnr[nearer], fpr[nearer])), float(thresholds[nearer])

    def min_dcf(self, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0, weights=None) -> float:
        """Smallest normalised detection cost; see the function ``min_dcf``."""
        fnr, fpr, _ = self.roc(weights)
        miss, false_alarm, default = _costs(p_target, c_miss, c_fa)
        return float(np.min(miss * fnr + false_alarm * fpr) / default)

    def min_cllr(self, weights=None) -> float:
        """Cllr after the best monotonic calibration; see the function ``min_cllr``."""
        # The only metric that needs more than numpy: the pool-adjacent-violators loop is in C there.
        from scipy.optimize import isotonic_regression

        target, nontarget = (np.diff(counts) for counts in self._counts(weights))
        total = target + nontarget
        kept = total > 0
        target, nontarget, total = target[kept], nontarget[kept], total[kept]
        blocks = isotonic_regression(target / total, weights=total).blocks[:-1]
        target, nontarget = np.add.reduceat(target, blocks), np.add.reduceat(nontarget, blocks)
        p_target, p_nontarget = target / target.sum(), nontarget / nontarget.sum()
        # A block without non-targets has LLR +inf and costs its targets nothing, and the other way round: 0 * inf is 0
        # here.
        has_target, has_nontarget = p_target > 0, p_nontarget > 0
        miss = np.sum(p_target[has_target] * np.log2(1 + p_nontarget[has_target] / p_target[has_target]))
        false_alarm = np.sum(
            p_nontarget[has_nontarget] * np.log2(1 + p_target[has_nontarget] / p_nontarget[has_nontarget])
        )
        return float((miss + false_alarm) / 2)


def checked_trials(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float64 and labels as bool, both ``(N,)``; ``UserError`` where no detection metric can be computed."""
    scores = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise UserError(
            f"one score and one label per trial are needed, got scores {scores.shape} and labels {labels.shape}"
        )
    if not len(scores):
        raise UserError("there are no trials to score: the trial list is empty")
    if np.isnan(scores).any():
        raise UserError(
            f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN, the first is trial "
            f"{int(np.isnan(scores).argmax()) + 1}: look for NaN in the embeddings of its two utterances"
        )
    is_target = labels.astype(bool)
    if labels.dtype != bool and not np.array_equal(is_target, labels):
        raise UserError("labels must be 1 (target) or 0 (non-target)")
    num_targets = int(is_target.sum())
    if num_targets in (0, len(labels)):
        kind = "target" if num_targets == 0 else "non-target"
        raise UserError(
            f"the trial list has no {kind} trial among {len(labels)}: both kinds are needed for an error rate"
        )
    return scores, is_target


def roc(scores, labels, weights=None) -> Roc:
    """False-negative and false-positive rates at every operating point (between, never inside, groups of equal
    scores)."""
    return RankedTrials(scores, labels).roc(weights)


def eer(scores, labels, weights=None) -> float:
    """Equal error rate, a fraction in [0, 1]: ``max(FNR, FPR)`` at the operating point where ``|FNR - FPR|`` is
    smallest.

    Where two points are equally near, the one with the higher threshold is taken (as with scikit-learn's ``roc_curve``,
    which lists it first; we look at every point, i.e. ``drop_intermediate=False``). Where FNR and FPR cross inside a
    group of equal scores that holds both classes, the rate at the crossing is returned, i.e. what splitting that group
    at random gives on average: constant scores have EER 0.5.
    """
    return RankedTrials(scores, labels).eer(weights)


def min_dcf(scores, labels, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0, weights=None) -> float:
    """Minimum normalised detection cost over all thresholds (NIST SRE 2016, equations 2 to 4).

    ``min_t [c_miss FNR(t) p_target + c_fa FPR(t) (1 - p_target)] / min(c_miss p_target, c_fa (1 - p_target))``; never
    above 1, and 1 for constant scores, whatever the order of the labels.
    """
    return RankedTrials(scores, labels).min_dcf(p_target, c_miss, c_fa, weights)


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """The log-likelihood ratio at which accepting and rejecting cost the same:
    ``log(c_fa (1 - p_target) / (c_miss p_target))``."""
    miss, false_alarm, _ = _costs(p_target, c_miss, c_fa)
    return float(np.log(false_alarm / miss))


def act_dcf(llrs, labels, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0, weights=None) -> float:
    """Normalised detection cost of natural-log likelihood ratios at the Bayes threshold; may exceed 1 when badly
    calibrated."""
    llrs, is_target = checked_trials(llrs, labels)
    accepted = llrs >= bayes_threshold(p_target, c_miss, c_fa)
    w_target, w_nontarget = _class_weights(is_target, weights)
    miss, false_alarm, default = _costs(p_target, c_miss, c_fa)
    fnr, fpr = 1.0 - accepted[is_target] @ w_target, accepted[~is_target] @ w_nontarget
    return float((miss * fnr + false_alarm * fpr) / default)


def cllr(llrs, labels, weights=None) -> float:
    """Cost of natural-log likelihood ratios in bits: ``(mean_tgt log2(1+e^-llr) + mean_non log2(1+e^llr)) / 2``.

    0 is perfect, 1 is what ``llr = 0`` for every trial costs, more than 1 does harm.
    """
    llrs, is_target = checked_trials(llrs, labels)
    w_target, w_nontarget = _class_weights(is_target, weights)
    nats = np.logaddexp(0, -llrs[is_target]) @ w_target + np.logaddexp(0, llrs[~is_target]) @ w_nontarget
    return float(nats / (2 * np.log(2)))


def min_cllr(scores, labels, weights=None) -> float:
    """Cllr after the best non-decreasing map from score to LLR (pool adjacent violators): what discrimination alone
    allows."""
    return RankedTrials(scores, labels).min_cllr(weights)


def det_points(scores, labels, max_points: int | None = 2000) -> Roc:
    """The operating points of a DET curve, thinned to about ``max_points``: corners evenly spaced in each error rate's
    rank.

    Plot ``fpr`` against ``fnr`` on probit axes. Points at which a rate is 0 or 1 are kept: they have no place on a
    probit axis, so clip them to its limits.
    """
    points = roc(scores, labels)
    if max_points is None or len(points.fnr) <= max_points:
        return points
    # Equal steps along log fnr and log fpr, because the axes stretch the small rates.
    targets = np.geomspace(1e-7, 1.0, max_points // 2)
    keep = np.unique(
        np.concatenate(
            [
                [0, len(points.fnr) - 1],
                np.searchsorted(points.fnr, targets).clip(max=len(points.fnr) - 1),
                np.searchsorted(-points.fpr, -targets).clip(max=len(points.fnr) - 1),
            ]
        )
    )
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


def _class_weights(is_target: np.ndarray, weights) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the targets and of the non-targets, each summing to 1."""
    weights = np.ones(len(is_target)) if weights is None else np.asarray(weights, dtype=np.float64)
    parts = weights[is_target], weights[~is_target]
    if min(part.sum() for part in parts) <= 0:
        raise UserError("all trials of one class have weight 0: both target and non-target trials are needed")
    return parts[0] / parts[0].sum(), parts[1] / parts[1].sum()
