"""Relocation: out of a local optimum that Lloyd's steps cannot leave; gains and costs against a computation by hand."""

import numpy as np
import torch

from espnet_ext.cluster.relocate import cheapest_merges, relocated, split_all
from espnet_ext.cluster.search import Rows, Search


def stuck():
    """Four far groups: one of them has two centroids, two of them share one."""
    rng = np.random.default_rng(0)
    places = np.array([[0, 0], [100, 0], [0, 100], [100, 100]], dtype=np.float32)
    x = torch.from_numpy(places.repeat(50, axis=0) + rng.normal(size=(200, 2)).astype(np.float32))
    centres = torch.tensor([[-0.5, 0], [0.5, 0], [100, 50], [0, 100]])
    labels = Search(centres).nearest(x)
    counts = torch.bincount(labels, minlength=4).double()
    means = torch.zeros(4, 2, dtype=torch.float64).index_add_(0, labels, x.double()) / counts[:, None]
    return x, labels, means, counts


def test_a_shared_centroid_is_split_and_a_spare_one_given_up():
    x, labels, means, counts = stuck()
    rows = Rows.of(x, torch.zeros(2))
    moved = relocated(rows, labels, means, counts, np.random.default_rng(0))
    places = torch.tensor([[0.0, 0], [100, 0], [0, 100], [100, 100]], dtype=torch.float64)
    assert torch.cdist(places, moved).amin(1).max() < 1
    # In the optimum nothing is to be gained.
    labels = Search(moved.float()).nearest(x)
    assert relocated(rows, labels, moved, torch.bincount(labels).double(), np.random.default_rng(0)) is None


def test_gains_and_costs_are_those_of_the_sums_of_squares():
    x, labels, means, counts = stuck()
    children, gain = split_all(Rows.of(x, torch.zeros(2)), labels, means, np.random.default_rng(1))

    def squares(rows):
        return float((rows - rows.mean(0)).square().sum()) if len(rows) else 0.0

    shared = x[labels == 2].double()
    nearer = torch.cdist(shared, children[2]).argmin(1)
    parts = squares(shared[nearer == 0]) + squares(shared[nearer == 1])
    np.testing.assert_allclose(float(gain[2]), squares(shared) - parts, rtol=1e-6)
    cost, partner = cheapest_merges(means, counts)
    assert partner[:2].tolist() == [1, 0]
    a, b = x[labels == 0].double(), x[labels == 1].double()
    np.testing.assert_allclose(float(cost[0]), squares(torch.cat([a, b])) - squares(a) - squares(b), rtol=1e-3)


def test_empty_and_equal_clusters_promise_nothing():
    x = torch.ones(20, 3)
    labels = torch.zeros(20, dtype=torch.int64)
    means = torch.ones(4, 3, dtype=torch.float64)
    counts = torch.tensor([20.0, 0, 0, 0], dtype=torch.float64)
    assert relocated(Rows.of(x, torch.ones(3)), labels, means, counts, np.random.default_rng(0)) is None
