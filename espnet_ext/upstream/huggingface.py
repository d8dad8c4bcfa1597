"""Self-supervised waveform encoders of Hugging Face's transformers as an ESPnet frontend."""

import contextvars
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend

from espnet_ext.errors import UserError

# Model types whose own attention mask keeps padding out once group norm (below) does.
MASKED = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
# Model types that let padding in through their stacked positional convolutions: run on equal lengths.
GROUPED = ("data2vec-audio",)
RATE_HZ = 16000

# Valid frames after the first convolution, for the group norm of the model that is running in this thread.
_valid_frames: contextvars.ContextVar[torch.Tensor | None] = contextvars.ContextVar("valid_frames", default=None)


class ValidGroupNorm(torch.nn.GroupNorm):
    """Group norm with one channel per group, over each utterance's valid frames only.

    The base models (wav2vec2, HuBERT, WavLM) normalise their first convolution over time; in transformers padding
    takes part, so an utterance's features depend on the longest one of its batch.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames) -> the same shape; padded frames are of no meaning."""
        lengths = _valid_frames.get()
        if lengths is None:
            return super().forward(x)
        valid = (torch.arange(x.size(-1), device=x.device)[None] < lengths[:, None]).unsqueeze(1)
        values = x.float()
        count = lengths[:, None, None]
        mean = (values * valid).sum(dim=-1, keepdim=True) / count
        variance = ((values - mean).square() * valid).sum(dim=-1, keepdim=True) / count
        y = (values - mean) * (variance + self.eps).rsqrt()
        return (y * self.weight[:, None] + self.bias[:, None]).to(x.dtype)


class HuggingFaceFrontend(AbsFrontend):
    """Features of a pretrained encoder: a learned weighted sum of its layers, or one layer.

    Layers are counted as in s3prl and most papers: 0 is the input of the first transformer layer, i the output of
    layer i, and the last one comes after the encoder's final layer norm where it has one (the "large" models).

    model: a folder, or an id on the hub (found in its cache when there is no network); config: the model's
    configuration instead, for weights that come from elsewhere (see ``portable_conf``); freeze: no gradient and no
    dropout in the encoder, else it is trained jointly (without transformers' own time masking and layer drop);
    layer: one layer, None for the learned sum; normalize: zero mean and unit variance per utterance before the
    encoder, None for what the model's feature extractor asks for; gradient_checkpointing: less memory, more time.
    """

    ignores_padding = True

    def __init__(
        self,
        model: str | None = None,
        config: dict | None = None,
        freeze: bool = True,
        layer: int | None = None,
        normalize: bool | None = None,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        if (model is None) == (config is None):
            raise UserError("frontend_conf of huggingface: give either model (a folder or a hub id) or config")
        self.upstream = _from_config(config) if model is None else _from_pretrained(model)
        self.normalize = _asks_for_normalisation(model, self.upstream.config) if normalize is None else normalize
        self.num_layers = self.upstream.config.num_hidden_layers + 1
        if layer is not None and not -self.num_layers <= layer < self.num_layers:
            raise UserError(
                f"frontend_conf of huggingface: layer must be from 0 (the input of the first layer) to "
                f"{self.num_layers - 1} for this model, got {layer}"
            )
        self.layer = layer
        if layer is None:
            self.layer_weights = torch.nn.Parameter(torch.zeros(self.num_layers))
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            self.upstream.gradient_checkpointing_enable()
        if freeze:
            self.upstream.requires_grad_(False)
        self.upstream.eval()

    @property
    def frozen(self) -> bool:
        """True when no weight of the encoder is trained (by ``freeze``, or by ESPnet's ``freeze_param``)."""
        return not any(parameter.requires_grad for parameter in self.upstream.parameters())

    def train(self, mode: bool = True) -> "HuggingFaceFrontend":
        """Switch to training, except for a frozen encoder: its dropout would only blur the features."""
        super().train(mode)
        if self.frozen:
            self.upstream.eval()
        return self

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.upstream.config.hidden_size

    def samples_for(self, num_frames: int) -> int:
        """Return the smallest number of samples that gives ``num_frames``."""
        config = self.upstream.config
        for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
            num_frames = (num_frames - 1) * stride + kernel
        return num_frames

    def forward(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (batch, frames, size) and lengths (batch,) of waveforms (batch, samples), 16 kHz."""
        layers, lengths = self._layers(input, input_lengths)
        if self.layer is not None:
            return layers[self.layer], lengths
        weights = self.layer_weights.softmax(dim=0)
        return sum(weight * hidden for weight, hidden in zip(weights, layers, strict=True)), lengths

    def hidden_states(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all layers (layers, batch, frames, size) and lengths (batch,) in frames."""
        layers, lengths = self._layers(input, input_lengths)
        return torch.stack(layers), lengths

    def _layers(self, wav: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        lengths = lengths.long()
        padded = not bool((lengths == wav.size(1)).all())
        frames = self.upstream._get_feat_extract_output_lengths(lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            # Checkpointing runs the first convolution again in the backward pass, where the lengths are forgotten.
            recomputed = torch.is_grad_enabled() and self.gradient_checkpointing
            if padded and (recomputed or not _masks_are_exact(self.upstream.config)):
                return self._by_length(wav, lengths, frames), frames
            return self._run(wav, lengths if padded else None), frames

    def _run(self, wav: torch.Tensor, lengths: torch.Tensor | None) -> list[torch.Tensor]:
        valid = None if lengths is None else torch.arange(wav.size(1), device=wav.device)[None] < lengths[:, None]
        if self.normalize:
            wav = normalized(wav, valid)
        elif valid is not None:
            wav = wav * valid
        with self._first_norm_sees(lengths):
            out = self.upstream(wav, attention_mask=None if valid is None else valid.long(), output_hidden_states=True)
        # transformers 5 returns the last layer before the final layer norm, transformers 4 after it.
        return [*out.hidden_states[:-1], out.last_hidden_state]

    @contextmanager
    def _first_norm_sees(self, lengths: torch.Tensor | None) -> Iterator[None]:
        config = self.upstream.config
        frames = None if lengths is None else (lengths - config.conv_kernel[0]) // config.conv_stride[0] + 1
        token = _valid_frames.set(frames)
        try:
            yield
        finally:
            _valid_frames.reset(token)

    def _by_length(self, wav: torch.Tensor, lengths: torch.Tensor, frames: torch.Tensor) -> list[torch.Tensor]:
        size = (wav.size(0), int(frames.max()), self.output_size())
        layers = [wav.new_zeros(size) for _ in range(self.num_layers)]
        for length in lengths.unique().tolist():
            rows = lengths == length
            for layer, part in zip(layers, self._run(wav[rows, :length], None), strict=True):
                layer[rows, : part.size(1)] = part.to(layer.dtype)
        return layers


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


def normalized(wav: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Return (batch, samples) with zero mean and unit variance over what is ``valid`` (same shape), zero elsewhere.

    As Wav2Vec2FeatureExtractor does it: (x - mean) / sqrt(variance + 1e-7), the variance divided by N.
    """
    valid = torch.ones_like(wav, dtype=torch.bool) if valid is None else valid
    count = valid.sum(dim=1, keepdim=True)
    mean = (wav * valid).sum(dim=1, keepdim=True) / count
    variance = ((wav - mean).square() * valid).sum(dim=1, keepdim=True) / count
    return (wav - mean) * (variance + 1e-7).rsqrt() * valid


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
    first = model.feature_extractor.conv_layers[0]
    norm = getattr(first, "layer_norm", None)
    if isinstance(norm, torch.nn.GroupNorm):
        first.layer_norm = ValidGroupNorm(norm.num_groups, norm.num_channels, norm.eps)
        first.layer_norm.weight, first.layer_norm.bias = norm.weight, norm.bias
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
    with _explained(model):
        return _finish(_cache_first(AutoModel, model, config=config))


def _config_of(model: str) -> Any:
    from transformers import AutoConfig

    local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if local and not os.path.isdir(os.path.expanduser(model)):
        raise UserError(f"frontend_conf of huggingface: there is no folder {model}")
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


def _cache_first(auto_class: Any, model: str, **options: Any) -> Any:
    """Load from a folder or the cache, and only then from the hub: without network its retries take half a minute."""
    model = os.path.expanduser(model)
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
