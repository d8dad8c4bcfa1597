"""The mel frontend against ESPnet's, and what padding must not do to it."""

import math

import pytest
import torch
from espnet2.asr.frontend.asteroid_frontend import AsteroidFrontend
from espnet2.asr.frontend.melspec_torch import MelSpectrogramTorch
from espnet2.layers.utterance_mvn import UtteranceMVN as EspnetUtteranceMVN

from espnet_ext.audio.features import MelFrontend, SincFrontend, UtteranceMVN, emphasize, reflect_ends
from espnet_ext.errors import UserError


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preemp": False, "window_fn": "hann", "mel_scale": "slaney"},
        {"log": False, "normalize": None, "n_mels": 40},
        {"n_fft": 1024, "hop_length": 128},
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_equals_espnet_for_whole_utterances(options):
    torch.manual_seed(0)
    theirs = MelSpectrogramTorch(**{"log": True, "normalize": "mn", **options})
    ours = MelFrontend(**options)
    ours.load_state_dict(theirs.state_dict())
    wav = 0.1 * torch.randn(2, 8123)
    feats, lengths = ours(wav, torch.tensor([8123, 8123]))
    torch.testing.assert_close(feats, theirs(wav, torch.tensor([8123, 8123]))[0], rtol=1e-5, atol=1e-5)
    assert lengths.tolist() == [feats.size(1)] * 2
    assert feats.size(2) == ours.output_size()


def test_bins_lie_where_they_should_at_any_rate():
    """A tone is strongest in the bin whose centre, by HTK's formula, it is; ESPnet's filters are those of 16 kHz."""
    for rate_hz, size in ((8000, (200, 80, 512)), (16000, (400, 160, 512)), (48000, (1200, 480, 2048))):
        frontend = MelFrontend(n_mels=40, preemp=False, normalize=None, rate_hz=rate_hz)
        assert (frontend.win_length, frontend.hop_length, frontend.n_fft) == size
        mel = torch.linspace(*(2595 * math.log10(1 + f / 700) for f in (20, 0.475 * rate_hz)), 42)[1:-1]
        centres_hz = 700 * (10 ** (mel / 2595) - 1)
        for bin_number in (20, 30, 39):
            tone = torch.sin(2 * math.pi * centres_hz[bin_number] * torch.arange(rate_hz) / rate_hz)
            assert frontend(tone[None])[0][0, 50].argmax() == bin_number


def test_bins_beyond_half_the_rate_are_refused():
    with pytest.raises(UserError, match="half the sampling rate"):
        MelFrontend(f_max=7600, rate_hz=8000)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    frontend = MelFrontend()
    samples = torch.tensor([8000, 7999, 4001, 257, 480])
    wav = torch.randn(5, 8000)
    feats, lengths = frontend(wav, samples)
    assert lengths.tolist() == [1 + n // 160 for n in samples.tolist()]
    for row, length, one, n in zip(feats, lengths, wav, samples, strict=True):
        alone, _ = frontend(one[None, :n], n[None])
        torch.testing.assert_close(row[:length], alone[0], rtol=1e-6, atol=1e-5)
        assert (row[length:] == 0).all()
        assert row[:length].mean(dim=0).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_sinc_equals_espnet_and_ignores_padding():
    torch.manual_seed(0)
    options = {"sinc_filters": 16, "sinc_kernel_size": 51, "sinc_stride": 8}
    theirs, ours = AsteroidFrontend(**options), SincFrontend(**options)
    with torch.no_grad():
        theirs.norm.weight.fill_(1.5)
        theirs.norm.bias.fill_(0.1)
    ours.load_state_dict(theirs.state_dict())
    samples = torch.tensor([4000, 2999, 1024])
    wav = torch.randn(3, 4000)
    feats, lengths = ours(wav, samples)
    for row, length, one, n in zip(feats, lengths, wav, samples, strict=True):
        alone, expected_length = theirs(one[None, :n], n[None])
        assert length == expected_length[0] == len(alone[0])
        # log(|x| + 1e-6) magnifies rounding where the filter output crosses zero
        torch.testing.assert_close(row[:length], alone[0], rtol=1e-3, atol=5e-3)
        assert (row[length:] == 0).all()
    ours(wav)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())


@pytest.mark.parametrize("frontend", [MelFrontend(), SincFrontend()])
@pytest.mark.parametrize("num_frames", [1, 7, 15])
def test_samples_for_is_the_shortest_wave(frontend, num_frames):
    samples = frontend.samples_for(num_frames)
    assert frontend(torch.randn(1, samples))[0].size(1) >= num_frames
    try:
        fewer = frontend(torch.randn(1, samples - 1))[0].size(1)
    except (RuntimeError, IndexError):
        fewer = 0
    assert fewer < num_frames or samples == 257


def test_reflection_at_each_end():
    x = torch.tensor([[1.0, 2, 3, 4, 5], [1.0, 2, 3, 9, 9]])
    extended = reflect_ends(x, torch.tensor([5, 3]), 2)
    assert extended[0].tolist() == [3, 2, 1, 2, 3, 4, 5, 4, 3]
    assert extended[1, :7].tolist() == [3, 2, 1, 2, 3, 2, 1]


def test_works_in_float32_under_autocast():
    wav = torch.randn(1, 4000)
    with torch.autocast("cpu", torch.bfloat16):
        feats, _ = MelFrontend()(wav)
    torch.testing.assert_close(feats, MelFrontend()(wav)[0])


@pytest.mark.parametrize("options", [{"window_fn": "kaiser"}, {"normalize": "mvn"}, {"mel_scale": "bark"}])
def test_unknown_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        MelFrontend(**options)


@pytest.mark.parametrize("norm_means", [False, True])
@pytest.mark.parametrize("norm_vars", [False, True])
def test_utterance_mvn_equals_espnet_and_ignores_padding(norm_means, norm_vars):
    ours, theirs = (cls(norm_means, norm_vars) for cls in (UtteranceMVN, EspnetUtteranceMVN))
    x = 3 + torch.randn(3, 40, 5)
    lengths = torch.tensor([40, 17, 2])
    y, out = ours(x, lengths)
    assert out is lengths
    for row, one, n in zip(y, x, lengths, strict=True):
        torch.testing.assert_close(row[:n], theirs(one[None, :n].clone())[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(row[:n], ours(one[None, :n])[0][0], rtol=1e-5, atol=1e-5)
        assert (row[n:] == 0).all()
    if norm_means and norm_vars:
        assert (theirs(x.clone(), lengths)[0][1, :17] - y[1, :17]).abs().max() > 0.1  # ESPnet counts its padding


def test_pre_emphasis_is_espnets_convolution():
    """A model that was trained before sees the same numbers."""
    torch.manual_seed(0)
    for shape in ((3, 16000), (1, 12345), (5, 2)):
        x = torch.randn(shape)
        taps = MelFrontend().flipped_filter
        padded = torch.nn.functional.pad(x.unsqueeze(1), (1, 0), "reflect")
        torch.testing.assert_close(
            emphasize(x, taps), torch.nn.functional.conv1d(padded, taps).squeeze(1), rtol=0, atol=6e-8
        )


def test_lengths_that_say_nothing_change_nothing():
    torch.manual_seed(0)
    x, frontend = torch.randn(3, 8000), MelFrontend()
    without, with_lengths = frontend(x), frontend(x, torch.full((3,), 8000))
    assert torch.equal(without[0], with_lengths[0]) and torch.equal(without[1], with_lengths[1])
