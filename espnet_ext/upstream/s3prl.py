"""s3prl's upstream models as an ESPnet frontend, with the weights' names of ESPnet's published speaker models."""

import difflib
import os
import pickle
import re
from pathlib import Path

import torch
from espnet2.asr.frontend.s3prl import S3prlFrontend as EspnetS3prlFrontend

from espnet_ext import compat
from espnet_ext.errors import UserError
from espnet_ext.upstream.frontend import Freezable
from espnet_ext.upstream.layers import check_layer, norm_of_layer, weighted_sum

MIN_SAMPLES = 800  # s3prl pads anything shorter than 50 ms
# Between these an encoder with a hop of 20 ms has two frames, and s3prl stops where it should make them four.
GAP = 960, 1040
# Settings of a checkpoint that s3prl hands to Python's eval.
_EVALUATED = ("conv_feature_layers", "extractor_conv_feature_layers", "override_encoder_layers")


class S3prlFrontend(Freezable, EspnetS3prlFrontend):
    """Layers of an s3prl upstream: their learned weighted sum (``multilayer_feature``), the last one, or ``layer``.

    What was wrong in ESPnet 202511: a frozen upstream was still switched to training mode, dropout included, and its
    graph was kept; s3prl does not import with today's torchaudio; a wrong name ended in a bare assertion. In s3prl
    0.4.18: padding reaches the features (group norm, and a last frame that is repeated or cut), so utterances of
    different lengths run apart in evaluation; 961 to 1039 samples end in an assertion, so they get zeros up to 1040;
    with transformers 5 its ``hf_`` upstreams lose the final layer norm.

    frontend_conf: upstream (a name such as wavlm_large, hubert_base, hf_hubert_custom), path_or_url (for the custom
    ones), normalize, extra_conf, tile_factor; download_dir: where checkpoints are kept; audio at 16 kHz;
    normalize_layers: a layer norm without weights on every layer before it is chosen or summed; freeze: no gradient
    (ESPnet's ``freeze_param: [frontend.upstream]`` does the same).
    """

    ignores_padding = True
    frames_past_end = True  # one for every hop that an utterance begins

    def __init__(
        self,
        fs: int | str = 16000,
        frontend_conf: dict | None = None,
        download_dir: str | None = None,
        multilayer_feature: bool = False,
        layer: int = -1,
        normalize_layers: bool = False,
        freeze: bool = False,
    ):
        compat.prepare_s3prl()
        try:
            from s3prl.nn import S3PRLUpstream
        except ModuleNotFoundError as error:
            raise UserError(f"frontend s3prl needs the package {error.name!r}: pip install s3prl==0.4.18") from None
        conf = frontend_conf or {}
        name, names = conf.get("upstream"), S3PRLUpstream.available_names()
        if name not in names:
            near = ", ".join(difflib.get_close_matches(str(name), names, 3)) or "wavlm_large, hubert_base"
            raise UserError(f"frontend_conf of s3prl: {name!r} is no upstream of s3prl; near it are {near}")
        if layer != -1 and multilayer_feature:
            raise UserError("frontend_conf of s3prl: layer takes one layer, multilayer_feature all of them; choose one")
        _check_file(conf.get("path_or_url"), name)
        try:
            super().__init__(fs, conf, download_dir, multilayer_feature, layer)
        except OSError as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"frontend_conf of s3prl: cannot get the checkpoint of {name} ({reason}); fetch it once on a machine "
                "with network and give its folder as download_dir, or its file as path_or_url of a custom upstream"
            ) from None
        except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, AssertionError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"frontend_conf of s3prl: {name} does not load its checkpoint: {reason[:300]}") from None
        self.num_layers, self.normalize_layers = self.upstream.num_layers, normalize_layers
        check_layer(layer, self.num_layers, "frontend_conf of s3prl")
        _keep_final_norm(self.upstream.upstream)
        if freeze:
            self.upstream.requires_grad_(False)

    def samples_for(self, num_frames: int) -> int:
        """Return the smallest number of samples that gives ``num_frames``."""
        return max(MIN_SAMPLES, (num_frames - 1) * self.hop_length + 1)

    def forward(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (batch, frames, size) and lengths (batch,) of waveforms (batch, samples)."""
        layers, lengths = self.layers(input, input_lengths)
        if self.multilayer_feature and self.num_layers > 1:
            feats = weighted_sum(layers, self.featurizer.weights, self.normalize_layers)
        else:
            feats = norm_of_layer(layers[self.layer]) if self.normalize_layers else layers[self.layer]
        return (feats if self.tile_factor == 1 or self.layer != -1 else self._tile_representations(feats)), lengths

    def hidden_states(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all layers (layers, batch, frames, size), 0 being the first layer's input, and lengths (batch,)."""
        layers, lengths = self.layers(input, input_lengths)
        return torch.stack(layers), lengths

    def layers(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """As ``hidden_states``, in a list, which saves a copy of everything."""
        lengths = input_lengths.long()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.upstream.training or bool((lengths == input.size(1)).all()):
                return self._run(input, lengths)
            return self._by_length(input, lengths)

    def _run(self, wav: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        low, high = GAP
        if self.hop_length == 320 and low < wav.size(1) < high:
            wav = torch.nn.functional.pad(wav, (0, high - wav.size(1)))
            lengths = torch.where(lengths > low, high, lengths)
        layers, frames = self.upstream(wav, lengths)
        return layers, frames[0]

    def _by_length(self, wav: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        frames = torch.div(lengths - 1, self.hop_length, rounding_mode="floor") + 1
        layers = [wav.new_zeros(len(wav), int(frames.max()), size) for size in self.upstream.hidden_sizes]
        for length in lengths.unique().tolist():
            rows = lengths == length
            for layer, part in zip(layers, self._run(wav[rows, :length], lengths[rows])[0], strict=True):
                layer[rows, : part.size(1)] = part.to(layer.dtype)
        return layers, frames


def open_s3prl(name: str, layer: int | None = None, normalize: bool | None = None, **options) -> S3prlFrontend:
    """Return the upstream ``NAME``, or ``NAME:CHECKPOINT`` for those that read a file; see ``load_upstream``."""
    if normalize is not None:
        raise UserError(f"s3prl:{name} normalises waveforms as its checkpoint says; leave normalize out")
    name, _, checkpoint = name.partition(":")
    conf = {"upstream": name} | ({"path_or_url": checkpoint} if checkpoint else {})
    how = {"multilayer_feature": True} if layer is None else {"layer": layer}
    return S3prlFrontend(frontend_conf=conf, **how, **{"freeze": True, **options})


def _check_file(path: str | None, name: str) -> None:
    """Refuse a checkpoint that would run code in s3prl: one of its pickles, or of the settings that it evaluates."""
    if path is None or path.startswith("http"):
        return
    looks_local = path.startswith((".", "/", "~")) or not name.startswith("hf_")
    if looks_local and not os.path.exists(path):
        raise UserError(f"frontend_conf of s3prl: cannot get the checkpoint of {name}: there is no {path}")
    if not os.path.isfile(path):
        return
    from espnet_ext.upstream.checkpoint import load_safely, plain

    waiting = [plain(load_safely(Path(path)))]
    while waiting:
        for key, value in waiting.pop().items():
            if isinstance(value, dict):
                waiting.append(value)
            elif key in _EVALUATED and not re.fullmatch(r"[\d\s()\[\],+*]*|None", str(value)):
                raise UserError(f"{path}: refused, s3prl would run its {key}: {str(value)[:80]!r}")


def _keep_final_norm(expert: torch.nn.Module) -> None:
    """Give the ``hf_`` experts of s3prl the last layer after the final layer norm, as transformers 4 had it."""
    model = getattr(expert, "model", None)
    if type(model).__module__.startswith("transformers."):
        model.register_forward_hook(_with_final_norm)


def _with_final_norm(model, inputs, output):
    if output.get("hidden_states") is not None:
        output["hidden_states"] = (*output["hidden_states"][:-1], output["last_hidden_state"])
    return output
