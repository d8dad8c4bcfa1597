"""What an encoder's file may do to us: nothing. Hostile and damaged files, settings that are code, mistakes."""

import json
import os
import shutil

import pytest
import random_encoders as encoders
import torch
import torchaudio

from espnet_ext import compat
from espnet_ext.errors import UserError
from espnet_ext.upstream.load import load_upstream

compat.prepare_s3prl()
pytest.importorskip("s3prl")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Spec of every loader for the same weights, by family and size."""
    folders = {kind: tmp_path_factory.mktemp(kind[0]) for kind in [("hubert", False), ("wavlm", True)]}
    return {kind: encoders.write_all(folder, *kind) for kind, folder in folders.items()}


class Hostile:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_file_runs_code(checkpoints, tmp_path, zipped):
    ran = tmp_path / "ran"
    _, _, weights = encoders.as_fairseq(encoders.make(tmp_path / "hf", "hubert"))
    content = {"model_cfg": {"encoder_layers": 3, "note": Hostile(ran)}, "task_cfg": {}, "model_weight": weights}
    for name in ("evil.pt", "evil.pth"):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    (tmp_path / "hf" / "model.safetensors").unlink()
    torch.save(content, tmp_path / "hf" / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "config.yaml").write_text("encoder: hubert\npreprocessor: units\nencoder_conf: {}\n")
    torch.save(content, tmp_path / "exp" / "latest.pth", _use_new_zipfile_serialization=zipped)
    specs = ["evil.pt", "evil.pth", "hf", "exp", "exp/latest.pth", "hf/pytorch_model.bin"]
    specs = [str(tmp_path / spec) for spec in specs]
    specs += [f"s3prl:{name}:{tmp_path}/evil.pt" for name in ("hubert_custom", "wav2vec2_custom", "wavlm_local")]
    specs += [f"s3prl:hf_hubert_custom:{tmp_path}/hf"]
    for spec in specs:
        with pytest.raises(UserError) as caught:
            load_upstream(spec)
        assert "\n" not in str(caught.value) and not ran.exists(), spec


def test_a_models_own_python_is_not_run_and_nobody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    for name, model_type in (("unknown", "evil"), ("known", "hubert")):
        folder = tmp_path / name
        encoders.make(folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": model_type, "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Evil: pass\n")
    with pytest.raises(UserError) as caught:
        load_upstream(f"hf:{tmp_path / 'unknown'}")
    assert "\n" not in str(caught.value)
    load_upstream(f"hf:{tmp_path / 'known'}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["hubert_custom", "wav2vec2_custom", None])
def test_settings_are_not_evaluated(tmp_path, name):
    settings, task, weights = encoders.as_fairseq(encoders.make(tmp_path / "hf", "hubert"))
    settings["conv_feature_layers"] = f"__import__('os').mkdir({str(tmp_path / 'ran')!r}) or [(16, 10, 5)]"
    path = tmp_path / "evil.pt"
    torch.save({"model_cfg": settings, "task_cfg": task, "model_weight": weights}, path)
    with pytest.raises(UserError, match="refused"):
        load_upstream(str(path) if name is None else f"s3prl:{name}:{path}")
    assert not (tmp_path / "ran").exists()


def test_a_state_dict_of_a_published_size_needs_no_configuration(checkpoints, tmp_path, monkeypatch):
    publish(checkpoints, monkeypatch, tmp_path)
    source = checkpoints["wavlm", True]["torchaudio"]
    state = torch.load(source, weights_only=True)
    old = {name.replace("parametrizations.weight.original0", "weight_g"): value for name, value in state.items()}
    old = {name.replace("parametrizations.weight.original1", "weight_v"): value for name, value in old.items()}
    torch.save({f"model.{name}": value for name, value in old.items()}, tmp_path / "alone.pt")
    wav, samples = encoders.waves(3000, 2000)
    expected, _ = load_upstream(source).hidden_states(wav, samples)
    torch.testing.assert_close(load_upstream(str(tmp_path / "alone.pt")).hidden_states(wav, samples)[0], expected)


def publish(checkpoints, monkeypatch, folder):
    """Make torchaudio know a tiny pipeline whose weights lie in torch's cache."""
    source = checkpoints["wavlm", True]["torchaudio"]
    with open(source.replace(".pth", ".json")) as file:
        config = json.load(file)
    drops = ("projection_dropout", "attention_dropout", "ff_interm_dropout", "dropout", "layer_drop")
    params = {key: value for key, value in config.items() if key not in ("model_type", "normalize")}
    params |= {f"encoder_{name}": 0.1 for name in drops} | {"aux_num_out": None}
    bundle = torchaudio.pipelines.Wav2Vec2Bundle("tiny.pth", params, 16000, config["normalize"], "WavLM")
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "cache"))
    (folder / "cache" / "checkpoints").mkdir(parents=True)
    target = folder / "cache" / "checkpoints" / "tiny.pth"
    shutil.copy(source, target)
    return target


def test_a_pipeline_comes_from_torchs_cache_and_runs_nothing(checkpoints, tmp_path, monkeypatch):
    cached = publish(checkpoints, monkeypatch, tmp_path)
    wav, samples = encoders.waves(3000, 2000)
    expected, _ = load_upstream(checkpoints["wavlm", True]["torchaudio"]).hidden_states(wav, samples)
    torch.testing.assert_close(load_upstream("torchaudio:TINY").hidden_states(wav, samples)[0], expected)
    torch.save({"a": Hostile(tmp_path / "ran")}, cached)
    with pytest.raises(UserError, match="TINY"):
        load_upstream("torchaudio:TINY")
    assert not (tmp_path / "ran").exists()


def test_errors_are_one_line(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    native = torch.load(checkpoints["hubert", False]["torchaudio"], weights_only=True)
    torch.save(native, tmp_path / "no_config.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "no_encoder.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    whole = (tmp_path / "no_config.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "half.safetensors").write_bytes(b"1234567890")
    converted = torch.load(checkpoints["hubert", False]["converted"], weights_only=True)
    for name, change in {
        "fine_tuned.pt": {"model_cfg": {**converted["model_cfg"], "w2v_path": "hubert.pt"}},
        "relu.pt": {"model_cfg": {**converted["model_cfg"], "activation_fn": "relu"}},
        "other_weights.pt": {"model_weight": {**converted["model_weight"], "adapter.weight": torch.zeros(1)}},
        "too_deep.pt": {"model_cfg": {**converted["model_cfg"], "encoder_layers": 4}},
        "no_settings.pt": {"model_cfg": {}},
    }.items():
        torch.save({**converted, **change}, tmp_path / name)
    speaker = tmp_path / "speaker"
    speaker.mkdir()
    (speaker / "config.yaml").write_text("encoder: ecapa_tdnn\n")
    torch.save({"a": torch.zeros(1)}, speaker / "latest.pth")
    for spec, says in (
        ("nowhere", "no such encoder; give hf:"),
        ("hf:", "no such encoder"),
        ("hf:nobody/no-such-model", "hf download nobody/no-such-model"),
        ("torchaudio:HUBERT_BASIS", "it has .*HUBERT_BASE"),
        ("s3prl:wavlm_larg", "near it are wavlm_large"),
        (f"s3prl:wavlm_local:{tmp_path}/none.pt", "there is no .*none.pt"),
        (f"s3prl:hf_hubert_custom:{tmp_path}/none", "there is no .*none"),
        ("hf:../ssl1/exp/ssl_train_hubert/hf", r"./run.sh in ../ssl1 makes it"),
        (tmp_path / "no_config.pt", "no published model; write .*no_config.json"),
        (tmp_path / "no_encoder.pt", "no encoder that is known"),
        (tmp_path / "list.pt", "holds a list"),
        (tmp_path / "cut.pt", "cut.pt"),
        (tmp_path / "empty.pt", "empty.pt"),
        (tmp_path / "text.pt", "text.pt"),
        (tmp_path / "half.safetensors", "no whole safetensors"),
        (tmp_path / "fine_tuned.pt", "fine-tuned"),
        (tmp_path / "relu.pt", "activation_fn is relu"),
        (tmp_path / "other_weights.pt", "adapter.weight"),
        (tmp_path / "too_deep.pt", "missing"),
        (tmp_path / "no_settings.pt", "settings"),
        (f"s3prl:hubert_custom:{tmp_path}/too_deep.pt", "hubert_custom"),
        (speaker, "no encoder of task ssl"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            load_upstream(str(spec))
        assert "\n" not in str(caught.value)
