"""What a model is called on: an array or a file of any rate and channel count, read whole or piece by piece."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from espnet_ext.audio.io import AudioError, audio_info, check_section, read_audio, resample, resampled_length
from espnet_ext.errors import UserError


class ArrayClip:
    """Audio in memory.

    ``wav`` is ``(samples,)``, or 2-D with the channels in the shorter dimension (``(channels, samples)`` as torchaudio
    and ``(samples, channels)`` as soundfile gives it); floats in [-1, 1] or integers, which are scaled by their range.
    Errors: ``AudioError`` for no samples, NaN, infinity, or a shape that is no audio.
    """

    def __init__(self, wav: Any, in_hz: int, rate_hz: int, name: str = "the array"):
        wav = np.asarray(wav.detach().cpu() if hasattr(wav, "detach") else wav)
        if wav.dtype.kind in "iu":
            info = np.iinfo(wav.dtype)
            half = (int(info.max) - int(info.min) + 1) / 2
            wav = (wav.astype(np.float64) - (info.min + half)) / half
        if wav.dtype.kind != "f" or wav.ndim not in (1, 2):
            raise AudioError(f"{name}: {wav.dtype} of shape {wav.shape} is no audio; give (samples,) or 2-D")
        if wav.ndim == 2:
            wav = wav.mean(axis=int(np.argmin(wav.shape)))
        if wav.size == 0:
            raise AudioError(f"{name}: zero length, there are no samples")
        if not np.isfinite(wav).all():
            raise AudioError(f"{name}: holds NaN or infinite samples")
        self.name = name
        self.wav = resample(np.ascontiguousarray(wav, dtype=np.float32), in_hz, rate_hz)
        self.num_samples = len(self.wav)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples ``start`` to ``stop`` at the model's rate, float32."""
        return self.wav[start:stop]


class FileClip:
    """A file, or its section from ``start_s`` to ``end_s``; nothing is read before ``read``.

    ``num_samples`` (at ``rate_hz``) spares a look at the header where it is known. Errors: ``AudioError`` as
    ``read_audio`` gives it.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        rate_hz: int,
        start_s: float | None = None,
        end_s: float | None = None,
        num_samples: int | None = None,
        allow_commands: bool = False,
    ):
        self.name, self.rate_hz, self.allow_commands = os.fspath(path), rate_hz, allow_commands
        self.start_s, self.end_s = start_s or 0.0, end_s
        if num_samples is None:
            info = audio_info(path, allow_commands)
            start, end = check_section(info, path, start_s, end_s)
            num_samples = round(end * rate_hz) - round(start * rate_hz)
            if start_s is None and end_s is None:
                num_samples = resampled_length(info.num_samples, info.rate_hz, rate_hz)
        self.num_samples = num_samples

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples ``start`` to ``stop`` at the model's rate, float32; only they are read from the disk."""
        if start == 0 and (stop is None or stop >= self.num_samples):
            return read_audio(self.name, self.rate_hz, self.start_s or None, self.end_s, self.allow_commands)
        end_s = self.end_s if stop is None or stop >= self.num_samples else self.start_s + stop / self.rate_hz
        return read_audio(self.name, self.rate_hz, self.start_s + start / self.rate_hz, end_s, self.allow_commands)


Clip = ArrayClip | FileClip


def check_files(paths: Iterable[str | os.PathLike]) -> None:
    """Raise ``AudioError`` for the first file that is no audio by its header: a mistyped path, before a model loads."""
    for path in paths:
        FileClip(path, 16000)


def as_clip(audio: Any, in_hz: int | None, rate_hz: int) -> Clip:
    """Make a clip of a path, an array or a tensor; ``in_hz`` is the rate of an array (None: the model's)."""
    if isinstance(audio, (ArrayClip, FileClip)):
        return audio
    if isinstance(audio, (str, Path)):
        return FileClip(audio, rate_hz)
    if isinstance(audio, (bytes, dict)) or audio is None:
        raise UserError(f"audio has to be a path or an array of samples, not {type(audio).__name__}")
    return ArrayClip(audio, in_hz or rate_hz, rate_hz)
