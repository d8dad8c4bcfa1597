"""From frames to units: k-means per layer, or residual k-means with several levels; saved as a folder."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.ssl.geometry import RATE_HZ

MAX_UNITS = 2**16  # ids are stored as uint16


@dataclass(frozen=True)
class Stream:
    """One sequence of units: its name, the layer and residual level it comes from, the number of units."""

    name: str
    num_units: int
    layer: int | None = None
    level: int = 0


@dataclass
class Quantizer:
    """Centroids of every layer: ``codebooks[i]`` float32 (levels, units, size) belongs to ``layers[i]``.

    ``z_0 = argmin_k |x - C_0[k]|^2``, then the same for the rest ``x - C_0[z_0]`` with ``C_1``, and so on: residual
    k-means; with one level it is k-means. ``features`` is what ``make_features`` takes, ``hop`` and ``field`` its
    samples per frame; ``facts`` what is worth knowing about the fit.
    """

    features: str
    hop: int
    field: int
    names: tuple[str, ...]
    layers: tuple[int | None, ...]
    codebooks: list[np.ndarray]
    facts: dict = field(default_factory=dict)

    @property
    def rate_hz(self) -> float:
        """Frames per second."""
        return RATE_HZ / self.hop

    @property
    def streams(self) -> list[Stream]:
        """What ``assign`` returns, column by column: the levels of the first layer, then of the second, …"""
        return [
            Stream(name if len(book) == 1 else f"{name}_q{level}", book.shape[1], layer, level)
            for name, layer, book in zip(self.names, self.layers, self.codebooks, strict=True)
            for level in range(len(book))
        ]

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits that stand for the centroids and where they belong."""
        digest = hashlib.sha256(json.dumps([self.features, self.hop, self.layers]).encode())
        for book in self.codebooks:
            digest.update(np.ascontiguousarray(book).tobytes())
        return digest.hexdigest()[:16]

    def assign(self, frames: list) -> np.ndarray:
        """Return units (T, streams) uint16 of one utterance: ``frames`` holds (T, D), tensor or array, per layer."""
        import torch

        from espnet_ext.cluster.kmeans import assign

        columns = []
        for layer_frames, book in zip(frames, self.codebooks, strict=True):
            rest = torch.as_tensor(layer_frames)
            for centroids in book:
                centres = torch.from_numpy(centroids).to(rest.device)
                ids = assign(rest, centres, "euclidean")
                columns.append(ids.cpu().numpy().astype(np.uint16))
                rest = rest - centres[ids]
        return np.stack(columns, axis=1)

    def save(self, folder: str | Path) -> None:
        """Write ``<name>.npy`` per layer, and ``quantizer.json`` last."""
        folder = Path(folder)
        for name, book in zip(self.names, self.codebooks, strict=True):
            with atomic_write(folder / f"{name}.npy", "wb") as file:
                np.save(file, book)
        content = {
            "features": self.features,
            "hop": self.hop,
            "field": self.field,
            "names": self.names,
            "layers": self.layers,
            "streams": [asdict(stream) for stream in self.streams],
            **self.facts,
        }
        with atomic_write(folder / "quantizer.json") as file:
            file.write(json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Quantizer":
        """Read a folder that ``save`` wrote; ``UserError`` where it is none."""
        folder = Path(folder)
        try:
            content = json.loads((folder / "quantizer.json").read_text(encoding="utf-8"))
            books = [np.load(folder / f"{name}.npy", allow_pickle=False) for name in content["names"]]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: no centroids that fit_units made ({error})") from None
        known = ("features", "hop", "field", "names", "layers", "streams")
        facts = {key: value for key, value in content.items() if key not in known}
        return cls(
            content["features"], content["hop"], content["field"], tuple(content["names"]), tuple(content["layers"]),
            books, facts,
        )  # fmt: skip


def fit_levels(
    x: np.ndarray, num_units: int, levels: int = 1, seed: int = 0, device: str = "cpu", **options
) -> tuple[np.ndarray, list[float]]:
    """Return centroids float32 (levels, num_units, D) of frames x (N, D), and each level's mean squared distance.

    options: those of ``espnet_ext.cluster.kmeans.kmeans`` (iterations, restarts, batch_size).
    """
    from espnet_ext.cluster.kmeans import kmeans

    if not 1 < num_units <= MAX_UNITS:
        raise UserError(f"--num_units: {num_units} is not from 2 to {MAX_UNITS}")
    books, errors = [], []
    rest = np.asarray(x, dtype=np.float32)
    for level in range(levels):
        found = kmeans(rest, num_units, metric="euclidean", seed=seed + level, device=device, **options)
        books.append(np.asarray(found.centroids, dtype=np.float32))
        errors.append(float(found.inertia) / len(rest))
        rest = rest - books[-1][found.labels]
    return np.stack(books), errors
