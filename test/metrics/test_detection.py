"""Detection metrics against brute force over all thresholds, scikit-learn, and hand-made lists."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from espnet_ext.errors import UserError
from espnet_ext.metrics.detection import (
    RankedTrials,
    act_dcf,
    bayes_threshold,
    cllr,
    det_points,
    eer,
    min_cllr,
    min_dcf,
    roc,
)


def make_trials(rng, num=500, decimals=None):
    labels = (rng.random(num) < 0.3).astype(np.int8)
    labels[:2] = 0, 1
    scores = rng.normal(size=num) + 1.5 * labels
    return (scores if decimals is None else scores.round(decimals)), labels


def brute_force_points(scores, labels, weights=None):
    """(fnr, fpr) for every threshold, highest first, one Python loop per threshold."""
    weights = np.ones(len(scores)) if weights is None else weights
    points = []
    for threshold in [np.inf, *sorted(set(scores), reverse=True)]:
        missed = sum(w for s, y, w in zip(scores, labels, weights, strict=True) if y and s < threshold)
        false = sum(w for s, y, w in zip(scores, labels, weights, strict=True) if not y and s >= threshold)
        points.append((missed / weights[labels == 1].sum(), false / weights[labels == 0].sum()))
    return points


@pytest.mark.parametrize("seed", range(5))
def test_eer_and_min_dcf_equal_brute_force_and_sklearn(seed):
    scores, labels = make_trials(np.random.default_rng(seed))
    points = brute_force_points(scores, labels)
    nearest = min(points, key=lambda point: round(abs(point[0] - point[1]), 12))
    assert eer(scores, labels) == pytest.approx(max(nearest), abs=1e-12)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    index = np.argmin(np.abs(1 - tpr - fpr).round(12))
    assert eer(scores, labels) == pytest.approx(max(fpr[index], 1 - tpr[index]), abs=1e-12)
    for p_target, c_fa in itertools.product((0.01, 0.05, 0.5), (1.0, 10.0)):
        expected = min(p_target * fnr + c_fa * (1 - p_target) * fpr for fnr, fpr in points)
        expected /= min(p_target, c_fa * (1 - p_target))
        assert min_dcf(scores, labels, p_target, c_fa=c_fa) == pytest.approx(expected, abs=1e-12)
        curve = (p_target * (1 - tpr) + c_fa * (1 - p_target) * fpr).min() / min(p_target, c_fa * (1 - p_target))
        assert min_dcf(scores, labels, p_target, c_fa=c_fa) == pytest.approx(curve, abs=1e-12)


def test_min_dcf_equals_espnets_without_ties():
    peer = pytest.importorskip("espnet2.utils.eer")
    scores, labels = make_trials(np.random.default_rng(6))
    for p_target in (0.01, 0.05):
        expected = peer.ComputeMinDcf(*peer.ComputeErrorRates(scores.tolist(), labels.tolist()), p_target, 1, 1)[0]
        assert min_dcf(scores, labels, p_target) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("decimals", [0, 1])
def test_ties_are_never_split(decimals):
    rng = np.random.default_rng(1)
    scores, labels = make_trials(rng, 300, decimals)
    points = brute_force_points(scores, labels)
    for p_target in (0.01, 0.05, 0.5):
        expected = min(p_target * fnr + (1 - p_target) * fpr for fnr, fpr in points) / min(p_target, 1 - p_target)
        assert min_dcf(scores, labels, p_target) == pytest.approx(expected, abs=1e-12)
    # The crossing of the polyline through the operating points, found on a fine grid.
    fnr, fpr = np.array(points).T
    along = np.linspace(0, len(points) - 1, 400_001)
    fnr, fpr = np.interp(along, np.arange(len(points)), fnr), np.interp(along, np.arange(len(points)), fpr)
    crossing = np.argmin(np.abs(fnr - fpr))
    assert eer(scores, labels) == pytest.approx(fnr[crossing], abs=1e-3)
    shuffled = rng.permutation(len(scores))
    assert eer(scores[shuffled], labels[shuffled]) == eer(scores, labels)


@pytest.mark.parametrize("labels", [[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 1]])
def test_constant_scores_know_nothing(labels):
    scores = np.full(4, 0.3)
    assert eer(scores, labels) == 0.5
    assert min_dcf(scores, labels, 0.01) == min_dcf(scores, labels, 0.05) == 1.0
    assert min_cllr(scores, labels) == pytest.approx(1.0, abs=1e-12)


def test_hand_made_lists():
    assert eer([0, 1, 2, 3], [0, 0, 1, 1]) == 0.0
    assert min_dcf([0, 1, 2, 3], [0, 0, 1, 1], 0.01) == 0.0
    assert min_cllr([0, 1, 2, 3], [0, 0, 1, 1]) == 0.0
    assert eer([0, 1, 2, 3], [1, 1, 0, 0]) == 1.0
    assert eer([0, 1, 2, 3], [0, 1, 0, 1]) == 0.5
    # One tie of both classes between sure ones: FNR 0 -> 1/2 while FPR 1/2 -> 0, crossing at 1/4.
    assert eer([0, 1, 1, 2], [0, 0, 1, 1]) == 0.25
    assert min_dcf([0, 1, 1, 2], [0, 0, 1, 1], 0.5) == 0.5
    assert RankedTrials([0, 1, 2, 3], [0, 0, 1, 1]).curve().eer_and_threshold() == (0.0, 2.0)


@pytest.mark.parametrize("decimals", [None, 1])
def test_weights_count_trials(decimals):
    rng = np.random.default_rng(2)
    scores, labels = make_trials(rng, 200, decimals)
    weights = rng.integers(0, 4, len(scores))
    repeated = np.repeat(scores, weights), np.repeat(labels, weights)
    assert eer(scores, labels, weights) == pytest.approx(eer(*repeated), abs=1e-12)
    assert min_dcf(scores, labels, 0.05, weights=weights) == pytest.approx(min_dcf(*repeated, 0.05), abs=1e-12)
    assert cllr(scores, labels, weights) == pytest.approx(cllr(*repeated), abs=1e-12)
    assert min_cllr(scores, labels, weights) == pytest.approx(min_cllr(*repeated), abs=1e-12)
    assert act_dcf(scores, labels, 0.2, weights=weights) == pytest.approx(act_dcf(*repeated, 0.2), abs=1e-12)


def test_cllr_and_act_dcf_equal_their_definitions():
    scores, labels = make_trials(np.random.default_rng(3))
    target, nontarget = scores[labels == 1], scores[labels == 0]
    expected = 0.5 * (np.mean(np.log2(1 + np.exp(-target))) + np.mean(np.log2(1 + np.exp(nontarget))))
    assert cllr(scores, labels) == pytest.approx(expected, abs=1e-12)
    assert cllr(np.zeros(4), [0, 1, 0, 1]) == pytest.approx(1.0)
    assert np.isfinite(cllr([1000.0, -1000.0], [0, 1]))
    threshold = np.log(0.95 / 0.05)
    assert bayes_threshold(0.05) == pytest.approx(threshold)
    expected = (0.05 * np.mean(target < threshold) + 0.95 * np.mean(nontarget >= threshold)) / 0.05
    assert act_dcf(scores, labels, 0.05) == pytest.approx(expected, abs=1e-12)
    assert act_dcf(scores, labels, 0.05) >= min_dcf(scores, labels, 0.05)


def test_min_cllr_equals_cllr_of_isotonic_llrs():
    from sklearn.isotonic import IsotonicRegression

    scores, labels = make_trials(np.random.default_rng(4), decimals=1)
    posterior = IsotonicRegression().fit(scores, labels).predict(scores)
    posterior = np.clip(posterior, 1e-15, 1 - 1e-15)
    prior = labels.mean()
    llrs = np.log(posterior / (1 - posterior)) - np.log(prior / (1 - prior))
    assert min_cllr(scores, labels) == pytest.approx(cllr(llrs, labels), abs=1e-9)
    assert min_cllr(scores, labels) <= min(1.0, cllr(scores, labels))
    assert min_cllr(3 * scores + 7, labels) == pytest.approx(min_cllr(scores, labels), abs=1e-12)


def test_roc_and_det_points():
    scores, labels = make_trials(np.random.default_rng(5), 20_000)
    points = roc(scores, labels)
    assert (points.fnr[0], points.fpr[0], points.fnr[-1], points.fpr[-1]) == (0, 1, 1, 0)
    assert (np.diff(points.fnr) >= 0).all() and (np.diff(points.fpr) <= 0).all()
    thinned = det_points(scores, labels, 200)
    assert len(thinned.fnr) <= 210
    full = set(zip(points.fnr, points.fpr, strict=True))
    assert all(point in full for point in zip(thinned.fnr, thinned.fpr, strict=True))


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        ([], [], "empty"),
        ([1.0, 2.0], [1, 1], "no non-target trial"),
        ([1.0, 2.0], [0, 0], "no target trial"),
        ([1.0, np.nan], [0, 1], "trial 2"),
        ([1.0, 2.0], [0, 2], "1 \\(target\\) or 0"),
        ([1.0], [0, 1], "one score and one label"),
    ],
)
def test_lists_that_cannot_be_scored(scores, labels, message):
    for function in (eer, min_cllr, cllr, lambda s, y: min_dcf(s, y, 0.05)):
        with pytest.raises(UserError, match=message) as error:
            function(scores, labels)
        assert "\n" not in str(error.value)


def test_bad_prior_and_lost_class():
    with pytest.raises(UserError, match="p_target"):
        min_dcf([0.0, 1.0], [0, 1], 1.5)
    with pytest.raises(UserError, match="weight 0"):
        eer([0.0, 1.0], [0, 1], [0, 1])
