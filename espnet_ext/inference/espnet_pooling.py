"""Models that ESPnet 202509 and later trained: their pooling was told the frontend's lengths, and learned with them."""

import torch
from espnet2.spk.pooling.abs_pooling import AbsPooling


class FrontendLengthPooling(AbsPooling):
    """Pool as the model was trained, where its encoder gives fewer frames than its frontend.

    ESPnet divides sums over the encoder's frames by the number of the frontend's (ResNet's means shrink eightfold), and
    the weights behind the pooling know nothing else. ``pooling`` is ours and a subclass of ESPnet's, whose arithmetic
    is used here, one utterance at a time, so that padding still changes nothing.
    """

    def __init__(self, pooling: AbsPooling, encoder: torch.nn.Module):
        super().__init__()
        self.pooling = pooling
        self.espnet = next(kind for kind in type(pooling).__mro__ if kind.__module__.startswith("espnet2."))
        self.frames: torch.Tensor | None = None  # of the frontend, for the batch that is under way
        encoder.register_forward_pre_hook(self._remember)

    def _remember(self, _encoder: torch.nn.Module, inputs: tuple) -> None:
        x, lengths = (*inputs, None)[:2]
        self.frames = x.new_full((len(x),), x.size(1), dtype=torch.long) if lengths is None else lengths

    def output_size(self) -> int:
        return self.pooling.output_size()

    def forward(self, x: torch.Tensor, feat_lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, size, frames) and the encoder's lengths -> (batch, size or 2 size)."""
        there = [x.size(2)] * len(x) if feat_lengths is None else feat_lengths.tolist()
        if there == self.frames.tolist():  # an encoder that keeps every frame: nothing was wrong
            return self.pooling(x, feat_lengths)
        rows = [
            self.espnet.forward(self.pooling, row[None, :, :length], frames[None])
            for row, length, frames in zip(x, there, self.frames, strict=True)
        ]
        return torch.cat(rows)
