"""The torchaudio frontend against torchaudio's own forward pass; configurations, packages, joint training."""

import json
import shutil

import numpy as np
import pytest
import random_encoders as encoders
import torch
import torchaudio
import yaml
from tiny_model import make_model, voice

from espnet_ext.bin import pack as pack_command
from espnet_ext.errors import UserError
from espnet_ext.inference.spk import SpeakerEmbedder
from espnet_ext.upstream.load import load_upstream
from espnet_ext.upstream.torchaudio import TorchaudioFrontend, pipeline_config, portable_conf


def write(folder, family, large):
    """Write a state dict with its configuration; returns its path, and torchaudio's own model."""
    folder.mkdir(exist_ok=True)
    config, state = encoders.as_torchaudio(encoders.make(folder / "hf", family, large))
    torch.save(state, folder / "model.pth")
    (folder / "model.json").write_text(json.dumps({**config, "normalize": False}))
    drops = ("projection_dropout", "attention_dropout", "ff_interm_dropout", "dropout", "layer_drop")
    options = {key: value for key, value in config.items() if key not in ("model_type", "normalize")}
    options |= {f"encoder_{name}": 0.1 for name in drops} | {"aux_num_out": None}
    factory = torchaudio.models.wavlm_model if family == "wavlm" else torchaudio.models.wav2vec2_model
    theirs = factory(**options).eval()
    theirs.load_state_dict(state)
    return folder / "model.pth", theirs


@pytest.mark.parametrize(("family", "large"), encoders.KINDS)
def test_layers_are_torchaudios(tmp_path, family, large):
    path, theirs = write(tmp_path, family, large)
    ours = load_upstream(str(path)).eval()
    entering = []
    theirs.encoder.transformer.layers[0].register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    wav, samples = torch.randn(2, 3000), torch.tensor([3000, 3000])
    with torch.no_grad():
        between, _ = theirs.extract_features(wav)
        last, _ = theirs(wav)
    # torchaudio's transformer applies the final norm of "large" models in no public way: by hand, as fairseq does.
    final = theirs.encoder.transformer.layer_norm(between[-1]) if large else last
    hidden, frames = ours.hidden_states(wav, samples)
    assert hidden.shape == (4, 2, int(frames[0]), 24)
    for layer, expected in zip(hidden, [entering[0], *between[:-1], final], strict=True):
        torch.testing.assert_close(layer, expected, rtol=1e-5, atol=1e-5)


def test_lengths_and_the_shortest_wave(tmp_path):
    path, theirs = write(tmp_path, "hubert", True)
    ours = load_upstream(str(path))
    samples = torch.arange(380, 2500, 37)
    _, expected = theirs.feature_extractor(torch.zeros(len(samples), 2600), samples)
    assert ours.frames_of(samples).tolist() == expected.tolist()
    for num_frames in (1, 2, 9):
        least = ours.samples_for(num_frames)
        assert ours.frames_of(torch.tensor([least - 1, least])).tolist() == [num_frames - 1, num_frames]


def test_joint_training_reaches_the_first_convolution(tmp_path):
    path, _ = write(tmp_path, "wavlm", False)
    encoder = load_upstream(str(path), freeze=False).train()
    assert encoder.upstream.training and not encoder.frozen
    feats, _ = encoder(torch.randn(2, 3000), torch.tensor([3000, 2000]))
    feats.square().sum().backward()
    missing = [name for name, p in encoder.named_parameters() if p.grad is None]
    # the final norm of a "base" model stands before the layers, so everything takes part
    assert not missing and encoder.upstream.feature_extractor.conv_layers[0].conv.weight.grad.abs().sum() > 0


def test_a_speaker_model_on_it_is_packed_and_loads_anywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_EXT_CACHE", str(tmp_path / "cache"))
    path, _ = write(tmp_path / "encoder", "wavlm", True)
    conf = {"config": json.loads(path.with_suffix(".json").read_text()), "normalize_layers": True}
    exp = make_model(tmp_path / "exp", frontend="torchaudio", frontend_conf=conf)
    before = SpeakerEmbedder.from_pretrained(exp)(voice(0.5))
    packed, weights = str(tmp_path / "packed.zip"), str(exp / "valid.eer.best.pth")
    assert pack_command.main(["--exp", str(exp), "--model_file", weights, "--out", packed]) == 0
    shutil.rmtree(tmp_path / "encoder")
    np.testing.assert_array_equal(SpeakerEmbedder.from_pretrained(packed)(voice(0.5)), before)


def test_portable_conf_names_no_pipeline():
    conf = {"pipeline": "WAVLM_BASE_PLUS", "layer": 4, "freeze": True}
    travelled = yaml.safe_load(yaml.safe_dump(portable_conf(conf)))
    assert travelled == {"layer": 4, "freeze": True, "config": pipeline_config("WAVLM_BASE_PLUS")}
    assert travelled["config"]["encoder_num_layers"] == 12 and travelled["config"]["normalize"] is False
    assert portable_conf(travelled) == travelled
    assert pipeline_config("HUBERT_LARGE")["normalize"] is True


def test_errors_are_one_line(tmp_path):
    config = json.loads(write(tmp_path, "hubert", False)[0].with_suffix(".json").read_text())
    for conf, says in (
        ({}, "either pipeline"),
        ({"pipeline": "HUBERT_BASE", "config": config}, "either pipeline"),
        ({"config": {}}, "model_type"),
        ({"config": {"model_type": "wav2vec2"}}, "does not fit"),
        ({"config": {**config, "depth": 3}}, "does not fit"),
        ({"config": config, "layer": 9}, "from 0 .* to 3"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            TorchaudioFrontend(**conf)
        assert "\n" not in str(caught.value)
