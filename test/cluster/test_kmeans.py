import numpy as np
import pytest
import torch

from espnet_ext.cluster.kmeans import assign, kmeans


def blobs(k=5, per=40, dim=8, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(k), per)
    return (rng.normal(size=(k, dim)) * 5)[truth] + rng.normal(size=(k * per, dim)) * 0.2, truth


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_planted_clusters_are_found(metric):
    x, truth = blobs()
    found = kmeans(x, 5, metric=metric, restarts=3)
    assert len(set(zip(found.labels.tolist(), truth.tolist(), strict=True))) == 5
    assert (assign(x, found.centroids, metric) == found.labels).all()
    assert torch.equal(kmeans(torch.from_numpy(x), 5, metric=metric, restarts=3).labels, torch.from_numpy(found.labels))
