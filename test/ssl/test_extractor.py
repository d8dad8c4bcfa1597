"""The convolutions as products of matrices: PyTorch's own convolution and group norm, and their gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from espnet_ext.ssl.extractor import ConvExtractor, _RowConv, normalized_weight, patch_moments


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (5, 2), (4, 8), (1, 1), (3, 1)])
def test_rows_are_pytorchs_convolution(kernel, stride, bias):
    """Values and all gradients, in float64; the last rows see zeros."""
    torch.manual_seed(0)
    x = torch.randn(8 * stride, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, kernel, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(4, dtype=torch.float64, requires_grad=True) if bias else None
    ours = _RowConv.apply(x, weight, offset, stride)
    theirs = F.conv1d(F.pad(x.T, (0, kernel))[None], weight, offset, stride)[0].T[: len(ours)]
    assert ours.shape == (8, 4)
    torch.testing.assert_close(ours, theirs)
    inputs = [x, weight] + ([offset] if bias else [])
    torch.manual_seed(1)
    towards = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, towards), torch.autograd.grad(theirs, inputs, towards), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (90, 10), (7, 3), (4, 6), (3, 1), (5, 5)])
def test_moments_are_those_of_the_patches(kernel, stride):
    """Mean and covariance over each utterance's own patches, as numpy has them; one patch, and none at all, too."""
    torch.manual_seed(0)
    wav = torch.randn(4, 611).cumsum(dim=1)
    longest = (611 - kernel) // stride + 1
    frames = torch.tensor([longest, longest // 2, 1, 0])
    mean, covariance = patch_moments(wav, frames, kernel, stride)
    patches = wav.double().unfold(1, kernel, stride).numpy()
    for row in range(3):
        own = patches[row, : frames[row]]
        np.testing.assert_allclose(mean[row], own.mean(axis=0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(covariance[row], np.cov(own.T, bias=True), rtol=1e-9, atol=1e-8)
    assert torch.isfinite(covariance[3]).all()


def test_the_norm_is_that_of_every_channel_over_time():
    """Group norm of the convolution's output, of the valid frames alone, with gradients; float32 stays exact.

    The wave is slow and far from zero, and one filter takes that away: 60 dB of what it sees cancel.
    """
    torch.manual_seed(0)
    time = torch.arange(4000) / 16000
    wav = torch.stack([0.5 + 0.3 * torch.sin(40 * time), 0.2 * torch.randn(4000)]) + 1e-4 * torch.randn(2, 4000)
    weight = torch.randn(5, 10)
    weight[0] = torch.tensor([1.0, -2.0, 1.0] + [0.0] * 7)
    norm = torch.nn.GroupNorm(5, 5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    frames = torch.tensor([799, 300])
    weight.requires_grad_()
    wav = wav - wav.mean(dim=1, keepdim=True)
    weights, bias = normalized_weight(wav, frames, weight, 5, norm)
    ours = torch.bmm(wav.unfold(1, 10, 5), weights.transpose(1, 2)) + bias[:, None]
    expected = []
    for row, count in zip(wav.double(), frames.tolist(), strict=True):
        y = F.conv1d(row[None, None], weight.double()[:, None], stride=5)[..., :count]
        expected.append(F.group_norm(y, 5, norm.weight.double(), norm.bias.double(), norm.eps)[0].T)
    towards = torch.randn(2, 799, 5)
    parameters = [weight, norm.weight, norm.bias]
    pairs = [(ours[row, : len(y)], y) for row, y in enumerate(expected)]
    for one, other in pairs:
        torch.testing.assert_close(one.double(), other, atol=2e-4, rtol=1e-4)
    gradients = []
    for side in zip(*pairs, strict=True):
        loss = sum((y * towards[row, : len(y)]).sum() for row, y in enumerate(side))
        gradients.append(torch.autograd.grad(loss, parameters, retain_graph=True))
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() < 1e-3 * other.norm()


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_bfloat16_is_near_float32(norm):
    """Few channels too, where the convolution of torch 2.11 is wrong on processors with AMX."""
    torch.manual_seed(0)
    extractor = ConvExtractor([8, 12, 12], [10, 3, 2], [5, 2, 2], bias=True, norm=norm)
    wav, lengths = 0.1 * torch.randn(2, 3000), torch.tensor([3000, 1700])
    expected = extractor(wav, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = extractor(wav, lengths)
    assert ours.dtype == torch.bfloat16 and expected.shape == (2, extractor.geometry.frames(3000), 12)
    assert (ours - expected)[0].norm() < 0.02 * expected[0].norm()
