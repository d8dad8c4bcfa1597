"""Do two series of numbers go together: Pearson, Spearman, and what choosing by one costs in the other (numpy only)."""

import numpy as np

from espnet_ext.errors import UserError


def pearson(x, y) -> float:
    """Pearson's correlation of two series (n,), -1 to 1; NaN for fewer than 2 pairs, or where one does not vary."""
    x, y = _pair(x, y)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    # Scaled first: squares of tiny or huge numbers would leave float64.
    x, y = ((z - z.mean()) / np.abs(z - z.mean()).max() for z in (x, y))
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman(x, y) -> float:
    """Spearman's rank correlation of two series (n,): Pearson's of their places, equal numbers sharing a place."""
    x, y = _pair(x, y)
    return pearson(places(x), places(y))


def places(x) -> np.ndarray:
    """Return the place of every number of (n,), from 1; equal numbers have the mean of their places."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def regret(criterion, score) -> float:
    """Best score (higher is better) minus the score where ``criterion`` is highest; of several such the mean score."""
    criterion, score = _pair(criterion, score)
    return float(score.max() - score[criterion == criterion.max()].mean())


def _pair(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise UserError(f"two series of the same length are needed; got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError("a series to correlate holds NaN or infinity")
    return x, y
