"""a-DCF against a loop over thresholds, and against minDCF where there is no spoofing to tell apart."""

import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.metrics.detection import min_dcf
from espnet_ext.metrics.sasv import min_a_dcf


@pytest.mark.parametrize("decimals", [1, 8])
def test_equals_a_loop_over_thresholds(decimals):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    scores = (rng.normal(size=300) + np.array([0, 2, 1])[labels]).round(decimals)
    costs = {}
    for threshold in [*scores, np.inf]:
        miss = np.mean(scores[labels == 1] < threshold)
        false = [np.mean(scores[labels == kind] >= threshold) for kind in (0, 2)]
        costs[threshold] = 0.9405 * miss + 10 * 0.0095 * false[0] + 10 * 0.05 * false[1]
    value, threshold = min_a_dcf(scores, labels)
    assert value == pytest.approx(min(costs.values()) / (0.095 + 0.5), abs=1e-12)
    assert costs[threshold] == pytest.approx(min(costs.values()), abs=1e-12)


def test_spoofs_that_score_as_non_targets_give_min_dcf():
    rng = np.random.default_rng(1)
    labels = (rng.random(400) < 0.5).astype(int)
    scores = rng.normal(size=400) + 2 * labels
    other = labels == 0
    both = np.concatenate([scores, scores[other]]), np.concatenate([labels, np.full(other.sum(), 2)])
    expected = min_dcf(scores, labels, 0.9405, c_miss=1, c_fa=10)
    assert min_a_dcf(*both)[0] == pytest.approx(expected, abs=1e-12)


def test_constant_scores_and_wrong_input():
    assert min_a_dcf([1.0, 1.0, 1.0], [0, 1, 2])[0] == 1.0
    for scores, labels in (([1.0, 2.0], [0, 1]), ([np.nan, 1.0, 2.0], [0, 1, 2]), ([1.0], [0, 1])):
        with pytest.raises(UserError, match="a-DCF needs"):
            min_a_dcf(scores, labels)
    with pytest.raises(UserError, match="positive"):
        min_a_dcf([0.0, 1.0, 2.0], [0, 1, 2], p_spoof=0)
