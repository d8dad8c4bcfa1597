"""One interface to all encoders: the same weights give the same layers by every loader; padding, freezing, safety."""

import argparse
import collections
import json
import os
import shutil
import sys
import types

import pytest
import random_encoders as encoders
import torch
import torchaudio
import yaml

from espnet_ext import compat
from espnet_ext.errors import UserError
from espnet_ext.upstream.load import load_upstream

compat.prepare_s3prl()
S3PRL = pytest.importorskip("s3prl")
LOADERS = ("hf", "torchaudio", "fairseq", "converted", "ours", "s3prl_hf", "s3prl")


def available(loader, family, large):
    """s3prl has no WavLM by Hugging Face; our own encoder is a HuBERT."""
    return not (loader == "s3prl_hf" and family == "wavlm") and not (loader == "ours" and (family != "hubert" or large))


KINDS = [(loader, *kind) for kind in encoders.KINDS for loader in LOADERS if available(loader, *kind)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Spec of every loader for the same weights, by family and size."""
    return {kind: write_all(tmp_path_factory.mktemp("-".join(map(str, kind))), *kind) for kind in encoders.KINDS}


def write_all(folder, family, large):
    model = encoders.make(folder / "hf", family, large)
    config, state = encoders.as_torchaudio(model)
    torch.save(state, folder / "native.pth")
    (folder / "native.json").write_text(json.dumps(config))
    settings, task, weights = encoders.as_fairseq(model)
    weights = encoders.in_every_block(weights) if large else weights
    size = model.config.hidden_size
    head = {"final_proj.weight": torch.zeros(8, size), "final_proj.bias": torch.zeros(8)}
    if family == "wavlm":
        torch.save({"cfg": {**settings, **task}, "model": weights}, folder / "fairseq.pt")
        torch.save({"cfg": {**settings, **task}, "model": weights}, folder / "converted.pt")
    else:
        if family == "hubert":
            head["label_embs_concat"] = torch.zeros(3, 8)
            settings |= {"label_rate": 50.0, "final_dim": 8}
        else:
            head |= {"project_q.weight": torch.zeros(8, 16), "project_q.bias": torch.zeros(8)}
            settings |= {"final_dim": 8, "quantize_targets": False}
        parts = {"task_cfg": task, "model_cfg": settings, "model_weight": weights | head}
        torch.save({**parts, "dictionaries_symbols": [["a", "b", "c"]]}, folder / "converted.pt")
        save_as_fairseq(folder / "fairseq.pt", settings, task, weights | head)
    if family == "hubert":
        save_ours(folder / "ours", model)
    native = {"wavlm": "wavlm_local"}.get(family, f"{family}_custom")
    return {
        "hf": f"hf:{folder / 'hf'}",
        "torchaudio": str(folder / "native.pth"),
        "fairseq": str(folder / "fairseq.pt"),
        "converted": str(folder / "converted.pt"),
        "ours": str(folder / "ours"),
        "s3prl_hf": f"s3prl:hf_{family}_custom:{folder / 'hf'}",
        "s3prl": f"s3prl:{native}:{folder / 'converted.pt'}",
    }


def save_as_fairseq(path, settings, task, weights):
    """As fairseq writes them: settings in omegaconf's nodes or a namespace, and the task's dictionaries pickled."""
    omegaconf = pytest.importorskip("omegaconf")
    module = types.ModuleType("fairseq.data.dictionary")
    module.Dictionary = type("Dictionary", (), {"__module__": module.__name__})
    parents = {name: types.ModuleType(name) for name in ("fairseq", "fairseq.data")}
    for name, stand_in in {**parents, module.__name__: module}.items():
        sys.modules[name] = stand_in
    try:
        dictionary = module.Dictionary()
        dictionary.indices, dictionary.count = {"a": 0}, collections.defaultdict(int)
        content = {"model": weights, "task_state": {"dictionaries": [dictionary]}, "extra_state": {"epoch": 3}}
        if task["normalize"]:
            nodes = omegaconf.OmegaConf.create({"model": settings, "task": task, "lists": [1, [2, None]]})
            torch.save({"args": None, "cfg": nodes, **content}, path)
        else:  # before fairseq had omegaconf, and in torch's file format of then
            old = argparse.Namespace(**settings, **task)
            torch.save({"args": old, **content}, path, _use_new_zipfile_serialization=False)
    finally:
        for name in (*parents, module.__name__):
            del sys.modules[name]


def save_ours(folder, model):
    """An experiment folder of task ssl."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim")
    names += ("num_conv_pos_embeddings", "num_conv_pos_embedding_groups")
    conf = {name: getattr(model.config, name) for name in names} | {"feature_grad_mult": 0.1}
    conf = {name: list(value) if isinstance(value, tuple) else value for name, value in conf.items()}
    folder.mkdir()
    config = {"encoder": "hubert", "encoder_conf": conf, "preprocessor": "units", "num_units": [4]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    state = {f"encoder.{name}": value for name, value in model.state_dict().items()}
    torch.save({**state, "heads.0.final_proj.bias": torch.zeros(8)}, folder / "valid.loss_m.best.pth")


def waves(*samples):
    """Loud noise (batch, longest): loaders differ in the epsilon of waveform normalisation, which loud audio hides."""
    generator = torch.Generator().manual_seed(0)
    return 10 * torch.randn(len(samples), max(samples), generator=generator), torch.tensor(samples)


@pytest.mark.parametrize(("loader", "family", "large"), [kind for kind in KINDS if kind[0] != "hf"])
def test_the_same_weights_give_the_same_layers(checkpoints, loader, family, large):
    specs = checkpoints[family, large]
    expected, ours = load_upstream(specs["hf"]).eval(), load_upstream(specs[loader]).eval()
    assert ours.num_layers == expected.num_layers == 4 and ours.output_size() == expected.output_size() == 24
    assert ours.frozen and ours.ignores_padding
    wav, samples = waves(9000, 5000, 2345)
    one, frames = expected.hidden_states(wav, samples)
    two, others = ours.hidden_states(wav, samples)
    assert one.shape[0] == two.shape[0] == 4
    for row, (a, b) in enumerate(zip(frames, others, strict=True)):
        # s3prl repeats the last frames up to one for every 20 ms begun; the others have those of the convolutions
        assert a == b or ("s3prl" in loader and 0 <= b - a <= 2)
        torch.testing.assert_close(two[:, row, :a], one[:, row, :a], rtol=1e-5, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("loader", "family", "large"), KINDS)
def test_a_gpu_gives_the_same_layers(checkpoints, loader, family, large):
    encoder = load_upstream(checkpoints[family, large][loader]).eval()
    wav, samples = waves(6000, 3001, 1700)
    expected, frames = encoder.hidden_states(wav, samples)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        hidden, counts = encoder.cuda().hidden_states(wav.cuda(), samples.cuda())
    assert counts.tolist() == frames.tolist()
    for row, count in enumerate(frames):
        torch.testing.assert_close(hidden[:, row, :count].cpu(), expected[:, row, :count], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("loader", "family", "large"), KINDS)
def test_padding_and_batch_change_nothing(checkpoints, loader, family, large):
    encoder = load_upstream(checkpoints[family, large][loader]).eval()
    wav, samples = waves(6000, 3001, 6000, 1700)
    wav += 2  # not zero-mean, and noise behind the ends
    together, frames = encoder.hidden_states(wav, samples)
    for row, (length, count) in enumerate(zip(samples, frames, strict=True)):
        alone, one = encoder.hidden_states(wav[row : row + 1, :length], length[None])
        assert one[0] == count == alone.size(2)
        torch.testing.assert_close(together[:, row, :count], alone[:, 0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("loader", LOADERS)
def test_ten_steps_leave_a_frozen_encoder_bitwise_as_it_was(checkpoints, loader):
    encoder = load_upstream(checkpoints["hubert", False][loader]).train()
    before = {name: value.clone() for name, value in encoder.upstream.state_dict().items()}
    head = torch.nn.Linear(encoder.output_size(), 3)
    trained = [p for p in (*encoder.parameters(), *head.parameters()) if p.requires_grad]
    assert len(trained) == 3  # layer weights, and the head's two
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    wav, samples = waves(2000, 2000)
    first, _ = encoder(wav, samples)
    torch.testing.assert_close(encoder(wav, samples)[0], first, rtol=0, atol=0)
    for _ in range(10):
        optimizer.zero_grad()
        head(encoder(wav, samples)[0]).square().mean().backward()
        optimizer.step()
    after = encoder.upstream.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in encoder.upstream.parameters())
    assert not torch.equal(encoder(wav, samples)[0], first)


@pytest.mark.parametrize("normalize_layers", [False, True])
@pytest.mark.parametrize("loader", ["hf", "torchaudio", "s3prl"])
def test_one_hot_weights_are_the_single_layer(checkpoints, loader, normalize_layers):
    spec = checkpoints["hubert", False][loader]
    mixed = load_upstream(spec, normalize_layers=normalize_layers).eval()
    weights = mixed.featurizer.weights if loader == "s3prl" else mixed.layer_weights
    wav, samples = waves(2000, 1500)
    for layer in range(4):
        with torch.no_grad():
            weights.fill_(-1e4)
            weights[layer] = 0
        assert weights.softmax(0).sum() == 1
        single = load_upstream(spec, layer=layer, normalize_layers=normalize_layers).eval()
        torch.testing.assert_close(mixed(wav, samples)[0], single(wav, samples)[0])
        if normalize_layers:
            frame = single(wav, samples)[0][0, 0]
            assert abs(frame.mean()) < 1e-5 and abs(frame.var(correction=0) - 1) < 1e-2
    for wrong in (4, -5):
        with pytest.raises(UserError, match="from 0 .* to 3"):
            load_upstream(spec, layer=wrong)


@pytest.mark.parametrize(("loader", "family", "large"), [kind for kind in KINDS if kind[0] in ("hf", "torchaudio")])
def test_layers_that_nobody_asks_for_are_not_computed(checkpoints, loader, family, large):
    spec = checkpoints[family, large][loader]
    wav, samples = waves(3000, 2000)
    expected, _ = load_upstream(spec).hidden_states(wav, samples)
    for layer, left in ((0, 1), (1, 2), (-2, 3), (3, 3)):
        encoder = load_upstream(spec)
        encoder.forget_after(layer)
        assert len(encoder.blocks()) == left and encoder.num_layers == 4
        hidden, _ = encoder.layers(wav, samples)
        torch.testing.assert_close(torch.stack(hidden[: layer % 4 + 1]), expected[: layer % 4 + 1], rtol=0, atol=0)


def test_weights_in_a_folder_of_hugging_face_stand_for_the_folder(checkpoints):
    folder = checkpoints["hubert", False]["hf"].removeprefix("hf:")
    wav, samples = waves(1500)
    expected, _ = load_upstream(folder).hidden_states(wav, samples)
    torch.testing.assert_close(load_upstream(f"{folder}/model.safetensors").hidden_states(wav, samples)[0], expected)


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
    wav, samples = waves(3000, 2000)
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
    wav, samples = waves(3000, 2000)
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
