"""The best path through a chain of states whose pauses may be left out, for many utterances at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Frames x states that are held at a time: a batch's scores and choices, five bytes each.
_CELLS = 16_000_000
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
    """The paths of a batch, longest utterance first."""
    count, width = len(chains), max(map(len, chains))
    frames = np.array([len(one) for one in scores])
    first, last = np.zeros((2, count, width), dtype=bool)
    # float32: a sum of 4,000 scores of size 10 is off by less than 0.01.
    emitted = np.zeros((frames.max(initial=0), count, width), dtype=np.float32)
    for row, (one, chain) in enumerate(zip(scores, chains, strict=True)):
        first[row, : len(chain)], last[row, : len(chain)] = chain.first, chain.last
        emitted[: len(one), row, : len(chain)] = one[:, chain.classes]
    # Leaps are few: (row, state) by (row, state) instead of whole rows.
    leaps = [(row, state, chain.origin[state]) for row, chain in enumerate(chains)
             for state in np.flatnonzero(chain.origin >= 0)]  # fmt: skip
    rows, states, origins = np.array(leaps, dtype=np.int64).reshape(-1, 3).T
    value = np.full((count, width), _NEVER, dtype=np.float32)
    choices = np.zeros((len(emitted), count, width), dtype=np.int8)
    if len(emitted):
        value[first] = emitted[0][first]
    for time in range(1, len(emitted)):
        going = int((frames > time).sum())  # the first ones: the longest
        stay, choice = value[:going], choices[time, :going]
        best = stay.copy()
        np.greater(stay[:, :-1], stay[:, 1:], out=choice[:, 1:], casting="unsafe")
        np.maximum(stay[:, :-1], stay[:, 1:], out=best[:, 1:])
        some = np.searchsorted(rows, going)
        here, there = (rows[:some], states[:some]), (rows[:some], origins[:some])
        better = stay[there] > best[here]
        best[here] = np.where(better, stay[there], best[here])
        choice[here] = np.where(better, 2, choice[here])
        np.add(best, emitted[time, :going], out=stay)
    ends = np.where(last, value, _NEVER)
    paths: list[np.ndarray | None] = []
    for row, chain in enumerate(chains):
        state = int(ends[row].argmax())
        if not frames[row] or ends[row, state] == _NEVER:
            paths.append(None)
            continue
        path = np.empty(frames[row], dtype=np.int64)
        for time in range(frames[row] - 1, -1, -1):
            path[time] = state
            choice = choices[time, row, state]
            state = state if choice == 0 else state - 1 if choice == 1 else int(chain.origin[state])
        paths.append(path)
    return paths
