"""Keeping padding out of an encoder: an utterance's features are the same alone and in any batch."""

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Valid frames after the first convolution, for the group norm of the model that is running in this thread.
_valid_frames: contextvars.ContextVar[torch.Tensor | None] = contextvars.ContextVar("valid_frames", default=None)


class ValidGroupNorm(torch.nn.GroupNorm):
    """Group norm with one channel per group, over each utterance's valid frames only.

    The base models (wav2vec2, HuBERT, WavLM) normalise their first convolution over time; in transformers and
    torchaudio padding takes part, so an utterance's features depend on the longest one of its batch.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames) -> the same shape; padded frames are of no meaning."""
        lengths = _valid_frames.get()
        if lengths is None:
            return super().forward(x)
        valid = (torch.arange(x.size(-1), device=x.device)[None] < lengths[:, None]).unsqueeze(1)
        values = x.float()
        count = lengths[:, None, None]
        mean = (values * valid).sum(dim=-1, keepdim=True) / count
        variance = ((values - mean).square() * valid).sum(dim=-1, keepdim=True) / count
        y = (values - mean) * (variance + self.eps).rsqrt()
        return (y * self.weight[:, None] + self.bias[:, None]).to(x.dtype)


def let_group_norm_see_lengths(block: torch.nn.Module) -> None:
    """Exchange the ``layer_norm`` of a first convolution, where it is a group norm, keeping its weights' names."""
    norm = getattr(block, "layer_norm", None)
    if isinstance(norm, torch.nn.GroupNorm):
        block.layer_norm = ValidGroupNorm(norm.num_groups, norm.num_channels, norm.eps)
        block.layer_norm.weight, block.layer_norm.bias = norm.weight, norm.bias


@contextmanager
def valid_frames(frames: torch.Tensor | None) -> Iterator[None]:
    """Tell ``ValidGroupNorm`` the frames (batch,) after the first convolution; None where nothing is padded."""
    token = _valid_frames.set(frames)
    try:
        yield
    finally:
        _valid_frames.reset(token)


def valid_samples(wav: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor | None:
    """Return what of (batch, samples) is no padding, as booleans; None where nothing is padded."""
    return None if lengths is None else torch.arange(wav.size(1), device=wav.device)[None] < lengths[:, None]


def normalized(wav: torch.Tensor, valid: torch.Tensor | None, eps: float = 1e-7) -> torch.Tensor:
    """Return (batch, samples) with zero mean and unit variance over what is ``valid`` (same shape), zero elsewhere.

    (x - mean) / sqrt(variance + eps), the variance divided by N: Wav2Vec2FeatureExtractor with its eps of 1e-7, and
    fairseq's and torchaudio's layer norm of the waveform with theirs of 1e-5.
    """
    valid = torch.ones_like(wav, dtype=torch.bool) if valid is None else valid
    count = valid.sum(dim=1, keepdim=True)
    mean = (wav * valid).sum(dim=1, keepdim=True) / count
    variance = ((wav - mean).square() * valid).sum(dim=1, keepdim=True) / count
    return (wav - mean) * (variance + eps).rsqrt() * valid
