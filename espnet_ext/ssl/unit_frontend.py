"""What units keep of the frames that they stand for: an encoder whose layers are the units' centroids."""

from pathlib import Path

import torch

from espnet_ext.cluster.residual import Codebook
from espnet_ext.errors import UserError
from espnet_ext.ssl.features import make_features
from espnet_ext.ssl.quantizer import Quantizer
from espnet_ext.upstream.frontend import UpstreamFrontend
from espnet_ext.upstream.layers import check_layer


class UnitFrontend(UpstreamFrontend):
    """Frames replaced by their centroids; a probe of it says what the units know, as that of an encoder does.

    One layer per stream of the quantizer, in its order: residual level i is the sum of the centroids of the levels 0 to
    i (arXiv 2409.10788: more levels, more of the detail). The encoder that they were fitted to has to be where it was.

    Args:
        folder: of ``fit_units``, of k-means: units of random projections stand for no frame.
        layer, normalize_layers: see ``UpstreamFrontend.set_up``; nothing but its learned sum has a gradient.
    """

    def __init__(self, folder: str | Path, layer: int | None = None, normalize_layers: bool = False):
        super().__init__()
        quantizer = Quantizer.load(folder)
        if not isinstance(quantizer.codebooks[0], Codebook):
            raise UserError(f"units:{folder}: units of a {quantizer.kind} have no centroids; take some of k-means")
        quantizer.check_features(folder)
        self.grid = quantizer.field, quantizer.hop
        self.features = make_features(quantizer.features, [n for n in quantizer.layers if n is not None])
        self.books = quantizer.codebooks
        for place, book in enumerate(self.books):
            self.register_buffer(f"centroids{place}", torch.from_numpy(book.centroids))
        # Registered, so that it moves to a GPU with this module; cepstra and log-mel energies have none.
        self.upstream = getattr(self.features, "upstream", torch.nn.Identity())
        self.set_up(len(quantizer.streams), True, layer, normalize_layers, f"units:{folder}")

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.books[0].centroids.shape[2]

    def convolutions(self) -> list[tuple[int, int]]:
        return [self.grid]

    def blocks(self) -> torch.nn.ModuleList:
        return torch.nn.ModuleList()  # levels are no transformer layers

    def forget_after(self, layer: int) -> None:
        """Drop nothing: a level needs those before it, and costs little."""
        check_layer(layer, self.num_layers, "the units")

    @torch.no_grad()
    def run(self, wav: torch.Tensor, lengths: torch.Tensor | None) -> list[torch.Tensor]:
        """Return the layers (batch, frames, size) of (batch, samples), zeros behind an utterance's own frames."""
        counts = [wav.size(1)] * len(wav) if lengths is None else lengths.tolist()
        self.features.device = wav.device
        rows = self.features([row[:count] for row, count in zip(wav.cpu().numpy(), counts, strict=True)])
        decoded = [self._decoded(layers) for layers in rows]
        return [torch.nn.utils.rnn.pad_sequence(of_rows, batch_first=True) for of_rows in zip(*decoded, strict=True)]

    def _decoded(self, layers: list) -> list[torch.Tensor]:
        states = []
        for place, (frames, book) in enumerate(zip(layers, self.books, strict=True)):
            tables = self.get_buffer(f"centroids{place}")
            ids = torch.as_tensor(book.assign(frames), device=tables.device)
            vectors = [table[column] for table, column in zip(tables, ids.T, strict=True)]
            states += torch.stack(vectors).cumsum(0).unbind()
        return states
