"""Small random encoders and the same weights in every format that ``load_upstream`` reads."""

import argparse
import collections
import json
import re
import sys
import types

import torch
import yaml
from torchaudio.models.wav2vec2.utils import import_huggingface_model
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

FAMILIES = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
}
KINDS = [(family, large) for family in FAMILIES for large in (False, True)]
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_buckets": 32,
    "max_bucket_distance": 40,
}


def make(folder, family="hubert", large=False):
    """Write a Hugging Face folder and return its model: "large" has layer norms everywhere, "base" a group norm."""
    torch.manual_seed(0)
    config_class, model_class = FAMILIES[family]
    sizes = {key: value for key, value in SIZES.items() if family == "wavlm" or "bucket" not in key}
    norms = {"do_stable_layer_norm": large, "conv_bias": large, "feat_extract_norm": "layer" if large else "group"}
    model = model_class(config_class(**sizes, **norms)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # transformers' initial weights are near zero: nothing would be seen
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=large).save_pretrained(folder)
    return model


def as_torchaudio(model):
    """Return configuration and state dict for torchaudio, whose own importer converts the weights."""
    c = model.config
    config = {
        "extractor_mode": f"{c.feat_extract_norm}_norm",
        "extractor_conv_layer_config": [list(b) for b in zip(c.conv_dim, c.conv_kernel, c.conv_stride, strict=True)],
        "extractor_conv_bias": c.conv_bias,
        "encoder_embed_dim": c.hidden_size,
        "encoder_pos_conv_kernel": c.num_conv_pos_embeddings,
        "encoder_pos_conv_groups": c.num_conv_pos_embedding_groups,
        "encoder_num_layers": c.num_hidden_layers,
        "encoder_num_heads": c.num_attention_heads,
        "encoder_ff_interm_features": c.intermediate_size,
        "encoder_layer_norm_first": c.do_stable_layer_norm,
        "model_type": "wavlm" if c.model_type == "wavlm" else "wav2vec2",
        "normalize": c.do_stable_layer_norm,
    }
    if c.model_type == "wavlm":
        config |= {"encoder_num_buckets": c.num_buckets, "encoder_max_distance": c.max_bucket_distance}
    return config, import_huggingface_model(model).state_dict()


def as_fairseq(model):
    """Return (model settings, task settings, weights) as fairseq names them."""
    c, large = model.config, model.config.do_stable_layer_norm
    blocks = list(zip(c.conv_dim, c.conv_kernel, c.conv_stride, strict=True))
    settings = {
        "extractor_mode": "layer_norm" if large else "default",
        "conv_feature_layers": " + ".join(f"[{block}]" for block in blocks[:1])
        + f" + {blocks[1:5]} + [{blocks[5]}] * 2",
        "conv_bias": c.conv_bias,
        "encoder_layers": c.num_hidden_layers,
        "encoder_embed_dim": c.hidden_size,
        "encoder_ffn_embed_dim": c.intermediate_size,
        "encoder_attention_heads": c.num_attention_heads,
        "layer_norm_first": large,
        "conv_pos": c.num_conv_pos_embeddings,
        "conv_pos_groups": c.num_conv_pos_embedding_groups,
        "activation_fn": "gelu",
    }
    weights = {_fairseq_name(name): value.clone() for name, value in model.state_dict().items()}
    if c.model_type == "wavlm":
        settings |= {
            "relative_position_embedding": True,
            "gru_rel_pos": True,
            "num_buckets": c.num_buckets,
            "max_distance": c.max_bucket_distance,
        }
    return settings, {"normalize": large, "sample_rate": 16000}, weights


def _fairseq_name(name):
    for ours, theirs in (
        (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
        (r"feature_extractor\.conv_layers\.0\.layer_norm\.", "feature_extractor.conv_layers.0.2."),
        (r"feature_projection\.projection\.", "post_extract_proj."),
        (r"feature_projection\.layer_norm\.", "layer_norm."),
        (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", "encoder.pos_conv.0.weight_g"),
        (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", "encoder.pos_conv.0.weight_v"),
        (r"encoder\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
        (r"attention\.gru_rel_pos_linear\.", "self_attn.grep_linear."),
        (r"attention\.gru_rel_pos_const", "self_attn.grep_a"),
        (r"attention\.rel_attn_embed\.", "self_attn.relative_attention_bias."),
        (r"\.attention\.", ".self_attn."),
        (r"feed_forward\.intermediate_dense\.", "fc1."),
        (r"feed_forward\.output_dense\.", "fc2."),
        (r"(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
        (r"masked_spec_embed", "mask_emb"),
    ):
        name = re.sub(ours, theirs, name)
    return name


def in_every_block(weights):
    """fairseq's layer norms of the convolutions lie one level deeper in "large" models: conv_layers.i.2.1."""
    deeper = r"(feature_extractor\.conv_layers\.\d+)\.(?:layer_norm|2)\.(weight|bias)"
    return {re.sub(deeper, r"\1.2.1.\2", name): value for name, value in weights.items()}


def write_all(folder, family, large):
    model = make(folder / "hf", family, large)
    config, state = as_torchaudio(model)
    torch.save(state, folder / "native.pth")
    (folder / "native.json").write_text(json.dumps(config))
    settings, task, weights = as_fairseq(model)
    weights = in_every_block(weights) if large else weights
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
    import omegaconf

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
