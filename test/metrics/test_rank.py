"""RankMe against its definition, the simulated figures of the specification, and what must not change it."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from espnet_ext.errors import UserError
from espnet_ext.metrics.rank import (
    RankAccumulator,
    davies_bouldin,
    inertia,
    rankme,
    rankme_of_spectrum,
    rankme_t,
)


def gaussian(n, k, seed=0):
    return np.random.default_rng(seed).standard_normal((n, k))


def fed(vectors, portions):
    accumulator = RankAccumulator(vectors.shape[1])
    for part in np.array_split(vectors, portions):
        accumulator.add(part)
    return accumulator


def test_definition():
    """By entropy from scipy and the eigenvalues of the other product, Z Z^T."""
    from scipy.stats import entropy

    z = gaussian(30, 8) * np.arange(1, 9)
    sigma = np.sqrt(np.sort(np.linalg.eigvalsh(z @ z.T))[-8:])
    assert rankme(z, eps=0) == pytest.approx(np.exp(entropy(sigma)), rel=1e-9)
    p = sigma / sigma.sum() + 1e-3
    assert rankme(z, eps=1e-3) == pytest.approx(np.prod(p**-p), rel=1e-9)


@pytest.mark.parametrize("n, expected", [(500, 236.4), (1000, 247.1), (4000, 253.9), (10_000, 255.2)])
def test_gaussian(n, expected):
    """Check 1: slightly below K, and growing with N."""
    assert fed(gaussian(n, 256), 7).rank().rankme == pytest.approx(expected, abs=0.15)


def test_gaussian_wide():
    assert fed(gaussian(10_000, 768), 12).rank().rankme == pytest.approx(760.8, abs=0.15)


def test_offset_lowers_it_and_centring_hides_that():
    z = gaussian(4000, 256) + 20
    assert fed(z, 5).rank().rankme == pytest.approx(22.8, abs=0.1)
    assert fed(z - z.mean(axis=0), 5).rank().rankme == pytest.approx(253.9, abs=0.15)


def test_collapse():
    """Check 2: one direction, or the same row everywhere, is 1; zeros too."""
    line = np.outer(gaussian(600, 1)[:, 0], gaussian(1, 256)[0])
    for z in (line, np.tile(gaussian(1, 256), (600, 1)), np.zeros((600, 256)), np.zeros((9, 256))):
        assert rankme(z) == pytest.approx(1, abs=2e-3)
        assert fed(z, 3).rank().rankme == pytest.approx(1, abs=2e-3)
    assert rankme(line) == pytest.approx(1.0004, abs=1e-4)  # eps lifts it
    assert rankme(line, eps=0) == pytest.approx(1, abs=1e-9)


def test_orthonormal_rows():
    """Check 3."""
    for n in (2, 50, 64):
        assert rankme(ortho_group.rvs(64, random_state=0)[:n]) == pytest.approx(n, abs=1e-2)


def test_scale_and_rotation_change_nothing():
    """Check 4."""
    z = gaussian(300, 64) * np.linspace(0.1, 3, 64) + 1
    value = rankme(z)
    for other in (1e-6 * z, 1e6 * z, z @ ortho_group.rvs(64, random_state=1)):
        assert rankme(other) == pytest.approx(value, rel=1e-6)
        assert fed(other, 4).rank().rankme == pytest.approx(value, rel=1e-6)


def test_the_list_twice_changes_nothing():
    """Check 5, N >= K; one utterance twice does."""
    z = gaussian(300, 64)
    assert rankme(np.concatenate((z, z))) == pytest.approx(rankme(z), rel=1e-6)
    assert abs(rankme(np.concatenate((z, z[:1]))) - rankme(z)) > 1e-4


def test_sum_and_mean():
    """Check 6: equal for equal lengths, different else."""
    rng = np.random.default_rng(3)
    equal = [rng.standard_normal((9, 16)) + 0.5 for _ in range(40)]
    assert rankme_t(equal, "sum") == pytest.approx(rankme_t(equal, "mean"), rel=1e-9)
    unequal = [frames[: rng.integers(2, 10)] for frames in equal]
    assert abs(rankme_t(unequal, "sum") - rankme_t(unequal, "mean")) > 1e-2
    # The definition: frame t of all utterances, zero behind the end, summed over t.
    padded = np.zeros((40, 9, 16))
    for row, frames in zip(padded, unequal, strict=True):
        row[: len(frames)] = frames
    stacked = sum(padded[:, t] for t in range(9))
    assert rankme_t(unequal) == pytest.approx(rankme(stacked), rel=1e-12)
    with pytest.raises(UserError, match="pool must be sum or mean"):
        rankme_t(equal, "max")


@pytest.mark.parametrize("n", [2, 40, 64, 65, 300, 2000])
def test_gram_equals_svd(n):
    """Check 8, and the number of values that eps is added to where N < K."""
    z = gaussian(n, 64, seed=n) @ gaussian(64, 64, seed=1)
    for portions in (1, 2, min(n, 37)):
        assert fed(z, portions).rank().rankme == pytest.approx(rankme(z), rel=1e-6)


def test_gram_of_low_rank():
    """Where squaring costs: rank 20 in 256 dimensions."""
    z = gaussian(4000, 20) @ gaussian(20, 256, seed=1)
    assert fed(z, 3).rank(eps=0).rankme == pytest.approx(rankme(z, eps=0), rel=1e-4)


def test_companions():
    z = gaussian(200, 16) + 0.3
    rank = fed(z, 9).rank()
    units = z / np.linalg.norm(z, axis=1, keepdims=True)
    pairs = (units @ units.T)[np.triu_indices(200, 1)]
    assert rank.mean_cosine == pytest.approx(pairs.mean(), abs=1e-12)
    assert rank.unit_std == pytest.approx(units.std(axis=0).mean(), abs=1e-12)
    assert rank.share == pytest.approx(rank.rankme / 16) and (rank.num_vectors, rank.size) == (200, 16)
    assert fed(gaussian(4000, 256), 4).rank().unit_std == pytest.approx(1 / 16, rel=0.01)
    assert fed(np.ones((9, 4)), 2).rank().mean_cosine == pytest.approx(1)
    assert fed(np.ones((9, 4)), 2).rank().unit_std == pytest.approx(0, abs=1e-7)


def test_clusters():
    """Against scikit-learn."""
    from sklearn.metrics import davies_bouldin_score

    x = gaussian(300, 5)
    labels = np.random.default_rng(1).choice([0, 2, 5, 6], 300)
    assert davies_bouldin(x, labels) == pytest.approx(davies_bouldin_score(x, labels), rel=1e-9)
    assert np.isnan(davies_bouldin(x, np.zeros(300, dtype=int)))
    centroids = gaussian(7, 5, seed=4)
    expected = np.mean([np.sum((row - centroids[label]) ** 2) for row, label in zip(x, labels, strict=True)])
    assert inertia(x, centroids, labels) == pytest.approx(expected)


def test_memory_does_not_grow():
    accumulator = RankAccumulator(8)
    for seed in range(40):
        accumulator.add(gaussian(100, 8, seed))
        assert accumulator._held < 700
    assert accumulator.count == 4000


def test_what_callers_do_afterwards_changes_nothing():
    z = gaussian(20, 64)
    accumulator = fed(z, 1)
    before = rankme(z)
    z[:] = 0
    assert accumulator.rank().rankme == pytest.approx(before)


def test_errors():
    for few in (np.zeros((0, 4)), np.ones((1, 4))):
        with pytest.raises(UserError, match="at least 2 utterances"):
            rankme(few)
    with pytest.raises(UserError, match="at least 2"):
        fed(np.ones((1, 4)), 1).rank()
    with pytest.raises(UserError, match="at least 2"):
        rankme_t([])
    broken = gaussian(5, 4)
    broken[3, 1] = np.nan
    with pytest.raises(UserError, match="layer 7: vector 3 holds NaN"):
        RankAccumulator(4, "layer 7").add(broken)
    with pytest.raises(UserError, match="vectors of 4 numbers among vectors of 6"):
        RankAccumulator(6).add(gaussian(5, 4))
    assert rankme_of_spectrum(np.array([1.0, 1.0]), eps=0) == pytest.approx(2)
