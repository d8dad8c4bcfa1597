"""Speaker-resampled intervals: against repeating trials by hand, and against the spread over new speakers."""

import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.metrics.bootstrap import confidence_intervals, speaker_weights
from espnet_ext.metrics.detection import Curve, RankedTrials, eer


def make_trials(rng, num_speakers=20, num_utterances=6, spread=0.8):
    """All pairs of utterances; a speaker's scores share an offset, so trials of one speaker are not independent."""
    speaker = np.repeat(np.arange(num_speakers), num_utterances)
    a, b = np.triu_indices(len(speaker), 1)
    offset = spread * rng.normal(size=num_speakers)
    labels = speaker[a] == speaker[b]
    scores = rng.normal(size=len(a)) + 2 * labels + offset[speaker[a]] + offset[speaker[b]]
    return scores, labels, speaker[a], speaker[b]


def test_weights_equal_building_the_resampled_trial_list():
    scores, labels, a, b = make_trials(np.random.default_rng(0), 5, 3)
    weights = speaker_weights(np.random.default_rng(7), a, b, 5)
    times = np.random.default_rng(7).multinomial(5, np.full(5, 0.2))
    drawn = np.repeat(np.arange(5), times)
    # Every drawn copy is a speaker of its own: copies of one speaker make neither target nor non-target trials.
    counts = np.zeros(len(scores))
    for first in range(len(drawn)):
        counts += (a == drawn[first]) & (b == drawn[first])
        for second in range(first + 1, len(drawn)):
            pair = {drawn[first], drawn[second]}
            counts += (a != b) & np.isin(a, list(pair)) & np.isin(b, list(pair)) & (len(pair) == 2)
    np.testing.assert_array_equal(weights, counts)


def test_weights_are_one_on_average():
    _, _, a, b = make_trials(np.random.default_rng(0), 30, 2)
    rng = np.random.default_rng(1)
    mean = np.mean([speaker_weights(rng, a, b, 30) for _ in range(2000)], axis=0)
    assert mean[a == b].mean() == pytest.approx(1, abs=0.01)
    assert mean[a != b].mean() == pytest.approx(1 - 1 / 30, abs=0.01)  # multinomial counts lean against each other


def test_interval_covers_the_spread_over_new_speakers():
    rng = np.random.default_rng(2)
    truth = np.mean([eer(*make_trials(rng)[:2]) for _ in range(60)])
    covered = wider = 0
    for seed in range(20):
        scores, labels, a, b = make_trials(rng)
        ranked = RankedTrials(scores, labels)
        low, high = confidence_intervals(ranked, a, b, {"eer": Curve.eer}, 100, seed=seed)["eer"]
        covered += low <= truth <= high
        # Treating every utterance as a speaker of its own is what resampling trials amounts to.
        alone = np.arange(len(scores))
        other = confidence_intervals(ranked, alone, alone, {"eer": Curve.eer}, 100, seed=seed)["eer"]
        wider += high - low > other[1] - other[0]
    assert covered >= 15
    assert wider >= 18


def test_same_seed_same_interval():
    scores, labels, a, b = make_trials(np.random.default_rng(3), 8, 3)
    ranked = RankedTrials(scores, labels)
    metrics = {"eer": Curve.eer, "dcf": lambda curve: curve.min_dcf(0.05)}
    first = confidence_intervals(ranked, a, b, metrics, 50, seed=4)
    assert first == confidence_intervals(ranked, a, b, metrics, 50, seed=4)
    assert first != confidence_intervals(ranked, a, b, metrics, 50, seed=5)
    assert all(low <= high for low, high in first.values())


def test_too_few_speakers_give_no_interval():
    ranked = RankedTrials([0.0, 1.0, 2.0], [0, 1, 1])
    one = np.zeros(3, dtype=int)
    low, high = confidence_intervals(ranked, one, np.array([1, 0, 0]), {"eer": Curve.eer}, 2, seed=0)["eer"]
    assert np.isnan(low) or low <= high
    with pytest.raises(UserError, match="at least 2 samples"):
        confidence_intervals(ranked, one, one, {"eer": Curve.eer}, 1)
