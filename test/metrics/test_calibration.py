"""Calibration against scikit-learn's logistic regression with the same weights, and against known LLRs."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from espnet_ext.errors import UserError
from espnet_ext.metrics.calibration import Calibration
from espnet_ext.metrics.detection import cllr, min_cllr


def make_trials(num=4000, num_features=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(num) < 0.2).astype(np.int8)
    features = rng.normal(size=(num, num_features)) * [1, 10, 0.1][:num_features]
    features[:, 0] += 1.5 * labels
    return features, labels


@pytest.mark.parametrize("p_target", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("num_features, l2", [(1, 1e-4), (3, 1e-4), (3, 0.1)])
def test_fit_equals_sklearn(p_target, num_features, l2):
    features, labels = make_trials(num_features=num_features)
    fitted = Calibration.fit(features, labels, p_target, l2)
    mean, deviation = features.mean(0), features.std(0)
    weights = np.where(labels == 1, p_target / labels.sum(), (1 - p_target) / (1 - labels).sum())
    # scikit-learn minimises C * sum(weights * loss) + |w|^2 / 2.
    peer = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    peer.fit((features - mean) / deviation, labels, sample_weight=weights)
    expected = peer.decision_function((features - mean) / deviation) - np.log(p_target / (1 - p_target))
    np.testing.assert_allclose(fitted.llr(features), expected, atol=1e-5)


def test_known_llrs_are_found():
    rng = np.random.default_rng(1)
    labels = np.repeat([1, 0], 50_000)
    # Two Gaussians of variance 2 m and means +-m are their own LLRs.
    llrs = rng.normal(size=100_000) * np.sqrt(2 * 3) + np.where(labels == 1, 3, -3)
    fitted = Calibration.fit((llrs - 5) / 7, labels, 0.5)
    assert fitted.weights[0] == pytest.approx(7, rel=0.03)
    assert fitted.bias == pytest.approx(5, abs=0.1)


def test_calibration_mends_cllr_and_keeps_the_ranking():
    features, labels = make_trials(num_features=1)
    test, test_labels = make_trials(num_features=1, seed=9)
    fitted = Calibration.fit(features[:, 0], labels, 0.05)
    llrs = fitted.llr(test[:, 0])
    assert cllr(llrs, test_labels) < cllr(test[:, 0], test_labels)
    assert cllr(llrs, test_labels) < min_cllr(test[:, 0], test_labels) + 0.03
    assert (np.argsort(llrs) == np.argsort(test[:, 0])).all()


def test_separable_and_constant_features_stay_finite():
    labels = np.repeat([0, 1], 50)
    features = np.stack([np.linspace(0, 1, 100), np.full(100, 3.0)], axis=1)
    fitted = Calibration.fit(features, labels, 0.01)
    assert np.isfinite([*fitted.weights, fitted.bias]).all()
    assert fitted.weights[1] == 0
    llrs = fitted.llr(features)
    assert llrs[labels == 1].min() > llrs[labels == 0].max()
    assert np.abs(llrs).max() < 1000


def test_round_trip_through_json():
    features, labels = make_trials()
    fitted = Calibration.fit(features, labels, 0.05, names=["score", "a", "b"])
    again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again.names == ["score", "a", "b"] and again.p_target == 0.05
    np.testing.assert_array_equal(again.llr(features), fitted.llr(features))


@pytest.mark.parametrize(
    "features, labels, p_target, message",
    [
        ([1.0, 2.0], [1, 1], 0.05, "both target and non-target"),
        ([1.0, np.nan], [0, 1], 0.05, "trial 2"),
        ([1.0, 2.0], [0, 1], 0.0, "prior"),
        ([1.0, 2.0], [0, 1, 1], 0.05, "one row of features per label"),
    ],
)
def test_wrong_input(features, labels, p_target, message):
    with pytest.raises(UserError, match=message):
        Calibration.fit(features, labels, p_target)


def test_wrong_dict_and_wrong_number_of_features():
    with pytest.raises(UserError, match="not a calibration"):
        Calibration.from_dict({"weights": [1.0]})
    with pytest.raises(UserError, match="finite"):
        Calibration.from_dict({"weights": [float("nan")], "bias": 0.0, "features": ["score"], "p_target": 0.05})
    with pytest.raises(UserError, match="takes 1 features"):
        Calibration([1.0], 0.0, ["score"], 0.05).llr(np.zeros((2, 2)))
