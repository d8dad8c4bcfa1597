"""Which samples of which clips go through a model together: batches by length, windows of long audio, crops."""

from collections.abc import Sequence

import numpy as np


def plan_batches(lengths: Sequence[int], max_samples: int) -> list[list[int]]:
    """Group clips of similar length: indices, longest clips first, padded size of a batch at most ``max_samples``.

    A clip longer than ``max_samples`` is a batch of its own. Clips of equal length keep their order, so the plan
    depends on the lengths alone.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * longest <= max_samples:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches


def windows(num_samples: int, max_samples: int) -> list[tuple[int, int]]:
    """Cut ``num_samples`` into the fewest pieces of at most ``max_samples``, equally long to one sample."""
    edges = np.linspace(0, num_samples, -(-num_samples // max_samples) + 1).astype(np.int64).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))


def crops(num_samples: int, num_crops: int, crop_samples: int) -> list[tuple[int, int]]:
    """Evenly spaced crops as ESPnet-SPK cuts them (its ``num_eval`` crops of ``target_duration``).

    The first starts with the clip, the last ends with it, the others lie evenly between, starts rounded down. A clip
    shorter than a crop has to be repeated to ``crop_samples + 1`` first: see ``repeat_to``.
    """
    starts = np.linspace(0, num_samples - crop_samples, num=num_crops).astype(np.int64).tolist()
    return [(start, start + crop_samples) for start in starts]


def repeat_to(wav: np.ndarray, num_samples: int) -> np.ndarray:
    """Repeat a clip that is too short from its beginning until it has ``num_samples``; a longer one stays as it is."""
    return np.pad(wav, (0, num_samples - len(wav)), "wrap") if len(wav) < num_samples else wav
