"""How many dimensions vectors use: RankMe, RankMe-t for speech (arXiv 2409.10787), and companions (numpy only).

RankMe grows with the number of vectors and is bounded by it: numbers of different lists, numbers of utterances, layers
or widths do not compare. Vectors are not centred: a common offset, which is a collapse, has to lower it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from espnet_ext.errors import UserError

EPS = 1e-7
POOLS = ("sum", "mean")
# Rows that are multiplied into a Gram matrix at a time, at least.
_BLOCK_ROWS = 512


def rankme(vectors: np.ndarray, eps: float = EPS) -> float:
    """RankMe of vectors (N, K), by the singular values of the matrix as it is, in float64: 1 to min(N, K).

    ``exp(-sum_i p_i log p_i)`` with ``p_i = sigma_i / sum_j sigma_j + eps``, equation 1 of arXiv 2210.02885. The
    reference for everything here. Errors: ``UserError`` for fewer than 2 vectors, NaN or infinity.
    """
    vectors = _checked(vectors)
    _enough(len(vectors))
    return rankme_of_spectrum(np.linalg.svd(vectors, compute_uv=False), eps)


def rankme_of_spectrum(sigma: np.ndarray, eps: float = EPS) -> float:
    """RankMe from singular values (m,), any order; m is min(N, K), so that ``eps`` is added as often in every way."""
    total = sigma.sum()
    p = (sigma / total if total > 0 else np.zeros_like(sigma)) + eps
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def rankme_t(utterances: Iterable[np.ndarray], pool: str = "sum", eps: float = EPS) -> float:
    """RankMe-t of utterances, each (frames, K) without padding: RankMe of their sums over time.

    ``RankMe(Z_1 + … + Z_Tmax)``, Z_t the t-th frames, zero where an utterance has ended (arXiv 2409.10787). The mean
    instead of the sum (``pool``) leaves out what an utterance's length says.
    """
    pools = {"sum": np.sum, "mean": np.mean}
    if pool not in pools:
        raise UserError(f"pool must be {' or '.join(POOLS)}; got {pool}")
    rows = [pools[pool](np.asarray(frames, dtype=np.float64), axis=0) for frames in utterances]
    _enough(len(rows))
    return rankme(np.stack(rows), eps)


@dataclass(frozen=True)
class Rank:
    """What a list of vectors says of an encoder's layer.

    rankme: effective rank. share: the same divided by its bound min(N, K). mean_cosine: of all pairs, 1 where all
    point the same way. unit_std: mean over dimensions of the standard deviation of the vectors scaled to length 1,
    1/sqrt(K) where they point everywhere, 0 where they are all the same.
    """

    rankme: float
    share: float
    mean_cosine: float
    unit_std: float
    num_vectors: int
    size: int


class RankAccumulator:
    """Takes vectors of ``size`` numbers in any portions, and keeps at most about 2 K^2 numbers, whatever their count.

    Up to K vectors are kept as they are, and their singular values are exact; beyond that the Gram matrix is kept.
    """

    def __init__(self, size: int, what: str = "vectors"):
        self.size, self.what = size, what
        self.count = 0
        self._rows: list[np.ndarray] = []
        self._held = 0
        self._gram: np.ndarray | None = None
        self._directions = 0
        self._unit_sum, self._unit_squares = np.zeros(size), np.zeros(size)

    def add(self, vectors: np.ndarray) -> None:
        """Take vectors (n, K). Errors: ``UserError`` for NaN, infinity, or another size."""
        rows = _checked(vectors, self.what)
        if rows.shape[1] != self.size:
            raise UserError(f"{self.what}: vectors of {rows.shape[1]} numbers among vectors of {self.size}")
        norms = np.linalg.norm(rows, axis=1)
        units = rows[norms > 0] / norms[norms > 0, None]
        self._directions += len(units)
        self._unit_sum += units.sum(axis=0)
        self._unit_squares += np.square(units).sum(axis=0)
        self.count += len(rows)
        self._rows.append(rows.copy())
        self._held += len(rows)
        if self.count > self.size and self._held >= _BLOCK_ROWS:
            self._fold()

    def _fold(self) -> None:
        if self._held:
            rows = np.concatenate(self._rows)
            gram = rows.T @ rows
            self._gram = gram if self._gram is None else np.add(self._gram, gram, out=self._gram)
        self._rows, self._held = [], 0

    def spectrum(self) -> np.ndarray:
        """Return the min(N, K) singular values of all vectors, largest first."""
        _enough(self.count, self.what)
        if self._gram is None and self.count <= self.size:
            return np.linalg.svd(np.concatenate(self._rows), compute_uv=False)
        self._fold()
        return _spectrum_of_gram(self._gram, self.count)

    def rank(self, eps: float = EPS) -> Rank:
        """Return RankMe and its companions of all vectors so far."""
        value = rankme_of_spectrum(self.spectrum(), eps)
        n = self._directions
        cosine = (self._unit_sum @ self._unit_sum - n) / (n * (n - 1)) if n > 1 else float("nan")
        mean = self._unit_sum / max(n, 1)
        variance = np.maximum(self._unit_squares / max(n, 1) - mean**2, 0)
        bound = min(self.count, self.size)
        return Rank(value, value / bound, float(cosine), float(np.sqrt(variance).mean()), self.count, self.size)


def inertia(vectors: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance of vectors (N, K) to their centroids (k, K)."""
    return float(np.square(vectors - centroids[labels]).sum(axis=1).mean())


def davies_bouldin(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Davies–Bouldin index: mean over clusters a of the largest ``(s_a + s_b) / |C_a - C_b|``; less is better.

    vectors (N, K); s is the mean distance to the own centre C. NaN where there are fewer than 2 clusters.
    """
    kept, labels = np.unique(labels, return_inverse=True)
    if len(kept) < 2:
        return float("nan")
    counts = np.bincount(labels)
    centres = np.zeros((len(kept), vectors.shape[1]))
    np.add.at(centres, labels, vectors)
    centres /= counts[:, None]
    spread = np.bincount(labels, np.linalg.norm(vectors - centres[labels], axis=1)) / counts
    worst = np.empty(len(kept))
    for place, centre in enumerate(centres):  # a row at a time: k x k x K differences would not fit
        distance = np.linalg.norm(centres - centre, axis=1)
        distance[place] = np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            worst[place] = ((spread + spread[place]) / distance).max()
    return float(worst.mean())


def _spectrum_of_gram(gram: np.ndarray, num_vectors: int) -> np.ndarray:
    """Squaring costs half of the digits: good to 1e-6 on full-rank data, to about 1e-5 where the rank is small."""
    largest = np.linalg.eigvalsh(gram)[::-1][: min(num_vectors, len(gram))]
    return np.sqrt(np.maximum(largest, 0))


def _checked(vectors: np.ndarray, what: str = "vectors") -> np.ndarray:
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or not rows.shape[1]:
        raise UserError(f"{what}: (N, K) numbers are needed, got {rows.shape}")
    if not np.isfinite(rows).all():
        row = int((~np.isfinite(rows).all(axis=1)).argmax())
        raise UserError(f"{what}: vector {row} holds NaN or infinity; an encoder that gives them has diverged")
    return rows


def _enough(number: int, what: str = "vectors") -> None:
    if number < 2:
        raise UserError(f"{what}: the rank of {number} vector(s) says nothing; give at least 2 utterances")
