"""k-means++: its distribution, its batches, its gain over random rows."""

import numpy as np
import torch

from espnet_ext.cluster import seeds
from espnet_ext.cluster.seeds import plus_plus


def cost(x, rows):
    return float(torch.cdist(x.double(), x[rows].double()).square().amin(1).sum())


def test_second_centroid_is_drawn_by_squared_distance():
    x = torch.tensor([[0.0], [1.0], [3.0]])
    counts = np.zeros((3, 3))
    rng = np.random.default_rng(0)
    for _ in range(6000):
        first, second = plus_plus(x, 2, rng, trials=1).tolist()
        counts[first, second] += 1
    for first, wanted in enumerate([[0, 1 / 10, 9 / 10], [1 / 5, 0, 4 / 5], [9 / 13, 4 / 13, 0]]):
        assert abs(counts[first].sum() / 6000 - 1 / 3) < 0.03
        np.testing.assert_allclose(counts[first] / counts[first].sum(), wanted, atol=0.035)


def test_batches_follow_the_distribution_of_single_draws(monkeypatch):
    # Six far groups: one draw after another visits every group once; a batch by stale distances alone would not.
    generator = torch.Generator().manual_seed(0)
    x = (1000 * torch.eye(6)).repeat_interleave(50, 0) + torch.randn(300, 6, generator=generator)
    monkeypatch.setattr(seeds, "GROWTH", 100.0)
    for seed in range(20):
        rows = plus_plus(x, 6, np.random.default_rng(seed), trials=1)
        assert len(set((rows // 50).tolist())) == 6


def test_greedy_draws_cost_less_than_plain_ones_and_these_less_than_random_rows():
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 3, 8)
    rng = np.random.default_rng(0)
    plain = np.mean([cost(x, plus_plus(x, 60, rng, trials=1)) for _ in range(8)])
    greedy = np.mean([cost(x, plus_plus(x, 60, rng)) for _ in range(8)])
    random = np.mean([cost(x, torch.from_numpy(rng.choice(3000, 60, replace=False))) for _ in range(8)])
    assert greedy < 0.95 * plain and plain < random


def test_rows_are_different_even_where_vectors_are_not():
    x = torch.cat([torch.zeros(30, 2), torch.ones(2, 2)])
    for k in (1, 2, 10, 32):
        rows = plus_plus(x, k, np.random.default_rng(0))
        assert len(set(rows.tolist())) == k
    assert {float(x[row, 0]) for row in plus_plus(x, 2, np.random.default_rng(1))} == {0.0, 1.0}
