"""Confidence intervals of detection metrics by resampling speakers.

Trials of one speaker go wrong together, so resampling trials gives intervals that are far too narrow. Here the
speakers are drawn with replacement (both sides of every trial follow): a non-target trial of speakers a and b counts
``m_a m_b`` times when they were drawn ``m_a`` and ``m_b`` times, and a target trial of speaker a counts ``m_a`` times,
because every copy of a speaker brings that speaker's own trials. Both counts are 1 on average.
"""

from collections.abc import Callable, Mapping

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.metrics.detection import Curve, RankedTrials


def speaker_weights(rng: np.random.Generator, speaker_a: np.ndarray, speaker_b: np.ndarray, num: int) -> np.ndarray:
    """Weights ``(N,)`` of trials between speakers ``0 <= a, b < num`` in one resampling of the speakers."""
    times = rng.multinomial(num, np.full(num, 1 / num)).astype(np.float64)
    return np.where(speaker_a == speaker_b, times[speaker_a], times[speaker_a] * times[speaker_b])


def confidence_intervals(
    ranked: RankedTrials,
    speaker_a: np.ndarray,
    speaker_b: np.ndarray,
    metrics: Mapping[str, Callable[[Curve], float]],
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of metrics over resampled speakers.

    Args:
        ranked: the trials.
        speaker_a, speaker_b: speaker numbers ``(N,)`` of the two sides, from 0.
        metrics: by name, what to compute from a ``Curve``, for example ``{"eer": Curve.eer}``.
        num_samples: how many resamplings; those that lose all target or all non-target trials are left out.
        level: the share of resamplings between the two ends.

    Returns:
        ``{name: (low, high)}``; NaN ends where fewer than two speakers take part.
    """
    if num_samples < 2 or not 0 < level < 1:
        raise UserError(f"a bootstrap needs at least 2 samples and 0 < level < 1, got {num_samples} and {level}")
    speaker_a, speaker_b = speaker_a[ranked.order], speaker_b[ranked.order]
    num_speakers = int(max(speaker_a.max(), speaker_b.max())) + 1
    rng = np.random.default_rng(seed)
    values = np.full((num_samples, len(metrics)), np.nan)
    for row in values:
        weights = speaker_weights(rng, speaker_a, speaker_b, num_speakers)
        target = weights @ ranked.is_target
        if 0 < target < weights.sum():
            curve = ranked.curve(weights, is_ranked=True)
            row[:] = [metric(curve) for metric in metrics.values()]
    values = values[~np.isnan(values).any(1)]
    if len(values) < 2:
        return {name: (float("nan"), float("nan")) for name in metrics}
    ends = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(ends[0, k]), float(ends[1, k])) for k, name in enumerate(metrics)}
