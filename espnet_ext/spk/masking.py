"""What keeps padding out of an output: lengths through strided layers, zeroing, and averages over valid frames.

Everywhere here ``pad`` is a boolean (batch, 1, frames) tensor, true where a frame is padding, or None when nothing
is padded. None costs nothing: the layers then run exactly as in ESPnet, which also keeps exports free of masks.
"""

import torch


def true_lengths(lengths: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """Return ``lengths`` (batch,) as int64 beside x (batch, size, …) when something in x is padding, else None.

    Costs one read back from the device.
    """
    if lengths is None or bool((lengths == x.size(1)).all()):
        return None
    return lengths.to(x.device, torch.long)


def padding_mask(lengths: torch.Tensor | None, num_frames: int) -> torch.Tensor | None:
    """Return the (batch, 1, num_frames) mask of padding for ``lengths`` (batch,), or None for None."""
    if lengths is None:
        return None
    return (torch.arange(num_frames, device=lengths.device)[None] >= lengths[:, None]).unsqueeze(1)


def zero_padding(x: torch.Tensor, pad: torch.Tensor | None) -> torch.Tensor:
    """Zero the padded frames of ``x``, (batch, channels, frames) or (batch, channels, height, frames).

    A convolution with zero padding then sees behind the end of a short utterance what it would see behind the end
    of the tensor if the utterance were alone.
    """
    if pad is None:
        return x
    return x.masked_fill(pad if x.dim() == 3 else pad.unsqueeze(1), 0.0)


def mean_over_time(x: torch.Tensor, pad: torch.Tensor | None) -> torch.Tensor:
    """Average ``x`` (batch, channels, frames) over its valid frames: (batch, channels, 1)."""
    if pad is None:
        return x.mean(dim=-1, keepdim=True)
    return zero_padding(x, pad).sum(dim=-1, keepdim=True) / (~pad).sum(dim=-1, keepdim=True).clamp(min=1)


def layer_lengths(
    lengths: torch.Tensor | None, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> torch.Tensor | None:
    """Return the number of frames that a convolution or pooling makes of each of ``lengths`` frames."""
    if lengths is None:
        return None
    return torch.div(lengths + 2 * padding - dilation * (kernel - 1) - 1, stride, rounding_mode="floor") + 1
