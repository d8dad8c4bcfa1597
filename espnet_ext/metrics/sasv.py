"""The architecture-agnostic detection cost of spoofing-robust speaker verification (a-DCF)."""

import numpy as np

from espnet_ext.errors import UserError


def min_a_dcf(
    scores,
    labels,
    p_target: float = 0.9405,
    p_nontarget: float = 0.0095,
    p_spoof: float = 0.05,
    c_miss: float = 1.0,
    c_fa_nontarget: float = 10.0,
    c_fa_spoof: float = 10.0,
) -> tuple[float, float]:
    """Minimum normalised a-DCF and its threshold (accept at or above it), defaults of ASVspoof 5.

    Shim et al., "a-DCF: an architecture agnostic metric with application to spoofing-robust speaker verification",
    2024: ``C_miss p_tgt P_miss(t) + C_fa,non p_non P_fa,non(t) + C_fa,spf p_spf P_fa,spf(t)``, divided by the cost of
    the better of "accept nothing" and "accept everything", minimised over thresholds that never split equal scores.

    Args:
        scores: ``(N,)``, higher means the enrolled speaker, and real speech.
        labels: ``(N,)``: 1 target, 0 non-target, 2 spoof.

    Raises:
        UserError: a class without trials, NaN scores, other labels, priors or costs that are not positive.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    weights = np.array([c_fa_nontarget * p_nontarget, c_miss * p_target, c_fa_spoof * p_spoof])
    if scores.ndim != 1 or scores.shape != labels.shape or np.isnan(scores).any():
        raise UserError("a-DCF needs one score, not NaN, and one label per trial")
    if set(np.unique(labels)) != {0, 1, 2}:
        raise UserError("a-DCF needs trials of all three kinds, labelled 1 (target), 0 (non-target) and 2 (spoof)")
    if (weights <= 0).any():
        raise UserError("the priors and costs of a-DCF must be positive")
    thresholds = np.append(np.unique(scores), np.inf)
    below = [np.searchsorted(np.sort(scores[labels == kind]), thresholds) for kind in range(3)]
    rejected = [counts / counts[-1] for counts in below]
    costs = weights[0] * (1 - rejected[0]) + weights[1] * rejected[1] + weights[2] * (1 - rejected[2])
    best = int(np.argmin(costs))
    return float(costs[best] / min(weights[1], weights[0] + weights[2])), float(thresholds[best])
