"""Mini-batch k-means (Sculley 2010), and k-means of a stream that is read once and never held."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from espnet_ext.cluster.search import Rows, Search
from espnet_ext.cluster.vectors import as_unit, sums_of, to_vectors
from espnet_ext.errors import UserError

SLACK = 0.02  # share of a batch's inertia that roundings may cost at most; see Search.nearest


class MiniBatch:
    """Centroids that are the mean of all vectors they ever got.

    Args:
        centres: ``(k, D)`` float32, the start. metric: ``cosine`` keeps them at length 1.
        shift: what is taken off every vector before it is compared, for small rounding; near their mean.
        counts: ``(k,)`` how many vectors stand behind the start; None: none, so a first vector replaces it.
    """

    def __init__(self, centres: torch.Tensor, metric: str, shift: torch.Tensor, counts: torch.Tensor | None = None):
        self.centres, self.metric, self.shift = centres, metric, shift
        self.means = (centres - shift).double()
        self.counts = self.means.new_zeros(len(centres)) if counts is None else counts.double()

    def step(self, rows: Rows) -> float:
        """Assign a batch and move the centroids; returns the batch's sum of squared distances before the move."""
        labels = Search(self.centres, self.shift).nearest(rows, slack=SLACK)
        shifted = self.centres - self.shift
        cost = float((rows.vectors - shifted[labels]).square_().sum(1).sum(dtype=torch.float64))
        sums, new = sums_of(rows.vectors, labels, len(shifted))
        self.counts += new
        self.means += (sums - new[:, None] * self.means) / self.counts.clamp(min=1)[:, None]
        self.centres = as_unit(self.means.float() + self.shift, self.metric)
        return cost


def kmeans_stream(
    chunks: Iterable[torch.Tensor | np.ndarray],
    k: int,
    metric: str = "euclidean",
    seed: int = 0,
    device: str | torch.device | None = None,
    start_rows: int | None = None,
    batch_size: int = 10_000,
) -> np.ndarray:
    """Centroids float32 ``(k, D)`` of all rows of ``chunks``, each ``(n, D)``, which are read once.

    The first ``start_rows`` (default: 128 k) are clustered by ``kmeans``; all later ones, in batches of one size
    whatever the chunks are, move the centroids as ``MiniBatch`` does. Shuffle the order of utterances beforehand: what
    comes first decides the start.
    """
    from espnet_ext.cluster.kmeans import kmeans

    start_rows = max(k, start_rows or 128 * k)
    batches = rebatch(chunks, start_rows, batch_size)
    first = next(batches, None)
    if first is None or len(first) < k:
        raise UserError(f"k-means: {k} clusters from {0 if first is None else len(first)} vectors; ask for fewer")
    first = to_vectors(first, metric, device, "k-means")
    found = kmeans(first, k, metric, seed=seed)
    shift = first.double().mean(0).float()
    state = MiniBatch(found.centroids, metric, shift, torch.bincount(found.labels, minlength=k))
    for batch in batches:
        data = to_vectors(batch, metric, device, "k-means")
        if data.shape[1] != first.shape[1]:
            raise UserError(f"k-means: vectors of size {data.shape[1]} after vectors of size {first.shape[1]}")
        state.step(Rows.of(data, shift))
    return state.centres.cpu().numpy()


def rebatch(chunks: Iterable, first: int, others: int) -> Iterator[torch.Tensor]:
    """Yield the rows of ``chunks`` in their order: ``first`` of them, then ``others`` at a time, in the end fewer."""
    held, rows, size = [], 0, first
    for chunk in chunks:
        chunk = torch.as_tensor(chunk)
        while len(chunk):
            part, chunk = chunk[: size - rows], chunk[size - rows :]
            held.append(part)
            rows += len(part)
            if rows == size:
                yield torch.cat(held)
                held, rows, size = [], 0, others
    if held:
        yield torch.cat(held)


def reservoir(chunks: Iterable[np.ndarray], most: int, seed: int = 0, fraction: float = 1.0) -> np.ndarray:
    """A sample of the rows of ``chunks``: each with probability ``fraction``, at most ``most``, all equally likely.

    One pass, memory for ``2 most`` rows at the worst. The same rows in other chunks give the same sample.
    """
    if most < 1 or not 0 < fraction <= 1:
        raise UserError(f"a sample of at most {most} rows and a share of {fraction}: ask for 1 or more, and 0 to 1")
    rng = np.random.default_rng(seed)
    keys, rows, held = [], [], 0
    limit = fraction  # a row has a random number; the smallest ``most`` below the fraction stay
    for chunk in chunks:
        key = rng.random(len(chunk))
        taken = key < limit
        if taken.any():
            keys.append(key[taken])
            rows.append(np.asarray(chunk)[taken])
            held += int(taken.sum())
        if held >= 2 * most:
            keys, rows = _smallest(keys, rows, most)
            held, limit = most, keys[0].max()
    if not rows:
        raise UserError("a sample of no rows: the stream is empty, or the share of it too small")
    return _smallest(keys, rows, most)[1][0]


def _smallest(keys: list, rows: list, most: int) -> tuple[list, list]:
    """The rows of the ``most`` smallest keys, in their order."""
    key, row = np.concatenate(keys), np.concatenate(rows)
    kept = np.sort(np.argsort(key, kind="stable")[:most])
    return [key[kept]], [row[kept]]
