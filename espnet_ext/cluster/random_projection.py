"""Random projection (BEST-RQ): units for which nothing is fitted but the normalisation of the frames; one file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from espnet_ext.cluster.residual import Codebook
from espnet_ext.cluster.vectors import ROWS_AT_ONCE, to_vectors
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write

MEASURED = 100_000  # rows that say how well the codebooks are used; a search through all of them would tell no more


@dataclass
class RandomProjection:
    """Q random codebooks of k codes of length 1, each with a projection of its own from D numbers to P.

    ``y = ((x - mean) / scale) @ A_q``, ``c_q = argmin_k |y / |y| - C_q[k]|^2`` (arXiv 2202.01855, section 3). More
    than one codebook are independent targets, a softmax for each (USM, arXiv 2303.01037: 16 of them).

    mean, scale: ``(D,)``. projections: A, ``(Q, D, P)``. centroids: C, ``(Q, k, P)``. All are float32.
    errors: mean ``|y / |y| - C[c]|^2``, codebook by codebook. facts: what else is kept with it (JSON).
    """

    mean: np.ndarray
    scale: np.ndarray
    projections: np.ndarray
    centroids: np.ndarray
    errors: list[float] = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    def __post_init__(self):
        for name in ("mean", "scale", "projections", "centroids"):
            setattr(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        shapes = [array.shape for array in self.arrays]
        books, dim, size = self.projections.shape if self.projections.ndim == 3 else (0, 0, 0)
        fit = shapes[:2] == [(dim,), (dim,)] and shapes[3][::2] == (books, size) and self.centroids.ndim == 3
        if not (fit and books and all(np.isfinite(array).all() for array in self.arrays) and (self.scale > 0).all()):
            raise UserError(f"arrays of shapes {shapes} are no random projection with its codebooks")
        self._books = [Codebook(codes) for codes in self.centroids]

    @property
    def levels(self) -> int:
        """Number of codebooks Q."""
        return len(self.centroids)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Everything that decides the ids."""
        return self.mean, self.scale, self.projections, self.centroids

    def assign(self, x: torch.Tensor | np.ndarray, device: str | torch.device | None = None):
        """Ids ``(N, Q)`` int64 of the rows of ``x (N, D)``, tensor or array as ``x``, on its device; N may be 0."""
        columns = [book.assign(self.directions(x, place, device)) for place, book in enumerate(self._books)]
        ids = torch.cat(columns, 1)
        return ids.to(x.device) if torch.is_tensor(x) else ids.cpu().numpy()

    def directions(self, x: torch.Tensor | np.ndarray, codebook: int, device: str | torch.device | None = None):
        """Tensor ``(N, P)`` float32 of what is compared with the codes of one codebook: projections of length 1."""
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise UserError(f"vectors of shape (N, {len(self.mean)}) are needed to be projected, got {tuple(x.shape)}")
        # In float64, rounded at the end: a product in float32 would depend on how many rows there are, and where.
        matrix = torch.from_numpy(self.projections[codebook].astype(np.float64) / self.scale[:, None])
        parts = []
        for first in range(0, len(x), ROWS_AT_ONCE):
            rows = to_vectors(x[first : first + ROWS_AT_ONCE], "euclidean", device, "units").double()
            projected = (rows - torch.from_numpy(self.mean).to(rows)) @ matrix.to(rows.device)
            parts.append(torch.nn.functional.normalize(projected, dim=1).float())
        return torch.cat(parts) if parts else torch.empty(0, matrix.shape[1])

    def save(self, path: str | Path) -> None:
        """Write one ``.npz``."""
        facts = json.dumps({"errors": self.errors, **self.facts}, ensure_ascii=False)
        names = dict(zip(("mean", "scale", "projections", "codes"), self.arrays, strict=True))
        with atomic_write(path, "wb") as file:
            np.savez(file, **names, facts=facts)

    @classmethod
    def load(cls, path: str | Path) -> "RandomProjection":
        """Read what ``save`` wrote; ``UserError`` where it is missing, broken or something else. No code is run."""
        try:
            with np.load(path, allow_pickle=False) as content:
                facts = json.loads(str(content["facts"]))
                arrays = [content[name] for name in ("mean", "scale", "projections", "codes")]
            return cls(*arrays, facts.pop("errors"), facts)
        except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, BadZipFile) as error:
            raise UserError(f"{path}: no random projection can be read there ({error}); fit it again") from None


def random_projection(
    x: np.ndarray,
    k: int,
    codebooks: int = 1,
    size: int = 16,
    seed: int | Sequence[int] = 0,
    device: str | torch.device | None = None,
) -> RandomProjection:
    """Draw ``codebooks`` of ``k`` codes of ``size`` numbers for rows as those of ``x (N, D)``, which are normalised.

    The paper's: every dimension of ``x`` has mean 0 and variance 1 (without it most rows meet a few codes), the
    projection is Xavier's uniform one, codes are normal and made 1 long; k 8192, size 16. Codebook i depends on the
    seed and i alone. ``errors`` and ``facts["unused"]``, codes without a row, are of the first 100,000 rows.
    """
    if codebooks < 1 or size < 2 or k < 2:
        raise UserError(f"random projection: {codebooks} codebooks of {k} codes of {size} numbers; ask for 1, 2, 2 up")
    mean, scale = _moments(x)
    projections, centroids = [], []
    for place in range(codebooks):
        rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), place])
        bound = (6 / (x.shape[1] + size)) ** 0.5
        projections.append(rng.uniform(-bound, bound, (x.shape[1], size)))
        codes = rng.standard_normal((k, size))
        centroids.append(codes / np.linalg.norm(codes, axis=1, keepdims=True))
    drawn = RandomProjection(mean, scale, np.stack(projections), np.stack(centroids))
    ids = drawn.assign(x[:MEASURED], device)
    for place, codes in enumerate(drawn.centroids):
        away = drawn.directions(x[:MEASURED], place).numpy() - codes[ids[:, place]]
        drawn.errors.append(float((away.astype(np.float64) ** 2).sum(1).mean()))
    drawn.facts["unused"] = [k - len(np.unique(column)) for column in ids.T]
    return drawn


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation ``(D,)`` of every column, the deviation 1 where a column is constant; in float64."""
    to_vectors(x[:1], "euclidean", what="random projection")
    parts = [x[first : first + ROWS_AT_ONCE] for first in range(0, len(x), ROWS_AT_ONCE)]
    mean = sum(part.sum(0, dtype=np.float64) for part in parts) / len(x)
    deviation = np.sqrt(sum(((part - mean) ** 2).sum(0) for part in parts) / len(x))
    # What float32 leaves of a constant is no variance; divided by it, it would outweigh everything else.
    return mean, np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
