"""How well two labellings of the same items agree: NMI, purity, and the unit quality of HuBERT (numpy only).

Labels are sequences of integers or strings, one per item. Everything is one sort of the N items: O(N log N) time, no
table of clusters by classes.
"""

from collections.abc import Sequence

import numpy as np

from espnet_ext.errors import UserError

Labels = Sequence | np.ndarray


def nmi(a: Labels, b: Labels) -> float:
    """Normalised mutual information ``2 I(A;B) / (H(A) + H(B))`` of two labellings, 0 to 1 (arXiv 2409.10791).

    Two labellings of one class each say the same: 1.
    """
    joint, of_a, of_b = _counts(a, b)
    together = _entropy(of_a) + _entropy(of_b)
    return 1.0 if together == 0 else _ratio(2 * _information(joint, of_a, of_b), together)


def purity(clusters: Labels, truth: Labels) -> float:
    """Share of items whose class is the commonest one of their cluster: ``(1/N) sum_k max_s |k and s|``.

    With phones for classes this is HuBERT's phone purity ``sum_j max_i p(i, j)``.
    """
    joint, of_clusters, _ = _counts(clusters, truth)
    best = np.zeros(len(of_clusters), dtype=np.int64)
    np.maximum.at(best, joint[0], joint[2])
    return float(best.sum() / joint[2].sum())


def cluster_purity(clusters: Labels, truth: Labels) -> float:
    """Share of items whose cluster is the commonest one of their class: ``sum_i max_j p(i, j)`` over classes i."""
    return purity(truth, clusters)


def pnmi(units: Labels, phones: Labels) -> float:
    """Phone-normalised mutual information ``I(phone; unit) / H(phone)``, 0 to 1; 1 where there is one phone only."""
    joint, of_units, of_phones = _counts(units, phones)
    entropy = _entropy(of_phones)
    return 1.0 if entropy == 0 else _ratio(_information(joint, of_units, of_phones), entropy)


def unit_quality(units: Labels, phones: Labels) -> dict[str, float]:
    """Phone purity, cluster purity and PNMI of frames, with the entropies they rest on (nats)."""
    joint, of_units, of_phones = _counts(units, phones)
    return {
        "phone_purity": purity(units, phones),
        "cluster_purity": cluster_purity(units, phones),
        "pnmi": pnmi(units, phones),
        "mutual_information_nats": _information(joint, of_units, of_phones),
        "phone_entropy_nats": _entropy(of_phones),
        "unit_entropy_nats": _entropy(of_units),
        "num_frames": int(joint[2].sum()),
        "num_units_used": len(of_units),
    }


def _counts(a: Labels, b: Labels) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """The pairs that occur as (rows, columns, counts), and the counts of every class of ``a`` and of ``b``."""
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 1 or a.shape != b.shape:
        raise UserError(f"two labellings of the same items are needed; got shapes {a.shape} and {b.shape}")
    if not len(a):
        raise UserError("there are no labels to compare; the two sets may have no item in common")
    a, b = (np.unique(labels, return_inverse=True)[1] for labels in (a, b))
    width = int(b.max()) + 1
    pairs, counts = np.unique(a.astype(np.int64) * width + b, return_counts=True)
    return (pairs // width, pairs % width, counts), np.bincount(a), np.bincount(b)


def _entropy(counts: np.ndarray) -> float:
    if len(counts) == 1:
        return 0.0
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum())


def _information(joint: tuple[np.ndarray, np.ndarray, np.ndarray], of_a: np.ndarray, of_b: np.ndarray) -> float:
    rows, columns, counts = joint
    total = counts.sum()
    # Logarithms of each count apart: a product of two counts could leave int64 or round.
    ratio = np.log(counts) + np.log(total) - np.log(of_a[rows]) - np.log(of_b[columns])
    return max(0.0, float((counts / total * ratio).sum()))


def _ratio(numerator: float, denominator: float) -> float:
    """A ratio that cannot leave 0 to 1 by rounding."""
    return min(1.0, numerator / denominator)
