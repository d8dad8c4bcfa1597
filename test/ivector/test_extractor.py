"""The total variability model against dense Gaussians; EM rises; known parameters are found; minimum divergence."""

import numpy as np
import pytest
import torch
from mixtures import draw_statistics, random_model
from scipy.stats import multivariate_normal

from espnet_ext.ivector.extractor import Accumulator, TotalVariability, maximise, objective
from espnet_ext.ivector.gmm import unpack

FLOOR = torch.full((5,), 1e-6, dtype=torch.float64)


def frames_gaussian(model: TotalVariability, component: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and covariance of all frames of an utterance as one vector, and their loading (frames F, R)."""
    dim = model.means.size(1)
    loading = np.concatenate(model.t.numpy()[component])
    covariance = loading @ loading.T
    for t, c in enumerate(component):
        covariance[t * dim : (t + 1) * dim, t * dim : (t + 1) * dim] += model.covariances.numpy()[c]
    return np.concatenate(model.means.numpy()[component]), covariance, loading


def test_posterior_equals_a_dense_gaussian():
    model = random_model(4, 3, 2)
    (_, n, f, _), x, component = draw_statistics(model, 3, 7)
    posterior = model.posterior(n, model.centre(n, f))
    for u in range(3):
        mean, covariance, loading = frames_gaussian(model, component[u])
        gain = np.linalg.solve(covariance, loading)  # of jointly Gaussian x and w: E(w|x) = cov(w,x) cov(x)^-1 (x - m)
        np.testing.assert_allclose(posterior.w[u], gain.T @ (x[u].ravel() - mean), rtol=1e-9)
        np.testing.assert_allclose(posterior.covariance[u], np.eye(2) - loading.T @ gain, rtol=1e-8)


def test_objective_is_the_likelihood_of_the_frames():
    models = random_model(4, 3, 2), random_model(4, 3, 2, seed=5)
    (_, n, f, s), x, component = draw_statistics(models[0], 3, 7)
    for model in models:
        total = Accumulator.empty(model)
        total.accumulate(model, n, f)
        expected = 0.0
        for u in range(3):
            mean, covariance, _ = frames_gaussian(model, component[u])
            expected += multivariate_normal(mean, covariance).logpdf(x[u].ravel())
        constant = -0.5 * x.size * np.log(2 * np.pi)
        assert objective(model, total, s) + constant == pytest.approx(expected, rel=1e-9)


def train(model, n, f, s, iterations, **options):
    history = []
    for _ in range(iterations):
        total = Accumulator.empty(model)
        total.accumulate(model, n, f)
        history.append(objective(model, total, s))
        model, _ = maximise(model, total, s, FLOOR, **options)
    return model, history


def start_of(model: TotalVariability, rank: int, seed: int = 3) -> TotalVariability:
    noise = np.random.default_rng(seed).normal(size=(*model.means.shape, rank))
    return TotalVariability(model.means, 1.5 * model.covariances, torch.from_numpy(0.1 * noise))


@pytest.mark.parametrize("update_covariances", [True, False])
@pytest.mark.parametrize("minimum_divergence", [True, False])
def test_the_objective_rises(update_covariances, minimum_divergence):
    truth = random_model(6, 5, 3)
    (_, n, f, s), _, _ = draw_statistics(truth, 60, 40)
    options = {"update_covariances": update_covariances, "minimum_divergence": minimum_divergence}
    _, history = train(start_of(truth, 3), n, f, s, 15, **options)
    assert (np.diff(history) >= -1e-9 * abs(history[0])).all() and history[-1] > history[0] + 1


def test_known_parameters_are_found_and_the_prior_is_standard():
    truth = random_model(6, 5, 3)
    (w, n, f, s), _, _ = draw_statistics(truth, 800, 120)
    model, _ = train(start_of(truth, 3), n, f, s, 40)
    found, known = (np.linalg.qr(m.t.numpy().reshape(-1, 3))[0] for m in (model, truth))
    assert np.linalg.svd(found.T @ known)[1].min() > 0.99
    np.testing.assert_allclose(model.covariances, truth.covariances, atol=0.1)
    posterior = model.posterior(n, model.centre(n, f))
    fitted = np.linalg.lstsq(posterior.w.numpy(), w.numpy(), rcond=None)[0]
    assert np.corrcoef((posterior.w.numpy() @ fitted).ravel(), w.numpy().ravel())[0, 1] > 0.95
    second = posterior.covariance.mean(0) + posterior.w.T @ posterior.w / len(w)
    assert posterior.w.mean(0).abs().max() < 1e-3 and (second - torch.eye(3)).abs().max() < 1e-3


def test_minimum_divergence_changes_the_prior_and_nothing_else():
    truth = random_model(6, 5, 3)
    (_, n, f, s), _, _ = draw_statistics(truth, 100, 40)
    start = start_of(truth, 3)
    total = Accumulator.empty(start)
    total.accumulate(start, n, f)
    with_it, _ = maximise(start, total, s, FLOOR)
    without, _ = maximise(start, total, s, FLOOR, minimum_divergence=False)
    h, g = total.h / 100, unpack(total.g, 3) / 100
    prior = g - torch.outer(h, h)
    # The supervector's distribution: m + T w with w ~ N(h, G) before, w ~ N(0, I) after.
    np.testing.assert_allclose(with_it.means, without.means + without.t @ h, rtol=1e-10)
    flat, moved = without.t.flatten(0, 1), with_it.t.flatten(0, 1)
    np.testing.assert_allclose(moved @ moved.T, flat @ prior @ flat.T, rtol=1e-7, atol=1e-10)
    assert (with_it.covariances == without.covariances).all()


def test_batches_and_shards_change_nothing(monkeypatch):
    truth = random_model(6, 5, 3)
    (_, n, f, _), _, _ = draw_statistics(truth, 20, 40)
    whole = Accumulator.empty(truth)
    whole.accumulate(truth, n, f)
    monkeypatch.setattr("espnet_ext.ivector.extractor.BATCH_BYTES", 1)
    parts = Accumulator.empty(truth)
    for rows in (slice(0, 13), slice(13, 20)):
        other = Accumulator.empty(truth)
        other.accumulate(truth, n[rows], f[rows])
        parts.add(other)
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), value, rtol=1e-10, atol=1e-10)


def test_float32_statistics_give_nearly_the_same_vector():
    truth = random_model(6, 5, 3)
    (_, n, f, _), _, _ = draw_statistics(truth, 20, 40)
    exact = truth.posterior(n, truth.centre(n, f)).w
    single = truth.posterior(n.float(), truth.centre(n, f).float()).w
    assert single.dtype == torch.float64 and (single - exact).abs().max() < 1e-4


def test_a_component_without_frames_keeps_its_rows():
    truth = random_model(6, 5, 3)
    (_, n, f, s), _, _ = draw_statistics(truth, 20, 40)
    for statistics in (n, f):
        statistics[:, 2] = 0
    s[2] = 0
    start = start_of(truth, 3)
    total = Accumulator.empty(start)
    total.accumulate(start, n, f)
    model, _ = maximise(start, total, s, FLOOR, minimum_divergence=False)
    assert (model.t[2] == start.t[2]).all() and (model.covariances[2] == start.covariances[2]).all()
    assert torch.isfinite(model.t).all()
