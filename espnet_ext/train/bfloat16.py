"""Convolutions that stay in float32 on a CPU, because bfloat16 gives numbers there that have nothing to do with them.

torch 2.11 (oneDNN) does so without a word on processors with AMX, as a comparison of shapes has shown: in one dimension
where few channels (2 to 14 per group) meet a kernel of 8 taps or more, in two where a stride over the last one leaves a
single column. NaN is among the numbers, also in the weights' gradients.
"""

from collections.abc import Iterable

import torch

# Channels per group from which, with a margin, all kernels gave what they should; one alone does too.
_CHANNELS = 32


def convolve(conv: torch.nn.Conv1d | torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Return ``conv(x)``; under autocast on a CPU in float32 where bfloat16 would be wrong."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and _is_wrong(conv, x):
        with torch.autocast("cpu", enabled=False):
            return conv(x.float())
    return conv(x)


def convolve_all(layers: Iterable[torch.nn.Module], x: torch.Tensor) -> torch.Tensor:
    """Apply layers one after another, convolutions by ``convolve``."""
    for layer in layers:
        x = convolve(layer, x) if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d) else layer(x)
    return x


def _is_wrong(conv: torch.nn.Conv1d | torch.nn.Conv2d, x: torch.Tensor) -> bool:
    if isinstance(conv, torch.nn.Conv1d):
        return conv.kernel_size[0] > 1 and 1 < conv.in_channels // conv.groups < _CHANNELS
    reach = conv.dilation[1] * (conv.kernel_size[1] - 1) + 1
    return conv.stride[1] > 1 and x.size(-1) + 2 * conv.padding[1] < reach + conv.stride[1]
