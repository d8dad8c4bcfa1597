"""Poolings against numpy in float64, frame by frame."""

import numpy as np
import pytest
import torch

from espnet_ext.spk.pooling import ChnAttnStatPooling, MeanPooling, StatsPooling


def by_hand(pool: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """The pooling of one utterance (size, frames) written out in float64."""
    mean = x.mean(axis=1)
    if isinstance(pool, MeanPooling):
        return mean
    eps = np.finfo(np.float32).eps
    if isinstance(pool, StatsPooling):
        return np.concatenate((mean, np.sqrt(np.clip(x.var(axis=1), eps, 1e4))))
    deviation = np.sqrt(np.clip(x.var(axis=1), eps, 1e4))
    h = np.concatenate((x, np.tile(mean[:, None], x.shape[1]), np.tile(deviation[:, None], x.shape[1])))
    first, _, norm, last = pool.attention
    h = np.maximum(first.weight[..., 0].double().numpy() @ h + first.bias.double().numpy()[:, None], 0)
    h = (h - norm.running_mean.double().numpy()[:, None]) / np.sqrt(norm.running_var.double().numpy()[:, None] + 1e-5)
    scores = last.weight[..., 0].double().numpy() @ h + last.bias.double().numpy()[:, None]
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    mu = (weights * x).sum(axis=1)
    return np.concatenate((mu, np.sqrt(np.clip((weights * x**2).sum(axis=1) - mu**2, 1e-4, 1e4))))


@pytest.mark.parametrize("cls", [MeanPooling, StatsPooling, ChnAttnStatPooling])
@torch.no_grad()
def test_equals_the_formula_over_valid_frames(cls):
    torch.manual_seed(0)
    pool = cls(6).eval()
    for norm in pool.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    x = 3 + torch.randn(4, 6, 20)
    lengths = torch.tensor([20, 13, 2, 1])
    pooled = pool(x, lengths)
    assert pooled.shape == (4, pool.output_size())
    for row, features, n in zip(pooled, x, lengths, strict=True):
        np.testing.assert_allclose(row, by_hand(pool, features[:, :n].double().numpy()), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("cls", [MeanPooling, StatsPooling, ChnAttnStatPooling])
@pytest.mark.parametrize("lengths", [None, torch.tensor([1, 1])])
def test_one_frame_has_finite_gradients(cls, lengths):
    x = torch.randn(2, 6, 1 if lengths is None else 5, requires_grad=True)
    cls(6)(x, lengths).sum().backward()
    assert x.grad.isfinite().all()


def test_statistics_stay_in_float32_under_autocast():
    x = 100 + torch.randn(2, 6, 50)  # bfloat16 has 8 bits: the deviation would be lost
    with torch.autocast("cpu", torch.bfloat16):
        pooled = StatsPooling(6)(x.bfloat16())
    assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled[:, 6:], x.bfloat16().double().numpy().std(axis=2), rtol=1e-4)
