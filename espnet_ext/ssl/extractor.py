"""The convolutions at the bottom of HuBERT: waveform in, 50 feature vectors per second out."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from espnet_ext.errors import UserError, check_choices
from espnet_ext.ssl.geometry import RATE_HZ, Geometry


class _RowConv(torch.autograd.Function):
    """A convolution over rows of channels, as products of matrices: no copy of the input, none of its gradient.

    Row t of the output sees rows ``t stride`` to ``t stride + kernel - 1``; behind the last one lie zeros. Taps of one
    stride are one contiguous row of a view of the input, so a kernel of three with a stride of two is two products.
    oneDNN's backward pass takes twice as long (fp32) or three times (bf16, AMX).
    """

    @staticmethod
    def blocks(weight: torch.Tensor, stride: int) -> list[torch.Tensor]:
        """Cut (out, in, kernel) into (taps in, out) for each ``stride`` taps."""
        return [part.permute(2, 1, 0).flatten(0, 1) for part in weight.split(stride, dim=2)]

    @staticmethod
    def forward(ctx, x, weight, bias, stride):
        wide = x.view(len(x) // stride, stride * x.size(1))
        blocks = _RowConv.blocks(weight, stride)
        first = wide[:, : len(blocks[0])]
        y = first @ blocks[0] if bias is None else torch.addmm(bias, first, blocks[0])
        for later, block in enumerate(blocks[1:], 1):
            y[: len(y) - later].addmm_(wide[later:, : len(block)], block)
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wide = x.view(len(x) // ctx.stride, ctx.stride * x.size(1))
        blocks = _RowConv.blocks(weight, ctx.stride)
        back, parts = None, []
        for later, block in enumerate(blocks):
            own = grad[: len(grad) - later]
            if ctx.needs_input_grad[0]:
                if later:
                    back[later:, : len(block)].addmm_(own, block.T)
                elif len(block) == wide.size(1):
                    back = own @ block.T
                else:  # a kernel shorter than its stride
                    back = torch.nn.functional.pad(own @ block.T, (0, wide.size(1) - len(block)))
            if ctx.needs_input_grad[1]:
                part = wide[later:, : len(block)].T @ own
                parts.append(part.unflatten(0, (-1, x.size(1))).permute(2, 1, 0))
        return (
            back.view_as(x) if ctx.needs_input_grad[0] else None,
            torch.cat(parts, dim=2) if parts else None,
            grad.sum(dim=0) if ctx.needs_input_grad[2] else None,
            None,
        )


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

    def first(self, wav: torch.Tensor, frames: torch.Tensor, time: int, spare: int) -> torch.Tensor:
        """(batch, samples) -> (batch, time, out_dim) of ``spare`` more samples; ``frames`` (batch,) are valid."""
        weight, bias = self.conv.weight[:, 0], self.conv.bias
        if self.norm == "group":
            # The norm takes a constant away, which in float32 would cost the rest its digits.
            wav = wav - wav.mean(dim=1, keepdim=True)
            weight, bias = normalized_weight(wav, frames, weight, self.stride, self.layer_norm)
        else:
            weight = weight[None].expand(len(wav), -1, -1)
            bias = None if bias is None else bias[None].expand(len(wav), -1)
        patches = F.pad(wav, (0, spare)).unfold(1, self.kernel, self.stride)[:, :time]
        if bias is not None:
            # As one more tap, so that its gradient comes out of the same product.
            patches = F.pad(patches, (0, 1), value=1.0)
            weight = torch.cat((weight, bias[..., None].to(weight.dtype)), dim=2)
        return self._norm_and_gelu(torch.bmm(patches, weight.transpose(1, 2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, in_dim) -> (rows / stride, out_dim); see ``_RowConv``."""
        weight, bias = self.conv.weight, self.conv.bias
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = None if bias is None else bias.to(dtype)
        return self._norm_and_gelu(_RowConv.apply(x.to(dtype), weight.to(dtype), bias, self.stride))

    def _norm_and_gelu(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm == "layer":
            x = self.layer_norm(x).to(x.dtype)
        return F.gelu(x)


def patch_moments(wav: torch.Tensor, frames: torch.Tensor, kernel: int, stride: int) -> tuple[torch.Tensor, ...]:
    """Return mean (batch, kernel) and covariance (batch, kernel, kernel), float64, of the patches of waveforms.

    wav: (batch, samples). Patch t holds samples ``t stride`` to ``t stride + kernel - 1``; the first ``frames``
    (batch,) count. One stride on, all but the first and the last term of a sum are the same, so that only the products
    of a stride's samples with those of a kernel are summed over time: ``stride / kernel`` of the work.
    """
    # In float64: a filter that takes away most of what a patch holds leaves the small difference of large numbers.
    precision = torch.float32 if wav.device.type == "mps" else torch.float64  # Apple's GPUs know no float64
    taps = -(-kernel // stride) * stride
    longest = max(0, (wav.size(1) - kernel) // stride + 1)
    size = longest * stride + taps
    wide = F.pad(wav.to(precision), (0, max(0, size - wav.size(1))))[:, :size]
    rows = wide.unflatten(1, (-1, stride))
    valid = (torch.arange(longest, device=wav.device) < frames[:, None])[..., None]
    counted = (rows[:, :longest] * valid).transpose(1, 2)
    total = counted.sum(dim=2)
    product = torch.cat([counted @ rows[:, lag : lag + longest] for lag in range(taps // stride)], dim=2)
    leaving = wide[:, :taps]
    entering = wide.gather(1, (frames * stride)[:, None] + torch.arange(taps, device=wav.device))
    totals, products = [], []
    for start in range(0, taps, stride):
        totals.append(total)
        products.append(F.pad(product, (start, 0)))
        if start + stride < taps:
            here, later = slice(start, start + stride), slice(start, taps - stride)
            total = total - leaving[:, here] + entering[:, here]
            product = product[..., :-stride]
            for sign, edge in ((-1, leaving), (1, entering)):
                product = product + sign * edge[:, here, None] * edge[:, None, later]
    count = frames.clamp(min=1)[:, None]
    mean = torch.cat(totals, dim=1)[:, :kernel] / count
    upper = torch.cat(products, dim=1)[:, :kernel, :kernel].triu()
    second = (upper + upper.triu(1).transpose(1, 2)) / count[..., None]
    return mean, second - mean[:, :, None] * mean[:, None]


def normalized_weight(
    wav: torch.Tensor, frames: torch.Tensor, weight: torch.Tensor, stride: int, norm: torch.nn.GroupNorm
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights (batch, channels, kernel) and biases (batch, channels) that give normalised outputs at once.

    wav: (batch, samples), whose first ``frames`` (batch,) output frames are valid. weight: (channels, kernel). Mean and
    variance of a channel over an utterance are w m and w C w, m and C being mean and covariance of its patches: so
    the norm of each channel (group norm with as many groups as channels) costs a product of small matrices and no
    pass over the channels. What lies behind the valid frames takes no part; other toolkits let it, so that an
    utterance's features depend on the longest one of its batch.
    """
    mean, covariance = patch_moments(wav, frames, weight.size(1), stride)
    taps = weight.to(mean.dtype)
    variance = ((taps @ covariance) * taps).sum(dim=2)
    scale = norm.weight * (variance.clamp(min=0) + norm.eps).rsqrt()
    bias = norm.bias - scale * (mean @ taps.T)
    return (scale[..., None] * taps).to(weight.dtype), bias.to(weight.dtype)


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
        self.geometry = Geometry.of(conv_kernel, conv_stride)
        # Of all layers but the first: input rows per frame, and per utterance as multiples of that more than needed, so
        # that there is always something to cut off: where that depends on the length, so does torch.compile's graph.
        later = Geometry.of(conv_kernel[1:], conv_stride[1:])
        self.hop, self.more = later.hop, 1 if later.field >= later.hop else 2

    def forward(self, wav: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return features (batch, frames, channels) of waveforms (batch, samples); lengths (batch,) or None: whole.

        All utterances are one long list of rows. Each has a few more than it needs, so that every layer's stride
        divides them; what comes out of those is of no meaning, and is cut off.
        """
        first, later = self.conv_layers[0], self.conv_layers[1:]
        samples = wav.new_full((len(wav),), wav.size(1), dtype=torch.long) if lengths is None else lengths
        frames = ((samples - first.kernel) // first.stride + 1).clamp(min=0)
        longest = max(0, (wav.size(1) - first.kernel) // first.stride + 1)
        time, spare = (longest // self.hop + self.more) * self.hop, self.more * self.hop * first.stride + first.kernel
        x = first.first(wav, frames, time, spare).flatten(0, 1)
        for layer in later:
            x = layer(x)
        return x.unflatten(0, (len(wav), -1))[:, : self.geometry.frames(wav.size(1))]


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
