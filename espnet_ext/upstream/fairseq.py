"""fairseq's names for the parts of wav2vec 2.0, HuBERT and WavLM, as torchaudio's."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from espnet_ext.errors import UserError

#: Settings as fairseq names them, their names in torchaudio, and fairseq's defaults (the base models).
_SETTINGS = {
    "conv_bias": ("extractor_conv_bias", False),
    "encoder_embed_dim": ("encoder_embed_dim", 768),
    "conv_pos": ("encoder_pos_conv_kernel", 128),
    "conv_pos_groups": ("encoder_pos_conv_groups", 16),
    "encoder_layers": ("encoder_num_layers", 12),
    "encoder_attention_heads": ("encoder_num_heads", 12),
    "encoder_ffn_embed_dim": ("encoder_ff_interm_features", 3072),
    "layer_norm_first": ("encoder_layer_norm_first", False),
}
_CONVOLUTIONS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"

# Weights as fairseq names them, and their names in torchaudio; the first pattern that matches counts.
_BLOCK = r"^encoder\.layers\.(\d+)\."
_OURS = r"encoder.transformer.layers.\1."
_NAMES = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^post_extract_proj\.", "encoder.feature_projection.projection."),
    (r"^layer_norm\.", "encoder.feature_projection.layer_norm."),
    (r"^encoder\.pos_conv\.0\.", "encoder.transformer.pos_conv_embed.conv."),
    (r"^encoder\.layer_norm\.", "encoder.transformer.layer_norm."),
    (_BLOCK + r"self_attn\.grep_linear\.", _OURS + "attention.gru_rel_pos_linear."),
    (_BLOCK + r"self_attn\.grep_a$", _OURS + "attention.gru_rel_pos_const"),
    (_BLOCK + r"self_attn\.relative_attention_bias\.", _OURS + "attention.rel_attn_embed."),
    (_BLOCK + r"self_attn\.([qkv]_proj|out_proj)\.", _OURS + r"attention.\2."),
    (_BLOCK + r"self_attn_layer_norm\.", _OURS + "layer_norm."),
    (_BLOCK + r"fc1\.", _OURS + "feed_forward.intermediate_dense."),
    (_BLOCK + r"fc2\.", _OURS + "feed_forward.output_dense."),
    (_BLOCK + r"final_layer_norm\.", _OURS + "final_layer_norm."),
)
# What pre-training needs and nobody else.
_UNUSED = ("mask_emb", "final_proj", "label_embs_concat", "quantizer", "project_q", "target_glu")


def fairseq_config(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the ``config`` of ``TorchaudioFrontend`` for a checkpoint's settings, given as plain dicts.

    content: ``cfg`` (flat in WavLM's files, ``model`` and ``task`` in fairseq's), ``args`` in older ones of fairseq,
    ``model_cfg`` and ``task_cfg`` in those that s3prl converted.
    """
    cfg = content.get("cfg") or content.get("args") or {}
    model = content.get("model_cfg") or (cfg.get("model") if isinstance(cfg.get("model"), dict) else cfg)
    task = content.get("task_cfg") or (cfg.get("task") if isinstance(cfg.get("task"), dict) else cfg)
    if not model:
        raise UserError(f"{path}: its settings (cfg, args or model_cfg) are missing, so its sizes are not known")
    if model.get("w2v_args") or model.get("w2v_path"):
        raise UserError(f"{path}: is fine-tuned for recognition; give the pre-trained checkpoint")
    for key, value in (("activation_fn", "gelu"), ("layer_type", "transformer"), ("pos_conv_depth", 1)):
        if model.get(key) not in (None, value):
            raise UserError(f"{path}: {key} is {model[key]}, and only {value} is known here")
    config = {ours: model.get(theirs, default) for theirs, (ours, default) in _SETTINGS.items()}
    config["extractor_mode"] = "layer_norm" if model.get("extractor_mode") == "layer_norm" else "group_norm"
    config["extractor_conv_layer_config"] = convolutions(model.get("conv_feature_layers") or _CONVOLUTIONS, path)
    config |= {"model_type": "wav2vec2", "normalize": bool(task.get("normalize", False))}
    if model.get("relative_position_embedding"):
        if not model.get("gru_rel_pos"):
            raise UserError(f"{path}: has relative positions without gates (gru_rel_pos), which are not known here")
        config |= {
            "model_type": "wavlm",
            "encoder_num_buckets": model.get("num_buckets", 320),
            "encoder_max_distance": model.get("max_distance", 1280),
        }
    return config


def fairseq_state(weights: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Return fairseq's weights under torchaudio's names; what only pre-training needs is left out."""
    state = {}
    for name, value in weights.items():
        if name.split(".")[0] in _UNUSED:
            continue
        pattern = next(((old, new) for old, new in _NAMES if re.match(old, name)), None)
        if pattern is None:
            raise UserError(f"{path}: its weight {name} is of no wav2vec 2.0, HuBERT or WavLM encoder")
        state[re.sub(*pattern, name)] = value
    first = "encoder.transformer.layers.0.attention.gru_rel_pos_const"
    return _joined(state) if first in state else state


def _joined(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchaudio's WavLM has queries, keys and values in one matrix, as torch's attention."""
    state = {name.replace("attention.out_proj", "attention.attention.out_proj"): w for name, w in state.items()}
    for name in [name for name in state if "attention.q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        joined = name.replace("attention.q_proj.", "attention.attention.in_proj_")
        state[joined] = torch.cat(parts)
    return state


def convolutions(text: str, path: Path) -> list[list[int]]:
    """Return [size, kernel, stride] of every convolution; ``UserError`` for anything but numbers, lists, + and *.

    fairseq writes them as Python, "[(512,10,5)] + [(512,3,2)] * 4", and evaluates that; nothing is evaluated here.
    """
    try:
        return [list(block) for block in _sum_of_lists(ast.parse(text, mode="eval").body)]
    except (SyntaxError, ValueError, TypeError, RecursionError):
        raise UserError(
            f"{path}: refused, conv_feature_layers is no list of (size, kernel, stride): {text!r}"
        ) from None


def _sum_of_lists(node: ast.expr) -> list[tuple[int, ...]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _sum_of_lists(node.left) + _sum_of_lists(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        times = ast.literal_eval(node.right)
        if not 0 < times < 100:
            raise ValueError(times)
        return _sum_of_lists(node.left) * times
    blocks = ast.literal_eval(node)
    if not all(len(block) == 3 and all(isinstance(number, int) for number in block) for block in blocks):
        raise ValueError(blocks)
    return list(blocks)
