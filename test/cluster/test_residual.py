"""Residual k-means, and codebooks on disk."""

import json

import numpy as np
import pytest
import torch

from espnet_ext.cluster.kmeans import assign, kmeans
from espnet_ext.cluster.residual import Codebook, residual_kmeans
from espnet_ext.errors import UserError


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(30, 12))[rng.integers(30, size=1500)] * 3 + rng.normal(size=(1500, 12))).astype(np.float32)


@pytest.fixture(scope="module")
def book(x):
    return residual_kmeans(x, 16, levels=4, seed=5)


def test_one_level_is_plain_kmeans(x):
    plain, one = kmeans(x, 16, "euclidean", seed=5), residual_kmeans(x, 16, seed=5)
    assert (one.centroids[0] == plain.centroids).all()
    assert (one.assign(x)[:, 0] == plain.labels).all()
    assert one.errors == [pytest.approx(plain.inertia / len(x))]


@pytest.mark.parametrize("batch_size", [None, 100])
def test_error_never_rises_with_the_levels(x, batch_size):
    book = residual_kmeans(x, 16, levels=5, batch_size=batch_size)
    ids = book.assign(x)
    errors = [((x - book.decode(ids[:, :levels])) ** 2).sum(1).mean() for levels in range(6)]
    assert (np.diff(errors) < 0).all()
    np.testing.assert_allclose(errors[1:], book.errors, rtol=1e-4)
    noise = np.random.default_rng(1).normal(size=(40, 3))  # nothing to be found: still no rise
    assert (np.diff(residual_kmeans(noise, 39, levels=4).errors) <= 0).all()


def test_ids_level_by_level(x, book):
    rest = x.copy()
    for level, column in enumerate(book.assign(x).T):
        assert (column == assign(rest, book.centroids[level], "euclidean")).all()
        rest = rest - book.centroids[level][column]


def test_chunks_and_kinds_agree(x, book):
    whole = book.assign(x)
    assert (np.concatenate([book.assign(part) for part in np.array_split(x, 70)]) == whole).all()
    assert torch.equal(book.assign(torch.from_numpy(x)), torch.from_numpy(whole))
    assert book.assign(x[:0]).shape == (0, 4)


@pytest.mark.gpu
def test_gpu_is_cpu(x, book):
    assert (book.assign(x, device="cuda") == book.assign(x)).all()


def test_save_and_load(x, book, tmp_path):
    book.facts["layer"] = 6
    book.save(tmp_path / "layer6.npz")
    back = Codebook.load(tmp_path / "layer6.npz")
    assert (back.centroids == book.centroids).all() and back.errors == book.errors and back.facts == book.facts
    # A centre matrix as scikit-learn has it, both ways.
    with np.load(tmp_path / "layer6.npz") as file:
        assert (file["cluster_centers_"] == book.centroids[0]).all()
        assert json.loads(str(file["facts"]))["layer"] == 6
    np.save(tmp_path / "foreign.npy", book.centroids[0].astype(np.float64))
    assert (Codebook.load(tmp_path / "foreign.npy").assign(x)[:, 0] == book.assign(x)[:, 0]).all()


def test_broken_codebooks(tmp_path, book):
    for content in (b"", b"PK\x03\x04 cut off", b"no array"):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(UserError, match="no codebook can be read"):
            Codebook.load(tmp_path / "x.npz")
    np.save(tmp_path / "code.npy", np.array([print], dtype=object))  # a pickle would run code
    for name in ("code.npy", "missing.npz"):
        with pytest.raises(UserError, match="no codebook can be read"):
            Codebook.load(tmp_path / name)
    with pytest.raises(UserError, match="finite"):
        Codebook(np.full((3, 2), np.nan))
    with pytest.raises(UserError, match=r"\(N, 12\)"):
        book.assign(np.ones((5, 3)))
    with pytest.raises(UserError, match="0 levels"):
        residual_kmeans(np.ones((5, 3)), 2, levels=0)
