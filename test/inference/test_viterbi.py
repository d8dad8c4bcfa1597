"""The best path against trying every path, and what has no path."""

import itertools

import numpy as np
import pytest

import espnet_ext.inference.viterbi as module
from espnet_ext.inference.viterbi import Chain, best_paths


def random_chain(rng, states, classes):
    """A chain with leaps over one to three states here and there."""
    origin = np.array([k - rng.integers(2, 5) if rng.random() < 0.4 else -1 for k in range(states)])
    first, last = rng.random((2, states)) < 0.3
    first[0] = last[-1] = True
    return Chain(rng.integers(0, classes, states), np.maximum(origin, -1), first, last)


def by_hand(scores, chain):
    """The largest sum of all paths that are allowed, None where there is none."""
    best = None
    for path in itertools.product(range(len(chain)), repeat=len(scores)):
        if not chain.first[path[0]] or not chain.last[path[-1]]:
            continue
        if all(b in (a, a + 1) or (chain.origin[b] == a and a >= 0) for a, b in zip(path, path[1:], strict=False)):
            total = sum(scores[t, chain.classes[s]] for t, s in enumerate(path))
            best = total if best is None else max(best, total)
    return best


@pytest.mark.parametrize("cells", [16_000_000, 40])  # all at once, and in batches of one or two
def test_equals_trying_every_path(cells, monkeypatch):
    monkeypatch.setattr(module, "_CELLS", cells)
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(rng.integers(1, 7), 3)) for _ in range(60)]
    chains = [random_chain(rng, rng.integers(1, 6), 3) for _ in scores]
    paths = best_paths(scores, chains)
    missing = 0
    for path, one, chain in zip(paths, scores, chains, strict=True):
        expected = by_hand(one, chain)
        if expected is None:
            missing += 1
            assert path is None
            continue
        assert one[np.arange(len(one)), chain.classes[path]].sum() == pytest.approx(expected)
        assert chain.first[path[0]] and chain.last[path[-1]]
        steps = zip(path, path[1:], strict=False)
        assert all(b in (a, a + 1) or chain.origin[b] == a for a, b in steps)
    assert 0 < missing < 30


def test_a_chain_longer_than_the_frames_has_no_path():
    never = np.full(3, -1)
    chain = Chain(np.zeros(3, int), never, np.array([True, False, False]), np.array([False, False, True]))
    short, exact, none = best_paths([np.zeros((2, 1)), np.zeros((3, 1)), np.zeros((0, 1))], [chain] * 3)
    assert short is None and none is None and exact.tolist() == [0, 1, 2]
