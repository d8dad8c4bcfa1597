"""Greedy k-means++ starts (Arthur & Vassilvitskii 2007; greedy: the best of a few draws), drawn in batches."""

import math

import numpy as np
import torch

from espnet_ext.cluster.vectors import BLOCK_ELEMENTS, low_precision

GROWTH = 0.1  # a batch of new centroids is this share of those that are there
LARGEST_BATCH = 4096


def plus_plus(x: torch.Tensor, k: int, rng: np.random.Generator, trials: int | None = None) -> torch.Tensor:
    """Row numbers of ``k`` starting centroids among ``x (N, D)``, int64, all different.

    A centroid is the best of ``trials`` rows (default: 2 + ln k) that are drawn with probability ~ D(x)^2, the squared
    distance from the nearest centroid so far: the one that lowers the sum of D^2 most. A batch of centroids is drawn
    by the distances from those before the batch; one that another of its batch has come nearer to since is kept with
    probability D_now^2 / D_then^2 only. With one trial that is rejection sampling of the very distribution of one draw
    after another, at N distances to each batch in one product of matrices. Where fewer than ``k`` different vectors
    exist, the rest are drawn from the rows that are left.
    """
    trials = 2 + int(math.log(k)) if trials is None else trials
    squares = x.square().sum(1)
    first = int(rng.integers(len(x)))
    chosen = [first]
    near = torch.empty_like(squares)
    near[:] = torch.inf
    _bring_near(x, squares, near, chosen)
    while len(chosen) < k:
        weights = near.double().cpu().numpy()
        above = np.cumsum(weights)
        if not above[-1] > 0:
            left = np.setdiff1d(np.arange(len(x)), chosen)
            chosen += rng.choice(left, k - len(chosen), replace=False).tolist()
            break
        batch = min(max(1, int(GROWTH * len(chosen))), k - len(chosen), LARGEST_BATCH)
        drawn = np.searchsorted(above, rng.random((batch, trials)) * above[-1], side="right").clip(max=len(x) - 1)
        drawn = np.where(weights[drawn] > 0, drawn, int(weights.argmax()))
        gain = _gains(x, squares, near, drawn.reshape(-1)).reshape(batch, trials)
        best = drawn[np.arange(batch), gain.argmax(1)]
        kept = _thin(x[torch.from_numpy(best).to(x.device)], weights[best], rng.random(batch))
        new = best[kept].tolist()
        chosen += new
        _bring_near(x, squares, near, new)
    return torch.tensor(chosen, device=x.device)


def _thin(candidates: torch.Tensor, then: np.ndarray, chance: np.ndarray) -> list[int]:
    """The candidates that are kept, in their order; ``then`` are their squared distances when they were drawn."""
    if len(candidates) == 1:
        return [0]
    now = then.copy()
    kept = []
    apart = torch.cdist(candidates.double(), candidates.double()).square_().cpu().numpy()
    for number in range(len(candidates)):
        if chance[number] * then[number] < now[number]:
            kept.append(number)
            np.minimum(now, apart[number], out=now)
    return kept


def _distances(x: torch.Tensor, squares: torch.Tensor, rows: torch.Tensor):
    """Yield (part of x, squared distances ``(part, rows)``): roundings of bfloat16 are small beside a random draw."""
    centres, bias = x[rows].T.contiguous(), squares[rows]
    size = max(1, BLOCK_ELEMENTS // len(rows))
    with low_precision():
        for first in range(0, len(x), size):
            part = slice(first, first + size)
            table = torch.mm(x[part], centres)
            yield part, torch.sub(bias, table, alpha=2, out=table).add_(squares[part, None])


def _gains(x: torch.Tensor, squares: torch.Tensor, near: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """By how much each of the ``rows`` as a centroid would lower the sum of ``near``."""
    if len(rows) == 1:
        return np.zeros(1)
    at = torch.from_numpy(rows).to(x.device)
    gain = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
    for part, table in _distances(x, squares, at):
        gain += torch.sub(near[part, None], table, out=table).clamp_(min=0).sum(0)
    return gain.cpu().numpy()


def _bring_near(x: torch.Tensor, squares: torch.Tensor, near: torch.Tensor, rows: list[int]) -> None:
    """Lower ``near`` to the squared distances from new centroids."""
    at = torch.tensor(rows, device=x.device)
    for part, table in _distances(x, squares, at):
        near[part] = torch.minimum(near[part], table.amin(1)).clamp_(min=0)
    near[at] = 0  # rounding could leave a chance to be drawn again
