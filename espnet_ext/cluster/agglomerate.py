"""Agglomerative clustering (Ward, average cosine) in memory that grows with N, not with N squared.

Both linkages need no table of distances: a cluster is its mean and its size, Ward's cost of a merge is
``n_a n_b / (n_a + n_b) |m_a - m_b|^2``, and the average cosine distance between the members of two clusters is
``1 - m_a . m_b`` (means of unit vectors, not normalised). Both are reducible, which means that a merge never brings
a third cluster nearer than its nearer part was. So all pairs that are each other's nearest neighbours can be merged at
once, round after round, and the tree is the one that merging the nearest pair one at a time gives (Murtagh 1983).
"""

from dataclasses import dataclass

import numpy as np
import torch

from espnet_ext.cluster.vectors import BLOCK_ELEMENTS, exact_float32, rounding_bound, to_vectors
from espnet_ext.errors import UserError, check_choices

LINKAGES = ("ward", "average")


@dataclass
class Merges:
    """The merges in the order of their heights: ``first``, ``second`` are one input vector of each side, ``(M,)``.

    heights: Ward: increase of the sum of squares; average: average cosine distance of the two sides' members.
    """

    first: np.ndarray
    second: np.ndarray
    heights: np.ndarray


def agglomerate(x, k: int, linkage: str = "ward", sizes=None, device=None) -> np.ndarray:
    """Merge the rows of ``x (N, D)`` until ``k`` clusters are left; returns ``(N,)`` int64, 0 to k - 1.

    Args:
        x: tensor or array; ``average`` compares directions, so it makes the length of every row 1.
        k: clusters to be left, 1 to N.
        linkage: ``ward`` (Euclidean) or ``average`` (cosine).
        sizes: ``(N,)`` what every row stands for, above 0; None counts each row once, as the public code of the paper.
        device: where to compute; results do not depend on it.

    Clusters are numbered by their first row. Equal heights are merged in the order of the rows.
    """
    merges = merge_tree(x, linkage, sizes, k, device)
    return cut(merges, len(x), k)


def cut(merges: Merges, num_rows: int, k: int) -> np.ndarray:
    """The ``k`` clusters that the first ``num_rows - k`` merges leave."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    kept = slice(0, num_rows - k)
    edges = (merges.first[kept], merges.second[kept])
    graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(num_rows, num_rows))
    labels = connected_components(graph, directed=False)[1]
    order = np.unique(labels, return_index=True)[1].argsort().argsort()
    return order[labels].astype(np.int64)


def merge_tree(x, linkage: str = "ward", sizes=None, k: int = 1, device=None) -> Merges:
    """The merges that lead from the rows of ``x`` to ``k`` clusters (and a few more where k > 1)."""
    check_choices("agglomerative clustering", ("linkage", linkage, LINKAGES))
    data = to_vectors(x, "cosine" if linkage == "average" else "euclidean", device, "agglomerative clustering")
    if not 1 <= k <= len(data):
        raise UserError(
            f"agglomerative clustering: {k} clusters from {len(data)} vectors; ask for 1 to {len(data)} clusters"
        )
    weights = torch.ones(len(data), dtype=torch.float64)
    if sizes is not None:
        weights = torch.as_tensor(sizes, dtype=torch.float64).cpu()
        if weights.shape != (len(data),) or not bool((weights > 0).all() & weights.isfinite().all()):
            raise UserError("agglomerative clustering: one size above 0 is needed for every vector")
    # Equal rows are merged first, at height 0: a thousand copies would else be each other's nearest for ever.
    _, first, group = np.unique(data.cpu().numpy(), axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    copies = np.flatnonzero(first[group] != np.arange(len(data)))
    rows = np.sort(first)
    summed = np.bincount(first[group], weights=weights.numpy(), minlength=len(data))[rows]
    with exact_float32(), torch.no_grad():
        state = _State(data[torch.from_numpy(rows).to(data.device)], torch.from_numpy(summed), rows, linkage)
        state.run(len(data) - k - len(copies))
    first_side = np.concatenate([first[group[copies]], *state.first]).astype(np.int64)
    second_side = np.concatenate([copies, *state.second]).astype(np.int64)
    heights = np.concatenate([np.zeros(len(copies)), *state.heights])
    order = np.argsort(heights, kind="stable")  # a merge was made after those that it stands on
    return Merges(first_side[order], second_side[order], heights[order])


class _State:
    """The clusters of one run: every one has a slot, its nearest neighbour, and a bound for all other neighbours."""

    def __init__(self, data: torch.Tensor, weights: torch.Tensor, rows: np.ndarray, linkage: str):
        self.ward = linkage == "ward"
        means = data.double()
        # Ward does not feel a shift, and rounding is smallest around the mean.
        self.means = means - means.mean(0) if self.ward else torch.nn.functional.normalize(means, dim=1)
        self.weights = weights.to(data.device)
        self.leaf = torch.from_numpy(rows).to(data.device)  # one input row of every cluster
        self.height = torch.zeros_like(self.weights)  # of the cluster's own last merge
        self.nearest = torch.zeros(len(means), dtype=torch.int64, device=data.device)
        self.cost = torch.full_like(self.weights, torch.inf)
        self.others = torch.full_like(self.weights, torch.inf)  # no other cluster than the nearest costs less
        self.alive = torch.ones_like(self.nearest, dtype=torch.bool)
        self.first, self.second, self.heights = [], [], []

    def run(self, needed: int) -> None:
        """Merge until the ``needed`` lowest merges are known."""
        if needed <= 0 or len(self.means) < 2:
            return
        self.search(torch.arange(len(self.means), device=self.means.device))
        while True:
            slots = self.alive.nonzero()[:, 0]
            if len(slots) < 2:
                return
            partner = self.nearest[slots]
            left = slots[(self.nearest[partner] == slots) & (slots < partner)]
            if not len(left):  # only rounding could bring this about; the cheapest pair is always right
                left = slots[self.cost[slots].argmin()][None]
            done = np.concatenate(self.heights) if self.heights else np.empty(0)
            if len(done) >= needed:
                left = left[self.cost[left] < np.partition(done, needed - 1)[needed - 1]]
                if not len(left):
                    return
            self.merge(left, self.nearest[left])

    def merge(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Merge disjoint pairs of slots into the left ones."""
        height = torch.stack([self.cost[left], self.height[left], self.height[right]]).amax(0)
        self.first.append(self.leaf[left].cpu().numpy())
        self.second.append(self.leaf[right].cpu().numpy())
        self.heights.append(height.cpu().numpy())
        total = self.weights[left] + self.weights[right]
        share = (self.weights[right] / total)[:, None]
        self.means[left] = self.means[left] * (1 - share) + self.means[right] * share
        self.weights[left] = total
        self.height[left] = height
        self.alive[right] = False
        merged = torch.zeros_like(self.alive)
        merged[left] = merged[right] = True
        target = torch.arange(len(merged), device=merged.device)
        target[right] = left
        # Whoever lost its neighbour keeps the merged one where nobody else can be nearer.
        lost = (self.alive & merged[self.nearest] & ~merged).nonzero()[:, 0]
        self.nearest[lost] = target[self.nearest[lost]]
        self.cost[lost] = self.pair_cost(lost, self.nearest[lost])
        unsure = lost[self.cost[lost] >= self.others[lost] * (1 - 1e-12)]
        again = torch.cat([left, unsure])
        if int(self.alive.sum()) < 0.8 * len(self.alive):
            again = self.compact(again)
        if len(self.alive) > 1:
            self.search(again)

    def compact(self, slots: torch.Tensor) -> torch.Tensor:
        """Drop the dead slots; returns the new numbers of ``slots``."""
        number = self.alive.cumsum(0) - 1
        keep = self.alive.nonzero()[:, 0]
        self.nearest = number[self.nearest]
        for name in ("means", "weights", "leaf", "height", "nearest", "cost", "others", "alive"):
            setattr(self, name, getattr(self, name)[keep])
        return number[slots]

    def pair_cost(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Cost of merging slots a and b, the same in both directions to the last bit."""
        costs = torch.empty(len(a), dtype=torch.float64, device=a.device)
        for first in range(0, len(a), rows := max(1, BLOCK_ELEMENTS // self.means.shape[1])):
            i, j = a[first : first + rows], b[first : first + rows]
            if self.ward:
                scale = self.weights[i] * self.weights[j] / (self.weights[i] + self.weights[j])
                part = (self.means[i] - self.means[j]).square_().sum(1) * scale
            else:
                part = 1 - (self.means[i] * self.means[j]).sum(1)
            costs[first : first + rows] = part
        return costs

    def search(self, slots: torch.Tensor) -> None:
        """Find the nearest neighbours of ``slots`` among all clusters: in float32, where that is unsure in float64."""
        columns = self.means.float()
        squares = columns.square().sum(1)
        reach = float(squares[self.alive].max().sqrt())
        bias = squares if self.ward else torch.ones_like(squares)
        bias = bias.masked_fill(~self.alive, torch.inf)
        smaller = 1 / self.weights.float()
        even = bool((self.weights[self.alive] == self.weights[slots[0]]).all())
        bound = rounding_bound(columns.shape[1])
        for first in range(0, len(slots), rows := max(1, BLOCK_ELEMENTS // len(columns))):
            part = slots[first : first + rows]
            table = torch.addmm(bias, columns[part], columns.T, alpha=-2.0 if self.ward else -1.0)
            own, weight = squares[part], self.weights[part]
            scale = torch.ones_like(weight)  # what a value of the table is to be multiplied by to be a cost
            if self.ward:
                # A row is searched by |a - b|^2 n_b / (n_a + n_b): its own size is no matter of the choice.
                table += own[:, None]
                scale = weight / 2 if even else weight
                if not even:
                    table /= torch.outer(weight.float(), smaller).add_(1)
            table.scatter_(1, part[:, None], torch.inf)
            error = bound * (own.sqrt() + reach).square().double()
            self.choose(part, table, scale, error)

    def choose(self, part: torch.Tensor, table: torch.Tensor, scale: torch.Tensor, error: torch.Tensor) -> None:
        """Set the neighbours of the slots ``part`` from their row of the table, true to ``error``."""
        value, nearest = table.min(1)
        table.scatter_(1, nearest[:, None], torch.inf)
        second = table.amin(1).double()
        value = value.double()
        self.nearest[part] = nearest
        self.others[part] = (second - error) * scale
        unsure = (second <= value + 2 * error).nonzero()[:, 0]
        table.scatter_(1, nearest[:, None], value.float()[:, None])
        limit = torch.nextafter((value + 2 * error).float(), torch.tensor(torch.inf, device=table.device))
        for group in unsure.split(max(1, BLOCK_ELEMENTS // table.shape[1])):
            at, column = (table[group] <= limit[group, None]).nonzero(as_tuple=True)
            slot = part[group[at]]
            cost = self.pair_cost(slot, column)
            low, high = torch.minimum(slot, column), torch.maximum(slot, column)
            # Order of (row, cost, pair): stable sorts from the least important key to the most important one.
            order = torch.argsort(low * len(self.means) + high, stable=True)
            order = order[torch.argsort(cost[order], stable=True)]
            order = order[torch.argsort(at[order], stable=True)]
            counts = torch.bincount(at, minlength=len(group))
            start = counts.cumsum(0) - counts
            rows = part[group]
            self.nearest[rows] = column[order[start]]
            next_best = cost[order[(start + 1).clamp(max=len(order) - 1)]].masked_fill(counts < 2, torch.inf)
            outside = ((value + error) * scale)[group]
            self.others[rows] = torch.minimum(next_best, outside)
        self.cost[part] = self.pair_cost(part, self.nearest[part])
