"""The s3prl frontend on a small random checkpoint: ESPnet's names and numbers, freezing, errors."""

import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from espnet_ext import compat
from espnet_ext.errors import UserError
from espnet_ext.upstream.layers import frame_grid
from espnet_ext.upstream.s3prl import S3prlFrontend

compat.prepare_s3prl()
pytest.importorskip("s3prl")


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    """A two-layer HuBERT that s3prl reads by its ``hf_hubert_custom``."""
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("hubert"))
    config = HubertConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return {"upstream": "hf_hubert_custom", "path_or_url": folder}


def test_equals_espnet_in_names_and_numbers(conf):
    from espnet2.asr.frontend.s3prl import S3prlFrontend as Theirs

    ours = S3prlFrontend(frontend_conf=conf, multilayer_feature=True).eval()
    theirs = Theirs(frontend_conf=conf, multilayer_feature=True).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert "featurizer.weights" in ours.state_dict()
    assert any(name.startswith("upstream.upstream.model.") for name in ours.state_dict())
    wav, samples = torch.randn(2, 16000), torch.tensor([16000, 16000])
    feats, lengths = ours(wav, samples)
    expected, expected_lengths = theirs(wav, samples)
    torch.testing.assert_close(feats, expected)
    assert lengths.tolist() == expected_lengths.tolist()
    hidden, _ = ours.hidden_states(wav, samples)
    assert hidden.shape == (3, 2, 50, 24)
    torch.testing.assert_close(hidden.mean(dim=0), feats)


@pytest.mark.parametrize("samples", [800, 960, 961, 1000, 1039, 1040, 16000])
def test_frames_past_the_end(conf, samples):
    """One or two frames more than fit into the waveform."""
    frontend = S3prlFrontend(frontend_conf=conf).eval()
    assert frontend.frames_past_end and frame_grid(frontend) == (320, 400)
    wav = torch.randn(1, samples)
    frames = int(frontend.hidden_states(wav, torch.tensor([samples]))[1])
    assert 1 <= frames - ((samples - 400) // 320 + 1) <= 2


def test_lengths_at_which_s3prl_stops(conf):
    """961 to 1039 samples, alone and among others; zeros of the recording's own change nothing."""
    frontend = S3prlFrontend(frontend_conf=conf, multilayer_feature=True).eval()
    wav, samples = torch.randn(3, 1039), torch.tensor([1039, 1000, 700])
    hidden, frames = frontend.hidden_states(wav, samples)
    assert frames.tolist() == [4, 4, 3] and hidden.shape == (3, 3, 4, 24)
    for row, count in enumerate(samples.tolist()):
        alone, own = frontend.hidden_states(wav[row : row + 1, :count], samples[row : row + 1])
        torch.testing.assert_close(alone[:, 0], hidden[:, row, : int(own)])
    zeros = torch.nn.functional.pad(wav[:1], (0, 1))
    torch.testing.assert_close(frontend.hidden_states(zeros, torch.tensor([1040]))[0][:, 0], hidden[:, 0])


def test_single_layers(conf):
    wav, samples = torch.randn(1, 8000), torch.tensor([8000])
    hidden, _ = S3prlFrontend(frontend_conf=conf).eval().hidden_states(wav, samples)
    torch.testing.assert_close(S3prlFrontend(frontend_conf=conf).eval()(wav, samples)[0], hidden[-1])
    torch.testing.assert_close(S3prlFrontend(frontend_conf=conf, layer=1).eval()(wav, samples)[0], hidden[1])
    tiled = S3prlFrontend(frontend_conf={**conf, "tile_factor": 2}).eval()(wav, samples)[0]
    assert tiled.size(1) == 2 * hidden.size(2)


def test_frozen_upstream_stays_in_evaluation(conf):
    frontend = S3prlFrontend(frontend_conf=conf, multilayer_feature=True)
    assert frontend.train().upstream.training
    for parameter in frontend.upstream.parameters():
        parameter.requires_grad = False
    frontend.train()
    assert frontend.frozen and not frontend.upstream.training and frontend.featurizer.training
    wav, samples = torch.randn(1, 8000), torch.tensor([8000])
    feats, _ = frontend(wav, samples)
    torch.testing.assert_close(feats, frontend(wav, samples)[0])
    feats.sum().backward()
    assert frontend.featurizer.weights.grad is not None


def test_errors_are_one_line(conf, tmp_path):
    for options, says in (
        ({"frontend_conf": {"upstream": "wavlm_larg"}}, "near it are wavlm_large"),
        ({}, "no upstream"),
        ({"frontend_conf": conf, "layer": 1, "multilayer_feature": True}, "choose one"),
        ({"frontend_conf": {**conf, "path_or_url": str(tmp_path / "none")}}, "cannot get the checkpoint"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            S3prlFrontend(**options)
        assert "\n" not in str(caught.value)
