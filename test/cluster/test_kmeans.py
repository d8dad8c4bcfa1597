"""K-means: a fixed point of Lloyd's, exact labels on every block size, and input that cannot be clustered."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Peer

from espnet_ext.cluster import kmeans as room
from espnet_ext.cluster.kmeans import assign, kmeans
from espnet_ext.errors import UserError
from espnet_ext.metrics.clustering import nmi


def blobs(k=5, per=40, dim=8, seed=0, spread=0.2):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(k), per)
    return (rng.normal(size=(k, dim)) * 5)[truth] + rng.normal(size=(k * per, dim)) * spread, truth


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("batch_size", [None, 32])
def test_planted_clusters_are_found(metric, batch_size):
    x, truth = blobs()
    found = kmeans(x, 5, metric=metric, restarts=3, batch_size=batch_size)
    assert nmi(found.labels, truth) == pytest.approx(1)
    assert (assign(x, found.centroids, metric) == found.labels).all()
    same = kmeans(torch.from_numpy(x), 5, metric=metric, restarts=3, batch_size=batch_size)
    assert torch.equal(same.labels, torch.from_numpy(found.labels)) and same.inertia == found.inertia


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_it_ends_in_a_fixed_point_of_lloyd(metric):
    x = np.random.default_rng(0).normal(size=(700, 6)).astype(np.float32) + 1
    found = kmeans(x, 9, metric, iterations=500, tolerance=0)
    rows = unit(x.astype(np.float64)) if metric == "cosine" else x.astype(np.float64)
    distance = ((rows[:, None] - found.centroids[None].astype(np.float64)) ** 2).sum(2)
    assert (distance.argmin(1) == found.labels).all()
    means = np.stack([rows[found.labels == cluster].mean(0) for cluster in range(9)])
    np.testing.assert_allclose(found.centroids, unit(means) if metric == "cosine" else means, atol=1e-4)
    total = distance.min(1).sum()  # on the sphere: twice the sum of 1 - cosine
    assert found.inertia == pytest.approx(total / 2 if metric == "cosine" else total, rel=1e-5)
    assert found.history[-1] == pytest.approx(found.inertia, rel=1e-4)
    assert (np.diff(found.history) <= 1e-6 * found.history[0]).all()


def test_inertia_is_that_of_scikit_learn():
    x, _ = blobs(k=40, per=50, dim=10, spread=4.0)
    peer = min(Peer(20, n_init=1, random_state=seed).fit(x).inertia_ for seed in range(3))
    assert kmeans(x, 20, "euclidean", restarts=3).inertia < 1.02 * peer


@pytest.mark.parametrize("dim", [4, 40])
@pytest.mark.parametrize("k", [3, 200])
def test_labels_are_those_of_float64_in_any_block(k, dim, monkeypatch):
    rng = np.random.default_rng(1)
    # Far from the origin, near each other: in bfloat16, and in float32 by |c|^2 - 2 c.x, all centroids look the same.
    x = (300 + rng.normal(size=(900, dim))).astype(np.float32)
    centroids = x[:k] + np.float32(0.25)
    wanted = ((x[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2).argmin(1)
    assert (assign(x, centroids, "euclidean") == wanted).all()
    assert (np.concatenate([assign(part, centroids, "euclidean") for part in np.split(x, 9)]) == wanted).all()
    monkeypatch.setitem(room.Search.__init__.__globals__["BLOCK_SCORES"], "cpu", 10)
    monkeypatch.setattr(room, "ROWS_AT_ONCE", 100)
    assert torch.equal(assign(torch.from_numpy(x), centroids, "euclidean"), torch.from_numpy(wanted))


def test_equal_distances_go_to_the_lower_number():
    centroids = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1], [1, 0]])
    assert assign(np.array([[0.0, 0], [1, 0], [-2, -2], [0, 9]]), centroids, "euclidean").tolist() == [0, 0, 1, 2]


def test_a_seed_decides_and_the_settings_of_training_do_not_matter():
    x, _ = blobs(spread=3.0)
    before = torch.get_float32_matmul_precision()
    first = kmeans(x, 12, seed=3)
    torch.set_float32_matmul_precision("medium")
    try:
        second = kmeans(x, 12, seed=3)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert (first.centroids == second.centroids).all() and (first.labels == second.labels).all()
    assert (kmeans(x, 12, seed=4).labels != first.labels).any()


def test_best_of_several_starts():
    x, _ = blobs(k=30, per=20, dim=6, spread=6.0)
    alone = [kmeans(x, 30, "euclidean", seed=seed).inertia for seed in range(4)]
    assert kmeans(x, 30, "euclidean", restarts=4).inertia == min(alone) < max(alone)


def test_warm_up_on_samples_ends_where_all_rows_do(monkeypatch):
    x, truth = blobs(k=6, per=600, dim=5)
    monkeypatch.setattr(room, "SAMPLE", 20)
    assert nmi(kmeans(x, 6, "euclidean", restarts=3).labels, truth) == pytest.approx(1)


def test_an_empty_cluster_gets_the_farthest_vectors(monkeypatch):
    x, truth = blobs(k=4, per=30)
    monkeypatch.setattr(room, "plus_plus", lambda rows, k, rng: torch.zeros(k, dtype=torch.int64))  # all in one place
    found = kmeans(x, 4, "euclidean", tolerance=0)
    assert len(np.unique(found.labels)) == 4
    assert nmi(found.labels, truth) > 0.8


def test_mini_batches_come_near_lloyd():
    x, _ = blobs(k=50, per=60, dim=10, spread=3.0)
    whole = kmeans(x, 25, "euclidean").inertia
    assert kmeans(x, 25, "euclidean", batch_size=200).inertia < 1.05 * whole


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_few_and_equal_vectors(metric):
    x = np.random.default_rng(2).normal(size=(7, 3))
    assert sorted(kmeans(x, 7, metric).labels) == list(range(7))
    assert kmeans(x, 7, metric).inertia == pytest.approx(0, abs=1e-10)
    one = kmeans(x, 1, metric)
    assert (one.labels == 0).all()
    mean = (unit(x) if metric == "cosine" else x).mean(0, keepdims=True)
    np.testing.assert_allclose(one.centroids, unit(mean) if metric == "cosine" else mean, atol=1e-6)
    equal = kmeans(np.ones((10, 3)), 3, metric)  # three clusters of one place
    assert equal.inertia == pytest.approx(0, abs=1e-10) and set(equal.labels) <= {0, 1, 2}
    two = kmeans(np.repeat(np.eye(2, 3), 20, axis=0), 5, metric)
    assert two.inertia == pytest.approx(0, abs=1e-10) and len(set(two.labels[:20]) & set(two.labels[20:])) == 0


def test_other_kinds_of_numbers():
    x, truth = blobs()
    coarse = (x.astype(np.float16), torch.from_numpy(x).bfloat16(), x.round().astype(np.int64))
    for kind in (*coarse, np.asfortranarray(x)):
        assert nmi(kmeans(kind, 5, restarts=3).labels, truth) == pytest.approx(1)
    frozen = x.astype(np.float32)
    frozen.flags.writeable = False
    assert nmi(kmeans(frozen, 5, restarts=3).labels, truth) == pytest.approx(1)


def test_wrong_input():
    x = np.random.default_rng(3).normal(size=(6, 2))
    for k in (0, 7, -1):
        with pytest.raises(UserError, match=f"{k} clusters from 6 vectors; ask for 1 to 6"):
            kmeans(x, k)
    with pytest.raises(UserError, match="vector 4 has NaN"):
        kmeans(np.where(np.arange(6)[:, None] == 4, np.nan, x), 2)
    with pytest.raises(UserError, match="vector 0 has NaN or infinite"):
        kmeans(np.full((3, 2), 1e39), 2)
    with pytest.raises(UserError, match="vector 1 is zero"):
        kmeans(np.array([[1.0, 2], [0, 0]]), 1)
    with pytest.raises(UserError, match=r"\(N, D\)"):
        kmeans(np.empty((0, 3)), 1)
    with pytest.raises(UserError, match="metric must be cosine, euclidean"):
        kmeans(x, 2, "manhattan")
    with pytest.raises(UserError, match="1 or more"):
        kmeans(x, 2, restarts=0)
    with pytest.raises(UserError, match=r"\(N, 2\)"):
        assign(np.ones((4, 3)), x)
    assert len(assign(np.empty((0, 2)), x)) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_gpu_labels_are_those_of_the_cpu(metric):
    x = torch.randn(20_000, 48, generator=torch.Generator().manual_seed(0)) + 3
    found = kmeans(x, 300, metric, device="cuda")
    assert torch.equal(assign(x, found.centroids, metric), found.labels)
    assert torch.equal(assign(x.cuda(), found.centroids, metric).cpu(), found.labels)
    again = kmeans(x, 300, metric, device="cuda")
    assert torch.equal(again.centroids, found.centroids)
