"""Random projections: ids by loops over plain numbers, whatever the chunk; what is drawn, and what is on disk."""

import math

import numpy as np
import pytest
import torch

from espnet_ext.cluster.random_projection import RandomProjection, random_projection
from espnet_ext.cluster.residual import residual_kmeans
from espnet_ext.errors import UserError


@pytest.fixture(scope="module")
def x():
    """Rows whose columns differ in level and spread, one of them constant."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 6)) * [1, 20, 0.01, 5, 1, 0] + [0, -300, 4, 0.5, 1, -23.02585]
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def drawn(x):
    return random_projection(x, 9, codebooks=3, size=4, seed=5)


def ids_by_loops(x, projections, codes):
    """The paper's quantizer, number by number: normalise, project, make 1 long, take the nearest code."""
    rows, dim = len(x), len(x[0])
    mean = [math.fsum(float(row[d]) for row in x) / rows for d in range(dim)]
    deviation = [math.sqrt(math.fsum((float(row[d]) - mean[d]) ** 2 for row in x) / rows) for d in range(dim)]
    ids, distances = [], []
    for row in x:
        y = []
        for p in range(len(projections[0])):
            terms = [
                (float(row[d]) - mean[d]) / deviation[d] * float(projections[d][p])
                for d in range(dim)
                if deviation[d] > 1e-4
            ]
            y.append(math.fsum(terms))
        length = math.sqrt(sum(value * value for value in y))
        away = [sum((value / length - float(c)) ** 2 for value, c in zip(y, code, strict=True)) for code in codes]
        ids.append(away.index(min(away)))
        distances.append(min(away))
    return ids, sum(distances) / rows


def test_ids_are_those_of_loops(x, drawn):
    ids = drawn.assign(x)
    assert ids.shape == (300, 3) and drawn.levels == 3
    for book in range(3):
        expected, error = ids_by_loops(x, drawn.projections[book], drawn.centroids[book])
        assert ids[:, book].tolist() == expected
        assert drawn.errors[book] == pytest.approx(error, rel=1e-4)
        assert drawn.facts["unused"][book] == 9 - len(set(expected))


def test_chunks_and_kinds_agree(x, drawn, monkeypatch):
    whole = drawn.assign(x)
    assert (np.concatenate([drawn.assign(part) for part in np.array_split(x, 70)]) == whole).all()
    assert torch.equal(drawn.assign(torch.from_numpy(x)), torch.from_numpy(whole))
    assert drawn.assign(x[:0]).shape == (0, 3) and drawn.assign(torch.from_numpy(x[:0])).shape == (0, 3)
    monkeypatch.setattr("espnet_ext.cluster.random_projection.ROWS_AT_ONCE", 7)
    assert (drawn.assign(x) == whole).all()
    again = random_projection(x, 9, codebooks=3, size=4, seed=5)
    np.testing.assert_allclose(again.mean, drawn.mean, rtol=1e-6)
    np.testing.assert_allclose(again.scale, drawn.scale, rtol=1e-5)


@pytest.mark.gpu
def test_gpu_is_cpu(x, drawn):
    assert (drawn.assign(x, device="cuda") == drawn.assign(x)).all()


def test_what_is_drawn(x):
    """Xavier's uniform projection, codes of length 1 in every direction."""
    rng = np.random.default_rng(0)
    many = random_projection(rng.normal(size=(50, 40)), 3000, size=24)
    bound = math.sqrt(6 / (40 + 24))
    assert 0.95 * bound < np.abs(many.projections).max() <= bound + 1e-6
    assert many.projections.var() == pytest.approx(2 / (40 + 24), rel=0.1)
    np.testing.assert_allclose(np.linalg.norm(many.centroids[0], axis=1), 1, rtol=1e-5)
    # Normal before they are made 1 long: no direction is preferred, and numbers have the kurtosis 3 - 6 / (P + 2).
    assert np.abs(many.centroids.mean((0, 1))).max() < 0.02
    assert (many.centroids**4).mean() * 24**2 == pytest.approx(3 - 6 / 26, rel=0.03)


def test_seeds_and_codebooks(x, drawn):
    same, other = (random_projection(x, 9, codebooks=3, size=4, seed=seed) for seed in (5, 6))
    assert all((one == two).all() for one, two in zip(same.arrays, drawn.arrays, strict=True))
    assert (same.assign(x) == drawn.assign(x)).all()
    assert (other.centroids != drawn.centroids).all() and (other.projections != drawn.projections).all()
    assert (other.assign(x) != drawn.assign(x)).mean() > 0.5
    # Of one seed, codebooks differ from each other, and the first does not depend on how many follow.
    assert (drawn.centroids[0] != drawn.centroids[1]).all() and (drawn.projections[1] != drawn.projections[2]).all()
    alone = random_projection(x, 9, size=4, seed=5)
    assert (alone.assign(x)[:, 0] == drawn.assign(x)[:, 0]).all()
    assert (random_projection(x, 9, size=4, seed=(5, 3)).centroids != alone.centroids).all()


def test_units_of_measurement_do_not_matter(x, drawn):
    """The frames are normalised: scaled and shifted, column by column, they get the same ids."""
    moved = x * np.float32([3, 0.5, 100, 7, 0.01, 1]) + np.float32([1, 2, 3, 4, 5, 6])
    ids = random_projection(moved, 9, codebooks=3, size=4, seed=5).assign(moved)
    assert (ids == drawn.assign(x)).mean() > 0.99  # of float32 rows a few may fall otherwise


def test_a_constant_column_says_nothing(x, drawn):
    assert drawn.scale[5] == 1
    other = x.copy()
    other[:, 5] = 8
    assert (random_projection(other, 9, codebooks=3, size=4, seed=5).assign(other) == drawn.assign(x)).all()


def test_on_disk(x, drawn, tmp_path):
    drawn.save(tmp_path / "a.npz")
    found = RandomProjection.load(tmp_path / "a.npz")
    assert all((one == two).all() for one, two in zip(found.arrays, drawn.arrays, strict=True))
    assert (found.errors, found.facts) == (drawn.errors, drawn.facts) and (found.assign(x) == drawn.assign(x)).all()
    residual_kmeans(x, 4).save(tmp_path / "b.npz")
    with open(tmp_path / "c.npz", "wb") as file:
        np.save(file, x)
    (tmp_path / "d.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    for name in "bcde":
        with pytest.raises(UserError, match=f"{name}.npz: no random projection can be read there"):
            RandomProjection.load(tmp_path / f"{name}.npz")


def test_mistakes(x, drawn):
    for options in ({"size": 1}, {"codebooks": 0}, {"k": 1}):
        with pytest.raises(UserError, match="random projection: . codebooks of"):
            random_projection(x, **{"k": 9, **options})
    with pytest.raises(UserError, match=r"\(N, 6\) are needed to be projected, got \(300, 5\)"):
        drawn.assign(x[:, :5])
    with pytest.raises(UserError, match="NaN or infinite"):
        drawn.assign(np.full((2, 6), np.nan, dtype=np.float32))
    with pytest.raises(UserError, match="are no random projection"):
        RandomProjection(drawn.mean[:5], drawn.scale, drawn.projections, drawn.centroids)
