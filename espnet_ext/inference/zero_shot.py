"""Zero-shot embeddings: mean and deviation over time of the layers of a pretrained encoder, nothing trained."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch

from espnet_ext.inference.speaker_frames import open_upstream
from espnet_ext.inference.spk import SpeakerEmbedder
from espnet_ext.spk.model import exact_convolutions
from espnet_ext.upstream.layers import check_layer

FLOOR = 1e-8  # added to a variance, so that its root has a gradient everywhere


class PooledLayers(torch.nn.Module):
    """mu_l = mean_t H_l,t and sigma_l = sqrt(mean_t (H_l,t - mu_l)^2 + 1e-8) over valid frames (arXiv 2402.00340).

    upstream: an encoder of ``load_upstream``; layers: which ones, counted as ``upstream/layers.py`` says.
    """

    def __init__(self, upstream: torch.nn.Module, layers: Sequence[int]):
        super().__init__()
        for layer in layers:
            check_layer(layer, upstream.num_layers, "the zero-shot embedding")
        self.upstream, self.chosen = upstream, list(layers)

    def embed(self, speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return (batch, size) of speech (batch, samples): mu and sigma of the first chosen layer, of the second, …"""
        with exact_convolutions(self, speech):
            hidden, frames = self.upstream.layers(speech, lengths)
        return torch.cat([mean_and_deviation(hidden[layer], frames) for layer in self.chosen], dim=1)


def mean_and_deviation(hidden: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Return (batch, 2 size) float32 of hidden (batch, time, size), whose first ``frames`` (batch,) are valid."""
    behind = (torch.arange(hidden.size(1), device=hidden.device)[None] >= frames[:, None])[..., None]
    hidden, count = hidden.float(), frames[:, None]
    mean = hidden.masked_fill(behind, 0.0).sum(dim=1) / count
    variance = torch.sub(hidden, mean[:, None]).masked_fill_(behind, 0.0).square_().sum(dim=1) / count
    return torch.cat([mean, (variance + FLOOR).sqrt()], dim=1)


class ZeroShotEmbedder(SpeakerEmbedder):
    """``SpeakerEmbedder`` whose vectors are pooled layers of an encoder.

        embedder = ZeroShotEmbedder(load_upstream("hf:facebook/hubert-base-ls960"), [5])
        vector = embedder("hello.flac")             # float32 (2 * 768,)

    Audio beyond ``max_window_s`` is encoded in equal windows, whose statistics are joined into those of all frames.
    """

    def __init__(self, upstream: torch.nn.Module, layers: Sequence[int] | None = None, device: str = "cpu", **options):
        layers = range(upstream.num_layers) if layers is None else layers
        super().__init__(PooledLayers(upstream, layers), device, **options)
        with torch.inference_mode():
            one = torch.zeros(1, max(upstream.samples_for(1), 1), device=self.device)
            hidden, _ = upstream.layers(one, torch.tensor([one.size(1)], device=self.device))
        #: Length of the vector of every layer.
        self.sizes = [2 * hidden[layer].size(-1) for layer in self.model.chosen]

    def _average(self, vectors: np.ndarray) -> np.ndarray:
        """Join the statistics (windows, size) of windows of equal length: mu = mean mu_i, sigma^2 = mean of both."""
        joined, start = np.empty(vectors.shape[1], dtype=np.float32), 0
        for size in self.sizes:
            half = start + size // 2
            mean, deviation = vectors[:, start:half].astype(np.float64), vectors[:, half : start + size]
            joined[start:half] = mean.mean(axis=0)
            joined[half : start + size] = np.sqrt((deviation.astype(np.float64) ** 2).mean(axis=0) + mean.var(axis=0))
            start += size
        return joined


def open_zero_shot(
    spec: str, layers: Sequence[int] | None = None, device: str = "cpu", max_window_s: float = 60.0, **options
) -> tuple[str, ZeroShotEmbedder, list[int]]:
    """Open an encoder for its ``layers`` (None: all); those beyond the last one are not computed.

    Returns what stands for it in a work folder (see ``identity``), the embedder, and the layers counted from 0.
    """
    upstream = open_upstream(spec)
    for layer in layers or []:
        check_layer(layer, upstream.num_layers, "the zero-shot embedding")
    wanted = range(upstream.num_layers) if layers is None else layers
    chosen = list(dict.fromkeys(layer % upstream.num_layers for layer in wanted))
    known = identity(upstream, chosen, max_window_s)
    if hasattr(upstream, "forget_after"):
        upstream.forget_after(max(chosen))
    return known, ZeroShotEmbedder(upstream, chosen, device, max_window_s=max_window_s, **options), chosen


def identity(upstream: torch.nn.Module, layers: Sequence[int], max_window_s: float) -> str:
    """Changes whenever the vectors could: by the encoder's tensors and settings, the layers and the window."""
    # Heads and strides cannot be seen in weights; where the weights came from does not matter.
    inner = getattr(upstream, "upstream", None)
    settings = getattr(upstream, "config", None) or getattr(inner, "config", None) or {}
    settings = settings.to_dict() if hasattr(settings, "to_dict") else settings
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    known = [type(upstream).__name__, getattr(upstream, "normalize", getattr(inner, "normalize", None)), settings]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, value in sorted(upstream.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"zero-shot 1 {digest.hexdigest()} layers {','.join(map(str, layers))} window {max_window_s:g}"
