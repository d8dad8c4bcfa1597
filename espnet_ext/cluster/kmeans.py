"""K-means on the CPU or a GPU: Euclidean or spherical (cosine), k-means++ start, Lloyd or mini-batch steps."""

import logging
import time
from dataclasses import dataclass, field

import numpy as np
import torch

from espnet_ext.cluster.minibatch import SLACK, MiniBatch
from espnet_ext.cluster.relocate import relocated
from espnet_ext.cluster.search import Rows, Search
from espnet_ext.cluster.seeds import plus_plus
from espnet_ext.cluster.vectors import ROWS_AT_ONCE, as_unit, sums_of, to_vectors
from espnet_ext.errors import UserError

SAMPLE = 128  # vectors per centroid: the start is drawn from so many, and improved on them; then on 8 times as many
SAMPLE_ITERATIONS = 10
RELOCATIONS = 6  # rounds of relocation on the sample
POOL = 20_000  # vectors among which those for empty clusters are looked for


@dataclass
class KMeans:
    """What ``kmeans`` found; tensors where the input was a tensor, numpy arrays where it was an array.

    centroids: ``(k, D)`` float32, of length 1 where the metric is cosine.
    labels: ``(N,)`` int64, the nearest centroid of every vector.
    inertia: sum of the squared distances (cosine: of 1 - cosine) of all vectors from their nearest centroids.
    history: inertia of every iteration over all vectors, of the best start.
    seconds: wall time since the call when that iteration ended.
    """

    centroids: torch.Tensor | np.ndarray
    labels: torch.Tensor | np.ndarray
    inertia: float
    history: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def kmeans(
    x: torch.Tensor | np.ndarray,
    k: int,
    metric: str = "cosine",
    iterations: int = 50,
    restarts: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    tolerance: float = 1e-4,
    log: bool = False,
) -> KMeans:
    """Cluster the rows of ``x (N, D)`` into ``k`` clusters, 1 to N.

    The start is greedy k-means++ on a sample, improved there by Lloyd's steps and relocations (see ``relocate``) where
    N is many times k; the rest are Lloyd's steps on all vectors. A cluster that loses all its vectors gets one of
    those that lie farthest from their centroids. ``labels`` and ``inertia`` are exact for the ``centroids`` that are
    returned (see ``search``).

    Args:
        metric: ``cosine``: spherical k-means, vectors and centroids have length 1; or ``euclidean``.
        iterations: over all vectors, at most.
        restarts: starts with seeds ``seed``, ``seed + 1``, …; the one of least inertia is kept.
        batch_size: mini-batch steps (Sculley 2010) with so many vectors instead of Lloyd's; None: Lloyd.
        tolerance: stop where an iteration lowers the inertia by less than this share of it.

    The same seed on the same machine gives the same result.
    """
    start = time.perf_counter()
    home = None if not torch.is_tensor(x) else x.device
    data = to_vectors(x, metric, device, "k-means")
    if not 1 <= k <= len(data):
        raise UserError(f"k-means: {k} clusters from {len(data)} vectors; ask for 1 to {len(data)}")
    if restarts < 1 or iterations < 1 or (batch_size is not None and batch_size < 1):
        raise UserError("k-means: iterations, restarts and the batch size must be 1 or more")
    best = None
    with torch.no_grad():
        rows = Rows.of(data, mean_of(data))
        for restart in range(restarts):
            run = _Run(rows, k, metric, np.random.default_rng(seed + restart), tolerance, start, log)
            run.warm_up()
            run.mini_batches(batch_size, iterations) if batch_size else run.lloyd(iterations)
            if best is None or run.history[-1] < best.history[-1]:
                best = run
        labels = Search(best.centres).nearest(data)
        total = inertia(data, best.centres, labels, metric)
    found = (best.centres.cpu().numpy(), labels.cpu().numpy()) if home is None else (best.centres.to(home), labels)
    return KMeans(found[0], found[1] if home is None else labels.to(home), total, best.history, best.seconds)


def assign(
    x: torch.Tensor | np.ndarray,
    centroids: torch.Tensor | np.ndarray,
    metric: str = "cosine",
    device: str | torch.device | None = None,
) -> torch.Tensor | np.ndarray:
    """Number of the nearest centroid of every row of ``x (N, D)``: ``(N,)`` int64, equal ones by the lower number.

    Neither the device nor how many rows are given at once changes an answer: what float32 cannot tell apart is
    compared in float64. Memory beside ``x`` is bounded.
    """
    home = None if not torch.is_tensor(x) else x.device
    where = device or (x.device if torch.is_tensor(x) else "cpu")
    search = Search(to_vectors(centroids, metric, where, "centroids"))
    if x.ndim != 2 or x.shape[1] != search.dim:
        raise UserError(f"vectors of shape (N, {search.dim}) are needed to meet these centroids, got {tuple(x.shape)}")
    parts = [
        search.nearest(to_vectors(x[first : first + ROWS_AT_ONCE], metric, where, "vectors"))
        for first in range(0, len(x), ROWS_AT_ONCE)
    ]
    labels = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
    return labels.cpu().numpy() if home is None else labels.to(home)


def mean_of(data: torch.Tensor) -> torch.Tensor:
    """Mean of the rows, summed in float64 without a copy in float64."""
    total = torch.zeros(data.shape[1], dtype=torch.float64, device=data.device)
    for part in data.split(ROWS_AT_ONCE):
        total += part.sum(0, dtype=torch.float64)
    return (total / len(data)).float()


def inertia(data: torch.Tensor, centres: torch.Tensor, labels: torch.Tensor, metric: str = "euclidean") -> float:
    """Sum of the squared distances of the rows from their centroids; of 1 - cosine where both have length 1."""
    total = torch.zeros((), dtype=torch.float64, device=data.device)
    for part, label in zip(data.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True):
        total += (part - centres[label]).square_().sum(1).sum(dtype=torch.float64)
    return float(total) * (0.5 if metric == "cosine" else 1.0)  # |a - b|^2 = 2 (1 - cos) for lengths 1


class _Run:
    """One start: its centroids, and the sums of the vectors that belong to them."""

    def __init__(self, rows: Rows, k: int, metric: str, rng: np.random.Generator, tolerance: float, start, log: bool):
        self.rows, self.k, self.metric, self.rng = rows, k, metric, rng
        self.tolerance, self.start, self.log = tolerance, start, log
        self.history, self.seconds = [], []
        self.centres = None

    def sample(self, size: int) -> Rows:
        """Some of the rows, in their order; all of them where ``size`` is as many."""
        if size >= len(self.rows):
            return self.rows
        chosen = np.sort(self.rng.choice(len(self.rows), size, replace=False))
        return self.rows[torch.from_numpy(chosen).to(self.rows.wide.device)]

    def warm_up(self) -> None:
        """Start with k-means++ on a sample; where that is a small part, improve it there and on larger samples."""
        size = SAMPLE * self.k
        sample = self.sample(size)
        vectors = sample.vectors.contiguous()
        self.centres = self.settle(vectors[plus_plus(vectors, self.k, self.rng)])
        self.sampled = 2 * size <= len(self.rows)
        while 2 * size <= len(self.rows):
            lloyd = _Lloyd(self, sample)
            lloyd.steps(SAMPLE_ITERATIONS, 10 * self.tolerance)
            if size == SAMPLE * self.k:
                lloyd.relocations(RELOCATIONS, SAMPLE_ITERATIONS // 2, 10 * self.tolerance)
            size *= 8
            sample = self.sample(size) if 2 * size <= len(self.rows) else None

    def settle(self, shifted: torch.Tensor) -> torch.Tensor:
        """Centroids from means less the shift."""
        return as_unit(shifted + self.rows.shift, self.metric)

    def lloyd(self, iterations: int) -> None:
        """Lloyd's steps on all rows, and relocations where the start was not made good on a sample."""
        lloyd = _Lloyd(self, self.rows)
        lloyd.steps(iterations, self.tolerance, self.note)
        if not self.sampled:
            lloyd.relocations(RELOCATIONS // 2, iterations - len(self.history), self.tolerance, self.note)

    def note(self, value: float) -> None:
        """Keep, and say, the inertia of an iteration."""
        self.history.append(value * (0.5 if self.metric == "cosine" else 1.0))
        self.seconds.append(time.perf_counter() - self.start)
        if self.log:
            logging.info(f"k-means iteration {len(self.history)}: inertia {self.history[-1]:.6g}")

    def mini_batches(self, size: int, iterations: int) -> None:
        """Mini-batch steps: every centroid is the mean of all vectors it ever got, in passes over shuffled rows."""
        state = MiniBatch(self.centres, self.metric, self.rows.shift)
        before = np.inf
        for _ in range(iterations):
            order = torch.from_numpy(self.rng.permutation(len(self.rows))).to(self.rows.wide.device)
            total = sum(state.step(self.rows[part]) for part in order.split(size))
            self.note(total)
            if total > (1 - self.tolerance) * before:
                break
            before = total
        # A last step of Lloyd's: centroids become the means of what they have, as every other way ends.
        self.centres = state.centres
        self.lloyd(1)


class _Lloyd:
    """Lloyd's steps on some rows: sums are kept, and only vectors that move change them."""

    def __init__(self, run: _Run, rows: Rows):
        self.run, self.rows = run, rows
        self.squares = float(rows.length.double().square().sum())
        self.labels = self.sums = self.counts = None

    def relocations(self, rounds: int, iterations: int, tolerance: float, note=lambda value: None) -> None:
        """Move centroids to where they gain more, and step, while that lowers the inertia; then stay with the best."""
        for _ in range(rounds):
            before, centres = self.value, self.run.centres
            means = self.sums / self.counts.clamp(min=1)[:, None]
            moved = relocated(self.rows, self.labels, means, self.counts, self.run.rng) if iterations > 1 else None
            if moved is None:
                return
            self.run.centres = self.run.settle(moved.float())
            values = []
            self.steps(iterations, tolerance, values.append)
            if self.value >= (1 - tolerance) * before:
                self.run.centres = centres
                return
            for value in values:
                note(value)

    def steps(self, iterations: int, tolerance: float, note=lambda value: None) -> None:
        """Assign and average until the inertia (``note`` gets it) falls by less than ``tolerance`` of it."""
        before = np.inf
        for _ in range(iterations):
            centres = self.run.centres
            self.relabel(Search(centres, self.rows.shift).nearest(self.rows, slack=SLACK))
            self.value = value = self.inertia(centres)
            note(value)
            empty = (self.counts == 0).nonzero()[:, 0]
            means = self.sums / self.counts.clamp(min=1)[:, None]
            if len(empty):
                means[empty] = self.farthest(centres, len(empty)).double()
            self.run.centres = self.run.settle(means.float())
            if not len(empty) and value >= (1 - tolerance) * before:
                break
            before = value

    def inertia(self, centres: torch.Tensor) -> float:
        """Sum of squared distances from the centroids by ``sum |x|^2 - 2 sum_k S_k . c_k + sum_k n_k |c_k|^2``."""
        c = (centres - self.rows.shift).double()
        return max(0.0, self.squares + float((c * (self.counts[:, None] * c - 2 * self.sums)).sum()))

    def relabel(self, labels: torch.Tensor) -> None:
        """Take new labels, and bring the sums with them."""
        moved = None if self.labels is None else (labels != self.labels).nonzero()[:, 0]
        if moved is None or 2 * len(moved) > len(labels):
            self.sums, self.counts = sums_of(self.rows.vectors, labels, self.run.k)
        else:
            for part in moved.split(ROWS_AT_ONCE):
                vectors = self.rows.vectors[part]
                for sign, to in ((1, labels[part]), (-1, self.labels[part])):
                    sums, counts = sums_of(vectors, to, self.run.k)
                    self.sums += sign * sums
                    self.counts += sign * counts
        self.labels = labels

    def farthest(self, centres: torch.Tensor, count: int) -> torch.Tensor:
        """Vectors far from their centroids, and from each other: else all would come from one outlying group."""
        shifted = centres - self.rows.shift
        parts = zip(self.rows.vectors.split(ROWS_AT_ONCE), self.labels.split(ROWS_AT_ONCE), strict=True)
        distance = torch.cat([(part - shifted[label]).square_().sum(1) for part, label in parts])
        pool = distance.argsort(descending=True, stable=True)[: max(count, min(32 * count, POOL))]
        vectors, distance = self.rows.vectors[pool], distance[pool]
        chosen = []
        for _ in range(count):
            chosen.append(int(distance.argmax()))
            distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).square_().sum(1))
            distance[chosen[-1]] = -1
        return vectors[chosen]
