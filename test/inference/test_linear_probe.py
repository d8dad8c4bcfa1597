"""The closed-form classifier against scikit-learn's."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from espnet_ext.errors import UserError
from espnet_ext.inference.linear_probe import ClassStatistics


def blobs(seed=0, classes=4, size=6, each=(80, 40, 120, 60)):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(size, size))
    centres = 0.5 * rng.normal(size=(classes, size))
    x = np.concatenate([rng.normal(size=(n, size)) @ mix + 2 * c for n, c in zip(each, centres, strict=True)])
    return x, np.repeat(np.arange(classes), each)


def fed(x, y, classes, portions=5, **options):
    statistics = ClassStatistics(x.shape[1], classes)
    order = np.random.default_rng(1).permutation(len(x))
    for part in np.array_split(order, portions):
        statistics.add(x[part], y[part])
    return statistics.fit(**options)


@pytest.mark.parametrize("shrinkage", [1e-3, 0.3])
def test_equals_scikit_learn(shrinkage):
    x, y = blobs()
    x = (x - x.mean(axis=0)) / x.std(axis=0)  # what ours does by itself
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, y)
    ours = fed(x, y, 4, shrinkage=shrinkage)
    scores = x @ ours.weights + ours.bias
    theirs = peer.decision_function(x)
    np.testing.assert_allclose(scores - scores[:, :1], theirs - theirs[:, :1], atol=1e-6)
    assert 0.6 < (ours(x) == y).mean() < 1


def test_scale_and_offset_change_nothing():
    x, y = blobs()
    expected = fed(x, y, 4)(x)
    for other in (1e-4 * x, x * np.logspace(-3, 3, 6), x + 1e4):
        assert (fed(other, y, 4)(other) != expected).mean() < 0.01


def test_dimensions_that_say_nothing_do_no_harm():
    x, y = blobs()
    constant = np.concatenate((x, np.full((len(x), 2), 3.0)), axis=1)
    np.testing.assert_array_equal(fed(constant, y, 4)(constant), fed(x, y, 4)(x))
    twice = np.concatenate((x, x), axis=1)
    assert (fed(twice, y, 4)(twice) == y).mean() == pytest.approx((fed(x, y, 4)(x) == y).mean(), abs=0.02)
    nothing = np.ones((len(x), 3))
    assert set(fed(nothing, y, 4)(nothing).tolist()) == {2}  # the commonest class


def test_classes_that_never_occur():
    x, y = blobs()
    assert (fed(x, y + 1, 7)(x) == fed(x, y, 4)(x) + 1).all()
    with pytest.raises(UserError, match="2 classes or more; its training data has 1"):
        fed(x, np.zeros_like(y), 4)
