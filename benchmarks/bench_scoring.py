"""Metrics of 1,000,000 scores and AS-norm of 1,000,000 trials, against ESPnet 202511's functions and per-trial loop.

The metric functions of the peer are the installed ones (``espnet2.utils.eer``). Its AS-norm is a recipe script that pip
does not install, so its loop is written here from its description: for every trial, both sides against the whole
cohort by ``torch.cdist``, ``torch.topk``, mean and deviation. The loop is timed on ``LOOP_TRIALS`` trials and scaled.
"""

import sys

import numpy as np
from common import Row, best_time, measure

NUM_SCORES = 1_000_000
NUM_TRIALS, NUM_UTTERANCES, NUM_COHORT, DIM, TOP_N = 1_000_000, 50_000, 5_000, 192, 300
LOOP_TRIALS = 300


def make_scores(num_scores: int):
    """One target in ten; scores overlap so that the EER is about 7 %."""
    rng = np.random.default_rng(0)
    labels = (rng.random(num_scores) < 0.1).astype(np.int8)
    return (rng.normal(size=num_scores) + 3 * labels).astype(np.float32), labels


def our_metrics(num_scores: int):
    from espnet_ext.metrics.detection import RankedTrials

    scores, labels = make_scores(num_scores)

    def evaluate():
        curve = RankedTrials(scores, labels).curve()
        return 100 * curve.eer(), curve.min_dcf(0.05)

    return [*evaluate(), best_time(evaluate, 5)]


def peer_metrics(num_scores: int):
    from espnet2.utils.eer import ComputeErrorRates, ComputeMinDcf, tuneThresholdfromScore

    # Plain lists, as ESPnet's recipe reads them: its loops take about twice as long on numpy arrays.
    scores, labels = (array.tolist() for array in make_scores(num_scores))

    def evaluate():
        eer = tuneThresholdfromScore(scores, labels, [1, 0.1])[1]
        return eer, ComputeMinDcf(*ComputeErrorRates(scores, labels), 0.05, 1, 1)[0]

    return [*map(float, evaluate()), best_time(evaluate, 2)]


def make_embeddings(num_trials: int):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(NUM_UTTERANCES, 1, DIM)).astype(np.float32)
    cohort = rng.normal(size=(NUM_COHORT, 1, DIM)).astype(np.float32)
    cohort /= np.linalg.norm(cohort, axis=2, keepdims=True)
    enroll, test = rng.integers(NUM_UTTERANCES, size=(2, NUM_TRIALS))
    return vectors, cohort[:, 0], enroll[:num_trials], test[:num_trials]


def our_as_norm(num_trials: int):
    from espnet_ext.spk.scoring import as_norm, cohort_statistics, multi_crop_distance, unit_crops

    vectors, cohort, enroll, test = make_embeddings(num_trials)

    def normalise():
        crops = unit_crops(vectors)
        scores = multi_crop_distance(crops, enroll, test)
        return as_norm(scores, enroll, test, cohort_statistics(crops, cohort, TOP_N, distance=True))

    return [normalise()[:LOOP_TRIALS].tolist(), best_time(normalise, 2)]


def peer_as_norm(num_trials: int):
    import torch

    torch.set_num_threads(1)
    vectors, cohort, enroll, test = make_embeddings(num_trials)
    units = torch.nn.functional.normalize(torch.from_numpy(vectors), dim=2)
    cohort = torch.from_numpy(cohort)

    def normalise():
        scores = []
        for sides in zip(enroll.tolist(), test.tolist(), strict=True):
            score = -torch.cdist(units[sides[0]], units[sides[1]]).mean()
            parts = []
            for side in sides:
                top = torch.topk((-torch.cdist(units[side], cohort)).mean(0), TOP_N)[0]
                parts.append((score - top.mean()) / top.std())
            scores.append(((parts[0] + parts[1]) / 2).item())
        return scores

    return [normalise(), best_time(normalise, 3)]


def main() -> list[Row]:
    ours, peer = (measure(f"{__file__}:{name}", num_scores=NUM_SCORES) for name in ("our_metrics", "peer_metrics"))
    difference = max(abs(a - b) for a, b in zip(ours.result[:2], peer.result[:2], strict=True))
    norm = measure(f"{__file__}:our_as_norm", num_trials=NUM_TRIALS)
    loop = measure(f"{__file__}:peer_as_norm", num_trials=LOOP_TRIALS)
    apart = float(np.abs(np.array(norm.result[0]) - np.array(loop.result[0])).max())
    what = f"AS-norm of {NUM_TRIALS:,} trials, {NUM_UTTERANCES:,} utterances, {NUM_COHORT:,} cohort speakers, {DIM}-d"
    return [
        Row(
            f"EER and minDCF of {NUM_SCORES:,} scores",
            ours.result[-1],
            peer.result[-1],
            note=f"results differ by {difference:.1g}",
        ),
        Row(f"EER and minDCF of {NUM_SCORES:,} scores, peak memory", ours.peak_mb, peer.peak_mb, unit="MB"),
        Row(
            what,
            norm.result[-1],
            loop.result[-1] / LOOP_TRIALS * NUM_TRIALS,
            note=f"ESPnet's loop: {LOOP_TRIALS} trials measured, scaled; scores differ by {apart:.1g}",
        ),
        Row("AS-norm, peak memory", norm.peak_mb, None, unit="MB"),
    ]


if __name__ == "__main__":
    for row in main():
        print(row, row.ratio, file=sys.stdout)
