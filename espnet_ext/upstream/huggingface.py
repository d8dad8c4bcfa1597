"""Self-supervised waveform encoders of Hugging Face's transformers as an ESPnet frontend."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from espnet_ext.errors import UserError
from espnet_ext.upstream.frontend import UpstreamFrontend
from espnet_ext.upstream.padding import let_group_norm_see_lengths, normalized, valid_frames, valid_samples

# Model types whose own attention mask keeps padding out once group norm (below) does.
MASKED = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
# Model types that let padding in through their stacked positional convolutions: run on equal lengths.
GROUPED = ("data2vec-audio",)
RATE_HZ = 16000


class HuggingFaceFrontend(UpstreamFrontend):
    """Features of a pretrained encoder: a learned weighted sum of its layers, or one layer (see ``layers.py``).

    model: a folder, or an id on the hub (found in its cache when there is no network); config: the model's
    configuration instead, for weights that come from elsewhere (see ``portable_conf``); freeze: no gradient and no
    dropout in the encoder, else it is trained jointly (without transformers' own time masking and layer drop);
    layer: one layer, None for the learned sum; normalize: zero mean and unit variance per utterance before the
    encoder, None for what the model's feature extractor asks for; normalize_layers: a layer norm without weights on
    every layer before the sum; gradient_checkpointing: less memory, more time.
    """

    def __init__(
        self,
        model: str | None = None,
        config: dict | None = None,
        freeze: bool = True,
        layer: int | None = None,
        normalize: bool | None = None,
        normalize_layers: bool = False,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        if (model is None) == (config is None):
            raise UserError("frontend_conf of huggingface: give either model (a folder or a hub id) or config")
        self.upstream = _from_config(config) if model is None else _from_pretrained(model)
        self.normalize = _asks_for_normalisation(model, self.upstream.config) if normalize is None else normalize
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            self.upstream.gradient_checkpointing_enable()
        num_layers = self.upstream.config.num_hidden_layers + 1
        self.set_up(num_layers, freeze, layer, normalize_layers, "frontend_conf of huggingface")

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.upstream.config.hidden_size

    def blocks(self) -> torch.nn.ModuleList:
        """Return the transformer layers."""
        return self.upstream.encoder.layers

    def convolutions(self) -> list[tuple[int, int]]:
        """Return (kernel, stride) of the convolutions over the waveform, first to last."""
        config = self.upstream.config
        return list(zip(config.conv_kernel, config.conv_stride, strict=True))

    def masks_are_exact(self) -> bool:
        """True where padding is kept out by masks; see ``MASKED`` and ``GROUPED``."""
        # Checkpointing runs the first convolution again in the backward pass, where the lengths are forgotten.
        recomputed = torch.is_grad_enabled() and self.gradient_checkpointing
        return not recomputed and _masks_are_exact(self.upstream.config)

    def run(self, wav: torch.Tensor, lengths: torch.Tensor | None) -> list[torch.Tensor]:
        """Return the layers (batch, frames, size) of (batch, samples); lengths in samples, None for no padding."""
        valid = valid_samples(wav, lengths)
        if self.normalize:
            wav = normalized(wav, valid)
        elif valid is not None:
            wav = wav * valid
        kernel, stride = self.convolutions()[0]
        with valid_frames(None if lengths is None else (lengths - kernel) // stride + 1):
            out = self.upstream(wav, attention_mask=None if valid is None else valid.long(), output_hidden_states=True)
        # transformers 5 returns the last layer before the final layer norm, transformers 4 after it.
        return [*out.hidden_states[:-1], out.last_hidden_state]


def portable_conf(conf: dict[str, Any]) -> dict[str, Any]:
    """Return a ``frontend_conf`` that builds the same module from its configuration, without folder or hub.

    For packages: they hold the weights already, and should load on a machine that has neither.
    """
    if conf.get("model") is None:
        return conf
    config = _config_of(conf["model"])
    normalize = conf.get("normalize")
    return {
        **{key: value for key, value in conf.items() if key != "model"},
        "config": config.to_dict(),
        "normalize": _asks_for_normalisation(conf["model"], config) if normalize is None else normalize,
    }


def _masks_are_exact(config: Any) -> bool:
    # HuBERT's optional batch norm before the positional convolution makes padding non-zero again.
    return config.model_type in MASKED and not getattr(config, "conv_pos_batch_norm", False)


def _prepare(config: Any) -> Any:
    if config.model_type not in MASKED + GROUPED:
        raise UserError(
            f"the huggingface frontend takes waveform encoders of type {', '.join(MASKED + GROUPED)}; "
            f"this model is of type {config.model_type}"
        )
    config.apply_spec_augment = False  # masking belongs to pretraining and ASR; specaug is its own key
    config.layerdrop = 0.0
    config.add_adapter = False
    return config


def _finish(model: torch.nn.Module) -> torch.nn.Module:
    mask_vector = getattr(model, "masked_spec_embed", None)
    if mask_vector is not None:
        mask_vector.requires_grad = False  # never used here; distributed training waits for gradients of all the rest
    let_group_norm_see_lengths(model.feature_extractor.conv_layers[0])
    return model


def _from_config(config: dict) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModel

    if "model_type" not in config:
        raise UserError("frontend_conf of huggingface: config has no model_type; it is a model's config.json as YAML")
    options = {key: value for key, value in config.items() if key != "model_type"}
    return _finish(AutoModel.from_config(_prepare(AutoConfig.for_model(config["model_type"], **options))))


def _from_pretrained(model: str) -> torch.nn.Module:
    from transformers import AutoModel

    config = _config_of(model)
    with _explained(model), _no_progress_bar():
        return _finish(_cache_first(AutoModel, model, config=config))


def _config_of(model: str) -> Any:
    from transformers import AutoConfig

    local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if local and not os.path.isdir(os.path.expanduser(model)):
        recipe, made_here, _ = model.partition("/exp/")
        how = f"; ./run.sh in {recipe} makes it" if made_here else ""
        raise UserError(f"frontend_conf of huggingface: there is no folder {model}{how}")
    with _explained(model):
        return _prepare(_cache_first(AutoConfig, model))


@contextmanager
def _explained(model: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"frontend_conf of huggingface: cannot load {model!r}, neither as a folder here nor from the hub or its "
            f"cache; on a machine with network run `hf download {model}`, or give a folder ({reason})"
        ) from None
    except pickle.UnpicklingError:
        raise UserError(f"{model}: refused, its weights would run code on loading; take ones in safetensors") from None


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers 5 draws a bar for every model that it loads, into the middle of our lines."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _cache_first(auto_class: Any, model: str, **options: Any) -> Any:
    """Load from a folder or the cache, and only then from the hub: without network its retries take half a minute."""
    model = os.path.expanduser(model)
    options["trust_remote_code"] = False  # else transformers asks, at the terminal, whether to run a model's Python
    try:
        return auto_class.from_pretrained(model, local_files_only=True, **options)
    except (OSError, ValueError):
        if os.path.isdir(model):
            raise
        return auto_class.from_pretrained(model, **options)


def _asks_for_normalisation(model: str | None, config: Any) -> bool:
    if model is not None:
        from transformers import AutoFeatureExtractor

        try:
            extractor = _cache_first(AutoFeatureExtractor, model)
        except (OSError, ValueError):
            extractor = None
        if extractor is not None:
            if extractor.sampling_rate != RATE_HZ:
                raise UserError(
                    f"{model} was trained at {extractor.sampling_rate} Hz; this frontend works at {RATE_HZ}"
                )
            return bool(extractor.do_normalize)
    # Without the extractor's file: layer-norm models were trained on normalised audio, group-norm models were not.
    return config.feat_extract_norm == "layer"
