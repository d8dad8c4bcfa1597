"""Steps of mini-batch k-means (Sculley 2010)."""

import torch

from espnet_ext.cluster.search import Rows, Search
from espnet_ext.cluster.vectors import as_unit, sums_of

SLACK = 0.02  # share of a batch's inertia that roundings may cost at most; see Search.nearest


class MiniBatch:
    """Centroids that are the mean of all vectors they ever got; the first one replaces the start.

    Args:
        centres: ``(k, D)`` float32, the start. metric: ``cosine`` keeps them at length 1.
        shift: what is taken off every vector before it is compared, for small rounding; near their mean.
    """

    def __init__(self, centres: torch.Tensor, metric: str, shift: torch.Tensor):
        self.centres, self.metric, self.shift = centres, metric, shift
        self.means = (centres - shift).double()
        self.counts = self.means.new_zeros(len(centres))

    def step(self, rows: Rows) -> float:
        """Assign a batch and move the centroids; returns the batch's sum of squared distances before the move."""
        labels = Search(self.centres, self.shift).nearest(rows, slack=SLACK)
        shifted = self.centres - self.shift
        cost = float((rows.vectors - shifted[labels]).square_().sum(1).sum(dtype=torch.float64))
        sums, new = sums_of(rows.vectors, labels, len(shifted))
        self.counts += new
        self.means += (sums - new[:, None] * self.means) / self.counts.clamp(min=1)[:, None]
        self.centres = as_unit(self.means.float() + self.shift, self.metric)
        return cost
