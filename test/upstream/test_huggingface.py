"""The Hugging Face frontend on small random models: layers, lengths, padding, freezing, errors."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from tiny_model import make_model, voice
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from espnet_ext.bin import pack as pack_command
from espnet_ext.errors import UserError
from espnet_ext.inference.spk import SpeakerEmbedder
from espnet_ext.upstream.huggingface import HuggingFaceFrontend, portable_conf

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
FAMILIES = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
    "data2vec-audio": (Data2VecAudioConfig, Data2VecAudioModel),
}
KINDS = [(family, large) for family in FAMILIES for large in (False, True)]


def save(folder, family="wav2vec2", large=False, do_normalize=None, **options):
    """Write a random checkpoint: "large" ones have layer norms everywhere and a final one, "base" ones group norm."""
    torch.manual_seed(0)
    config_class, model_class = FAMILIES[family]
    norms = {"do_stable_layer_norm": large, "feat_extract_norm": "layer" if large else "group"}
    model = model_class(config_class(**{**SMALL, **norms, **options}))
    with torch.no_grad():
        for parameter in model.parameters():  # transformers' initial weights are near zero: nothing would be seen
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if do_normalize is not None:
        Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("family", "large"), KINDS)
def test_layers_are_those_of_the_model(tmp_path, family, large):
    frontend = HuggingFaceFrontend(save(tmp_path, family, large), normalize=False).eval()
    model = FAMILIES[family][1].from_pretrained(tmp_path).eval()
    seen = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(
            lambda _, inputs, output: seen.append((inputs[0], output[0] if isinstance(output, tuple) else output))
        )
    wav = torch.randn(2, 700)
    hidden, lengths = frontend.hidden_states(wav, torch.tensor([700, 700]))
    with torch.no_grad():
        last = model(wav).last_hidden_state
    expected = [seen[0][0], *(output for _, output in seen[:-1]), last]
    assert hidden.shape == (4, 2, lengths[0], 24)
    for ours, theirs in zip(hidden, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "large"), KINDS)
@pytest.mark.parametrize("do_normalize", [False, True])
def test_padding_and_batch_change_nothing(tmp_path, family, large, do_normalize):
    frontend = HuggingFaceFrontend(save(tmp_path, family, large, do_normalize)).eval()
    assert frontend.normalize is do_normalize
    samples = torch.tensor([900, 431, 900, 260])
    wav = 2 + torch.randn(4, 900)  # not zero-mean, and noise behind the ends
    feats, lengths = frontend(wav, samples)
    for row, length, one, n in zip(feats, lengths, wav, samples, strict=True):
        alone, frames = frontend(one[None, :n], n[None])
        assert frames[0] == length == alone.size(1)
        torch.testing.assert_close(row[:length], alone[0], rtol=1e-5, atol=1e-5)


def test_normalisation_is_that_of_the_feature_extractor(tmp_path):
    frontend = HuggingFaceFrontend(save(tmp_path, large=True, do_normalize=True), layer=-1).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    model = Wav2Vec2Model.from_pretrained(tmp_path).eval()
    wav = 0.3 + 0.1 * torch.randn(800)
    inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = model(inputs["input_values"]).last_hidden_state
        feats, _ = frontend(wav[None], torch.tensor([800]))
    torch.testing.assert_close(feats, expected, rtol=1e-4, atol=1e-5)


def test_without_the_extractors_file_large_models_are_normalised(tmp_path):
    assert HuggingFaceFrontend(save(tmp_path / "large", large=True)).normalize
    assert not HuggingFaceFrontend(save(tmp_path / "base")).normalize


def test_learned_sum_starts_as_the_mean_of_layers(tmp_path):
    frontend = HuggingFaceFrontend(save(tmp_path))
    wav, samples = torch.randn(1, 500), torch.tensor([500])
    hidden, _ = frontend.hidden_states(wav, samples)
    torch.testing.assert_close(frontend(wav, samples)[0], hidden.mean(dim=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(HuggingFaceFrontend(str(tmp_path), layer=1)(wav, samples)[0], hidden[1])


def test_frozen_has_no_dropout_and_trains_the_layer_weights_only(tmp_path):
    frontend = HuggingFaceFrontend(save(tmp_path)).train()
    assert frontend.training and not frontend.upstream.training
    wav, samples = torch.randn(2, 500), torch.tensor([500, 500])
    feats, _ = frontend(wav, samples)
    torch.testing.assert_close(feats, frontend.eval()(wav, samples)[0])
    feats.square().sum().backward()
    assert {name for name, p in frontend.named_parameters() if p.grad is not None} == {"layer_weights"}


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_joint_training_reaches_the_first_convolution(tmp_path, gradient_checkpointing):
    frontend = HuggingFaceFrontend(save(tmp_path), freeze=False, gradient_checkpointing=gradient_checkpointing).train()
    assert frontend.upstream.training and not frontend.frozen
    feats, _ = frontend(torch.randn(2, 500), torch.tensor([500, 400]))
    feats.square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in frontend.parameters())
    first = frontend.upstream.feature_extractor.conv_layers[0]
    assert first.conv.weight.grad.abs().sum() > 0 and first.layer_norm.weight.grad.isfinite().all()
    # ESPnet's freeze_param does the same as freeze
    for parameter in frontend.upstream.parameters():
        parameter.requires_grad = False
    assert frontend.frozen and not frontend.train().upstream.training


def test_names_of_weights_are_the_models(tmp_path):
    frontend = HuggingFaceFrontend(save(tmp_path))
    model = Wav2Vec2Model.from_pretrained(tmp_path)
    assert set(frontend.state_dict()) == {"layer_weights"} | {f"upstream.{name}" for name in model.state_dict()}


@pytest.mark.parametrize("layer", [None, 2])
def test_portable_conf_rebuilds_without_the_folder(tmp_path, layer):
    conf = {"model": save(tmp_path / "model", "wavlm", True), "layer": layer, "freeze": False}
    frontend = HuggingFaceFrontend(**conf).eval()
    travelled = yaml.safe_load(yaml.safe_dump(portable_conf(conf)))
    shutil.rmtree(tmp_path / "model")
    assert portable_conf(travelled) == travelled
    copy = HuggingFaceFrontend(**travelled).eval()
    assert not copy.frozen
    copy.load_state_dict(frontend.state_dict())
    wav, samples = torch.randn(1, 500), torch.tensor([500])
    torch.testing.assert_close(copy(wav, samples)[0], frontend(wav, samples)[0])


def test_a_package_loads_when_the_pretrained_model_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_EXT_CACHE", str(tmp_path / "cache"))
    conf = {"model": save(tmp_path / "model", "hubert")}
    exp = make_model(tmp_path / "exp", frontend="huggingface", frontend_conf=conf)
    before = SpeakerEmbedder.from_pretrained(exp)(voice(0.5))
    packed = str(tmp_path / "packed.zip")
    weights = str(exp / "valid.eer.best.pth")
    assert pack_command.main(["--exp", str(exp), "--model_file", weights, "--out", packed]) == 0
    shutil.rmtree(tmp_path / "model")
    np.testing.assert_array_equal(SpeakerEmbedder.from_pretrained(packed)(voice(0.5)), before)


def test_samples_for_is_the_shortest_wave(tmp_path):
    frontend = HuggingFaceFrontend(save(tmp_path, large=True))
    for num_frames in (1, 2, 9):
        samples = frontend.samples_for(num_frames)
        lengths = frontend.upstream._get_feat_extract_output_lengths(torch.tensor([samples - 1, samples]))
        assert lengths.tolist() == [num_frames - 1, num_frames]


def test_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = save(tmp_path / "model")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "bert"}')
    for conf, says in (
        ({"model": "nobody/no-such-model"}, "hf download nobody/no-such-model"),
        ({"model": "./no/such/folder"}, "there is no folder"),
        ({"model": str(tmp_path / "text")}, "of type bert"),
        ({"model": folder, "layer": 4}, "from 0 .* to 3"),
        ({}, "either model"),
        ({"config": {}}, "model_type"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            HuggingFaceFrontend(**conf)
        assert "\n" not in str(caught.value)
