"""Zero-shot embeddings: mean and deviation over time of the layers of a pretrained encoder, nothing trained."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

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
    valid = (torch.arange(hidden.size(1), device=hidden.device)[None] < frames[:, None])[..., None]
    hidden, count = hidden.float(), frames[:, None]
    mean = hidden.masked_fill(~valid, 0.0).sum(dim=1) / count
    variance = (hidden - mean[:, None]).masked_fill(~valid, 0.0).square().sum(dim=1) / count
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


def identity(upstream: torch.nn.Module, layers: Sequence[int] | None, max_window_s: float) -> str:
    """Changes whenever the vectors could: by the encoder's tensors and settings, the layers and the window."""
    digest = hashlib.sha256(f"{type(upstream).__name__} {getattr(upstream, 'normalize', None)}".encode())
    for name, value in sorted(upstream.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    chosen = "all" if layers is None else ",".join(map(str, layers))
    return f"zero-shot 1 {digest.hexdigest()} layers {chosen} window {max_window_s:g}"
