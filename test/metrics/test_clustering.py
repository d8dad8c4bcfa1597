"""NMI, purity, PNMI: against scikit-learn, against a dense table written out, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import homogeneity_score, normalized_mutual_info_score

from espnet_ext.errors import UserError
from espnet_ext.metrics.clustering import cluster_purity, nmi, pnmi, purity, unit_quality


def labellings(seed, n=400, classes=7, clusters=11, noise=0.3):
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=n)
    found = np.where(rng.random(n) < noise, rng.integers(clusters, size=n), truth)
    return found, truth


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed):
    found, truth = labellings(seed)
    assert nmi(found, truth) == pytest.approx(normalized_mutual_info_score(truth, found), abs=1e-12)
    # I(phone; unit) / H(phone) is what scikit-learn calls homogeneity.
    assert pnmi(found, truth) == pytest.approx(homogeneity_score(truth, found), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_against_the_dense_table(seed):
    found, truth = labellings(seed)
    p = np.zeros((truth.max() + 1, found.max() + 1))  # p(i, j): class i, cluster j
    np.add.at(p, (truth, found), 1 / len(truth))
    assert purity(found, truth) == pytest.approx(p.max(0).sum())
    assert cluster_purity(found, truth) == pytest.approx(p.max(1).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.nansum(p * np.log(p / p.sum(0) / p.sum(1, keepdims=True)))
    quality = unit_quality(found, truth)
    assert quality["mutual_information_nats"] == pytest.approx(information)
    assert quality["pnmi"] == pytest.approx(information / -(p.sum(1) * np.log(p.sum(1))).sum())
    assert quality["phone_purity"] == purity(found, truth) and quality["num_frames"] == 400


def test_by_hand():
    # Clusters {1, 1, 2}, {2}: three of four items are of their cluster's commonest class or alone.
    clusters, truth = ["a", "a", "a", "b"], [1, 1, 2, 2]
    assert purity(clusters, truth) == 3 / 4
    assert cluster_purity(clusters, truth) == 3 / 4
    information = 0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3) + 0.25 * np.log(2)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert nmi(clusters, truth) == pytest.approx(2 * information / (entropy + np.log(2)))
    assert pnmi(clusters, truth) == pytest.approx(information / np.log(2))


def test_renamed_labels_agree_fully_and_independent_ones_not():
    rng = np.random.default_rng(0)
    truth = rng.integers(20, size=20_000)
    names = np.array([f"speaker {number}" for number in rng.permutation(20)])
    assert nmi(names[truth], truth) == pytest.approx(1)
    assert pnmi(names[truth], truth) == pytest.approx(1)
    assert nmi(rng.integers(20, size=20_000), truth) < 0.01
    found, truth = labellings(0)
    assert nmi(truth, found) == pytest.approx(nmi(found, truth))


def test_one_class():
    assert nmi([0, 0, 0], [5, 5, 5]) == 1
    assert nmi([0, 0, 0], [0, 1, 2]) == 0
    assert pnmi([0, 1, 2], [5, 5, 5]) == 1
    assert purity([0, 0, 0], [0, 1, 2]) == pytest.approx(1 / 3)


def test_every_item_its_own_cluster_needs_no_table():
    # 300,000 x 300,000 cells would be 720 GB.
    everyone = np.arange(300_000)
    assert nmi(everyone, everyone) == pytest.approx(1)
    assert purity(everyone, everyone // 3) == 1
    assert cluster_purity(everyone, everyone // 3) == pytest.approx(1 / 3)


def test_wrong_input():
    with pytest.raises(UserError, match="shapes"):
        nmi([1, 2], [1, 2, 3])
    with pytest.raises(UserError, match="no labels"):
        purity([], [])
