"""RankMe of 10,000 utterance vectors of 768 numbers: streamed into a Gram matrix, against an SVD of the stacked matrix.

Both take the vectors in portions of 50, as an encoder gives them, and work in float64; only their own work is timed.
The vectors have a spectrum that falls as 1/i and a common offset, as those of encoders do.
"""

import sys
import time

import numpy as np
from common import Row, measure

NUM_VECTORS, SIZE, PORTION = 10_000, 768, 50
LAYERS = 13  # of HuBERT Base, with the input of the first


def portions():
    """Yield the same vectors (50, 768) float64 every time, without holding more than one portion."""
    rng = np.random.default_rng(0)
    spectrum = 1 / np.arange(1, SIZE + 1)
    rotation = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
    for _ in range(NUM_VECTORS // PORTION):
        yield (rng.standard_normal((PORTION, SIZE)) * spectrum) @ rotation + 0.01


def ours():
    from espnet_ext.metrics.rank import RankAccumulator

    accumulator, seconds = RankAccumulator(SIZE), 0.0
    for vectors in portions():
        start = time.perf_counter()
        accumulator.add(vectors)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    value = accumulator.rank().rankme
    return [value, seconds + time.perf_counter() - start]


def peer():
    stacked = np.empty((NUM_VECTORS, SIZE))
    for number, vectors in enumerate(portions()):
        stacked[number * PORTION : (number + 1) * PORTION] = vectors
    start = time.perf_counter()
    sigma = np.linalg.svd(stacked, compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    return [float(np.exp(-(p * np.log(p)).sum())), time.perf_counter() - start]


def main() -> list[Row]:
    one, other = measure(f"{__file__}:ours"), measure(f"{__file__}:peer")
    apart = abs(one.result[0] - other.result[0])
    what = f"RankMe of {NUM_VECTORS:,} x {SIZE}"
    growth = [measured.peak_mb - measured.before_mb for measured in (one, other)]
    note = f"ours stays there for any number of vectors; {LAYERS} layers at once need {LAYERS} times as much"
    return [
        Row(what, one.result[1], other.result[1], note=f"against SVD; {other.result[0]:.3f}, apart by {apart:.1g}"),
        Row(f"{what}, memory on top of the imports", *growth, unit="MB", note=note),
    ]


if __name__ == "__main__":
    for row in main():
        print(row, row.ratio, file=sys.stdout)
