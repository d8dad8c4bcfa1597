"""The best path through a chain of states whose pauses may be left out, for many utterances at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Cells of frames x states that are held at a time: the choices of a batch, one byte each.
_CELLS = 64_000_000
_NEVER = -np.inf


@dataclass(frozen=True)
class Chain:
    """The states of one utterance, from left to right; a path stays, goes on by one, or leaps.

    classes: (S,) column of the scores that each state takes. origin: (S,) state from which it may also be reached, over
    those between; -1: none. first, last: (S,) bool, where a path may begin and end.
    """

    classes: np.ndarray
    origin: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


def best_paths(scores: Sequence[np.ndarray], chains: Sequence[Chain]) -> list[np.ndarray | None]:
    """Return the state (T,) of every frame on the path with the largest sum of scores (T, C), per utterance.

    None where no path fits: fewer frames than the shortest way through the chain. Of two equal paths the one that
    stays longer in later states. Scores are finite.
    """
    found: list[np.ndarray | None] = [None] * len(scores)
    for group in _batches([len(one) for one in scores], [len(chain) for chain in chains]):
        paths = _search([scores[place] for place in group], [chains[place] for place in group])
        for place, path in zip(group, paths, strict=True):
            found[place] = path
    return found


def _batches(frames: Sequence[int], states: Sequence[int]) -> Iterator[list[int]]:
    """Places of utterances of like length together."""
    group: list[int] = []
    widest = 0
    for place in sorted(range(len(frames)), key=lambda place: (-frames[place], place)):
        widest = max(widest, states[place])
        if group and (len(group) + 1) * frames[group[0]] * widest > _CELLS:
            yield group
            group, widest = [], states[place]
        group.append(place)
    if group:
        yield group


def _search(scores: list[np.ndarray], chains: list[Chain]) -> list[np.ndarray | None]:
    count, width = len(chains), max(map(len, chains))
    frames = np.array([len(one) for one in scores])
    classes = np.zeros((count, width), dtype=np.int64)
    origin = np.full((count, width), width)  # the column of the value that is never reached
    first, last = np.zeros((2, count, width), dtype=bool)
    for row, chain in enumerate(chains):
        classes[row, : len(chain)] = chain.classes
        origin[row, : len(chain)] = np.where(chain.origin < 0, width, chain.origin)
        first[row, : len(chain)], last[row, : len(chain)] = chain.first, chain.last
    padded = np.zeros((frames.max(initial=0), count, scores[0].shape[1]))
    for row, one in enumerate(scores):
        padded[: len(one), row] = one
    value = np.full((count, width + 1), _NEVER)
    choices = np.zeros((len(padded), count, width), dtype=np.int8)
    for time, frame in enumerate(padded):
        emitted = np.take_along_axis(frame, classes, axis=1)
        if time == 0:
            value[:, :width] = np.where(first, emitted, _NEVER)
            continue
        going = frames > time
        stay, leap = value[:, :width], np.take_along_axis(value, origin, axis=1)
        step = np.full_like(stay, _NEVER)
        step[:, 1:] = stay[:, :-1]
        best = np.maximum(stay, step)
        choice = (step > stay).astype(np.int8)
        choice[leap > best] = 2
        choices[time] = choice
        value[going, :width] = (np.maximum(best, leap) + emitted)[going]
    ends = np.where(last, value[:, :width], _NEVER)
    paths: list[np.ndarray | None] = []
    for row in range(count):
        state = int(ends[row].argmax())
        if not frames[row] or ends[row, state] == _NEVER:
            paths.append(None)
            continue
        path = np.empty(frames[row], dtype=np.int64)
        for time in range(frames[row] - 1, -1, -1):
            path[time] = state
            choice = choices[time, row, state]
            state = state if choice == 0 else state - 1 if choice == 1 else int(origin[row, state])
        paths.append(path)
    return paths
