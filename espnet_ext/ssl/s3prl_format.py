"""A pre-training as the one file that s3prl's ``hubert_local`` reads: fairseq's names, plain tensors and settings."""

import re
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.ssl.model import HubertPretraining

# Our names to fairseq's, in this order; the convolutions of the extractor are numbered inside their layers there.
_NAMES = (
    (r"^heads\..*$", ""),
    (r"^encoder\.masked_spec_embed$", "mask_emb"),
    (r"^encoder\.feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"^encoder\.feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"feature_extractor.conv_layers.\1.2."),
    (r"^encoder\.feature_projection\.layer_norm\.", "layer_norm."),
    (r"^encoder\.feature_projection\.projection\.", "post_extract_proj."),
    (r"^encoder\.encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0$", "encoder.pos_conv.0.weight_g"),
    (r"^encoder\.encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1$", "encoder.pos_conv.0.weight_v"),
    (r"^encoder\.encoder\.pos_conv_embed\.conv\.bias$", "encoder.pos_conv.0.bias"),
    (r"^encoder\.encoder\.layers\.(\d+)\.attention\.", r"encoder.layers.\1.self_attn."),
    (r"^encoder\.encoder\.layers\.(\d+)\.layer_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
    (r"^encoder\.encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.", r"encoder.layers.\1.fc1."),
    (r"^encoder\.encoder\.layers\.(\d+)\.feed_forward\.output_dense\.", r"encoder.layers.\1.fc2."),
    (r"^encoder\.encoder\.", "encoder."),
)

_WITHOUT = "use the Hugging Face folder, without --s3prl (in a recipe: --s3prl false)"


def fairseq_state(model: HubertPretraining, norm: str) -> dict[str, torch.Tensor]:
    """Return the weights of a pre-training under fairseq's names, heads included (``untie_final_proj``)."""
    state = {}
    for name, value in model.state_dict().items():
        pattern, new = next(pair for pair in _NAMES if re.match(pair[0], name))
        renamed = re.sub(pattern, new, name)
        if norm == "layer":  # a norm over channels lies between two transpositions there
            renamed = re.sub(r"^(feature_extractor\.conv_layers\.\d+\.2)\.", r"\1.1.", renamed)
        if renamed:
            state[renamed] = value.detach().cpu().clone()
    heads = list(model.heads)
    state["final_proj.weight"] = torch.cat([head.final_proj.weight.detach().cpu() for head in heads])
    state["final_proj.bias"] = torch.cat([head.final_proj.bias.detach().cpu() for head in heads])
    state["label_embs_concat"] = torch.cat([head.label_embeddings.detach().cpu() for head in heads])
    return state


def write_s3prl(model: HubertPretraining, conf: dict, label_rate_hz: float, path: str | Path) -> None:
    """Write ``path`` for ``s3prl:hubert_local:PATH``; conf: the ``encoder_conf`` that the encoder was built from.

    Errors: ``UserError`` for an encoder that fairseq cannot express: one whose last convolution has ``hidden_size``
    channels has no projection there, and every layer norm has an epsilon of 1e-5.
    """
    encoder = model.encoder
    size, convs = encoder.output_size(), encoder.feature_extractor.conv_layers
    if convs[-1].conv.out_channels == size:
        raise UserError(
            f"s3prl's HuBERT has no projection where the last convolution has as many channels ({size}) as the "
            f"transformer; train with another conv_dim, or {_WITHOUT}"
        )
    if conf.get("layer_norm_eps", 1e-5) != 1e-5:
        raise UserError(f"s3prl's HuBERT has layer_norm_eps 1e-5, this one {conf['layer_norm_eps']}; {_WITHOUT}")
    norm = conf.get("feat_extract_norm", "group")
    first = encoder.encoder.layers[0]
    positions = encoder.encoder.pos_conv_embed.conv
    model_cfg = {
        "_name": "hubert",
        "label_rate": float(label_rate_hz),
        "extractor_mode": "default" if norm == "group" else "layer_norm",
        "encoder_layers": encoder.num_layers - 1,
        "encoder_embed_dim": size,
        "encoder_ffn_embed_dim": first.feed_forward.intermediate_dense.out_features,
        "encoder_attention_heads": first.attention.heads,
        "activation_fn": "gelu",
        "layer_norm_first": first.norm_first,
        "conv_feature_layers": str(
            [(layer.conv.out_channels, layer.kernel, layer.stride) for layer in convs]  # s3prl evaluates it
        ),
        "conv_bias": convs[0].conv.bias is not None,
        "conv_pos": positions.kernel_size[0],
        "conv_pos_groups": positions.groups,
        "final_dim": model.heads[0].final_proj.out_features,
        "untie_final_proj": True,
        "logit_temp": model.heads[0].temperature,
        "required_seq_len_multiple": 1,
    }
    content = {
        "task_cfg": {"_name": "hubert_pretraining", "label_rate": float(label_rate_hz), "sample_rate": 16000,
                     "normalize": False},
        "model_cfg": model_cfg,
        "model_weight": fairseq_state(model, norm),
        "dictionaries_symbols": [[str(unit) for unit in range(head.label_embeddings.size(0))] for head in model.heads],
    }  # fmt: skip
    with atomic_write(path, "wb") as file:
        torch.save(content, file)
