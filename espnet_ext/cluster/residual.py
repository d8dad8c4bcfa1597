"""Residual k-means (RVQ): each level clusters what the levels before it leave over; kept as one file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from espnet_ext.cluster.kmeans import kmeans
from espnet_ext.cluster.search import Search
from espnet_ext.cluster.vectors import ROWS_AT_ONCE, to_vectors
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write


@dataclass
class Codebook:
    """Centroids float32 ``(Q, k, D)`` of Q levels; one level is plain k-means.

    ``r_0 = x``, ``c_i = argmin_k |r_i - C_i[k]|^2``, ``r_(i+1) = r_i - C_i[c_i]`` (Euclidean).
    errors: mean ``|r_(i+1)|^2`` over the fitting set, level by level. facts: what else is kept with it (JSON).
    """

    centroids: np.ndarray
    errors: list[float] = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    def __post_init__(self):
        self.centroids = np.asarray(self.centroids, dtype=np.float32)
        if self.centroids.ndim == 2:  # a centre matrix as scikit-learn's cluster_centers_
            self.centroids = self.centroids[None]
        if self.centroids.ndim != 3 or not np.isfinite(self.centroids).all():
            raise UserError(f"a codebook is finite (levels, k, D); got shape {self.centroids.shape}")
        self._searches: dict[torch.device, list[Search]] = {}

    @property
    def levels(self) -> int:
        """Number of levels Q."""
        return len(self.centroids)

    def assign(self, x: torch.Tensor | np.ndarray, device: str | torch.device | None = None):
        """Ids ``(N, Q)`` int64 of the rows of ``x (N, D)``, tensor or array as ``x``, on its device.

        GPU, CPU and any chunks of ``x`` agree: see ``kmeans.assign``. N may be 0.
        """
        ids = [self._assign(part, device) for part in _parts(x, self.centroids.shape[2])]
        if not torch.is_tensor(x):
            return torch.cat(ids).cpu().numpy() if ids else np.empty((0, self.levels), dtype=np.int64)
        return torch.cat(ids).to(x.device) if ids else x.new_empty((0, self.levels), dtype=torch.int64)

    def _assign(self, x, device) -> torch.Tensor:
        rest = to_vectors(x, "euclidean", device, "units")
        if rest.device not in self._searches:
            books = torch.from_numpy(self.centroids).to(rest.device)
            self._searches[rest.device] = [Search(book) for book in books]
        columns = []
        for search in self._searches[rest.device]:
            columns.append(search.nearest(rest))
            if len(columns) < self.levels:
                rest = rest - search.centres[columns[-1]]
        return torch.stack(columns, 1)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Vectors float32 ``(N, D)``, the sums of the centroids of ``ids (N, Q')``, Q' <= Q levels."""
        out = np.zeros((len(ids), self.centroids.shape[2]), dtype=np.float32)
        for level in range(ids.shape[1]):
            out += self.centroids[level][ids[:, level]]
        return out

    def save(self, path: str | Path) -> None:
        """Write one ``.npz``: the first level as scikit-learn's ``cluster_centers_`` (k, D), and the rest."""
        facts = json.dumps({"errors": self.errors, **self.facts}, ensure_ascii=False)
        with atomic_write(path, "wb") as file:
            np.savez(file, cluster_centers_=self.centroids[0], residual_centers=self.centroids[1:], facts=facts)

    @classmethod
    def load(cls, path: str | Path) -> "Codebook":
        """Read what ``save`` wrote, or a centre matrix ``.npy`` (k, D) or (Q, k, D); no code is ever run.

        Raises:
            UserError: the file is missing, broken or no codebook.
        """
        try:
            content = np.load(path, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return cls(content)
            with content:
                facts = json.loads(str(content["facts"]))
                centroids = np.concatenate([content["cluster_centers_"][None], content["residual_centers"]])
            return cls(centroids, facts.pop("errors"), facts)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(f"{path}: no codebook can be read there ({error}); fit it again") from None


def residual_kmeans(x: torch.Tensor | np.ndarray, k: int, levels: int = 1, **options) -> Codebook:
    """Fit ``levels`` codebooks of ``k`` centroids to the rows of ``x (N, D)``, one after another.

    The error on ``x`` never rises with the levels. ``facts["unused"]``: centroids without a row, level by level, where
    fewer rows differ than there are centroids. options: those of ``kmeans`` (iterations, restarts, batch_size,
    seed, device, …); level i starts from ``seed + i``, so one level is exactly ``kmeans``.
    """
    if levels < 1:
        raise UserError(f"residual k-means: {levels} levels; ask for 1 or more")
    seed = options.pop("seed", 0)
    rest = to_vectors(x, "euclidean", options.pop("device", None), "residual k-means")
    books, errors, unused = [], [], []
    for level in range(levels):
        found = kmeans(rest, k, metric="euclidean", seed=seed + level, **options)
        books.append(found.centroids.cpu().numpy())
        errors.append(found.inertia / len(rest))
        unused.append(k - len(found.labels.unique()))
        if level + 1 < levels:
            rest = rest - found.centroids[found.labels]
    return Codebook(np.stack(books), errors, {"unused": unused})


def _parts(x, dim: int):
    """Parts of ``x`` whose conversion needs bounded memory."""
    if x.ndim != 2 or x.shape[1] != dim:
        raise UserError(f"vectors of shape (N, {dim}) are needed to meet this codebook, got {tuple(x.shape)}")
    return (x[first : first + ROWS_AT_ONCE] for first in range(0, len(x), ROWS_AT_ONCE))
