"""What is between mouth and file: rooms, microphones, noise, level; and the clips of noise and music.

Everything is drawn from a ``numpy.random.Generator`` and computed by FFTs and element-wise operations, whose results
do not depend on the number of threads.
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import butter, fftconvolve, lfilter

RATE_HZ = 16000
SOUND_SPEED_M_S = 343.0
NOISES = ("white", "pink", "brown", "hum", "fan", "rain", "clatter", "wind")


@dataclass(frozen=True)
class Session:
    """One recording session: a room, a microphone and what else is heard.

    room_m: float64 (3,) length, width, height. microphone_m: float64 (3,) position. rt60_s: reverberation time.
    response: float64 (taps,) impulse response of the microphone. noise: one of ``NOISES``. snr_db: mean.
    """

    room_m: np.ndarray
    microphone_m: np.ndarray
    rt60_s: float
    response: np.ndarray
    noise: str
    snr_db: float


def draw_session(rng: np.random.Generator) -> Session:
    """Draw a session: room of 2.5 to 8 m, reverberation time of 0.1 to 0.5 s, microphone, noise."""
    room_m = rng.uniform([2.5, 2.5, 2.3], [8.0, 6.0, 3.5])
    return Session(
        room_m=room_m,
        microphone_m=room_m * rng.uniform(0.2, 0.8, 3),
        rt60_s=float(rng.uniform(0.1, 0.5)),
        response=draw_microphone(rng),
        noise=NOISES[rng.integers(len(NOISES))],
        snr_db=float(rng.uniform(4, 20)),
    )


def record(wav: np.ndarray, session: Session, rng: np.random.Generator) -> np.ndarray:
    """Return clean speech (samples,) float32 as the session's microphone hears it, time-aligned, same length.

    The speaker stands somewhere else and is louder or softer in every utterance: distance 0.3 to 2 m, SNR +-3 dB
    around the session's, level -32 to -14 dB of full scale (RMS), never clipped.
    """
    direction = rng.normal(size=3)
    distance_m = rng.uniform(0.3, 2.0)
    mouth_m = np.clip(
        session.microphone_m + distance_m * direction / np.linalg.norm(direction), 0.1, session.room_m - 0.1
    )
    out = convolve_aligned(
        wav.astype(np.float64), room_response(session.room_m, mouth_m, session.microphone_m, session.rt60_s)
    )
    snr_db = session.snr_db + rng.normal(0, 3)
    out = add_noise(out, draw_noise(rng, session.noise, len(out)), snr_db)
    out = convolve_aligned(out, session.response, delay=len(session.response) // 2)
    out *= 10 ** (rng.uniform(-32, -14) / 20) / rms(out)
    return (out * min(1.0, 0.99 / np.abs(out).max())).astype(np.float32)


def rms(wav: np.ndarray) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(wav))))


def add_noise(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Return ``speech`` plus ``noise`` (both (samples,)) at a ratio of mean powers of ``snr_db``."""
    return speech + noise * (rms(speech) / rms(noise) * 10 ** (-snr_db / 20))


def convolve_aligned(wav: np.ndarray, response: np.ndarray, delay: int | None = None) -> np.ndarray:
    """Convolve and cut to the length of ``wav``; ``delay`` (default: the largest tap) becomes time zero."""
    delay = int(np.argmax(np.abs(response))) if delay is None else delay
    return fftconvolve(wav, response)[delay : delay + len(wav)]


def room_response(room_m, source_m, microphone_m, rt60_s: float, max_s: float = 0.25) -> np.ndarray:
    """Impulse response (taps,) of a box-shaped room by the image method, direct path scaled to 1.

    Images of the source behind all walls (Allen and Berkley, JASA 65(4), 1979) with one reflection coefficient from
    Sabine's formula, cut at ``max_s`` or the reverberation time, whichever is shorter; and their high-pass filter, as
    images that are all positive pile up at 0 Hz and would lengthen the decay by two fifths.
    """
    room_m, source_m, microphone_m = (np.asarray(x, dtype=np.float64) for x in (room_m, source_m, microphone_m))
    volume = room_m[0] * room_m[1] * room_m[2]
    surface = 2 * (room_m[0] * room_m[1] + room_m[0] * room_m[2] + room_m[1] * room_m[2])
    absorption = min(0.161 * volume / (surface * rt60_s), 0.99)
    reflection = np.sqrt(1 - absorption)
    reach_m = SOUND_SPEED_M_S * min(max_s, rt60_s)
    # Along each axis: image 2nL + x after |2n| reflections, image 2nL - x after |2n - 1|.
    offsets, bounces = [], []
    for length, source, microphone in zip(room_m, source_m, microphone_m, strict=True):
        n = np.arange(-int(reach_m / (2 * length)) - 1, int(reach_m / (2 * length)) + 2)
        offsets.append(np.concatenate([2 * n * length + source, 2 * n * length - source]) - microphone)
        bounces.append(np.concatenate([np.abs(2 * n), np.abs(2 * n - 1)]))
    distance = np.sqrt(offsets[0][:, None, None] ** 2 + offsets[1][None, :, None] ** 2 + offsets[2][None, None, :] ** 2)
    count = bounces[0][:, None, None] + bounces[1][None, :, None] + bounces[2][None, None, :]
    near = distance < reach_m
    distance, count = distance[near], count[near]
    direct = distance.min()
    gain = reflection**count * direct / distance
    position = (distance - direct) / SOUND_SPEED_M_S * RATE_HZ
    first = np.floor(position).astype(np.int64)
    taps = np.zeros(int(reach_m / SOUND_SPEED_M_S * RATE_HZ) + 2)
    # Linear interpolation between the two taps around each arrival.
    np.add.at(taps, first, gain * (1 - (position - first)))
    np.add.at(taps, first + 1, gain * (position - first))
    return lfilter(*butter(2, 100, "high", fs=RATE_HZ), taps)


def draw_microphone(rng: np.random.Generator, num_taps: int = 255) -> np.ndarray:
    """Draw a microphone: linear-phase FIR (taps,) of a random smooth curve, a tilt and two band edges."""
    hz = rfftfreq(512, 1 / RATE_HZ)
    octave = np.log2(np.maximum(hz, 60.0) / 1000)
    gain_db = rng.normal(0, 2.5) * octave
    knots = np.linspace(octave[0], octave[-1], 8)
    gain_db += np.interp(octave, knots, rng.normal(0, 4.0, len(knots)))
    gain_db -= 12 * np.maximum(np.log2(rng.uniform(60, 250) / np.maximum(hz, 20.0)), 0)
    gain_db -= 24 * np.maximum(np.log2(np.maximum(hz, 20.0) / rng.uniform(3500, 8000)), 0)
    taps = np.roll(irfft(10 ** (gain_db / 20)), num_taps // 2)[:num_taps]
    return taps * np.hanning(num_taps + 2)[1:-1]


def draw_noise(rng: np.random.Generator, kind: str, num_samples: int) -> np.ndarray:
    """Draw noise (samples,) of one of the kinds in ``NOISES``; float64, RMS about 1."""
    t = np.arange(num_samples) / RATE_HZ
    slopes_db = {"white": 0, "pink": -3, "brown": -6, "hum": -3, "fan": -4, "rain": 2, "clatter": 0, "wind": -9}
    wav = _sloped(rng, num_samples, slopes_db[kind] + rng.normal(0, 0.5))
    if kind in ("hum", "fan"):
        base_hz = 50.0 if kind == "hum" else rng.uniform(70, 200)
        for k in range(1, 12):
            wav += 3 * rng.uniform(0.2, 1) / k * np.sin(2 * np.pi * (k * base_hz * t + rng.random()))
    elif kind == "clatter":
        wav *= 0.05
        for start in rng.integers(0, num_samples, max(2, int(6 * num_samples / RATE_HZ))):
            hit = np.arange(min(2000, num_samples - start)) / RATE_HZ
            ring = np.sin(2 * np.pi * rng.uniform(600, 5000) * hit) * np.exp(-hit / rng.uniform(0.005, 0.03))
            wav[start : start + len(hit)] += 3 * ring
    elif kind in ("wind", "rain"):
        wav *= 1 + 0.8 * np.sin(2 * np.pi * (rng.uniform(0.2, 1.5) * t + rng.random()))
    return wav / max(rms(wav), 1e-9)


def draw_music(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Draw music (samples,): four chords over and over, notes of decaying harmonics, a pulse; float64, RMS about 1."""
    wav = np.zeros(num_samples)
    beat = int(RATE_HZ * 60 / rng.uniform(80, 160))
    root_hz = 110 * 2 ** (rng.integers(0, 12) / 12)
    chords = [(0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14)]
    order = rng.permutation(4)
    brightness = rng.uniform(0.6, 2.0)
    for i, start in enumerate(range(0, num_samples, beat)):
        t = np.arange(min(2 * beat, num_samples - start)) / RATE_HZ
        for semitone in chords[order[(i // 4) % 4]]:
            hz = root_hz * 2 ** ((semitone + 12 * rng.integers(0, 2)) / 12)
            for k in range(1, 9):
                if k * hz < 0.45 * RATE_HZ:
                    wav[start : start + len(t)] += np.sin(2 * np.pi * k * hz * t) * np.exp(-t * (2 + k)) / k**brightness
        hit = np.exp(-t * 60) * rng.normal(size=len(t))
        wav[start : start + len(t)] += hit * (0.8 if i % 2 else 0.3)
    return wav / max(rms(wav), 1e-9)


def _sloped(rng, num_samples, slope_db_per_octave):
    """Gaussian noise (samples,) whose power changes by a constant number of dB per octave above 50 Hz."""
    size = next_fast_len(num_samples, real=True)
    spectrum = rfft(rng.normal(size=size))
    octave = np.log2(np.maximum(rfftfreq(size, 1 / RATE_HZ), 50.0) / 1000)
    wav = irfft(spectrum * 10 ** (slope_db_per_octave * octave / 20), n=size)[:num_samples]
    return wav / max(rms(wav), 1e-9)
