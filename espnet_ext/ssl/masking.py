"""Which frames are hidden from the encoder: spans of fixed length at random places, drawn per utterance."""

import numpy as np


def mask_spans(
    num_frames: int, rng: np.random.Generator, prob: float = 0.8, length: int = 10, min_spans: int = 2
) -> np.ndarray:
    """Return a mask (num_frames,) bool, true in spans of ``length`` frames that may overlap.

    The number of spans is int(prob * num_frames / length + u), u uniform in [0, 1), at least ``min_spans``; their
    starts differ and lie in [0, num_frames - length) (arXiv 2106.07447, as fairseq draws them): about 55 % of the
    frames at the default values. The last frame is never masked, so an utterance is never wholly hidden; where it is
    shorter than two spans, they are as long as half of it, and a single frame is not masked.
    """
    length = min(length, num_frames // 2)
    mask = np.zeros(num_frames, dtype=bool)
    if length < 1:
        return mask
    starts = num_frames - length
    spans = max(int(prob * num_frames / length + rng.random()), min_spans)
    first = rng.choice(starts, size=min(spans, starts), replace=False)
    mask[(first[:, None] + np.arange(length)).ravel()] = True
    return mask
