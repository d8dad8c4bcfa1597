"""MFCCs against torchaudio's pieces and its copy of Kaldi's, and their use as an embedding."""

import numpy as np
import pytest
import torch
import torchaudio

from espnet_ext.audio.mfcc import kaldi_mfcc, mean_and_deviation, mel_filters, mfcc
from espnet_ext.errors import UserError


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_equals_torchaudio(rate_hz):
    wav = np.random.default_rng(0).normal(0, 0.1, rate_hz).astype(np.float32)
    window, hop = round(0.025 * rate_hz), round(0.010 * rate_hz)
    n_fft = 1 << (window - 1).bit_length()
    emphasised = torchaudio.functional.preemphasis(torch.tensor(wav).double(), 0.97)
    emphasised[0] = 0.03 * float(wav[0])
    frames = emphasised.unfold(0, window, hop) * torch.hamming_window(window, periodic=False, dtype=torch.double)
    filters = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 20.0, rate_hz / 2, 40, rate_hz)
    np.testing.assert_allclose(mel_filters(rate_hz, n_fft, 40, 20.0), filters, atol=1e-4)
    log_mel = torch.log(torch.fft.rfft(frames, n_fft).abs() ** 2 @ filters.double() + 1e-10)
    expected = log_mel @ torchaudio.functional.create_dct(20, 40, "ortho").double()
    cepstra = mfcc(wav, rate_hz)
    assert cepstra.shape == (1 + (rate_hz - window) // hop, 20) and cepstra.dtype == np.float32
    np.testing.assert_allclose(cepstra, expected, atol=5e-3)


@pytest.mark.parametrize("rate_hz, samples", [(16000, 16000), (16000, 16177), (8000, 4007)])
def test_kaldis_kind_equals_torchaudios(rate_hz, samples):
    wav = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    expected = torchaudio.compliance.kaldi.mfcc(
        torch.from_numpy(wav)[None] * 32768,
        sample_frequency=rate_hz,
        num_ceps=20,
        num_mel_bins=40,
        low_freq=50,
        high_freq=3700,
        snip_edges=False,
        use_energy=True,
        energy_floor=0,
        dither=0,
    ).numpy()
    cepstra = kaldi_mfcc(wav, rate_hz, f_max_hz=3700, dither=0)
    assert cepstra.shape == expected.shape and cepstra.dtype == np.float32
    np.testing.assert_allclose(cepstra, expected, atol=5e-3)


def test_expected_dither_is_the_mean_over_dithered_signals():
    rng = np.random.default_rng(0)
    power = [kaldi_mfcc(rng.normal(0, 3 / 32768, 16000), 16000, dither=0) for _ in range(3)]
    expected = kaldi_mfcc(np.zeros(16000), 16000, dither=3.0)
    assert np.isfinite(expected).all() and np.abs(expected - expected[0]).max() < 1e-5
    # The log of a mean is above the mean of logs, the same in every mel but for how many bins it is the mean of.
    assert np.abs(np.mean(power, axis=(0, 1))[0] - expected[0, 0]) < 0.05
    assert np.abs(np.mean(power, axis=(0, 1))[1:] - expected[0, 1:]).max() < 4


def test_kaldis_kind_of_a_long_signal_and_of_wrong_input(monkeypatch):
    wav = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    whole = kaldi_mfcc(wav, 16000)
    monkeypatch.setattr("espnet_ext.audio.mfcc.BLOCK", 7)
    np.testing.assert_array_equal(kaldi_mfcc(wav, 16000), whole)
    assert kaldi_mfcc(wav[:1], 16000).shape == (1, 20)
    with pytest.raises(UserError, match="one channel"):
        kaldi_mfcc(np.zeros((2, 100)), 16000)
    with pytest.raises(UserError, match="f_min < f_max"):
        kaldi_mfcc(wav, 8000)


def test_block_by_block_is_the_whole():
    wav = np.random.default_rng(0).normal(0, 0.1, 16000 * 45)
    cepstra = mfcc(wav, 16000)
    np.testing.assert_allclose(cepstra[4090 + 2 :], mfcc(wav[160 * 4090 :], 16000)[2:], rtol=1e-5, atol=1e-4)


def test_floor_embedding():
    cepstra = np.array([[1.0, 2.0], [3.0, 6.0]], dtype=np.float32)
    assert mean_and_deviation(cepstra).tolist() == [2.0, 4.0, 1.0, 2.0]


def test_short_empty_and_stereo():
    assert mfcc(np.full(100, 0.1), 16000).shape == (1, 20)
    for wrong in (np.zeros(0), np.zeros((100, 2))):
        with pytest.raises(UserError, match="one channel"):
            mfcc(wrong, 16000)
    assert np.isfinite(mfcc(np.zeros(16000), 16000)).all()
