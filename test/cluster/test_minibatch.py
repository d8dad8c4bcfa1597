"""Steps of mini-batch k-means against means written out."""

import numpy as np
import pytest
import torch

from espnet_ext.cluster.minibatch import MiniBatch
from espnet_ext.cluster.search import Rows


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_centroid_is_the_mean_of_all_it_ever_got(metric):
    rng = np.random.default_rng(0)
    places = 5 * rng.normal(size=(4, 6))
    x = places[rng.integers(3, size=600)] + 0.3 * rng.normal(size=(600, 6))  # nothing is near the last one
    if metric == "cosine":
        x, places = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, places))
    x = torch.from_numpy(x.astype(np.float32))
    centres, shift = torch.from_numpy(places.astype(np.float32)), x.mean(0)
    state, got, expected = MiniBatch(centres, metric, shift), [[] for _ in range(4)], centres.double().numpy()
    for part in x.split(90):
        distance = ((part.double().numpy()[:, None] - expected) ** 2).sum(axis=2)
        assert state.step(Rows.of(part, shift)) == pytest.approx(distance.min(axis=1).sum(), rel=1e-4)
        for row, label in zip(part.double().numpy(), distance.argmin(axis=1), strict=True):
            got[label].append(row)
        expected = np.stack([np.mean(rows, axis=0) if rows else old for rows, old in zip(got, expected, strict=True)])
        if metric == "cosine":
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(state.centres, expected, atol=1e-5)
    assert state.counts.tolist() == [len(rows) for rows in got] and not got[3]
