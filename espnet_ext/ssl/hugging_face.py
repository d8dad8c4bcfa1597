"""A trained encoder as a folder that transformers' ``AutoModel`` and ``espnet_ext.upstream`` load; and read back."""

import json
from pathlib import Path

import torch

from espnet_ext.files import atomic_write
from espnet_ext.ssl.encoder import HubertEncoder

# Keys that mean the same there and here.
_SHARED = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim", "conv_kernel",
    "conv_stride", "conv_bias", "feat_extract_norm", "do_stable_layer_norm", "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups", "hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout",
    "layerdrop", "layer_norm_eps",
)  # fmt: skip


def write_folder(encoder: HubertEncoder, conf: dict, folder: str | Path) -> Path:
    """Write ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``; the weights come last.

    conf: the ``encoder_conf`` that ``encoder`` was built from; what it leaves out has HuBERT Base's value in both.
    """
    from safetensors.torch import save

    folder = Path(folder)
    config = {
        "architectures": ["HubertModel"],
        "model_type": "hubert",
        "dtype": "float32",
        **{key: list(value) if isinstance(value, tuple) else value for key, value in conf.items() if key in _SHARED},
        "num_feat_extract_layers": len(encoder.geometry.kernels),
        "layerdrop": conf.get("layerdrop", 0.05),
        "attention_dropout": conf.get("attention_dropout", 0.1),
        "activation_dropout": conf.get("activation_dropout", 0.0),
        "feat_proj_dropout": conf.get("feat_proj_dropout", 0.1),
        "final_dropout": 0.0,
    }
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_side": "right",
        "padding_value": 0,
        "do_normalize": False,
        "return_attention_mask": True,
    }
    state = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    for name, content in (("config.json", config), ("preprocessor_config.json", extractor)):
        with atomic_write(folder / name) as file:
            file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
    with atomic_write(folder / "model.safetensors", "wb") as file:
        file.write(save(state, metadata={"format": "pt"}))
    return folder


def read_folder(folder: str | Path) -> HubertEncoder | None:
    """Return the encoder of a folder that holds a ``HubertModel`` of a kind that ours is, else None.

    The same numbers as transformers', in less time, and without its import. Weights in another form, a waveform that
    has to be normalised first, and what else ``HubertConfig`` can say are left to transformers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        extractor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        state = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError):
        return None
    known = {"model_type": "hubert", "hidden_act": "gelu", "feat_extract_activation": "gelu"}
    known |= {"feat_proj_layer_norm": True, "conv_pos_batch_norm": False}
    if any(config.get(key, value) != value for key, value in known.items()) or extractor.get("do_normalize", True):
        return None
    with torch.device("meta"):  # no weights are drawn that are thrown away at once
        encoder = HubertEncoder(**{key: config[key] for key in _SHARED if key in config})
    if {name: value.shape for name, value in state.items()} != {
        name: value.shape for name, value in encoder.state_dict().items()
    }:
        return None
    encoder.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)  # some are halves
    return encoder.eval().requires_grad_(False)


def parameters_of(module: torch.nn.Module) -> int:
    """Return the number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())
