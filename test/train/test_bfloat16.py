"""Convolutions under autocast on this CPU: where torch gives other numbers in bfloat16, ours do not."""

import itertools

import pytest
import torch

from espnet_ext.train.bfloat16 import convolve, convolve_all

CONV1D = itertools.product((1, 2, 3, 5, 10, 16, 31, 64, 128), (1, 2, 4, 6, 12, 24, 32, 48), (1, 4), (1, 2))
CONV2D = itertools.product((1, 3, 5), (2, 16, 32), ((1, 1), (2, 1), (1, 2), (2, 2), (3, 3)), (0, 1), (1, 2, 5))


def shapes():
    """Convolutions and inputs: kernels, channels, groups, strides, paddings, and how many columns are left."""
    for kernel, channels, groups, stride in CONV1D:
        size = channels * groups
        yield torch.nn.Conv1d(size, size, kernel, stride, groups=groups), torch.randn(2, size, kernel + 40)
    for kernel, channels, stride, padded, wide in CONV2D:
        padding = kernel // 2 * padded
        width = max(1, (wide - 1) * stride[1] + kernel - 2 * padding)
        yield torch.nn.Conv2d(channels, 4, kernel, stride, padding), torch.randn(2, channels, 30, width)


def with_gradients(call, conv, x, enabled):
    """What comes out, and the gradients at the input and at the weights."""
    x = x.clone().requires_grad_()
    conv.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        y = call(conv, x)
    (y.float() * torch.arange(y.numel()).view_as(y).cos()).sum().backward()
    return [y.detach().float(), x.grad, conv.weight.grad]


def test_every_shape():
    torch.manual_seed(0)
    for conv, x in shapes():
        exact = with_gradients(convolve, conv, x, False)
        rounded = with_gradients(convolve, conv, x, True)
        for one, other in zip(exact, rounded, strict=True):
            assert (one - other).norm() < 0.03 * one.norm() + 1e-6, (conv, tuple(x.shape))


@pytest.mark.parametrize(
    ("conv", "shape"),
    [(torch.nn.Conv1d(8, 8, 64), (2, 8, 100)), (torch.nn.Conv2d(4, 4, 3, 2), (2, 4, 30, 3))],
)
def test_only_those_that_need_it(conv, shape):
    """The others stay in bfloat16, and without autocast nothing is touched."""
    x = torch.randn(shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolve(conv, x).dtype == torch.float32
        small = torch.nn.Conv1d(64, 8, 3)
        assert convolve(small, torch.randn(2, 64, 30)).dtype == torch.bfloat16
        layers = torch.nn.Sequential(conv, torch.nn.ReLU())
        assert torch.equal(convolve_all(layers, x), convolve(conv, x).relu())
    assert torch.equal(convolve(conv, x), conv(x)) and convolve(conv.double(), x.double()).dtype == torch.float64
