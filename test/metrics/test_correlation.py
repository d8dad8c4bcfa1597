"""Correlations against scipy, and what a choice costs."""

import numpy as np
import pytest
from scipy import stats

from espnet_ext.errors import UserError
from espnet_ext.metrics.correlation import pearson, places, regret, spearman


@pytest.mark.parametrize("seed", range(6))
def test_against_scipy(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 30))
    x = rng.normal(size=n)
    y = rng.integers(0, 4, n) + 1e-3 * (seed % 2) * rng.normal(size=n) + x * (seed - 2)  # ties
    ties = np.round(x)
    for a, b in ((x, y), (ties, y), (1e200 * x, 1e-200 * y)):
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert pearson(1e200 * x, 1e-200 * y) == pytest.approx(pearson(x, y), abs=1e-12)
    np.testing.assert_allclose(places(ties), stats.rankdata(ties))


def test_no_variation_is_not_a_number():
    for function in (pearson, spearman):
        assert np.isnan(function([1, 1, 1], [1, 2, 3])) and np.isnan(function([1], [2]))


def test_regret():
    score = [0.2, 0.9, 0.5, 0.7]
    assert regret([1, 4, 2, 3], score) == 0
    assert regret([9, 4, 2, 3], score) == pytest.approx(0.7)
    assert regret([1, 4, 9, 9], score) == pytest.approx(0.3)


def test_errors():
    for x, y in (([1, 2], [1, 2, 3]), ([], []), ([1, np.nan], [1, 2])):
        with pytest.raises(UserError):
            spearman(x, y)
