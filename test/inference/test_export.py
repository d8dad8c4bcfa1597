"""ONNX: the file gives the model's embeddings at any length and batch, and what cannot be exported is said."""

import sys

import numpy as np
import pytest
from tiny_model import make_model, voice

from espnet_ext.bin import export_onnx as command
from espnet_ext.inference.spk import SpeakerEmbedder

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'espnet_ext[onnx]'")

MODELS = {
    "ecapa": {},
    "xvector": {"encoder": "xvector", "encoder_conf": {"ndim": 16, "output_size": 24}, "pooling": "stats"},
    "resnet": {"encoder": "resnet", "encoder_conf": {"resnet_type": "resnet18", "m_channels": 4}, "pooling": "mean"},
    "ska": {"encoder": "ska_tdnn", "encoder_conf": {"ndim": 16, "output_size": 24}, "projector": "ska_tdnn"},
    "normalised": {"normalize": "utterance_mvn"},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_file_gives_the_models_embeddings(name, tmp_path, capsys):
    model = make_model(tmp_path / "exp", **MODELS[name])
    assert command.main(["--model", str(model), "--out", str(tmp_path / "ö m.onnx")]) == 0
    assert "(batch, samples) at 16000 Hz" in capsys.readouterr().out
    session = onnxruntime.InferenceSession((tmp_path / "ö m.onnx").read_bytes())
    embedder = SpeakerEmbedder.from_pretrained(model)
    for seconds, batch in ((0.3, 1), (1.0, 3), (6.21, 2)):
        wavs = np.stack([voice(seconds, seed) for seed in range(batch)])
        (theirs,) = session.run(["embedding"], {"input": wavs})
        ours = embedder.embed(list(wavs))
        cosine = (theirs * ours).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)
        assert np.abs(1 - cosine).max() < 1e-4 and np.abs(theirs - ours).max() < 1e-3
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["rate_hz"] == "16000" and facts["input"] == "waveform" and len(facts["model"]) == 64


def test_other_frontends_are_left_to_the_caller(tmp_path, capsys):
    """ESPnet's 'default' frontend stays outside: the file takes its features."""
    import torch

    model = make_model(tmp_path / "exp", frontend="default", frontend_conf={"n_mels": 24, "n_fft": 512})
    assert command.main(["--model", str(model), "--out", str(tmp_path / "m.onnx")]) == 0
    assert "(batch, frames, features) of the frontend" in capsys.readouterr().out
    session = onnxruntime.InferenceSession((tmp_path / "m.onnx").read_bytes())
    embedder = SpeakerEmbedder.from_pretrained(model)
    wav = voice(1.3)
    features = embedder.model.frontend(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))[0].numpy()
    assert np.abs(session.run(None, {"input": features})[0][0] - embedder(wav)).max() < 1e-4


def test_a_model_that_cannot_be_exported_is_said(tmp_path, capsys, monkeypatch):
    from espnet_ext.inference import export

    def stray(model, example, path):
        raise RuntimeError("no operator\nfor this")

    monkeypatch.setattr(export, "_trace", stray)
    monkeypatch.setattr(export, "_export", stray)
    assert command.main(["--model", str(make_model(tmp_path / "exp")), "--out", str(tmp_path / "m.onnx")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "cannot be exported" in error[0] and "no operator for this" in error[0]
    assert [path.name for path in tmp_path.iterdir()] == ["exp"]


def test_an_export_that_strays_is_refused(tmp_path, capsys, monkeypatch):
    from espnet_ext.inference import export

    monkeypatch.setattr(export, "MAX_DEVIATION", -1.0)
    monkeypatch.setattr(export, "_export", export._trace)
    assert command.main(["--model", str(make_model(tmp_path / "exp")), "--out", str(tmp_path / "m.onnx")]) == 2
    assert "stray" in capsys.readouterr().err and not (tmp_path / "m.onnx").exists()


def test_a_missing_package_is_one_line(tmp_path, capsys, monkeypatch):
    model = make_model(tmp_path / "exp")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert command.main(["--model", str(model), "--out", str(tmp_path / "m.onnx")]) == 2
    assert "onnx is not installed; pip install 'espnet_ext[onnx]'" in capsys.readouterr().err
    assert command.main(["--model", str(model), "--out", str(tmp_path / "m.pb")]) == 2
