"""Mel-frequency cepstra in numpy: the floor that every speaker system has to beat, and Kaldi's kind for i-vectors."""

import functools

import numpy as np
from scipy.fft import dct

from espnet_ext.errors import UserError

BLOCK = 4096  # frames transformed at a time, so that a two-hour file needs a few megabytes
PREEMPHASIS = 0.97


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
    wav = _one_channel(np.asarray(wav, dtype=np.float64))
    window, hop = round(window_s * rate_hz), round(hop_s * rate_hz)
    if len(wav) < window:
        wav = np.resize(wav, window)
    emphasised = np.append(0.03 * wav[0], wav[1:] - PREEMPHASIS * wav[:-1])
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, window)[::hop]
    n_fft = 1 << (window - 1).bit_length()
    shape, filters = np.hamming(window), mel_filters(rate_hz, n_fft, num_mels, f_min_hz)
    cepstra = np.empty((len(frames), num_ceps), dtype=np.float32)
    for start in range(0, len(frames), BLOCK):
        power = np.abs(np.fft.rfft(frames[start : start + BLOCK] * shape, n_fft)) ** 2
        cepstra[start : start + BLOCK] = dct(np.log(power @ filters + 1e-10), norm="ortho")[:, :num_ceps]
    return cepstra


def kaldi_mfcc(
    wav: np.ndarray,
    rate_hz: int,
    num_ceps: int = 20,
    num_mels: int = 40,
    f_min_hz: float = 50.0,
    f_max_hz: float = 7500.0,
    dither: float = 1.0,
) -> np.ndarray:
    """Return cepstra (frames, num_ceps) float32 as Kaldi's ``compute-mfcc-feats --snip-edges=false`` makes them.

    ``wav``: (samples,) float in [-1, 1], taken as 16-bit numbers. 25 ms frames every 10 ms, (samples + 5 ms) // 10 ms
    of them, mirrored at both ends; mean removed per frame, pre-emphasis 0.97, Povey window (Hann ** 0.85), power
    spectrum, triangles in mel = 1127 ln(1 + f / 700) from f_min_hz to f_max_hz, natural log, orthonormal DCT-II, lifter
    22; the first coefficient is the log energy of the frame. ``dither``: deviation of the noise that Kaldi adds to
    every sample (16-bit units); here its expected power is added instead, so that digital silence is not minus infinity
    and the same file gives the same numbers. UserError for no samples, several channels, or frequencies out of order.
    """
    wav = _one_channel(np.asarray(wav))
    if not 0 <= f_min_hz < f_max_hz <= rate_hz / 2 or not 0 < num_ceps <= num_mels:
        raise UserError(
            f"mfcc at {rate_hz} Hz cannot have mels from {f_min_hz:g} to {f_max_hz:g} Hz and {num_ceps} of {num_mels} "
            f"cepstra; choose f_min < f_max <= {rate_hz // 2} and no more cepstra than mels"
        )
    window, hop = round(0.025 * rate_hz), round(0.010 * rate_hz)
    n_fft = 1 << (window - 1).bit_length()
    num_frames = (len(wav) + hop // 2) // hop or 1
    shape = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))) ** 0.85
    filters = mel_filters(rate_hz, n_fft, num_mels, f_min_hz, f_max_hz, True)
    # What white noise gives after pre-emphasis and window, on average, in every bin of the power spectrum.
    colour = np.abs(1 - PREEMPHASIS * np.exp(-2j * np.pi * np.arange(n_fft // 2 + 1) / n_fft)) ** 2
    noise = dither**2 * (shape**2).sum() * colour @ filters
    lifter = 1 + 11 * np.sin(np.pi * np.arange(num_ceps) / 22)
    floor = np.finfo(np.float32).eps
    before = window // 2 - hop // 2
    behind = max(0, (num_frames - 1) * hop - before + window - len(wav))
    every = np.lib.stride_tricks.sliding_window_view(np.pad(wav, (before, behind), "symmetric"), window)[::hop]
    cepstra = np.empty((num_frames, num_ceps), dtype=np.float32)
    for start in range(0, num_frames, BLOCK):
        frames = 32768.0 * every[start : min(start + BLOCK, num_frames)].astype(np.float64)
        frames -= frames.mean(axis=1, keepdims=True)
        energy = np.log(np.maximum((frames**2).sum(axis=1) + dither**2 * window, floor))
        frames[:, 1:] -= PREEMPHASIS * frames[:, :-1]
        frames[:, 0] *= 1 - PREEMPHASIS
        power = np.abs(np.fft.rfft(frames * shape, n_fft)) ** 2
        block = dct(np.log(np.maximum(power @ filters + noise, floor)), norm="ortho")[:, :num_ceps] * lifter
        block[:, 0] = energy
        cepstra[start : start + BLOCK] = block
    return cepstra


def _one_channel(wav: np.ndarray) -> np.ndarray:
    if wav.ndim != 1 or not len(wav):
        raise UserError(f"mfcc needs samples of one channel, got an array of shape {wav.shape}")
    return wav


@functools.cache
def mel_filters(
    rate_hz: int,
    n_fft: int,
    num_mels: int,
    f_min_hz: float,
    f_max_hz: float | None = None,
    straight_in_mel: bool = False,
) -> np.ndarray:
    """Return triangular filters (n_fft // 2 + 1, num_mels), evenly spaced in HTK's mel = 2595 log10(1 + f / 700).

    Up to ``f_max_hz`` (None: half the rate). Their sides are straight lines over Hz, as in torchaudio and librosa, or
    ``straight_in_mel``, as in HTK and Kaldi.
    """
    ends = np.array([f_min_hz, f_max_hz or rate_hz / 2])
    edges = np.linspace(*(2595 * np.log10(1 + ends / 700)), num_mels + 2)
    position = np.arange(n_fft // 2 + 1)[:, None] * rate_hz / n_fft
    if straight_in_mel:
        position = 2595 * np.log10(1 + position / 700)
    else:
        edges = 700 * (10 ** (edges / 2595) - 1)
    low, centre, high = edges[np.arange(3)[:, None] + np.arange(num_mels)]
    return np.maximum(0, np.minimum((position - low) / (centre - low), (high - position) / (high - centre)))


def mean_and_deviation(cepstra: np.ndarray) -> np.ndarray:
    """Return the floor embedding (2 num_ceps,) float32 of cepstra (frames, num_ceps): mean and deviation over time."""
    return np.concatenate((cepstra.mean(axis=0), cepstra.std(axis=0))).astype(np.float32)
