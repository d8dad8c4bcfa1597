"""Frames to one vector per utterance: ESPnet's three poolings and one more, over valid frames only, in float32.

What was wrong in ESPnet 202511: the lengths it was given were those before the encoder's subsampling, so ResNet's
means shrank eightfold; the masked variance was E[x^2] - E[x]^2, which cancels; statistics ran in half precision
under AMP. Called as ``pooling(x, lengths)`` with x (batch, size, frames) and lengths (batch,) of x's own frames, or
None when nothing is padded. One frame is enough: its deviation is the floor, sqrt(machine epsilon).
"""

import torch
import torch.nn.functional as F
from espnet2.spk.pooling.abs_pooling import AbsPooling
from espnet2.spk.pooling.chn_attn_stat_pooling import ChnAttnStatPooling as EspnetChnAttnStatPooling
from espnet2.spk.pooling.mean_pooling import MeanPooling as EspnetMeanPooling
from espnet2.spk.pooling.stat_pooling import StatsPooling as EspnetStatsPooling

from espnet_ext.errors import UserError
from espnet_ext.spk.masking import mean_over_time, padding_mask, zero_padding


def mean_and_deviation(x: torch.Tensor, pad: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (divided by N) over valid frames, both (batch, size, 1).

    The variance is kept in [epsilon, 1e4] as in ESPnet: the square root has a finite slope there.
    """
    mean = mean_over_time(x, pad)
    if pad is None:
        variance = torch.var(x, dim=-1, keepdim=True, unbiased=False)
    else:
        variance = mean_over_time((x - mean).square(), pad)
    return mean, variance.clamp(min=torch.finfo(x.dtype).eps, max=1e4).sqrt()


class MeanPooling(EspnetMeanPooling):
    """Mean over time."""

    def forward(self, x: torch.Tensor, feat_lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, size, frames) -> (batch, size)."""
        return mean_over_time(x.float(), padding_mask(feat_lengths, x.size(-1))).squeeze(-1)


class StatsPooling(EspnetStatsPooling):
    """Mean and standard deviation over time (x-vectors, Snyder et al. 2018)."""

    def forward(self, x: torch.Tensor, feat_lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, size, frames) -> (batch, 2 size)."""
        return torch.cat(mean_and_deviation(x.float(), padding_mask(feat_lengths, x.size(-1))), dim=1).squeeze(-1)


class ChnAttnStatPooling(EspnetChnAttnStatPooling):
    """Mean and deviation weighted by channel-wise attention over time (ECAPA-TDNN, section 2.1).

    h = [x; mean; deviation], w = softmax over time of attention(h), mu = sum w x,
    sigma = sqrt(clamp(sum w x^2 - mu^2, 1e-4, 1e4)).
    """

    def forward(self, x: torch.Tensor, feat_lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, size, frames) -> (batch, 2 size)."""
        pad = padding_mask(feat_lengths, x.size(-1))
        values = x.float()
        first, relu, norm, last = self.attention
        # Mean and deviation are the same in every frame: their part of the convolution is computed once, not per frame.
        frame_part, context_part = first.weight.split((x.size(1), 2 * x.size(1)), dim=1)
        context = torch.cat(mean_and_deviation(values, pad), dim=1)
        hidden = F.conv1d(values, frame_part, first.bias) + F.conv1d(context, context_part)
        return weighted_statistics(values, last(norm(relu(hidden))).float(), pad)


class AttnStatPooling(AbsPooling):
    """Mean and deviation weighted by one attention over time for all channels (Okabe et al., Interspeech 2018).

    w = softmax over time of v'relu(W x + b) + c, mu = sum w x, sigma = sqrt(clamp(sum w (x - mu)^2, 1e-4, 1e4)).
    SUPERB's ``ASP`` is this with W of the size of x; ``hidden`` (default: ``input_size``) is another number of rows.
    """

    def __init__(self, input_size: int, hidden: int | None = None):
        super().__init__()
        if hidden is not None and hidden < 1:
            raise UserError(f"pooling_conf of attn_stat: hidden must be at least 1, got {hidden}")
        hidden = input_size if hidden is None else hidden
        self.attention = torch.nn.Sequential(
            torch.nn.Conv1d(input_size, hidden, 1), torch.nn.ReLU(), torch.nn.Conv1d(hidden, 1, 1)
        )
        self._output_size = 2 * input_size

    def output_size(self) -> int:
        """Return the size of the pooled vector."""
        return self._output_size

    def forward(self, x: torch.Tensor, feat_lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, size, frames) -> (batch, 2 size)."""
        pad = padding_mask(feat_lengths, x.size(-1))
        return weighted_statistics(x.float(), self.attention(x).float(), pad)


def weighted_statistics(x: torch.Tensor, scores: torch.Tensor, pad: torch.Tensor | None) -> torch.Tensor:
    """Return mean and deviation (batch, 2 size) of x (batch, size, frames) with weights softmax(scores) over time.

    scores: (batch, size or 1, frames). Equal to sum w x^2 - mu^2, without its cancellation where few frames count.
    """
    if pad is not None:
        scores, x = scores.masked_fill(pad, float("-inf")), zero_padding(x, pad)
    weights = scores.softmax(dim=2)
    mean = (x * weights).sum(dim=2)
    variance = ((x - mean.unsqueeze(2)).square() * weights).sum(dim=2)
    return torch.cat((mean, variance.clamp(min=1e-4, max=1e4).sqrt()), dim=1)
