"""torchaudio's own wav2vec 2.0, HuBERT and WavLM encoders as an ESPnet frontend."""

import os
import pickle
import re
from typing import Any

import torch

from espnet_ext.errors import UserError
from espnet_ext.upstream.frontend import UpstreamFrontend
from espnet_ext.upstream.padding import let_group_norm_see_lengths, normalized, valid_frames, valid_samples

CONVOLUTIONS = ((512, 10, 5), *[(512, 3, 2)] * 4, (512, 2, 2), (512, 2, 2))
#: What torchaudio's factories want besides sizes, for inference: nothing is dropped.
NO_DROPOUT = {
    "encoder_projection_dropout": 0.0,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_drop": 0.0,
    "aux_num_out": None,
}
# The layer norm of a whole waveform, in fairseq and torchaudio.
WAVEFORM_EPS = 1e-5


class TorchaudioFrontend(UpstreamFrontend):
    """Layers of a torchaudio encoder: their learned weighted sum, or one (see ``layers.py``).

    What is not used of torchaudio 2.11: ``extract_features`` has no layer 0 and no final layer norm, lets padding into
    the group norm, and its WavLM ends in an assertion when it is given lengths; ``lengths`` of pipelines that normalise
    the waveform normalise the whole batch as one.

    pipeline: a bundle of ``torchaudio.pipelines`` (HUBERT_BASE, WAV2VEC2_XLSR_300M, WAVLM_LARGE, …), downloaded once
    into torch's cache; config: the encoder's configuration instead, for weights that come from elsewhere: the arguments
    of ``torchaudio.models.wav2vec2_model`` or ``wavlm_model``, ``model_type`` (wav2vec2 or wavlm) and ``normalize``;
    freeze, layer, normalize_layers: as in ``UpstreamFrontend``; normalize: zero mean and unit variance per utterance
    before the encoder, None for what the pipeline or config asks for.
    """

    def __init__(
        self,
        pipeline: str | None = None,
        config: dict | None = None,
        freeze: bool = True,
        layer: int | None = None,
        normalize: bool | None = None,
        normalize_layers: bool = False,
    ):
        super().__init__()
        if (pipeline is None) == (config is None):
            raise UserError("frontend_conf of torchaudio: give either pipeline (such as HUBERT_BASE) or config")
        self.config = dict(config) if pipeline is None else pipeline_config(pipeline)
        self.upstream = _build(self.config)
        if pipeline is not None:
            self.upstream.load_state_dict(_download(pipeline))
        let_group_norm_see_lengths(self.upstream.feature_extractor.conv_layers[0])
        self.normalize = bool(self.config.get("normalize", False)) if normalize is None else normalize
        num_layers = len(self.upstream.encoder.transformer.layers) + 1
        self.set_up(num_layers, freeze, layer, normalize_layers, "frontend_conf of torchaudio")

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.upstream.encoder.feature_projection.projection.out_features

    def blocks(self) -> torch.nn.ModuleList:
        """Return the transformer layers."""
        return self.upstream.encoder.transformer.layers

    def convolutions(self) -> list[tuple[int, int]]:
        """Return (kernel, stride) of the convolutions over the waveform, first to last."""
        return [(block.kernel_size, block.stride) for block in self.upstream.feature_extractor.conv_layers]

    def run(self, wav: torch.Tensor, lengths: torch.Tensor | None) -> list[torch.Tensor]:
        """Return the layers (batch, frames, size) of (batch, samples); lengths in samples, None for no padding."""
        valid = valid_samples(wav, lengths)
        if self.normalize:
            wav = normalized(wav, valid, WAVEFORM_EPS)
        elif valid is not None:
            wav = wav * valid
        kernel, stride = self.convolutions()[0]
        with valid_frames(None if lengths is None else (lengths - kernel) // stride + 1):
            x, _ = self.upstream.feature_extractor(wav, None)
        x = self.upstream.encoder.feature_projection(x)
        padding = None
        if lengths is not None:
            padding = torch.arange(x.size(1), device=x.device)[None] >= self.frames_of(lengths)[:, None]
            x = x.masked_fill(padding[..., None], 0.0)
        return self._transformer(x, padding)

    def _transformer(self, x: torch.Tensor, padding: torch.Tensor | None) -> list[torch.Tensor]:
        transformer = self.upstream.encoder.transformer
        masks: dict[str, torch.Tensor] = {}
        if padding is not None and self.config["model_type"] == "wavlm":
            masks["key_padding_mask"] = torch.zeros_like(x[..., 0]).masked_fill(padding, -torch.inf)
        elif padding is not None:
            masks["attention_mask"] = ~padding[:, None, None].expand(-1, 1, x.size(1), -1)
        # torchaudio says "layer_norm_first" of the transformer when the norm comes before all layers: "base" models.
        x = transformer._preprocess(x)
        layers, bias = [x], None
        for block in transformer.layers:
            x, bias = block(x, position_bias=bias, **masks)
            layers.append(x)
        if not transformer.layer_norm_first:
            layers[-1] = transformer.layer_norm(x)
        return layers


def pipeline_config(pipeline: str) -> dict[str, Any]:
    """Return the ``config`` of a bundle of ``torchaudio.pipelines``; nothing is downloaded."""
    import torchaudio

    bundles = _bundles()
    if pipeline not in bundles:
        raise UserError(f"torchaudio has no pipeline {pipeline!r} of this kind; it has {', '.join(sorted(bundles))}")
    bundle = getattr(torchaudio.pipelines, pipeline)
    convolutions = bundle._params["extractor_conv_layer_config"] or CONVOLUTIONS
    return {
        **bundle._params,
        "extractor_conv_layer_config": [list(block) for block in convolutions],
        "aux_num_out": None,  # the letters of a fine-tuned model are not for us
        "model_type": bundle._model_type.lower(),
        "normalize": bundle._normalize_waveform,
    }


def bundle_like(state: dict[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the ``config`` of the published model whose sizes a state dict has, None where there is none.

    Strides, heads and the place of the norms cannot be seen in weights, so unknown sizes need a configuration.
    """
    wanted = _shapes(state)
    for pipeline in _bundles():
        config = pipeline_config(pipeline)
        with torch.device("meta"):
            if _shapes(_build(config).state_dict()) == wanted:
                return config
    return None


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    # torch has two spellings of a weight norm, and published files have the old one.
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    names = {name: re.sub("|".join(map(re.escape, old)), lambda match: old[match[0]], name) for name in state}
    return {names[name]: value.shape for name, value in state.items()}


def portable_conf(conf: dict[str, Any]) -> dict[str, Any]:
    """Return a ``frontend_conf`` that builds the same module from its configuration, without any download."""
    if conf.get("pipeline") is None:
        return conf
    return {
        **{key: value for key, value in conf.items() if key != "pipeline"},
        "config": pipeline_config(conf["pipeline"]),
    }


def _bundles() -> list[str]:
    from torchaudio import pipelines

    kind = pipelines.Wav2Vec2Bundle
    return [name for name in dir(pipelines) if isinstance(getattr(pipelines, name), kind) and name != "MMS_FA"]


def _build(config: dict[str, Any]) -> torch.nn.Module:
    from torchaudio.models import wav2vec2_model, wavlm_model

    factories = {"wav2vec2": wav2vec2_model, "wavlm": wavlm_model}
    options = {**NO_DROPOUT, **{key: value for key, value in config.items() if key not in ("model_type", "normalize")}}
    if config.get("model_type") not in factories:
        raise UserError("frontend_conf of torchaudio: config needs model_type, wav2vec2 (HuBERT too) or wavlm")
    try:
        options["extractor_conv_layer_config"] = [
            tuple(block) for block in options.get("extractor_conv_layer_config", CONVOLUTIONS)
        ]
        return factories[config["model_type"]](**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"frontend_conf of torchaudio: config does not fit ({error})") from None


def _download(pipeline: str) -> dict[str, torch.Tensor]:
    """The bundle's tensors, from torch's cache or the network; nothing but tensors is accepted."""
    import torchaudio

    bundle = getattr(torchaudio.pipelines, pipeline)
    try:
        state = bundle._get_state_dict({"weights_only": True, "progress": False})
    except OSError as error:
        raise UserError(
            f"torchaudio pipeline {pipeline}: cannot get {os.path.basename(bundle._path)} ({error}); fetch it on a "
            f"machine with network (torchaudio.pipelines.{pipeline}.get_model()), and copy it from there to "
            f"{torch.hub.get_dir()}/checkpoints"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        file = f"{torch.hub.get_dir()}/checkpoints/{os.path.basename(bundle._path)}"
        raise UserError(f"torchaudio pipeline {pipeline}: refused, {file} is damaged; remove it") from None
    return {name: value for name, value in state.items() if not name.startswith("aux.")}
