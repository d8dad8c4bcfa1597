"""What all pretrained encoders share as frontends: freezing, one layer or the learned sum, no trace of padding."""

from abc import abstractmethod

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend

from espnet_ext.upstream.layers import check_layer, norm_of_layer, weighted_sum


class Freezable(torch.nn.Module):
    """A frontend around an encoder ``upstream``, which stays in evaluation mode where none of it is trained."""

    upstream: torch.nn.Module

    @property
    def frozen(self) -> bool:
        """True when no weight of the encoder is trained (by ``freeze``, or by ESPnet's ``freeze_param``)."""
        return not any(parameter.requires_grad for parameter in self.upstream.parameters())

    def train(self, mode: bool = True):
        """Switch to training, except for a frozen encoder: its dropout would only blur the features."""
        super().train(mode)
        if self.frozen:
            self.upstream.eval()
        return self


class UpstreamFrontend(Freezable, AbsFrontend):
    """A pretrained encoder of 16 kHz waveforms behind ESPnet's frontend interface; layers as ``layers.py`` counts them.

    A subclass makes ``upstream`` (the module) and calls ``set_up``, and says how it runs.

    Every encoder of ``load_upstream`` says two things. ignores_padding: what stands behind an utterance in a batch
    changes nothing. frames_past_end: an utterance has one or two frames more than fit into it, the last of which see
    what no recording holds; ``hop_length`` then says how far apart frames are (``layers.frame_grid``).
    """

    ignores_padding = True
    frames_past_end = False
    num_layers: int
    layer: int | None
    normalize_layers: bool

    def set_up(self, num_layers: int, freeze: bool, layer: int | None, normalize_layers: bool, where: str) -> None:
        """Take the options that all encoders have.

        freeze: no gradient and no dropout in the encoder; layer: one layer, None for the learned sum of all;
        normalize_layers: a layer norm without weights on every layer before it is chosen or summed; where: begins the
        message of a ``UserError``.
        """
        check_layer(layer, num_layers, where)
        self.num_layers, self.layer, self.normalize_layers = num_layers, layer, normalize_layers
        if layer is None:
            self.layer_weights = torch.nn.Parameter(torch.zeros(num_layers))
        if freeze:
            self.upstream.requires_grad_(False)
        self.upstream.eval()

    def samples_for(self, num_frames: int) -> int:
        """Return the smallest number of samples that gives ``num_frames``."""
        for kernel, stride in reversed(self.convolutions()):
            num_frames = (num_frames - 1) * stride + kernel
        return num_frames

    def frames_of(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the number of frames of waveforms of ``samples`` (any shape of whole numbers)."""
        for kernel, stride in self.convolutions():
            samples = torch.div(samples - kernel, stride, rounding_mode="floor") + 1
        return samples.clamp(min=0)

    def forward(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (batch, frames, size) and lengths (batch,) of waveforms (batch, samples), 16 kHz."""
        layers, lengths = self.layers(input, input_lengths)
        if self.layer is not None:
            return norm_of_layer(layers[self.layer]) if self.normalize_layers else layers[self.layer], lengths
        return weighted_sum(layers, self.layer_weights, self.normalize_layers), lengths

    def hidden_states(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all layers (layers, batch, frames, size) and lengths (batch,) in frames."""
        layers, lengths = self.layers(input, input_lengths)
        return torch.stack(layers), lengths

    def layers(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """As ``hidden_states``, in a list, which saves a copy of everything."""
        lengths = input_lengths.long()
        frames = self.frames_of(lengths)
        padded = not bool((lengths == input.size(1)).all())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if padded and not self.masks_are_exact():
                return self._by_length(input, lengths, frames), frames
            return self.run(input, lengths if padded else None), frames

    def _by_length(self, wav: torch.Tensor, lengths: torch.Tensor, frames: torch.Tensor) -> list[torch.Tensor]:
        layers: list[torch.Tensor] = []
        for length in lengths.unique().tolist():
            rows = lengths == length
            parts = self.run(wav[rows, :length], None)
            layers = layers or [wav.new_zeros(len(wav), int(frames.max()), part.size(2)) for part in parts]
            for layer, part in zip(layers, parts, strict=True):
                layer[rows, : part.size(1)] = part.to(layer.dtype)
        return layers

    def forget_after(self, layer: int) -> None:
        """Drop what only layers beyond ``layer`` need, for good: they are no longer computed, and there is no sum."""
        check_layer(layer, self.num_layers, "the encoder")
        blocks = self.blocks()
        # One more than is needed: the last output of all may have passed the final layer norm.
        del blocks[layer % self.num_layers + 1 :]

    @abstractmethod
    def blocks(self) -> torch.nn.ModuleList:
        """Return the transformer layers."""

    @abstractmethod
    def convolutions(self) -> list[tuple[int, int]]:
        """Return (kernel, stride) of the convolutions over the waveform, first to last."""

    @abstractmethod
    def run(self, wav: torch.Tensor, lengths: torch.Tensor | None) -> list[torch.Tensor]:
        """Return the layers (batch, frames, size) of (batch, samples); lengths in samples, None for no padding."""

    def masks_are_exact(self) -> bool:
        """True where ``run`` keeps padding out by itself; else utterances of one length go together."""
        return True
