"""Scores from embeddings against loops over single trials, and against ESPnet's formulae in torch."""

import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.spk import scoring
from espnet_ext.spk.scoring import (
    as_norm,
    cohort_statistics,
    cosine_scores,
    mean_embedding,
    multi_crop_distance,
    quality_measures,
    speaker_means,
    unit_crops,
    unit_utterances,
)

U, C, E, S = 30, 4, 16, 50


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(U, C, E)).astype(np.float32)
    cohort = unit_crops(rng.normal(size=(S, E)).astype(np.float32))
    enroll, test = rng.integers(U, size=(2, 200))
    return vectors, cohort, enroll, test


def test_cosine_equals_one_trial_at_a_time(data, monkeypatch):
    vectors, _, enroll, test = data
    mean = mean_embedding(vectors)
    np.testing.assert_allclose(mean, vectors.reshape(-1, E).mean(0), atol=1e-6)
    scores = cosine_scores(unit_utterances(vectors, mean), enroll, test)
    for score, e, t in zip(scores, enroll, test, strict=True):
        sides = []
        for row in (e, t):
            crops = vectors[row].astype(np.float64) - mean
            sides.append((crops / np.linalg.norm(crops, axis=1, keepdims=True)).mean(0))
        expected = sides[0] @ sides[1] / np.linalg.norm(sides[0]) / np.linalg.norm(sides[1])
        assert score == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr(scoring, "TRIALS_PER_BLOCK", 7)
    np.testing.assert_array_equal(cosine_scores(unit_utterances(vectors, mean), enroll, test), scores)


def test_distance_equals_espnets_cdist(data, monkeypatch):
    torch = pytest.importorskip("torch")
    vectors, _, enroll, test = data
    crops = torch.nn.functional.normalize(torch.from_numpy(vectors).double(), dim=2)
    expected = [-torch.cdist(crops[e], crops[t]).mean().item() for e, t in zip(enroll, test, strict=True)]
    monkeypatch.setattr(scoring, "TRIALS_PER_BLOCK", 33)
    # 3e-4: sqrt(2 - 2 cos) in float32 for a crop against itself, where the true distance is 0.
    np.testing.assert_allclose(multi_crop_distance(unit_crops(vectors), enroll, test), expected, atol=3e-4)
    other = enroll != test
    np.testing.assert_allclose(
        multi_crop_distance(unit_crops(vectors), enroll[other], test[other]), np.array(expected)[other], atol=1e-5
    )


def test_single_crop_distance_ranks_as_cosine(data):
    vectors, _, enroll, test = data
    keep = enroll != test
    units = unit_crops(vectors[:, :1])
    distance = multi_crop_distance(units, enroll[keep], test[keep])
    cosine = cosine_scores(units[:, 0], enroll[keep], test[keep])
    np.testing.assert_allclose(distance, -np.sqrt(2 - 2 * cosine), atol=1e-5)


@pytest.mark.parametrize("distance", [False, True])
@pytest.mark.parametrize("top_n", [5, 10_000])
def test_as_norm_equals_the_loop_over_trials(data, distance, top_n, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(scoring, "UTTERANCES_PER_BLOCK", 7)
    vectors, cohort, enroll, test = data
    crops = unit_crops(vectors) if distance else unit_utterances(vectors)[:, None]
    raw = multi_crop_distance(crops, enroll, test) if distance else cosine_scores(crops[:, 0], enroll, test)
    normalised = as_norm(raw, enroll, test, cohort_statistics(crops, cohort, top_n, distance))
    crops, cohort = torch.from_numpy(crops), torch.from_numpy(cohort)
    for score, out, e, t in zip(raw, normalised, enroll, test, strict=True):
        parts = []
        for side in (e, t):
            against = -torch.cdist(crops[side], cohort).mean(0) if distance else crops[side, 0] @ cohort.T
            top = torch.topk(against, min(top_n, S))[0]
            parts.append((score - top.mean()) / top.std())
        assert out == pytest.approx((sum(parts) / 2).item(), abs=2e-4)


def test_as_norm_removes_an_offset_of_one_utterance():
    """An utterance that scores high against everybody is no better a match for it."""
    rng = np.random.default_rng(1)
    hub = unit_crops(rng.normal(size=(1, E)).astype(np.float32))
    cohort = unit_crops(rng.normal(size=(S, E)).astype(np.float32) + 2 * hub)
    crowd = unit_crops(rng.normal(size=(20, E)).astype(np.float32) + 2 * hub)
    units = np.concatenate([hub, crowd])
    pairs = np.zeros(20, dtype=int), np.arange(1, 21)
    raw = cosine_scores(units, *pairs)
    assert raw.mean() > 0.3
    assert abs(as_norm(raw, *pairs, cohort_statistics(units, cohort, S)).mean()) < 0.5


def test_speaker_means_are_normalised_means_whatever_the_order():
    rng = np.random.default_rng(2)
    units = unit_crops(rng.normal(size=(6, E)).astype(np.float32))
    means = speaker_means(units, ["b", "a", "b", "c", "a", "b"])
    for row, members in zip(means, ([1, 4], [0, 2, 5], [3]), strict=True):
        expected = units[members].mean(0)
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)


def test_cohort_that_cannot_work(data):
    vectors, cohort, _, _ = data
    with pytest.raises(UserError, match="at least 2"):
        cohort_statistics(unit_utterances(vectors), cohort[:1], 5)
    with pytest.raises(UserError, match="two models"):
        cohort_statistics(unit_utterances(vectors), cohort[:, :8], 5)


def test_quality_measures_are_symmetric_and_capped():
    enroll, test = np.array([0, 1, 2]), np.array([1, 2, 0])
    magnitude, duration_s, cohort_mean = (
        np.array([1.0, 2.0, 4.0]),
        np.array([2.0, 8.0, 100.0]),
        np.array([0.1, 0.2, 0.3]),
    )
    measures = quality_measures(enroll, test, magnitude, duration_s, cohort_mean)
    swapped = quality_measures(test, enroll, magnitude, duration_s, cohort_mean)
    for name, values in measures.items():
        np.testing.assert_array_equal(values, swapped[name])
    np.testing.assert_allclose(measures["log_duration_max"], np.log([8, 20, 20]))
    np.testing.assert_allclose(measures["duration_difference"], [6, 12, 18])
    np.testing.assert_allclose(measures["duration_ratio"], [0.25, 0.4, 0.1])
    np.testing.assert_allclose(measures["log_magnitude_min"], np.log([1, 2, 1]))
    np.testing.assert_allclose(measures["cohort_mean_max"], [0.2, 0.3, 0.3])
    assert set(quality_measures(enroll, test, magnitude)) == {"log_magnitude_min", "log_magnitude_max"}


def test_memory_is_bounded_by_the_block():
    """A cohort matrix for all utterances at once would need 100 times what is allowed here."""
    import tracemalloc

    rng = np.random.default_rng(3)
    units = unit_crops(rng.normal(size=(20_000, 8)).astype(np.float32))
    cohort = unit_crops(rng.normal(size=(2_000, 8)).astype(np.float32))
    tracemalloc.start()
    cohort_statistics(units, cohort, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * units.shape[0] * cohort.shape[0] * 4
