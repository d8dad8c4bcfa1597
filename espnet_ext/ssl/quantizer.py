"""From frames to units: k-means per layer, of one level or several, or random projections; saved as a folder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from espnet_ext.cluster.random_projection import RandomProjection
from espnet_ext.cluster.residual import Codebook
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.ssl.features import identity_of
from espnet_ext.ssl.geometry import RATE_HZ

MAX_UNITS = 2**16  # ids are stored as uint16
DESCRIPTION = "quantizer.json"
ENCODER = "encoder"  # among the facts: checksums of what made the features, see ``identity_of``
# How units are made from frames: what holds it for one layer.
KINDS = {"kmeans": Codebook, "random_projection": RandomProjection}


def check_counts(layers: Sequence[int], num_units: Sequence[int], quantizer: str, max_frames: int) -> None:
    """``UserError`` for layers that are given twice, and for numbers of units that cannot be, per layer or for all.

    layers: none of features that have only one. max_frames: what centroids of k-means are fitted to.
    """
    twice = next((layer for place, layer in enumerate(layers) if layer in layers[:place]), None)
    if twice is not None:
        raise UserError(f"--layers: {twice} is given twice; a layer has one set of centroids")
    count = max(1, len(layers))
    if len(num_units) not in (1, count):
        raise UserError(f"--num_units: {len(num_units)} numbers for {count} layer(s); give one, or each")
    wrong = [number for number in num_units if not 1 < number <= MAX_UNITS]
    if wrong:
        raise UserError(f"--num_units: {wrong[0]} is not from 2 to {MAX_UNITS}")
    if quantizer == "kmeans" and max(num_units) > max_frames:
        raise UserError(
            f"--num_units: {max(num_units)} centroids cannot be fitted to {max_frames} frames (--max_frames); give "
            "more of these, or fewer of those"
        )


@dataclass(frozen=True)
class Stream:
    """One sequence of units: its name, the layer and residual level (or codebook) it is of, the number of units."""

    name: str
    num_units: int
    layer: int | None = None
    level: int = 0


@dataclass
class Quantizer:
    """Centroids of every layer: ``codebooks[i]``, of one level or several, is for ``layers[i]``; all of one kind.

    ``features`` is what ``make_features`` takes, ``hop`` and ``field`` its samples per frame; ``facts`` what is worth
    knowing about the fit.
    """

    features: str
    hop: int
    field: int
    names: tuple[str, ...]
    layers: tuple[int | None, ...]
    codebooks: list[Codebook] | list[RandomProjection]
    facts: dict = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Which of ``KINDS`` the codebooks are."""
        return next(kind for kind, books in KINDS.items() if isinstance(self.codebooks[0], books))

    @property
    def rate_hz(self) -> float:
        """Frames per second."""
        return RATE_HZ / self.hop

    @property
    def streams(self) -> list[Stream]:
        """What ``assign`` returns, column by column: the levels of the first layer, then of the second, …"""
        return [
            Stream(name if book.levels == 1 else f"{name}_q{level}", book.centroids.shape[1], layer, level)
            for name, layer, book in zip(self.names, self.layers, self.codebooks, strict=True)
            for level in range(book.levels)
        ]

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits that stand for the centroids and where they belong."""
        digest = hashlib.sha256(json.dumps([self.features, self.hop, self.layers]).encode())
        for book in self.codebooks:
            for array in book.arrays if isinstance(book, RandomProjection) else (book.centroids,):
                digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def assign(self, frames: list) -> np.ndarray:
        """Return units (T, streams) uint16 of one utterance: ``frames`` holds (T, D), tensor or array, per layer."""
        columns = [book.assign(layer_frames) for layer_frames, book in zip(frames, self.codebooks, strict=True)]
        # Tensors come from a GPU, arrays from features in numpy.
        columns = [ids if isinstance(ids, np.ndarray) else ids.cpu().numpy() for ids in columns]
        return np.concatenate(columns, axis=1).astype(np.uint16)

    def check_features(self, folder: str | Path) -> None:
        """``UserError`` where what ``features`` names is no longer what the centroids in ``folder`` were fitted to."""
        now = identity_of(self.features)
        if self.facts.get(ENCODER, now) != now != [self.features]:  # one that is gone is said by who opens it
            raise UserError(
                f"{self.features} is not what {folder} was fitted to: it has changed since; fit the centroids again "
                "(fit_units), or put back the encoder of then (make_units: or name it as --features)"
            )

    def save(self, folder: str | Path) -> None:
        """Write ``<name>.npz`` per layer (see ``KINDS``), and ``quantizer.json`` last."""
        folder = Path(folder)
        (folder / DESCRIPTION).unlink(missing_ok=True)  # must not describe a mixture of old and new centroids
        for name, book in zip(self.names, self.codebooks, strict=True):
            book.save(folder / f"{name}.npz")
        content = {
            "kind": self.kind,
            "features": self.features,
            "hop": self.hop,
            "field": self.field,
            "names": self.names,
            "layers": self.layers,
            "streams": [asdict(stream) for stream in self.streams],
            **self.facts,
        }
        with atomic_write(folder / DESCRIPTION) as file:
            file.write(json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Quantizer":
        """Read a folder that ``save`` wrote; ``UserError`` where it is none."""
        folder = Path(folder)
        try:
            content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            names = tuple(content["names"])
            books = KINDS[content.get("kind", "kmeans")]  # the one kind of folders that do not say
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: no centroids that fit_units made ({error})") from None
        known = ("kind", "features", "hop", "field", "names", "layers", "streams")
        facts = {key: value for key, value in content.items() if key not in known}
        return cls(
            content["features"], content["hop"], content["field"], names, tuple(content["layers"]),
            [books.load(folder / f"{name}.npz") for name in names], facts,
        )  # fmt: skip
