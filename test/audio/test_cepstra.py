"""Voice activity, differences and sliding means against torchaudio's and against loops over frames."""

import numpy as np
import pytest
import torch
import torchaudio

from espnet_ext.audio.cepstra import add_deltas, energy_vad, sliding_mean_subtraction


@pytest.mark.parametrize("frames, window", [(50, 300), (300, 300), (700, 300), (41, 10), (41, 11), (1, 300)])
def test_sliding_mean_equals_torchaudios(frames, window):
    x = np.random.default_rng(0).normal(size=(frames, 3)).astype(np.float32) + 5
    expected = torchaudio.functional.sliding_window_cmn(torch.from_numpy(x), window, center=True).reshape(x.shape)
    result = sliding_mean_subtraction(x, window)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_no_window_is_no_subtraction():
    x = np.ones((4, 2), np.float32)
    np.testing.assert_array_equal(sliding_mean_subtraction(x, 0), x)


def test_first_differences_equal_torchaudios():
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    expected = torchaudio.functional.compute_deltas(torch.from_numpy(x.T), 5).T
    result = add_deltas(x, 1)
    np.testing.assert_array_equal(result[:, :4], x)
    np.testing.assert_allclose(result[:, 4:], expected, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 3, 30])
def test_second_differences_repeat_the_ends_of_the_frames(frames):
    x = np.random.default_rng(0).normal(size=(frames, 4))
    scale = np.arange(-2, 3) / 10
    expected = np.zeros_like(x)
    for t in range(frames):
        for i, a in enumerate(scale):
            for j, b in enumerate(scale):
                expected[t] += a * b * x[min(max(t + i - 2 + j - 2, 0), frames - 1)]
    assert add_deltas(x, 2).shape == (frames, 12)
    np.testing.assert_allclose(add_deltas(x, 2)[:, 8:], expected, atol=1e-12)


@pytest.mark.parametrize("context, proportion", [(0, 0.6), (2, 0.12), (3, 0.6), (5, 0.9)])
def test_vad_equals_a_loop(context, proportion):
    noise = np.random.default_rng(0).normal(size=200)
    energy = (12 + 4 * np.sin(np.arange(200) / 10) + noise).astype(np.float32)
    limit = 5.5 + 0.5 * energy.mean()
    expected = []
    for t in range(len(energy)):
        near = energy[max(0, t - context) : t + context + 1]
        expected.append((near > limit).sum() >= proportion * len(near))
    voiced = energy_vad(energy, context=context, proportion=proportion)
    assert voiced.tolist() == expected and 0 < voiced.sum() < 200
