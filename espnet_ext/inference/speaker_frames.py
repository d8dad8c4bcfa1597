"""A trained speaker model as an encoder of frames, so that what reads pretrained encoders reads it too."""

from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.inference.published import model_rate_hz
from espnet_ext.inference.spk import build_model
from espnet_ext.spk.model import SpeakerModel
from espnet_ext.upstream.load import load_upstream
from espnet_ext.zoo.package import Package


class SpeakerFrames(torch.nn.Module):
    """The frames that a speaker model pools: one layer, the encoder's output; frozen, in evaluation."""

    num_layers = 1
    ignores_padding = True
    frames_past_end = False

    def __init__(self, model: SpeakerModel):
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "SpeakerFrames":
        """Nothing here is ever trained."""
        return super().train(False)

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.model.encoder.output_size()

    def samples_for(self, num_frames: int) -> int:
        """Return a number of samples that gives ``num_frames`` or more."""
        return max(1, self.model.min_samples) * num_frames

    @torch.no_grad()
    def layers(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return [(batch, frames, size)] and lengths (batch,) in frames of waveforms (batch, samples), 16 kHz."""
        feats, lengths = self.model.extract_feats(input, input_lengths)
        frames, lengths = self.model.encoder(feats, lengths)
        return [frames.transpose(1, 2)], lengths

    def hidden_states(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``layers``, with the layers stacked: (1, batch, frames, size)."""
        layers, lengths = self.layers(input, input_lengths)
        return torch.stack(layers), lengths


def open_upstream(spec: str) -> torch.nn.Module:
    """``load_upstream``, frozen, that takes a trained speaker model (folder, weights, package) and units:FOLDER too."""
    kind, _, rest = spec.partition(":")
    if kind == "units" and rest:
        from espnet_ext.ssl.unit_frontend import UnitFrontend

        return UnitFrontend(Path(rest).expanduser())
    return load_upstream(spec, other_task=_speaker_frames)


def _speaker_frames(package: Package) -> SpeakerFrames:
    rate_hz = model_rate_hz(package.config)
    if rate_hz != 16000:
        raise UserError(f"{package.name}: was trained at {rate_hz} Hz; encoders are read at 16000")
    return SpeakerFrames(build_model(package))
