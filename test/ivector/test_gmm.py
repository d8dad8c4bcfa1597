"""Mixtures against scipy and scikit-learn; EM's likelihood rises; selection, pruning, floors and rare components."""

import numpy as np
import pytest
import torch
from mixtures import draw, random_gmm
from scipy.stats import multivariate_normal

from espnet_ext.errors import UserError
from espnet_ext.ivector.gmm import Aligner, Gmm, Statistics, floor_full, maximise, second_order, unpack

FLOOR = torch.full((4,), 1e-6, dtype=torch.float64)


def expected_log_joint(gmm: Gmm, x: np.ndarray) -> np.ndarray:
    covariances = gmm.covariances if gmm.is_full else torch.diag_embed(gmm.covariances)
    parts = zip(gmm.weights.tolist(), gmm.means.numpy(), covariances.numpy(), strict=True)
    return np.stack([np.log(w) + multivariate_normal(m, s).logpdf(x) for w, m, s in parts], axis=1)


@pytest.mark.parametrize("full", [True, False])
def test_likelihoods_equal_scipys(full):
    gmm = random_gmm(5, 4)
    gmm = gmm if full else gmm.diagonal()
    x, _ = draw(random_gmm(5, 4), 50)
    expected = expected_log_joint(gmm, x)
    np.testing.assert_allclose(gmm.log_joint(torch.from_numpy(x)), expected, rtol=1e-10)
    gamma, log_likelihood = Aligner(gmm)(torch.from_numpy(x))
    np.testing.assert_allclose(log_likelihood, np.logaddexp.reduce(expected, axis=1), rtol=1e-10)
    np.testing.assert_allclose(gamma, np.exp(expected - np.logaddexp.reduce(expected, axis=1)[:, None]), atol=1e-10)


def test_full_is_the_same_mixture_with_matrices():
    diagonal, x = random_gmm(5, 4).diagonal(), torch.from_numpy(draw(random_gmm(5, 4), 50)[0])
    full = diagonal.full()
    assert full.is_full and full.covariances.shape == (5, 4, 4) and full.full() is full
    torch.testing.assert_close(full.log_joint(x), diagonal.log_joint(x), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("full", [True, False])
def test_em_equals_scikit_learns_from_the_same_start(full):
    from sklearn.mixture import GaussianMixture

    x, _ = draw(random_gmm(4, 4, spread=1.5), 2000)
    start = random_gmm(4, 4, seed=7, spread=1.5)
    start = start if full else start.diagonal()
    peer = GaussianMixture(
        4,
        covariance_type="full" if full else "diag",
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=(torch.linalg.inv(start.covariances) if full else 1 / start.covariances).numpy(),
        max_iter=5,
        tol=0,
        reg_covar=0,
    )
    with pytest.warns(UserWarning, match="did not converge"):
        peer.fit(x)
    gmm = start
    for _ in range(5):
        gmm, kept, floored = maximise(gmm, Statistics.of(Aligner(gmm), torch.from_numpy(x)), FLOOR, full)
        assert kept == floored == 0
    np.testing.assert_allclose(gmm.weights, peer.weights_, atol=1e-9)
    np.testing.assert_allclose(gmm.means, peer.means_, atol=1e-7)
    np.testing.assert_allclose(gmm.covariances, peer.covariances_, atol=1e-7)


@pytest.mark.parametrize("full", [True, False])
def test_the_likelihood_rises_and_the_truth_is_found(full):
    truth = random_gmm(3, 4)
    x, component = draw(truth, 6000)
    rng = np.random.default_rng(0)
    first = [x[component == c][0] for c in range(3)]  # one frame of each: what is tested is EM, not the start
    covariances = torch.eye(4, dtype=torch.float64).expand(3, 4, 4) * x.var()
    gmm = Gmm(
        torch.full((3,), 1 / 3).double(), torch.from_numpy(np.stack(first) + rng.normal(size=(3, 4))), covariances
    )
    gmm, history = gmm if full else gmm.diagonal(), []
    for _ in range(25):
        total = Statistics.of(Aligner(gmm), torch.from_numpy(x))
        history.append(total.log_likelihood)
        gmm, _, _ = maximise(gmm, total, FLOOR, full)
    assert (np.diff(history) >= -1e-9 * abs(history[0])).all() and history[-1] > history[0]
    np.testing.assert_allclose(gmm.means, truth.means, atol=0.15)
    np.testing.assert_allclose(gmm.weights, truth.weights, atol=0.03)


def test_blocks_change_nothing(monkeypatch):
    gmm, (x, _) = random_gmm(5, 4), draw(random_gmm(5, 4), 300)
    whole = Statistics.of(Aligner(gmm), torch.from_numpy(x))
    monkeypatch.setattr("espnet_ext.ivector.gmm.CPU_BLOCK", 7)
    parts = Statistics.of(Aligner(gmm), torch.from_numpy(x[:100])).add(
        Statistics.of(Aligner(gmm), torch.from_numpy(x[100:]))
    )
    assert parts.frames == whole.frames == 300
    for name in ("n", "f", "s"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-11, atol=1e-10)


def test_selection():
    gmm, (x, _) = random_gmm(6, 4, spread=1.0), draw(random_gmm(6, 4, spread=1.0), 200)
    x = torch.from_numpy(x)
    exact, _ = Aligner(gmm)(x)
    every, log_likelihood = Aligner(gmm, num_selected=5)(x)
    assert (every > 0).sum(1).max() <= 5
    best = gmm.diagonal().log_joint(x).topk(5).indices
    assert ((every > 0).nonzero()[:, 1] == best.sort().values.flatten()).all()
    expected = gmm.log_joint(x).gather(1, best).logsumexp(1)
    np.testing.assert_allclose(log_likelihood, expected, rtol=1e-10)
    chosen = torch.zeros_like(exact).scatter(1, best, 1) * exact
    np.testing.assert_allclose(every, chosen / chosen.sum(1, keepdim=True), atol=1e-9)
    assert Aligner(gmm, num_selected=6).num_selected == 0  # all of them: nothing to select


def test_pruning_keeps_the_largest_and_sums_to_one():
    gmm, (x, _) = random_gmm(6, 4, spread=0.1), draw(random_gmm(6, 4, spread=0.1), 200)
    exact, _ = Aligner(gmm)(torch.from_numpy(x))
    gamma, _ = Aligner(gmm, min_posterior=0.5)(torch.from_numpy(x))
    np.testing.assert_allclose(gamma.sum(1), 1, rtol=1e-12)
    assert (exact.max(1).values < 0.5).any()  # nothing is above the limit, and one is kept all the same
    assert ((gamma > 0).sum(1) == 1).all() and (gamma.argmax(1) == exact.argmax(1)).all()


def test_sparse_and_dense_second_order_agree():
    gmm, (x, _) = random_gmm(16, 4, spread=8), draw(random_gmm(16, 4, spread=8), 100)
    x = torch.from_numpy(x)
    gamma, _ = Aligner(gmm, min_posterior=0.025)(x)
    assert 8 * torch.count_nonzero(gamma) < gamma.numel()
    expected = torch.einsum("tc,tf,tg->cfg", gamma, x, x)
    np.testing.assert_allclose(unpack(second_order(gamma, gmm, x), 4), expected, atol=1e-9)
    np.testing.assert_allclose(unpack(second_order(gamma + 1e-300, gmm, x), 4), expected, atol=1e-9)


def test_rare_components_keep_their_shape_and_small_variances_are_floored():
    gmm, (x, _) = random_gmm(3, 4), draw(random_gmm(3, 4), 500)
    far = Gmm(gmm.weights, gmm.means.clone(), gmm.covariances)
    far.means[1] = 1e3
    far = Gmm(far.weights, far.means, far.covariances)
    new, kept, _ = maximise(far, Statistics.of(Aligner(far), torch.from_numpy(x)), FLOOR, True)
    assert kept == 1 and (new.means[1] == 1e3).all() and 0 < new.weights[1] < 1e-6
    np.testing.assert_allclose(new.covariances[1], gmm.covariances[1])
    x[:, 3] = x[:, 2]  # linearly dependent: every covariance is singular
    floor = torch.full((4,), 0.01, dtype=torch.float64)
    new, _, floored = maximise(gmm, Statistics.of(Aligner(gmm), torch.from_numpy(x)), floor, True)
    assert floored >= 2
    assert (torch.linalg.eigvalsh(new.covariances)[:, 0] > 0.0099).all()


def test_floor_is_per_direction_in_units_of_the_features():
    covariances = torch.tensor([[[4.0, 0.0], [0.0, 1e-9]], [[4.0, 0.0], [0.0, 100.0]]], dtype=torch.float64)
    raised, which = floor_full(covariances, torch.tensor([1.0, 50.0], dtype=torch.float64))
    assert which.tolist() == [True, False]
    np.testing.assert_allclose(raised[0], [[4, 0], [0, 50]], atol=1e-9)
    assert (raised[1] == covariances[1]).all()


@pytest.mark.parametrize("full", [True, False])
def test_a_singular_covariance_is_said(full):
    gmm = random_gmm(3, 4)
    covariances = gmm.covariances.clone() if full else gmm.diagonal().covariances
    covariances[1] = 0
    with pytest.raises(UserError, match="Gaussian 1 has a singular covariance"):
        Gmm(gmm.weights, gmm.means, covariances)
