"""A linear classifier in closed form from streamed statistics: what a frozen layer says of classes, by a fixed rule."""

from dataclasses import dataclass

import numpy as np

from espnet_ext.errors import UserError

#: Share of the identity in the within-class covariance of standardised features: enough for dimensions that never vary.
SHRINKAGE = 1e-3


@dataclass(frozen=True)
class LinearClassifier:
    """``argmax_c x w_c + b_c`` with weights (K, C) and bias (C,)."""

    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the class of every row of (n, K)."""
        return (x @ self.weights + self.bias).argmax(axis=1)


class ClassStatistics:
    """Counts, means and the second moment of labelled vectors of ``size`` numbers; memory does not grow with them."""

    def __init__(self, size: int, num_classes: int):
        self.counts = np.zeros(num_classes)
        self.sums = np.zeros((num_classes, size))
        self.moment = np.zeros((size, size))
        self._origin: np.ndarray | None = None

    def add(self, x: np.ndarray, labels: np.ndarray) -> None:
        """Take vectors (n, K) with classes (n,) from 0."""
        if not len(x):
            return
        x = np.asarray(x, dtype=np.float64)
        if self._origin is None:
            self._origin = x.mean(axis=0)  # moments around about the mean: a large offset would cost digits
        x = x - self._origin
        one_hot = np.zeros((len(x), len(self.counts)))
        one_hot[np.arange(len(x)), labels] = 1
        self.counts += one_hot.sum(axis=0)
        self.sums += one_hot.T @ x
        self.moment += x.T @ x

    def fit(self, shrinkage: float = SHRINKAGE) -> LinearClassifier:
        """Return linear discriminant analysis: a Gaussian per class, one covariance for all, priors as counted.

        Features are scaled to variance 1 first; the covariance within classes is ``(1 - s) S + s tr(S)/K I``. Classes
        that never occurred are never the answer. Errors: ``UserError`` for fewer than 2 classes.
        """
        seen = np.flatnonzero(self.counts)
        if len(seen) < 2:
            raise UserError(f"a linear probe needs 2 classes or more; its training data has {len(seen)}")
        total = self.counts.sum()
        means = self.sums[seen] / self.counts[seen, None]
        mean = self.sums.sum(axis=0) / total
        within = (self.moment - (means.T * self.counts[seen]) @ means) / total
        spread = np.sqrt(np.maximum(np.diag(self.moment) / total - mean**2, 0))
        # A dimension that does not vary says nothing, and must not be divided by its rounding errors.
        scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-7 * max(spread.max(), 1e-300))
        within *= np.outer(scale, scale)
        ridge = max(np.trace(within) / len(within), 1e-12)
        within = (1 - shrinkage) * within + shrinkage * ridge * np.eye(len(within))
        scaled = means * scale
        weights = np.linalg.solve(within, scaled.T)
        bias = np.log(self.counts[seen] / total) - 0.5 * np.einsum("ck,kc->c", scaled, weights)
        weights *= scale[:, None]
        bias -= self._origin @ weights
        every = np.zeros((len(self.moment), len(self.counts)))
        offset = np.full(len(self.counts), -np.inf)
        every[:, seen], offset[seen] = weights, bias
        return LinearClassifier(every, offset)
