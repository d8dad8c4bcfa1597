"""The convolutions at the bottom of HuBERT: waveform in, 50 feature vectors per second out."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from espnet_ext.errors import UserError, check_choices
from espnet_ext.ssl.geometry import RATE_HZ

# Input channels per group from which bfloat16 convolutions of the CPU give what they should.
_BF16_CHANNELS = 32


def convolve(conv: torch.nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """Return ``conv(x)``; under autocast few channels stay in float32 on the CPU.

    torch 2.11 (oneDNN, on processors with AMX) gives numbers that have nothing to do with the convolution there where
    2 to 24 channels meet a wide kernel, without a word.
    """
    if x.device.type == "cpu" and 1 < conv.in_channels // conv.groups < _BF16_CHANNELS:
        with torch.autocast("cpu", enabled=False):
            return conv(x.float())
    return conv(x)


class ConvLayer(torch.nn.Module):
    """A convolution without padding, an optional norm, GELU; weights are named as in transformers' HubertModel.

    norm: ``None``, ``group`` (each channel over the utterance's own frames) or ``layer`` (each frame over channels).
    """

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int, bias: bool, norm: str | None):
        super().__init__()
        self.kernel, self.stride, self.norm = kernel, stride, norm
        self.conv = torch.nn.Conv1d(in_dim, out_dim, kernel, stride, bias=bias)
        torch.nn.init.kaiming_normal_(self.conv.weight)
        if norm == "group":
            self.layer_norm = torch.nn.GroupNorm(out_dim, out_dim)
        elif norm == "layer":
            self.layer_norm = torch.nn.LayerNorm(out_dim)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None) -> torch.Tensor:
        """(batch, in_dim, time) -> (batch, out_dim, time'); ``frames`` (batch,) are valid ones, None: all are."""
        x = convolve(self.conv, x)
        if self.norm == "group":
            x = self.layer_norm(x) if frames is None else group_norm_of_valid(x, frames, self.layer_norm)
        elif self.norm == "layer":
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


def group_norm_of_valid(x: torch.Tensor, frames: torch.Tensor, norm: torch.nn.GroupNorm) -> torch.Tensor:
    """Normalise each channel of ``x`` (batch, channels, time) over the first ``frames`` (batch,) of its utterance.

    What lies behind them is of no meaning, and takes no part: other toolkits let it, so that an utterance's features
    depend on the longest one of its batch.
    """
    time = x.size(-1)
    valid = torch.arange(time, device=x.device) < frames[:, None, None]
    count = frames[:, None, None].to(torch.float32)
    # One pass over zeroed frames; the zeros are then taken out of both moments, without a difference of large numbers.
    variance, mean = torch.var_mean((x * valid).float(), dim=-1, keepdim=True, correction=0)
    mean = mean * (time / count)
    variance = (variance * time - mean.square() * count * (time - count) / time) / count
    scale = norm.weight[:, None] * (variance.clamp(min=0) + norm.eps).rsqrt()
    return (x * scale + (norm.bias[:, None] - mean * scale)).to(x.dtype)


class ConvExtractor(torch.nn.Module):
    """A stack of ``ConvLayer``; group norm is in the first layer only, layer norm in all.

    conv_dim, conv_kernel, conv_stride: one number per layer. conv_bias: HuBERT Large has one. init: what the first
    layer starts from, see ``HubertEncoder``.
    """

    def __init__(
        self,
        conv_dim: Sequence[int],
        conv_kernel: Sequence[int],
        conv_stride: Sequence[int],
        bias: bool,
        norm: str,
        init: str = "random",
    ):
        super().__init__()
        check_choices("encoder_conf", ("conv_init", init, ("random", "bands")))
        if not len(conv_dim) == len(conv_kernel) == len(conv_stride) > 0:
            raise UserError(
                f"encoder_conf: conv_dim, conv_kernel and conv_stride need one number per layer; they have "
                f"{len(conv_dim)}, {len(conv_kernel)} and {len(conv_stride)}"
            )
        if norm not in ("group", "layer"):
            raise UserError(f"encoder_conf: feat_extract_norm must be group or layer; got {norm}")
        self.conv_layers = torch.nn.ModuleList()
        in_dim = 1
        for place, (dim, kernel, stride) in enumerate(zip(conv_dim, conv_kernel, conv_stride, strict=True)):
            own_norm = norm if norm == "layer" or place == 0 else None
            self.conv_layers.append(ConvLayer(in_dim, dim, kernel, stride, bias, own_norm))
            in_dim = dim
        if init == "bands":
            with torch.no_grad():
                first = self.conv_layers[0].conv.weight
                first.copy_(band_filters(conv_dim[0], conv_kernel[0]))

    def forward(self, wav: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return features (batch, channels, frames) of waveforms (batch, samples); lengths (batch,) or None: whole."""
        x, frames = wav[:, None], lengths
        for layer in self.conv_layers:
            if frames is not None:
                frames = (frames - layer.kernel) // layer.stride + 1
            x = layer(x, frames)
        return x


def band_filters(channels: int, kernel: int, lowest_hz: float = 60.0, highest_hz: float = 7600.0) -> torch.Tensor:
    """Return band passes (channels, 1, kernel) of unit energy, evenly spaced in mel, in pairs a quarter wave apart.

    Each is a Hann window times a cosine. Behind the norm of each channel and GELU they are much like the energies of a
    filter bank, which a short training has no time to find.
    """
    time_s = (torch.arange(kernel, dtype=torch.float64) - (kernel - 1) / 2) / RATE_HZ
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (lowest_hz, highest_hz))
    pairs = (channels + 1) // 2
    centres_hz = 700 * (10 ** (torch.linspace(low, high, pairs, dtype=torch.float64) / 2595) - 1)
    phases = 2 * math.pi * centres_hz[:, None] * time_s
    window = torch.hann_window(kernel + 2, periodic=False, dtype=torch.float64)[1:-1]
    filters = torch.stack([phases.cos(), phases.sin()], dim=1).flatten(0, 1)[:channels] * window
    return (filters / filters.norm(dim=1, keepdim=True)).float()[:, None]
