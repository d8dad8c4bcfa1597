"""s3prl's upstream models as an ESPnet frontend, with the weights' names of ESPnet's published speaker models."""

import difflib

import torch
from espnet2.asr.frontend.s3prl import S3prlFrontend as EspnetS3prlFrontend

from espnet_ext import compat
from espnet_ext.errors import UserError

MIN_SAMPLES = 800  # s3prl pads anything shorter than 50 ms


class S3prlFrontend(EspnetS3prlFrontend):
    """Layers of an s3prl upstream: their learned weighted sum (``multilayer_feature``), the last one, or ``layer``.

    What was wrong in ESPnet 202511: a frozen upstream was still switched to training mode, dropout included, and its
    graph was kept; s3prl does not import with today's torchaudio; a wrong name ended in a bare assertion.
    Padding reaches s3prl's features (group norm, and a last frame that is repeated or cut), so ``SpeakerModel`` runs
    utterances of different lengths apart in evaluation.

    frontend_conf: upstream (a name such as wavlm_large, hubert_base, hf_hubert_custom), path_or_url (for the custom
    ones), normalize, extra_conf, tile_factor; download_dir: where checkpoints are kept; audio at 16 kHz.
    """

    def __init__(
        self,
        fs: int | str = 16000,
        frontend_conf: dict | None = None,
        download_dir: str | None = None,
        multilayer_feature: bool = False,
        layer: int = -1,
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
        try:
            super().__init__(fs, conf, download_dir, multilayer_feature, layer)
        except OSError as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"frontend_conf of s3prl: cannot get the checkpoint of {name} ({reason}); fetch it once on a machine "
                "with network and give its folder as download_dir, or its file as path_or_url of a custom upstream"
            ) from None

    @property
    def frozen(self) -> bool:
        """True when no weight of the upstream is trained (ESPnet's ``freeze_param: [frontend.upstream]``)."""
        return not any(parameter.requires_grad for parameter in self.upstream.parameters())

    def train(self, mode: bool = True) -> "S3prlFrontend":
        """Switch to training, except for a frozen upstream."""
        super().train(mode)
        if self.frozen:
            self.upstream.eval()
        return self

    def samples_for(self, num_frames: int) -> int:
        """Return the smallest number of samples that gives ``num_frames``."""
        return max(MIN_SAMPLES, (num_frames - 1) * self.hop_length + 1)

    def forward(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (batch, frames, size) and lengths (batch,) of waveforms (batch, samples)."""
        layers, lengths = self._layers(input, input_lengths)
        if self.layer != -1:
            return layers[self.layer], lengths[self.layer]
        chosen = slice(None) if self.multilayer_feature else slice(-1, None)
        feats, feats_lengths = self.featurizer(layers[chosen], lengths[chosen])
        return (feats if self.tile_factor == 1 else self._tile_representations(feats)), feats_lengths

    def hidden_states(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all layers (layers, batch, frames, size), 0 being the first layer's input, and lengths (batch,)."""
        layers, lengths = self._layers(input, input_lengths)
        return torch.stack(layers), lengths[0]

    def _layers(self, wav: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.upstream(wav, lengths)
