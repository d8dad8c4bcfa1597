"""Masked prediction of units (arXiv 2106.07447), one stream of them or several (arXiv 2409.10788)."""

from collections.abc import Sequence

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch.nn import functional as F

from espnet_ext.errors import UserError, check_choices
from espnet_ext.ssl.encoder import HubertEncoder


class UnitHead(torch.nn.Module):
    """Logits of one stream: cosine of the projected frame and each unit's embedding, divided by a temperature.

    ``p(c|t) = softmax_c(cos(A o_t, e_c) / tau)``, section II.B of arXiv 2106.07447. Embeddings start ``uniform`` in
    [0, 1), about 40 degrees from each other (the paper), or ``normal``, in all directions: a short training has no
    steps to spend on spreading them.
    """

    def __init__(
        self, input_size: int, num_units: int, size: int = 256, temperature: float = 0.1, init: str = "uniform"
    ):
        super().__init__()
        check_choices("model_conf", ("embedding_init", init, ("uniform", "normal")))
        if temperature <= 0:
            raise UserError(f"model_conf: temperature must be above 0; got {temperature}")
        self.final_proj = torch.nn.Linear(input_size, size)
        torch.nn.init.normal_(self.final_proj.weight, std=0.02)
        torch.nn.init.zeros_(self.final_proj.bias)
        embeddings = torch.empty(num_units, size)
        self.label_embeddings = torch.nn.Parameter(embeddings.uniform_() if init == "uniform" else embeddings.normal_())
        self.temperature = temperature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, input_size) -> float32 (frames, num_units), also under autocast: 0.1 makes bf16 too coarse."""
        projected = self.final_proj(x)
        with torch.autocast(x.device.type, enabled=False):
            frames, units = F.normalize(projected.float(), dim=-1), F.normalize(self.label_embeddings.float(), dim=-1)
            return frames @ units.T / self.temperature


class HubertPretraining(AbsESPnetModel):
    """An encoder and one head per stream of units.

    ``L = sum_l w_l (a sum_masked CE_l + b sum_unmasked CE_l) / n + penalty mean(conv_out^2)`` with n the masked frames
    (and, where b > 0, the unmasked ones too). n is the batch's weight, so that ESPnet's trainer divides by the frames
    of the whole batch over all processes. ESPnet's HuBERT sums without dividing: clipping then acts on every step.

    Args:
        encoder: what maps waveforms and a mask to frames.
        num_units: classes of each stream.
        stream_names: what the statistics call them.
        stream_weights: w_l; None: one over the number of streams.
        final_size: size of projections and unit embeddings. temperature: tau. embedding_init: see ``UnitHead``.
        masked_weight, unmasked_weight: a and b. penalty_weight: of the mean square of the convolutions' output.
    """

    def __init__(
        self,
        encoder: HubertEncoder,
        num_units: Sequence[int],
        stream_names: Sequence[str] | None = None,
        stream_weights: Sequence[float] | None = None,
        final_size: int = 256,
        temperature: float = 0.1,
        embedding_init: str = "uniform",
        masked_weight: float = 1.0,
        unmasked_weight: float = 0.0,
        penalty_weight: float = 10.0,
    ):
        super().__init__()
        count = len(num_units)
        if stream_weights is not None and len(stream_weights) != count:
            raise UserError(f"model_conf: stream_weights has {len(stream_weights)} numbers for {count} stream(s)")
        self.encoder = encoder
        self.heads = torch.nn.ModuleList(
            UnitHead(encoder.output_size(), units, final_size, temperature, embedding_init) for units in num_units
        )
        self.names = list(stream_names) if stream_names is not None else [str(place) for place in range(count)]
        self.weights = [1 / count] * count if stream_weights is None else [float(weight) for weight in stream_weights]
        self.masked_weight, self.unmasked_weight = masked_weight, unmasked_weight
        self.penalty_weight = penalty_weight

    def forward(
        self,
        speech: torch.Tensor,
        units: torch.Tensor,
        mask: torch.Tensor,
        speech_lengths: torch.Tensor | None = None,
        utt_id: Sequence[str] = (),
        **_,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Return loss, statistics and weight, each (1,) as ESPnet gathers them, of waveforms (batch, samples).

        units: int64 (batch, frames, streams), -1 behind an utterance's end. mask: bool (batch, frames).
        speech_lengths: (batch,) samples, None where all are whole. utt_id: named where the loss is not finite.
        """
        encoded = self.encoder(speech, speech_lengths, mask)
        valid = units[..., 0] >= 0
        masked, visible = mask & valid, ~mask & valid
        loss_m, stats = self._loss(encoded.last, units, masked, "m")
        count = masked.sum()
        loss = self.masked_weight * loss_m
        if self.unmasked_weight > 0:
            loss_u, stats_u = self._loss(encoded.last, units, visible, "u")
            stats |= stats_u
            count = valid.sum()
            loss = loss + self.unmasked_weight * loss_u
        elif not self.training:
            with torch.no_grad():
                stats |= self._loss(encoded.last, units, visible, "u")[1]
        count = count.clamp(min=1)
        loss = loss / count + self.penalty_weight * encoded.power
        # ESPnet's trainer divides the loss by accum_grad in place, and would divide what is reported with it.
        stats = {"loss": loss.detach().clone(), "power": encoded.power.detach(), **stats}
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is {float(loss.detach())} on utterance(s) {', '.join(utt_id) or 'without names'}; the "
                "checkpoint of the last epoch is kept. Listen to them, or lower the learning rate (optim_conf: lr), "
                "and give the same command again"
            )
        return force_gatherable((loss, stats, count.to(loss.dtype)), loss.device)

    def _loss(
        self, hidden: torch.Tensor, units: torch.Tensor, chosen: torch.Tensor, kind: str
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weighted sum over streams of the summed cross-entropy at ``chosen`` frames, and statistics."""
        frames, targets = hidden[chosen], units[chosen]
        total = hidden.new_zeros((), dtype=torch.float32)
        stats = {}
        count = max(1, len(frames))
        for place, (head, name, weight) in enumerate(zip(self.heads, self.names, self.weights, strict=True)):
            logits = head(frames)
            loss = F.cross_entropy(logits, targets[:, place], reduction="sum")
            total = total + weight * loss
            right = (logits.detach().argmax(dim=-1) == targets[:, place]).sum() / count
            if len(self.heads) > 1:
                stats[f"acc_{kind}_{name}"] = right
                stats[f"loss_{kind}_{name}"] = loss.detach() / count
            stats[f"acc_{kind}"] = stats.get(f"acc_{kind}", 0) + right / len(self.heads)
        stats[f"loss_{kind}"] = total.detach() / count
        return total, stats

    def collect_feats(self, speech: torch.Tensor, speech_lengths: torch.Tensor | None = None, **_) -> dict:
        """Return the waveforms: nothing here needs statistics of the features."""
        return {"feats": speech} if speech_lengths is None else {"feats": speech, "feats_lengths": speech_lengths}
