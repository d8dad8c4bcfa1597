"""Choosing and mixing layers, and group norm that sees lengths, against numpy and torch on unpadded input."""

import numpy as np
import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.upstream.layers import check_layer, frame_grid, norm_of_layer, weighted_sum
from espnet_ext.upstream.padding import (
    ValidGroupNorm,
    let_group_norm_see_lengths,
    normalized,
    valid_frames,
    valid_samples,
)


@pytest.mark.parametrize("normalize", [False, True])
def test_weighted_sum(normalize):
    layers = torch.randn(4, 2, 5, 6, dtype=torch.float64)
    weights = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)
    values, shares = layers.numpy(), np.exp(weights.numpy())
    shares /= shares.sum()
    if normalize:
        variance = values.var(-1, keepdims=True)
        values = (values - values.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-5)
    expected = np.einsum("l,lbtd->btd", shares, values)
    np.testing.assert_allclose(weighted_sum(list(layers), weights, normalize).numpy(), expected, atol=1e-12)


def test_normalised_layers_weigh_alike():
    """What the option is for: a layer of large numbers does not decide alone."""
    loud, quiet = 1000 * torch.randn(1, 50, 8), torch.randn(1, 50, 8)
    mixed = weighted_sum([loud, quiet], torch.zeros(2), normalize=True)
    torch.testing.assert_close(mixed, (norm_of_layer(loud) + norm_of_layer(quiet)) / 2)


def test_check_layer():
    for layer in (None, 0, 3, -4):
        check_layer(layer, 4, "here")
    for layer in (4, -5):
        with pytest.raises(UserError, match="here: layer must be from 0 .* to 3"):
            check_layer(layer, 4, "here")


class Frames(torch.nn.Module):
    """An encoder of 300 samples every 100, which keeps another number under the name of s3prl's hop."""

    frames_past_end = False
    hop_length = 160

    def samples_for(self, num_frames):
        return 100 * num_frames + 200


class More(Frames):
    """One or two frames more than fit."""

    frames_past_end = True


def test_where_frames_lie_is_what_an_encoder_says_of_itself():
    assert frame_grid(Frames()) == (100, 300)
    assert frame_grid(More()) == (160, 400)
    with pytest.raises(AttributeError, match="frames_past_end"):
        frame_grid(torch.nn.Linear(2, 2))


def test_group_norm_over_valid_frames_is_that_of_each_utterance_alone():
    block = torch.nn.Module()
    block.layer_norm = torch.nn.GroupNorm(6, 6)
    torch.nn.init.normal_(block.layer_norm.weight)
    torch.nn.init.normal_(block.layer_norm.bias)
    plain, names = block.layer_norm, list(block.state_dict())
    let_group_norm_see_lengths(block)
    assert isinstance(block.layer_norm, ValidGroupNorm) and list(block.state_dict()) == names
    x, lengths = 3 + 5 * torch.randn(3, 6, 40), torch.tensor([40, 17, 3])
    with valid_frames(lengths):
        ours = block.layer_norm(x)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(ours[row, :, :length], plain(x[row : row + 1, :, :length])[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(block.layer_norm(x), plain(x))  # outside the block nothing is padded
    untouched = torch.nn.Module()
    untouched.layer_norm = torch.nn.LayerNorm(6)
    let_group_norm_see_lengths(untouched)
    assert type(untouched.layer_norm) is torch.nn.LayerNorm


@pytest.mark.parametrize("eps", [1e-7, 1e-5])
def test_normalised_waveforms(eps):
    wav, lengths = 0.1 + 0.003 * torch.randn(2, 100), torch.tensor([100, 60])
    ours = normalized(wav, valid_samples(wav, lengths), eps)
    for row, length in enumerate(lengths):
        one = wav[row, :length].numpy().astype(np.float64)
        expected = (one - one.mean()) / np.sqrt(one.var() + eps)
        np.testing.assert_allclose(ours[row, :length].numpy(), expected, atol=2e-4)
        assert not ours[row, length:].any()
    # fairseq's and torchaudio's layer norm of a whole waveform
    torch.testing.assert_close(normalized(wav[:1], None, 1e-5)[0], torch.nn.functional.layer_norm(wav[0], (100,)))
    assert valid_samples(wav, None) is None
