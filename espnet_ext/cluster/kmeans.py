"""K-means on the CPU or a GPU: Euclidean or spherical (cosine), k-means++ start, Lloyd or mini-batch steps."""

from dataclasses import dataclass, field

import numpy as np
import torch

from espnet_ext.errors import UserError, check_choices

METRICS = ("cosine", "euclidean")
BLOCK_ELEMENTS = 4_000_000  # distances held at once, 16 MB of float32


@dataclass
class KMeans:
    """What ``kmeans`` found; tensors where the input was a tensor, numpy arrays where it was an array.

    centroids: ``(k, D)`` float32, of length 1 where the metric is cosine.
    labels: ``(N,)`` int64, the nearest centroid of every vector.
    inertia: sum of the squared distances (cosine: of 1 - cosine) of all vectors from their centroids.
    history: inertia before every iteration, of the best start.
    """

    centroids: torch.Tensor
    labels: torch.Tensor
    inertia: float
    history: list[float] = field(default_factory=list)


def kmeans(
    x: torch.Tensor | np.ndarray,
    k: int,
    metric: str = "cosine",
    iterations: int = 50,
    restarts: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> KMeans:
    """Cluster the rows of ``x (N, D)`` into ``k`` clusters."""
    data, back = prepare(x, metric, device)
    if not 1 <= k <= len(data):
        raise UserError(f"k-means: {k} clusters from {len(data)} vectors; ask for 1 to {len(data)} clusters")
    best = None
    for restart in range(restarts):
        generator = torch.Generator().manual_seed(seed + restart)
        run = _lloyd(data, k, metric, iterations, generator)
        if best is None or run.inertia < best.inertia:
            best = run
    return KMeans(back(best.centroids), back(best.labels), best.inertia, best.history)


def assign(x, centroids, metric: str = "cosine", device=None):
    """Number of the nearest centroid of every row of ``x (N, D)``: ``(N,)`` int64."""
    data, back = prepare(x, metric, device)
    centres = torch.as_tensor(centroids, dtype=torch.float32, device=data.device)
    return back(_nearest(data, centres)[0])


def prepare(x, metric, device):
    """The rows as float32 on the device (length 1 for cosine), and what brings a result back to the caller's kind."""
    check_choices("k-means", ("metric", metric, METRICS))
    is_array = not torch.is_tensor(x)
    home = torch.device("cpu") if is_array else x.device
    data = torch.as_tensor(x).to(device or home, torch.float32)
    if data.ndim != 2 or 0 in data.shape:
        raise UserError(f"k-means: vectors of shape (N, D) are needed, got {tuple(data.shape)}")
    if not bool(torch.isfinite(data).all()):
        raise UserError("k-means: NaN or infinite values in the vectors; find out what made them")
    if metric == "cosine":
        norms = data.norm(dim=1, keepdim=True)
        if bool((norms == 0).any()):
            raise UserError("k-means: a vector of zeros has no direction; leave it out or use the Euclidean metric")
        data = data / norms
    return data, (lambda t: t.cpu().numpy()) if is_array else (lambda t: t.to(home))


def _nearest(data, centres):
    squares = centres.square().sum(1) / 2
    labels = torch.empty(len(data), dtype=torch.int64, device=data.device)
    costs = torch.empty(len(data), device=data.device)
    for first in range(0, len(data), rows := max(1, BLOCK_ELEMENTS // len(centres))):
        block = data[first : first + rows]
        value, index = torch.addmm(squares, block, centres.T, alpha=-1).min(1)
        labels[first : first + rows] = index
        costs[first : first + rows] = (2 * value + block.square().sum(1)).clamp_(min=0)
    return labels, costs


def _lloyd(data, k, metric, iterations, generator):
    centres = _seeds(data, k, generator)
    history = []
    scale = 0.5 if metric == "cosine" else 1.0  # on the unit sphere |a - b|^2 = 2 (1 - cos)
    before = None
    for _ in range(iterations):
        labels, costs = _nearest(data, centres)
        history.append(scale * float(costs.double().sum()))
        if before is not None and torch.equal(labels, before):
            break
        before = labels
        centres = _means(data, labels, costs, k)
        if metric == "cosine":
            centres = torch.nn.functional.normalize(centres, dim=1)
    labels, costs = _nearest(data, centres)
    return KMeans(centres, labels, scale * float(costs.double().sum()), history)


def _means(data, labels, costs, k):
    sums = torch.zeros(k, data.shape[1], device=data.device).index_add_(0, labels, data)
    counts = torch.bincount(labels, minlength=k)
    empty = (counts == 0).nonzero()[:, 0]
    centres = sums / counts.clamp(min=1)[:, None]
    if len(empty):
        centres[empty] = data[costs.topk(len(empty)).indices]
    return centres


def _seeds(data, k, generator):
    sample = data[torch.randperm(len(data), generator=generator)[: max(20 * k, 10_000)].to(data.device)]
    chosen = [int(torch.randint(len(sample), (1,), generator=generator))]
    nearest = (sample - sample[chosen[0]]).square().sum(1)
    for _ in range(1, k):
        weights = nearest.double().cpu()
        if not bool(weights.sum() > 0):
            weights = torch.ones_like(weights)
        at = torch.rand(1, generator=generator, dtype=torch.float64) * weights.sum()
        chosen.append(int(torch.searchsorted(weights.cumsum(0), at).clamp(max=len(sample) - 1)))
        nearest = torch.minimum(nearest, (sample - sample[chosen[-1]]).square().sum(1))
    return sample[torch.tensor(chosen, device=data.device)].clone()
