"""A way out of poor local optima of k-means: give up centroids that cost little, split clusters where that gains most.

Lloyd's steps cannot move a centroid across others. So every cluster is split in two on trial (gain: what its sum of
squares would fall by), every pair of near clusters is merged on trial (cost: Ward's), and the best splits take the
centroids of the cheapest merges while they gain clearly more (compare Fritzke 1997, "The LBG-U method").
"""

import numpy as np
import torch

from espnet_ext.cluster.search import Rows
from espnet_ext.cluster.vectors import ROWS_AT_ONCE, exact_float32, sums_of

MARGIN = 1.2  # a split has to gain so many times what the merge costs
SPLIT_STEPS = 2
MOST = 8192  # centroids; above that the table of all pairs would be too large, and N / k is too small for a gain


def relocated(
    rows: Rows, labels: torch.Tensor, means: torch.Tensor, counts: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor | None:
    """New means ``(k, D)`` (less the shift of ``rows``), None where no move promises a gain.

    Args:
        rows, labels: vectors and their clusters. means, counts: float64 ``(k, D)``, ``(k,)`` of the clusters.
    """
    k = len(means)
    if not 2 < k <= MOST:
        return None
    children, gain = split_all(rows, labels, means, rng)
    cost, partner = cheapest_merges(means, counts)
    gain, cost, partner = gain.cpu().numpy(), cost.cpu().numpy(), partner.cpu().numpy()
    splits, merges = np.argsort(-gain, kind="stable"), np.argsort(cost, kind="stable")
    used = np.zeros(k, dtype=bool)
    moves, at = [], 0
    for merge in merges[: k // 2]:
        if used[merge] or used[partner[merge]]:
            continue
        while at < k and (used[splits[at]] or splits[at] in (merge, partner[merge])):
            at += 1
        if at == k or gain[splits[at]] <= MARGIN * cost[merge]:
            break
        used[[merge, partner[merge], splits[at]]] = True
        moves.append((splits[at], merge, partner[merge]))
    if not moves:
        return None
    split, merge, stays = (torch.from_numpy(np.array(column)).to(means.device) for column in zip(*moves, strict=True))
    means = means.clone()
    share = (counts[merge] / (counts[merge] + counts[stays]).clamp(min=1))[:, None]
    means[stays] = means[stays] * (1 - share) + means[merge] * share
    means[split], means[merge] = children[split, 0], children[split, 1]
    return means


def split_all(rows: Rows, labels: torch.Tensor, means: torch.Tensor, rng: np.random.Generator):
    """Split every cluster in two: ``(means (k, 2, D), gain (k,))``, started from one member drawn by its distance^2."""
    k = len(means)
    centres = means.float()
    far = _drawn(rows, labels, centres, rng)
    children = torch.stack([centres, rows.vectors[far]], 1)
    for _ in range(SPLIT_STEPS):
        direction = children[:, 1] - children[:, 0]
        middle = (children.sum(1) / 2 * direction).sum(1)
        side = torch.cat([
            (part * direction[label]).sum(1) > middle[label]
            for part, label in zip(rows.vectors.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True)
        ])  # fmt: skip
        sums, counts = sums_of(rows.vectors, 2 * labels + side, 2 * k)
        found = (sums / counts.clamp(min=1)[:, None]).view(k, 2, -1)
        children = found.float()
    counts = counts.view(k, 2)
    apart = (found[:, 0] - found[:, 1]).square().sum(1)
    return found, apart * counts.prod(1) / counts.sum(1).clamp(min=1)


def _drawn(rows: Rows, labels: torch.Tensor, centres: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """One row of every cluster, drawn with probability ~ its squared distance (the largest exponential clock)."""
    parts = zip(rows.vectors.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True)
    distance = torch.cat([(part - centres[label]).square_().sum(1) for part, label in parts])
    clock = torch.from_numpy(rng.exponential(size=len(labels))).to(labels.device)
    key = distance.double() / clock
    best = key.new_zeros(len(centres)).scatter_reduce_(0, labels, key, "amax")
    last = (key == best[labels]).nonzero()[:, 0].flip(0)
    return torch.zeros_like(best, dtype=torch.int64).index_copy_(0, labels[last], last)


def cheapest_merges(means: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ward's cost of merging every cluster with the one it merges with most cheaply, and which that is."""
    points, weights = means.float(), counts.float()
    squares = points.square().sum(1)
    costs, partners = [], []
    with exact_float32():
        for part in torch.arange(len(points), device=points.device).split(1024):
            table = torch.addmm(squares, points[part], points.T, alpha=-2).add_(squares[part, None]).clamp_(min=0)
            pair = weights[part, None] + weights
            table *= weights[part, None] * weights / pair.clamp_(min=1)
            table.scatter_(1, part[:, None], torch.inf)
            cost, partner = table.min(1)
            costs.append(cost)
            partners.append(partner)
    return torch.cat(costs), torch.cat(partners)
