"""Agglomerative clustering: the tree is scipy's, in memory that does not grow with N squared."""

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from espnet_ext.cluster.agglomerate import agglomerate, merge_tree
from espnet_ext.errors import UserError


def same_partition(a, b) -> bool:
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def scipy_tree(x, how):
    x = x.astype(np.float64)
    return linkage(x, "ward") if how == "ward" else linkage(x, "average", metric="cosine")


@pytest.mark.parametrize("how", ["ward", "average"])
@pytest.mark.parametrize(("n", "dim"), [(2, 3), (5, 2), (60, 3), (400, 16), (900, 64)])
def test_tree_and_cuts_are_those_of_scipy(how, n, dim):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, dim)).astype(np.float32)
    x[n // 2 :] += 2 * rng.normal(size=dim)  # some structure
    tree = scipy_tree(x, how)
    heights = merge_tree(x, how).heights
    if how == "ward":  # scipy's height of two vectors is their distance; the sum of squares grows by half its square
        np.testing.assert_allclose(np.sqrt(2 * heights), tree[:, 2], rtol=1e-9)
    else:  # unit vectors are float32
        np.testing.assert_allclose(heights, tree[:, 2], atol=2e-7)
    for k in {1, 2, n // 10 + 1, n // 2, n}:
        assert same_partition(agglomerate(x, k, how), fcluster(tree, k, "maxclust"))


def test_neighbours_that_float32_cannot_tell_apart_are_told_apart_in_float64():
    rng = np.random.default_rng(0)
    # Distances of 1e-3 at a distance of 1,000 from the origin: |a|^2 + |b|^2 - 2ab in float32 would be noise.
    x = (1000 + rng.integers(-40, 40, size=(300, 4)) * 2.0**-12).astype(np.float32)
    x = np.unique(x, axis=0)
    x[:, 0] += np.arange(len(x), dtype=np.float32) * 2.0**-9
    tree = scipy_tree(x, "ward")
    np.testing.assert_allclose(np.sqrt(2 * merge_tree(x, "ward").heights), tree[:, 2], rtol=1e-6)


def test_sizes_stand_for_copies():
    rng = np.random.default_rng(1)
    x, sizes = rng.normal(size=(80, 5)).astype(np.float32), rng.integers(1, 6, size=80)
    for how in ("ward", "average"):
        copied = agglomerate(np.repeat(x, sizes, axis=0), 9, how)
        weighted = agglomerate(x, 9, how, sizes=sizes)
        assert same_partition(copied, np.repeat(weighted, sizes))
    assert not same_partition(agglomerate(x, 9), agglomerate(x, 9, sizes=sizes))


@pytest.mark.parametrize("how", ["ward", "average"])
def test_stopping_at_k_gives_the_cut_of_the_whole_tree(how):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 8)).astype(np.float32)
    whole = merge_tree(x, how)
    for k in (3, 50, 300):
        part = merge_tree(x, how, k=k)
        assert len(part.heights) >= 500 - k
        np.testing.assert_allclose(part.heights[: 500 - k], whole.heights[: 500 - k])


@pytest.mark.parametrize("how", ["ward", "average"])
def test_blocks_and_row_order_change_nothing(how, monkeypatch):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    whole = agglomerate(x, 20, how)
    monkeypatch.setattr("espnet_ext.cluster.agglomerate.BLOCK_ELEMENTS", 1000)
    assert (agglomerate(torch.from_numpy(x), 20, how) == whole).all()
    order = rng.permutation(300)
    assert same_partition(agglomerate(x[order], 20, how), whole[order])


@pytest.mark.parametrize("how", ["ward", "average"])
def test_ties_and_copies_end(how):
    assert agglomerate(np.ones((500, 3)), 7, how).max() == 6  # all the same
    lattice = np.stack(np.meshgrid(np.arange(1.0, 13), np.arange(1.0, 13)), -1).reshape(-1, 2)
    assert len(np.unique(agglomerate(lattice, 9, how))) == 9
    few = np.repeat(np.eye(3), 50, axis=0)
    assert same_partition(agglomerate(few, 3, how), np.repeat(np.arange(3), 50))
    line = 2.0 ** np.arange(40)[:, None] * np.ones((1, 2)) + np.arange(2)  # a chain: one merge a round
    assert len(np.unique(agglomerate(line, 5, how))) == 5


def test_clusters_are_numbered_by_their_first_row():
    x = np.array([[5.0, 0], [0, 1], [5, 0.1], [0, 1.1], [-7, 0]])
    assert agglomerate(x, 3).tolist() == [0, 1, 0, 1, 2]


def test_wrong_input():
    x = np.eye(4)
    for k in (0, 5):
        with pytest.raises(UserError, match="ask for 1 to 4"):
            agglomerate(x, k)
    with pytest.raises(UserError, match="linkage must be ward, average"):
        agglomerate(x, 2, "single")
    with pytest.raises(UserError, match="one size above 0"):
        agglomerate(x, 2, sizes=[1, 1, 0, 1])
    with pytest.raises(UserError, match="vector 2 has NaN"):
        agglomerate(np.where(np.arange(4)[:, None] == 2, np.nan, x), 2)
    with pytest.raises(UserError, match="vector 1 is zero"):
        agglomerate(np.array([[1.0, 0], [0, 0]]), 1, "average")
    with pytest.raises(UserError, match=r"\(N, D\)"):
        agglomerate(np.empty((0, 4)), 1)


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["ward", "average"])
def test_gpu_is_cpu(how):
    x = np.random.default_rng(4).normal(size=(2000, 32)).astype(np.float32)
    assert (agglomerate(x, 100, how) == agglomerate(x, 100, how, device="cuda")).all()
