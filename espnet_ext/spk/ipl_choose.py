"""The number of pseudo-speakers without labels: the one on which clusterings from two seeds agree best."""

from collections.abc import Sequence

import numpy as np

from espnet_ext.cluster.methods import cluster
from espnet_ext.errors import UserError
from espnet_ext.metrics.clustering import nmi


def above_chance(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """NMI of two labellings ``(N,)``, scaled so that 0 is that of one with the shuffled other, and 1 stays 1.

    NMI alone grows with the number of clusters: with as many as items any two labellings agree.
    """
    chance = nmi(a, np.random.default_rng(seed).permutation(b))
    return 0.0 if chance >= 1 else (nmi(a, b) - chance) / (1 - chance)


def seed_agreement(
    x: np.ndarray,
    candidates: Sequence[int],
    method: str = "kmeans_ahc",
    num_kmeans: int = 0,
    seeds: Sequence[int] = (0, 1, 2),
    share: float = 0.8,
    **options,
) -> dict[int, float]:
    """Mean agreement above chance of clusterings of ``x (N, D)`` into each number of ``candidates``.

    Every seed clusters its own ``share`` of the vectors, so that methods without a random start disagree too; two seeds
    are compared on the vectors that both have. ``num_kmeans`` shrinks with the share.

    Raises:
        UserError: fewer than two seeds, or fewer vectors than clusters.
    """
    if len(set(seeds)) < 2:
        raise UserError("agreement between seeds needs two different seeds")
    size = round(share * len(x))
    if max(candidates) > size:
        raise UserError(f"{size} of {len(x)} vectors cannot make {max(candidates)} clusters; try smaller numbers")
    chosen = {seed: np.sort(np.random.default_rng(seed).choice(len(x), size, replace=False)) for seed in seeds}
    found = {}
    for k in candidates:
        first = max(k, round(share * num_kmeans)) if num_kmeans else 0
        labels = {}
        for seed, rows in chosen.items():
            labels[seed] = np.full(len(x), -1)
            labels[seed][rows] = cluster(x[rows], method, k, first, seed=seed, **options).labels
        scores = []
        for i, one in enumerate(seeds):
            for other in seeds[:i]:
                both = (labels[one] >= 0) & (labels[other] >= 0)
                scores.append(above_chance(labels[one][both], labels[other][both]))
        found[k] = float(np.mean(scores))
    return found
