"""Noise, music, babble, reverberation and speed: float32 ``(samples,)`` in, the same out.

The method is that of ESPnet-SPK (arXiv 2401.17230): with a probability the speech is convolved with a room impulse
response, and independently mixed with one kind of noise, chosen by weight. Every function that draws takes a
``numpy.random.Generator``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from espnet_ext.audio.io import open_audio, read_blocks, resample
from espnet_ext.datadir.tables import read_scp
from espnet_ext.errors import UserError

# Noise below this power (-70 dB of full scale) is the pause of a noise file: it is not blown up to the asked SNR.
MIN_NOISE_POWER = 1e-7


def read_crop(path, num_samples: int, rate_hz: int, rng: np.random.Generator, speed: float = 1.0) -> np.ndarray:
    """Read ``num_samples`` at ``rate_hz`` from a random place of a file, played ``speed`` times as fast.

    Only the crop is decoded, whatever the length of the file; a file that is too short is repeated from its beginning.
    Mono (the mean of the channels), float32. Raises ``AudioError`` for a file that cannot be read.
    """
    with open_audio(path) as sound:
        # Two frames more than needed, so that rounding in the resampler never leaves the crop short.
        need = math.ceil(num_samples * speed * sound.samplerate / rate_hz) + (2 if speed != 1.0 else 0)
        start = int(rng.integers(0, max(1, sound.frames - need + 1)))
        stop = min(sound.frames, start + need)
        wav = np.concatenate(list(read_blocks(sound, path, start, stop)))
        rate_in_hz = sound.samplerate
    wav = resample(wav, rate_in_hz, rate_hz) if speed == 1.0 else _respeed(wav, rate_in_hz, rate_hz, speed)
    return fit_length(wav, num_samples)


def fit_length(wav: np.ndarray, num_samples: int) -> np.ndarray:
    """Cut the end, or repeat from the beginning, so that ``wav`` has ``num_samples``."""
    return wav[:num_samples] if len(wav) >= num_samples else np.pad(wav, (0, num_samples - len(wav)), "wrap")


def random_crop(wav: np.ndarray, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``num_samples`` from a random place of ``wav``, repeated from its beginning where it is too short."""
    start = int(rng.integers(0, max(1, len(wav) - num_samples + 1)))
    return fit_length(wav[start : start + num_samples], num_samples)


def change_speed(wav: np.ndarray, factor: float) -> np.ndarray:
    """Play ``wav`` ``factor`` times as fast: 1.1 shortens it to 1/1.1 and raises the pitch by 10 % (sox ``speed``)."""
    return wav if factor == 1.0 else _respeed(wav, 1, 1, factor)


def _respeed(wav: np.ndarray, in_hz: int, out_hz: int, factor: float) -> np.ndarray:
    import soxr

    return soxr.resample(wav, in_hz * factor, out_hz, quality="HQ")


def add_noise(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Mix so that 10 log10(power of speech / power of noise) is ``snr_db``; both ``(samples,)`` of one length.

    ESPnet adds 1e-4 to both powers, which makes quiet speech (-40 dB of full scale) 3 dB noisier than asked; here the
    ratio is exact, and only noise below -70 dB counts as -70 dB. Silent speech stays silent.
    """
    speech_power = float(np.mean(np.square(speech, dtype=np.float64)))
    noise_power = max(float(np.mean(np.square(noise, dtype=np.float64))), MIN_NOISE_POWER)
    scale = math.sqrt(speech_power / noise_power) * 10 ** (-snr_db / 20)
    return speech + np.float32(scale) * noise.astype(np.float32, copy=False)


def reverberate(speech: np.ndarray, rir: np.ndarray) -> np.ndarray:
    """Convolve with a room impulse response of unit energy (rir / sqrt(sum rir^2)); same length as ``speech``.

    The direct sound, the peak of the response, falls on the sample it came from, so that the output is not delayed.
    """
    from scipy.signal import fftconvolve

    peak = int(np.argmax(np.abs(rir)))
    rir = rir / max(math.sqrt(float(np.sum(np.square(rir, dtype=np.float64)))), 1e-12)
    return fftconvolve(speech, rir)[peak : peak + len(speech)].astype(np.float32)


@dataclass(frozen=True)
class NoiseKind:
    """One kind of noise: its weight among the kinds, its files, how many are mixed at once, and at which SNR each."""

    weight: float
    paths: Sequence[str]
    num_files: tuple[int, int]
    snr_db: tuple[float, float]

    @classmethod
    def from_config(cls, entry: Sequence) -> "NoiseKind":
        """Make it from ESPnet's YAML entry ``[weight, wav.scp, [fewest, most files], [lowest, highest SNR in dB]]``."""
        try:
            weight, scp, (fewest, most), (low, high) = entry
        except (TypeError, ValueError):
            raise UserError(
                f"noise_info: {entry!r} should be [weight, wav.scp, [fewest, most files], [lowest, highest SNR in dB]]"
            ) from None
        if not (weight >= 0 and 1 <= fewest <= most and low <= high):
            raise UserError(f"noise_info: in {entry!r} a range does not go from low to high, or the weight is below 0")
        return cls(float(weight), list(read_scp(scp).values()), (int(fewest), int(most)), (float(low), float(high)))


class Augmenter:
    """Reverberation, then one kind of noise, each with its probability.

    Args:
        noise_info: ESPnet's list, one entry per kind (see ``NoiseKind.from_config``); babble is the kind with several
            files at once, for example ``[1, dump/musan_speech/wav.scp, [4, 7], [13, 20]]``.
        noise_apply_prob: probability of noise; without ``noise_info`` it must be 0 or left out.
        rir_scp: ``wav.scp`` of room impulse responses. rir_apply_prob: probability of reverberation.
        rate_hz: rate of the speech; noises and responses at another rate are resampled.
    """

    def __init__(
        self,
        noise_info: Sequence | None = None,
        noise_apply_prob: float | None = None,
        rir_scp: str | None = None,
        rir_apply_prob: float | None = None,
        rate_hz: int = 16000,
    ):
        self.rate_hz = rate_hz
        self.noise_prob = _probability("noise_apply_prob", noise_apply_prob, "noise_info", noise_info)
        self.rir_prob = _probability("rir_apply_prob", rir_apply_prob, "rir_scp", rir_scp)
        self.kinds = [NoiseKind.from_config(entry) for entry in noise_info] if self.noise_prob else []
        self.rirs = list(read_scp(rir_scp).values()) if self.rir_prob else []
        weights = np.array([kind.weight for kind in self.kinds])
        if self.kinds and weights.sum() == 0:
            raise UserError("noise_info: every kind has weight 0; give one a positive weight or noise_apply_prob: 0")
        self.weights = weights / weights.sum() if self.kinds else weights

    def __call__(self, speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return an augmented copy of float32 ``(samples,)``; the length stays."""
        if self.rirs and rng.random() < self.rir_prob:
            speech = reverberate(speech, self._read_rir(self.rirs[rng.integers(len(self.rirs))]))
        if self.kinds and rng.random() < self.noise_prob:
            kind = self.kinds[rng.choice(len(self.kinds), p=self.weights)]
            clean = speech
            for _ in range(rng.integers(kind.num_files[0], kind.num_files[1] + 1)):
                noise = read_crop(kind.paths[rng.integers(len(kind.paths))], len(clean), self.rate_hz, rng)
                # Each file has its own SNR against the speech alone, as in the Kaldi and ESPnet recipes.
                speech = speech + (add_noise(clean, noise, rng.uniform(*kind.snr_db)) - clean)
        return speech

    def _read_rir(self, path: str) -> np.ndarray:
        with open_audio(path) as sound:
            # The first channel: the mean of a microphone array would comb-filter the response.
            rir = sound.read(dtype="float32", always_2d=True)[:, 0]
            return resample(rir, sound.samplerate, self.rate_hz)


def _probability(name: str, value: float | None, needs: str, given) -> float:
    if value is None:
        return 1.0 if given else 0.0
    if not 0 <= value <= 1:
        raise UserError(f"{name}: {value} is not a probability; give a number from 0 to 1")
    if value > 0 and not given:
        raise UserError(f"{name} is {value} but {needs} names no files; set {needs}, or {name}: 0")
    return float(value)
