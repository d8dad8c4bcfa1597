"""How layers of a pretrained encoder are counted, chosen and mixed: once, for every loader.

The layer convention, that of s3prl and of most papers. An encoder with n transformer layers has n + 1 layers here:
0 is the input of the first transformer layer (after the positional convolution, and after its layer norm in the "base"
models); i is the output of transformer layer i; the last one, n, comes after the final layer norm where there is
one (the "large" models). Negative numbers count from the end.
"""

from collections.abc import Sequence

import torch

from espnet_ext.errors import UserError

S3PRL_FIELD = 400  # samples that a frame of s3prl's upstreams sees: 25 ms at 16 kHz


def check_layer(layer: int | None, num_layers: int, where: str) -> None:
    """Raise ``UserError`` where ``layer`` is none of ``num_layers`` (None means all of them)."""
    if layer is not None and not -num_layers <= layer < num_layers:
        raise UserError(
            f"{where}: layer must be from 0 (the input of the first layer) to {num_layers - 1} for this model, "
            f"got {layer}"
        )


def frame_grid(upstream: torch.nn.Module) -> tuple[int, int]:
    """Return (hop, field) in samples: frame t sees samples ``t hop`` to ``t hop + field - 1``.

    upstream: has ``samples_for`` and ``frames_past_end``. Where the latter is true (s3prl), the frames begin as those
    of 25 ms every ``hop_length`` do and there are one or two more at the end: their number does not say where they lie.
    """
    if upstream.frames_past_end:
        return upstream.hop_length, S3PRL_FIELD
    field = upstream.samples_for(1)
    return upstream.samples_for(2) - field, field


def norm_of_layer(hidden: torch.Tensor) -> torch.Tensor:
    """Return (…, size) with zero mean and unit variance in every frame: a layer norm without weights, epsilon 1e-5."""
    return torch.nn.functional.layer_norm(hidden, hidden.shape[-1:])


def weighted_sum(layers: Sequence[torch.Tensor], weights: torch.Tensor, normalize: bool = False) -> torch.Tensor:
    """Return sum_l softmax(weights)_l H_l of layers H_l (batch, frames, size), each normalised before if asked for.

    weights: (layers,), free numbers; zeros give the mean (arXiv 2105.01051, section 3: SUPERB's weighted sum).
    """
    shares = weights.softmax(dim=0)
    return sum(
        share * (norm_of_layer(hidden) if normalize else hidden) for share, hidden in zip(shares, layers, strict=True)
    )
