"""The clusterings of the paper's comparison, and what embeddings go through before."""

import numpy as np
import pytest
import torch

from espnet_ext.cluster.agglomerate import agglomerate
from espnet_ext.cluster.kmeans import kmeans
from espnet_ext.cluster.methods import NOISE, cluster, hdbscan, means, spectral
from espnet_ext.cluster.transform import Transform
from espnet_ext.errors import UserError
from espnet_ext.metrics.clustering import nmi


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    truth = rng.integers(12, size=600)
    x = rng.normal(size=(12, 10))[truth] + 0.1 * rng.normal(size=(600, 10))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), truth


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("method", "num_kmeans"), [
    ("kmeans", 0), ("ahc", 0), ("ahc", 60), ("kmeans_ahc", 60), ("spectral", 0), ("spectral", 240), ("hdbscan", 0),
])  # fmt: skip
def test_planted_clusters_are_found(planted, method, num_kmeans, metric):
    x, truth = planted
    k = None if method == "hdbscan" else 12
    found = cluster(x, method, k, num_kmeans, metric, restarts=4)
    inside = found.labels != NOISE
    assert inside.mean() > 0.95 and nmi(found.labels[inside], truth[inside]) > 0.99
    assert found.labels.max() == 11 and found.centroids.shape == (12, 10)
    assert (found.assign(x)[inside] == found.labels[inside]).mean() > 0.99


@pytest.mark.parametrize("linkage", ["ward", "average"])
def test_cascade_merges_the_centroids_of_kmeans(planted, linkage):
    x, _ = planted
    found = cluster(x, "kmeans_ahc", 12, 80, seed=3, linkage=linkage, weighted=True)
    first = kmeans(x, 80, seed=3)
    sizes = np.bincount(first.labels, minlength=80)
    assert (found.labels == agglomerate(first.centroids, 12, linkage, sizes)[first.labels]).all()
    assert (found.fine == first.centroids).all() and (found.assign(x) == found.labels).all()


def test_means(planted):
    x, truth = planted
    labels = np.where(truth == 11, NOISE, truth)
    wanted = np.stack([x[labels == number].mean(0) for number in range(11)])
    np.testing.assert_allclose(means(x, labels, "euclidean"), wanted, atol=1e-6)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(means(x, labels, "cosine"), wanted, atol=1e-6)


def test_wrong_input(planted):
    x, _ = planted
    for arguments, message in (
        (("kmeans",), "needs a number of clusters"),
        (("kmeans_ahc", 5), "needs --num_kmeans"),
        (("ahc", 50, 20), "20 k-means centroids cannot become 50"),
        (("dbscan", 5), "method must be kmeans, ahc"),
        (("spectral", 1), "ask for 2 to 599"),
        (("ahc", 601), "ask for 1 to 600"),
    ):
        with pytest.raises(UserError, match=message):
            cluster(x, *arguments)
    with pytest.raises(UserError, match="ask for 2 to 600"):
        hdbscan(x, 601)
    with pytest.raises(UserError, match="lower --min_size"):
        hdbscan(np.random.default_rng(0).normal(size=(60, 20)), 25)
    with pytest.raises(UserError, match="ask for 2 to"):
        spectral(x, 600)


def test_whitening_leaves_the_identity():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(800, 6)) @ rng.normal(size=(6, 6)) + 5).astype(np.float32)
    z = Transform.fit(x, whiten=4, length_norm=False)(x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.T @ z / 800, np.eye(4), atol=1e-3)
    # The strongest directions, as a principal component analysis has them.
    _, strength, directions = torch.linalg.svd(torch.from_numpy(x - x.mean(0)).double(), full_matrices=False)
    wanted = ((x - x.mean(0)) @ directions[:4].T.numpy()) / (strength[:4].numpy() / np.sqrt(800))
    np.testing.assert_allclose(np.abs(z), np.abs(wanted), atol=1e-3)


def test_centre_and_length():
    x = np.array([[1.0, 2], [3, 2], [2, 8], [2, 4]], dtype=np.float32)
    np.testing.assert_allclose(Transform.fit(x)(x)[2:], [[0, 1], [0, 0]])  # the last one is the mean
    assert (Transform.fit(x, length_norm=False)(x) == x - [2, 4]).all()
    assert (Transform.fit(x, center=False, length_norm=False)(x) == x).all()
    with pytest.raises(UserError, match="7 directions of 2-d"):
        Transform.fit(x, whiten=7)
    with pytest.raises(UserError, match="vary in 1 directions, 2 were asked for"):
        Transform.fit(np.outer(np.arange(5.0), [1, 2]), whiten=2)
