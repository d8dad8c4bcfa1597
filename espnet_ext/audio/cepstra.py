"""What follows cepstra in Kaldi's speaker recipes: energy VAD, differences over time, sliding mean subtraction."""

import numpy as np


def energy_vad(
    log_energy: np.ndarray,
    threshold: float = 5.5,
    mean_scale: float = 0.5,
    context: int = 2,
    proportion: float = 0.12,
) -> np.ndarray:
    """Return which frames are voiced, bool (frames,), as Kaldi's ``compute-vad`` decides.

    ``log_energy``: (frames,), natural log of the energy of 16-bit samples. A frame is voiced where at least
    ``proportion`` of the frames from ``context`` before to ``context`` behind it (those that exist) exceed
    ``threshold`` + ``mean_scale`` x the utterance's mean. Defaults: Kaldi's ``egs/voxceleb/v1/conf/vad.conf``.
    """
    loud = log_energy > threshold + mean_scale * log_energy.mean(dtype=np.float64)
    total = np.concatenate(([0], np.cumsum(loud)))
    frame = np.arange(len(log_energy))
    first, last = np.maximum(frame - context, 0), np.minimum(frame + context + 1, len(log_energy))
    return total[last] - total[first] >= proportion * (last - first)


def add_deltas(x: np.ndarray, order: int = 2, window: int = 2) -> np.ndarray:
    """Append the first ``order`` differences over time to x (frames, dim): (frames, (order + 1) dim), of x's dtype.

    A difference is the regression slope over ``window`` frames on either side; that of order n is the slope's filter
    applied n times to the frames, the first and the last of which go on for ever (Kaldi's ``add-deltas``).
    """
    slope = np.arange(-window, window + 1) / (2 * np.sum(np.arange(1, window + 1) ** 2))
    filters = [np.ones(1)]
    for _ in range(order):
        filters.append(np.convolve(filters[-1], slope))
    reach = order * window
    padded = np.pad(x, ((reach, reach), (0, 0)), "edge")
    parts = []
    for weights in filters:
        first = reach - len(weights) // 2
        part = np.zeros(x.shape, dtype=np.float64)
        for offset, weight in enumerate(weights):
            if weight:
                part += weight * padded[first + offset : first + offset + len(x)]
        parts.append(part)
    return np.concatenate(parts, axis=1).astype(x.dtype)


def sliding_mean_subtraction(x: np.ndarray, window: int = 300) -> np.ndarray:
    """Subtract from every frame of x (frames, dim) the mean of the ``window`` frames around it; of x's dtype.

    At the ends the window is moved inwards, and an utterance that is shorter loses its whole mean (Kaldi's
    ``apply-cmvn-sliding --center=true --norm-vars=false``). 0 leaves x as it is.
    """
    if not window:
        return x
    total = np.concatenate((np.zeros((1, x.shape[1])), np.cumsum(x, axis=0, dtype=np.float64)))
    length = min(window, len(x))
    first = np.clip(np.arange(len(x)) - window // 2, 0, len(x) - length)
    return (x - (total[first + length] - total[first]) / length).astype(x.dtype)
