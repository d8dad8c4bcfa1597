"""Mel-frequency cepstra in numpy, and the floor that every speaker system has to beat: their mean and deviation."""

import functools

import numpy as np
from scipy.fft import dct

from espnet_ext.errors import UserError

BLOCK = 4096  # frames transformed at a time, so that a two-hour file needs a few megabytes


def mfcc(
    wav: np.ndarray,
    rate_hz: int,
    num_ceps: int = 20,
    num_mels: int = 40,
    window_s: float = 0.025,
    hop_s: float = 0.010,
    f_min_hz: float = 20.0,
) -> np.ndarray:
    """Return cepstra (frames, num_ceps) float32 of ``wav`` (samples,) float in [-1, 1].

    Pre-emphasis 0.97, Hamming window, power spectrum, HTK mel filters from f_min_hz to half the rate, natural log of
    (energy + 1e-10), orthonormal DCT-II. Frames lie wholly inside the signal: 1 + (samples - window) // hop, and a
    signal shorter than one window is repeated up to it. UserError for anything but a non-empty (samples,) array.
    """
    wav = np.asarray(wav, dtype=np.float64)
    if wav.ndim != 1 or not len(wav):
        raise UserError(f"mfcc needs samples of one channel, got an array of shape {wav.shape}")
    window, hop = round(window_s * rate_hz), round(hop_s * rate_hz)
    if len(wav) < window:
        wav = np.resize(wav, window)
    emphasised = np.append(0.03 * wav[0], wav[1:] - 0.97 * wav[:-1])
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, window)[::hop]
    n_fft = 1 << (window - 1).bit_length()
    shape, filters = np.hamming(window), mel_filters(rate_hz, n_fft, num_mels, f_min_hz)
    cepstra = np.empty((len(frames), num_ceps), dtype=np.float32)
    for start in range(0, len(frames), BLOCK):
        power = np.abs(np.fft.rfft(frames[start : start + BLOCK] * shape, n_fft)) ** 2
        cepstra[start : start + BLOCK] = dct(np.log(power @ filters + 1e-10), norm="ortho")[:, :num_ceps]
    return cepstra


@functools.cache
def mel_filters(rate_hz: int, n_fft: int, num_mels: int, f_min_hz: float) -> np.ndarray:
    """Return triangular filters (n_fft // 2 + 1, num_mels), evenly spaced in HTK's mel = 2595 log10(1 + f / 700)."""
    edges = np.linspace(*(2595 * np.log10(1 + np.array([f_min_hz, rate_hz / 2]) / 700)), num_mels + 2)
    low, centre, high = (700 * (10 ** (edges / 2595) - 1))[np.arange(3)[:, None] + np.arange(num_mels)]
    frequency = np.arange(n_fft // 2 + 1)[:, None] * rate_hz / n_fft
    return np.maximum(0, np.minimum((frequency - low) / (centre - low), (high - frequency) / (high - centre)))


def mean_and_deviation(cepstra: np.ndarray) -> np.ndarray:
    """Return the floor embedding (2 num_ceps,) float32 of cepstra (frames, num_ceps): mean and deviation over time."""
    return np.concatenate((cepstra.mean(axis=0), cepstra.std(axis=0))).astype(np.float32)
