"""The clusterings of the paper's comparison behind one call: k-means, AHC, both, spectral, HDBSCAN (arXiv 2409.10791).

``ahc``, ``spectral`` and ``hdbscan`` work on the vectors themselves or, as the paper's cascade, on the centroids of a
k-means that comes first (``num_kmeans``): every vector then goes where its centroid goes.
"""

from dataclasses import dataclass, field

import numpy as np

from espnet_ext.cluster.agglomerate import agglomerate
from espnet_ext.cluster.kmeans import KMeans, assign, kmeans
from espnet_ext.errors import UserError, check_choices

METHODS = ("kmeans", "ahc", "kmeans_ahc", "spectral", "hdbscan")
NOISE = -1


@dataclass
class Clustering:
    """Labels of N vectors, ``(N,)`` int64 from 0 (``NOISE``, -1, for what HDBSCAN leaves out), and what made them.

    centroids: ``(K, D)`` float32, the mean of every cluster's vectors (of length 1 under the cosine metric).
    fine: centroids ``(K1, D)`` of the k-means that came first, with ``fine_labels`` ``(K1,)``, the cluster of each.
    """

    labels: np.ndarray
    centroids: np.ndarray
    metric: str
    inertia: float | None = None
    history: list[float] = field(default_factory=list)
    fine: np.ndarray | None = None
    fine_labels: np.ndarray | None = None

    def assign(self, vectors: np.ndarray, device=None) -> np.ndarray:
        """Clusters of new vectors: that of the nearest centroid, in a cascade of the nearest one of its first step."""
        if self.fine is None:
            return assign(vectors, self.centroids, self.metric, device)
        return self.fine_labels[assign(vectors, self.fine, self.metric, device)]


def cluster(
    x: np.ndarray,
    method: str = "kmeans_ahc",
    k: int | None = None,
    num_kmeans: int = 0,
    metric: str = "cosine",
    linkage: str = "ward",
    weighted: bool = False,
    min_size: int = 5,
    seed: int = 0,
    device: str | None = None,
    **kmeans_options,
) -> Clustering:
    """Cluster the rows of ``x (N, D)`` by one of ``METHODS``.

    Args:
        k: clusters; None for ``hdbscan``, which finds the number itself.
        num_kmeans: first k-means to this many centroids and cluster those (needed by ``kmeans_ahc``); 0: the vectors.
        linkage, weighted: of ``ahc``; weighted counts a centroid as often as it has vectors (the paper's code: once).
        min_size: smallest cluster of ``hdbscan``.
        kmeans_options: iterations, restarts, batch_size of the k-means.
    """
    check_choices("clustering", ("method", method, METHODS), ("metric", metric, ("cosine", "euclidean")))
    if method != "hdbscan" and k is None:
        raise UserError(f"clustering: {method} needs a number of clusters")
    options = {"metric": metric, "seed": seed, "device": device} | kmeans_options
    if method == "kmeans":
        found = kmeans(x, k, **options)
        return Clustering(found.labels, found.centroids, metric, found.inertia, found.history)
    if method == "kmeans_ahc" and num_kmeans <= 0:
        raise UserError("clustering: kmeans_ahc needs --num_kmeans, the centroids that are merged (about N / 20)")
    if num_kmeans > 0 and k is not None and num_kmeans < k:
        raise UserError(f"clustering: {num_kmeans} k-means centroids cannot become {k} clusters; raise --num_kmeans")
    first = kmeans(x, num_kmeans, **options) if num_kmeans > 0 else None
    return _second_step(x, first, method, k, metric, linkage, weighted, min_size, seed, device)


def _second_step(
    x: np.ndarray,
    first: KMeans | None,
    method: str,
    k: int | None,
    metric: str,
    linkage: str,
    weighted: bool,
    min_size: int,
    seed: int,
    device: str | None,
) -> Clustering:
    """Cluster the centroids of ``first``, or the vectors where it is None, and give the vectors their clusters."""
    points = x if first is None else first.centroids
    if metric == "cosine":
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
    if method in ("ahc", "kmeans_ahc"):
        sizes = np.bincount(first.labels, minlength=len(points)).clip(1) if weighted and first is not None else None
        labels = agglomerate(points, k, linkage, sizes, device)
    elif method == "spectral":
        labels = spectral(points, k, seed=seed)
    else:
        labels = hdbscan(points, min_size)
    every = labels if first is None else labels[first.labels]
    centroids = means(x, every, metric)
    if first is None:
        return Clustering(every, centroids, metric)
    return Clustering(every, centroids, metric, first.inertia, first.history, first.centroids, labels)


def spectral(x: np.ndarray, k: int, neighbours: int = 10, seed: int = 0) -> np.ndarray:
    """Spectral clustering of the graph of nearest neighbours, by scikit-learn; ``(N,)`` labels from 0."""
    from sklearn.cluster import SpectralClustering

    if not 1 < k < len(x):
        raise UserError(f"spectral clustering: {k} clusters from {len(x)} vectors; ask for 2 to {len(x) - 1} clusters")
    model = SpectralClustering(
        k, affinity="nearest_neighbors", n_neighbors=min(neighbours, len(x) - 1), random_state=seed, n_init=3
    )
    return _quietly(model.fit_predict, x).astype(np.int64)


def hdbscan(x: np.ndarray, min_size: int = 5) -> np.ndarray:
    """HDBSCAN by scikit-learn: ``(N,)`` labels from 0, ``NOISE`` for vectors in no cluster of ``min_size`` or more."""
    from sklearn.cluster import HDBSCAN

    if not 2 <= min_size <= len(x):
        raise UserError(f"HDBSCAN: clusters of {min_size} or more of {len(x)} vectors; ask for 2 to {len(x)}")
    labels = HDBSCAN(min_cluster_size=min_size, copy=True).fit_predict(x).astype(np.int64)
    if (labels == NOISE).all():
        raise UserError(f"HDBSCAN: no cluster of {min_size} or more vectors stands out; lower --min_size")
    return labels


def means(x: np.ndarray, labels: np.ndarray, metric: str) -> np.ndarray:
    """Means of the vectors of every label 0 … K - 1, float32 ``(K, D)``, of length 1 under the cosine metric."""
    from scipy.sparse import csr_array

    inside = np.flatnonzero(labels != NOISE)
    k = int(labels.max()) + 1
    member = csr_array((np.ones(len(inside)), (labels[inside], inside)), shape=(k, len(x)))
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    sums = member @ x
    scale = np.linalg.norm(sums, axis=1) if metric == "cosine" else member.sum(1)
    return (sums / np.where(scale > 0, scale, 1)[:, None]).astype(np.float32)


def _quietly(function, *arguments):
    """Without scikit-learn's remark that the graph has several parts: in clustered data it has."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        return function(*arguments)
