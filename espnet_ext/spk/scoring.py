"""Scores of speaker-verification trials from embeddings: cosine, multi-crop distance, AS-norm, quality measures.

Everything here is numpy over row numbers: a trial is a pair of rows of an embedding array, every unique utterance is
prepared once, and work goes in blocks so that memory does not grow with the number of trials.
"""

from collections.abc import Sequence

import numpy as np

from espnet_ext.errors import UserError

TRIALS_PER_BLOCK = 32_768
UTTERANCES_PER_BLOCK = 512
DURATION_CAP_S = 20.0


def unit_crops(vectors: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """Embeddings ``(U, crops, E)`` minus ``mean`` ``(E,)``, each crop scaled to length 1 (float32).

    The mean comes from training or cohort embeddings (``mean_embedding``), never from the trials that are scored.
    """
    centred = vectors if mean is None else vectors - mean.astype(np.float32)
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-12)


def unit_utterances(vectors: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """One vector of length 1 per utterance ``(U, E)``: its crops minus ``mean``, normalised, averaged, normalised."""
    crops = unit_crops(vectors, mean)
    return crops[:, 0] if crops.shape[1] == 1 else unit_crops(crops.mean(1))


def mean_embedding(vectors: np.ndarray) -> np.ndarray:
    """Mean ``(E,)`` float64 over utterances and crops of ``(U, crops, E)``."""
    return vectors.mean((0, 1), dtype=np.float64)


def speaker_means(units: np.ndarray, speakers: Sequence[str]) -> np.ndarray:
    """One vector of length 1 per speaker ``(S, E)``, the normalised mean of the speaker's ``units`` ``(U, E)``."""
    names, inverse = np.unique(np.asarray(speakers), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(names)))
    return unit_crops(np.add.reduceat(units[order], starts, axis=0))


def cosine_scores(units: np.ndarray, enroll: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Cosine ``(N,)`` float32 of rows ``enroll`` and ``test`` of ``units`` ``(U, E)`` (rows of length 1)."""
    scores = np.empty(len(enroll), dtype=np.float32)
    for start in range(0, len(enroll), TRIALS_PER_BLOCK):
        block = slice(start, start + TRIALS_PER_BLOCK)
        np.einsum("ne,ne->n", units[enroll[block]], units[test[block]], out=scores[block])
    return scores


def multi_crop_distance(crops: np.ndarray, enroll: np.ndarray, test: np.ndarray) -> np.ndarray:
    """ESPnet-SPK's score ``-mean_ij |e_i - t_j|`` ``(N,)`` over all pairs of crops of ``crops`` ``(U, C, E)``.

    The crops have length 1, so that ``|e - t|`` is ``sqrt(2 - 2 e.t)``. Rank-equal to cosine only for a single crop.
    """
    scores = np.empty(len(enroll), dtype=np.float32)
    size = max(1, TRIALS_PER_BLOCK // crops.shape[1])
    for start in range(0, len(enroll), size):
        block = slice(start, start + size)
        products = crops[enroll[block]] @ crops[test[block]].transpose(0, 2, 1)
        scores[block] = -np.sqrt(np.maximum(2 - 2 * products, 0)).mean((1, 2))
    return scores


def cohort_statistics(
    crops: np.ndarray, cohort: np.ndarray, top_n: int, distance: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every utterance's ``top_n`` highest scores against the cohort.

    Args:
        crops: ``(U, C, E)`` or ``(U, E)``, rows of length 1.
        cohort: ``(S, E)``, rows of length 1: speaker means or utterances, of none of the speakers in the trials.
        top_n: how many cohort entries to keep; all of them if there are fewer.
        distance: score by ``multi_crop_distance`` instead of cosine.

    Returns:
        mean ``(U,)`` and deviation ``(U,)`` (of a sample, as in ESPnet), float64.
    """
    if len(cohort) < 2:
        raise UserError(f"AS-norm needs a cohort of at least 2 speakers, got {len(cohort)}")
    if crops.shape[-1] != cohort.shape[-1]:
        raise UserError(f"embeddings of size {crops.shape[-1]} and a cohort of size {cohort.shape[-1]}: two models?")
    top_n = min(max(top_n, 2), len(cohort))
    crops = crops[:, None] if crops.ndim == 2 else crops
    mean, deviation = np.empty(len(crops)), np.empty(len(crops))
    cohort = np.ascontiguousarray(cohort.T)
    for start in range(0, len(crops), UTTERANCES_PER_BLOCK):
        block = crops[start : start + UTTERANCES_PER_BLOCK]
        scores = block.reshape(-1, block.shape[2]) @ cohort
        if distance:
            scores = -np.sqrt(np.maximum(2 - 2 * scores, 0))
        if block.shape[1] > 1:
            scores = scores.reshape(*block.shape[:2], -1).mean(1)
        scores.partition(scores.shape[1] - top_n, axis=1)
        top = scores[:, -top_n:]
        rows = slice(start, start + len(block))
        mean[rows] = top.mean(1, dtype=np.float64)
        deviation[rows] = top.std(1, ddof=1, dtype=np.float64)
    return mean, np.maximum(deviation, 1e-6)


def as_norm(scores: np.ndarray, enroll: np.ndarray, test: np.ndarray, statistics) -> np.ndarray:
    """Adaptive symmetric normalisation ``((s - m_e) / d_e + (s - m_t) / d_t) / 2`` of raw scores ``(N,)``.

    ``statistics`` is what ``cohort_statistics`` returned for the utterances that ``enroll`` and ``test`` number
    (Matejka et al., "Analysis of score normalization in multilingual speaker recognition", 2017).
    """
    mean, deviation = statistics
    return ((scores - mean[enroll]) / deviation[enroll] + (scores - mean[test]) / deviation[test]) / 2


def quality_measures(
    enroll: np.ndarray,
    test: np.ndarray,
    magnitude: np.ndarray,
    duration_s: np.ndarray | None = None,
    cohort_mean: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Measures of how far a score can be trusted, each ``(N,)``, the same when the two sides are swapped.

    Args:
        enroll, test: row numbers of the two sides, ``(N,)``.
        magnitude: length of every utterance's embedding before normalisation, ``(U,)``.
        duration_s: length of every utterance in seconds, ``(U,)``; counted up to 20 s, where more adds nothing.
        cohort_mean: mean score against the cohort (from ``cohort_statistics``), ``(U,)``.
    """
    pairs = {"log_magnitude": np.log(np.maximum(magnitude, 1e-12))}
    if duration_s is not None:
        pairs["log_duration"] = np.log(np.clip(duration_s, 0.01, DURATION_CAP_S))
    if cohort_mean is not None:
        pairs["cohort_mean"] = cohort_mean
    measures = {}
    for name, values in pairs.items():
        measures[f"{name}_min"] = np.minimum(values[enroll], values[test])
        measures[f"{name}_max"] = np.maximum(values[enroll], values[test])
    if duration_s is not None:
        shorter, longer = np.exp(measures["log_duration_min"]), np.exp(measures["log_duration_max"])
        measures["duration_difference"] = longer - shorter
        measures["duration_ratio"] = shorter / longer
    return measures
