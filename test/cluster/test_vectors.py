"""Sums, means and rounding of float32 vectors, against numpy in float64."""

import numpy as np
import pytest
import torch

from espnet_ext.cluster import kmeans, vectors
from espnet_ext.cluster.kmeans import mean_of
from espnet_ext.cluster.vectors import as_unit, rounding_bound, sums_of


@pytest.fixture
def x(monkeypatch):
    """Vectors far from the origin, summed in many parts."""
    monkeypatch.setattr(vectors, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(kmeans, "ROWS_AT_ONCE", 7)
    return (1000 + np.random.default_rng(0).normal(size=(100, 5))).astype(np.float32)


def test_sums_and_counts_of_labels(x):
    labels = np.random.default_rng(1).choice([0, 2, 3], 100)  # nobody has label 1, or the last one
    sums, counts = sums_of(torch.from_numpy(x), torch.from_numpy(labels), 5)
    for label in range(5):
        np.testing.assert_allclose(sums[label], x[labels == label].astype(np.float64).sum(axis=0), rtol=1e-12)
    assert counts.tolist() == [float((labels == label).sum()) for label in range(5)] and sums.dtype == torch.float64


def test_mean(x):
    np.testing.assert_allclose(mean_of(torch.from_numpy(x)), x.astype(np.float64).mean(axis=0), rtol=1e-7)


def test_unit_length_is_for_cosines():
    centres = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert torch.equal(as_unit(centres, "euclidean"), centres)
    torch.testing.assert_close(as_unit(centres, "cosine"), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))


@pytest.mark.parametrize("dim", [1, 8, 100, 1024])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_no_squared_distance_rounds_further_than_the_bound(dim, offset):
    rng = np.random.default_rng(dim)
    a, b = (offset + rng.normal(size=(2, 300, dim))).astype(np.float32)
    one, other = torch.from_numpy(a), torch.from_numpy(b)
    found = one.square().sum(1)[:, None] + other.square().sum(1) - 2 * one @ other.T
    a, b = a.astype(np.float64), b.astype(np.float64)
    exact = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    reach = (np.linalg.norm(a, axis=1)[:, None] + np.linalg.norm(b, axis=1)) ** 2
    assert (np.abs(found.numpy() - exact) <= rounding_bound(dim) * reach).all()
