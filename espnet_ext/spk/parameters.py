"""How many parameters a head on a pretrained encoder has: without that encoder, and without the classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from espnet_ext.metrics.report import markdown_table

#: Names of the layer mix in a state dict, ours and s3prl's.
MIXES = ("frontend.layer_weights", "frontend.featurizer.weights")


@dataclass(frozen=True)
class HeadParameters:
    """Numbers of parameters: of the layer mix, of all that is trained (mix included), of what an embedding needs."""

    layer_weights: int
    train: int
    test: int

    def less_than(self, other: "HeadParameters") -> tuple[float, float]:
        """Return by what share of ``other`` this head is smaller, as trained and as used (0.97: 97 % fewer)."""
        return 1 - self.train / other.train, 1 - self.test / other.test


def count_head(
    encoder: torch.nn.Module, pooling: torch.nn.Module, projector: torch.nn.Module | None, layer_weights: int = 0
) -> HeadParameters:
    """Count a head; ``loss_layers`` of a projector are trained, but no embedding needs them."""
    parts = [part for part in (encoder, pooling, projector) if part is not None]
    train = layer_weights + sum(parameter.numel() for part in parts for parameter in part.parameters())
    loss_layers = getattr(projector, "loss_layers", None)
    only_loss = 0 if loss_layers is None else sum(parameter.numel() for parameter in loss_layers.parameters())
    return HeadParameters(layer_weights, train, train - only_loss)


def count_weights(state: Mapping[str, torch.Tensor]) -> HeadParameters:
    """Count the head in the weights of a trained speaker model: names as in its state dict, statistics left out."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    sizes = {name: value.numel() for name, value in state.items() if not name.endswith(statistics)}
    mix = sum(sizes.get(name, 0) for name in MIXES)
    head = sum(n for name, n in sizes.items() if name.startswith(("encoder.", "pooling.", "projector.")))
    only_loss = sum(n for name, n in sizes.items() if name.startswith("projector.loss_layers."))
    return HeadParameters(mix, mix + head, mix + head - only_loss)


def parameter_table(heads: Sequence[tuple[str, HeadParameters]], baseline: int | None = None) -> str:
    """Return a Markdown table of heads side by side; ``baseline`` is the row that the others are compared with."""
    columns = ["head", "layer weights", "trained", "used for an embedding"]
    columns += [] if baseline is None else ["trained, against the baseline", "used, against the baseline"]
    rows = []
    for name, head in heads:
        row = [name, f"{head.layer_weights:,}", f"{head.train:,}", f"{head.test:,}"]
        if baseline is not None:
            row += [f"{-100 * share:+.2f} %" if share else "" for share in head.less_than(heads[baseline][1])]
        rows.append(row)
    return markdown_table(columns, rows)
