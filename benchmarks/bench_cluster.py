"""k-means of embeddings and of frames against scikit-learn, agglomeration against scipy and the paper's cascade sizes.

Every peer does the same work on the same vectors in a fresh process with the same threads. k-means is compared by time
to equal inertia: ours runs as it is called by default, and its time is that of its first iteration whose inertia is not
above the peer's final one; the note says by how much the inertias differ in the end.

- embeddings: unit vectors of speakers with spread around each (five speakers per cluster, so no clustering is exact).
- frames: 768-d with strong correlations, as layers of HuBERT have; MiniBatchKMeans with fairseq's settings
  (examples/hubert/simple_kmeans: batch 10,000, at most 100 passes, tol 0, 100 steps without gain, 20 starts).

``CLUSTER_SCALE=0.1 python benchmarks/run.py bench_cluster`` runs a tenth of everything.
"""

import os

import numpy as np
from common import Row, measure

SCALE = float(os.environ.get("CLUSTER_SCALE", 1))
EMBEDDINGS = {"num": int(500_000 * SCALE), "dim": 192, "k": int(1000 * SCALE)}
FRAMES = {"num": int(500_000 * SCALE), "dim": 768, "k": int(500 * SCALE)}
AHC_PEER = {"num": int(20_000 * SCALE), "dim": 192, "k": int(3000 * SCALE)}  # scipy's table of 20,000: 1.6 GB
AHC_PAPER = {"num": int(50_000 * SCALE), "dim": 192, "k": int(7500 * SCALE)}
FAIRSEQ = {
    "init": "k-means++", "max_iter": 100, "batch_size": 10_000, "tol": 0.0, "max_no_improvement": 100,
    "n_init": 20, "reassignment_ratio": 0.0, "compute_labels": False,
}  # fmt: skip


def make_embeddings(num: int, dim: int, k: int) -> np.ndarray:
    """Unit vectors ``(num, dim)`` of ``5 k`` speakers."""
    rng = np.random.default_rng(0)
    speakers = rng.normal(size=(5 * k, dim)).astype(np.float32)
    x = speakers[rng.integers(5 * k, size=num)]
    x += 0.7 * rng.standard_normal(size=(num, dim), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make_frames(num: int, dim: int, k: int) -> np.ndarray:
    """Frames ``(num, dim)`` around ``2 k`` units of unequal frequency, with variances that fall as 1 / direction."""
    rng = np.random.default_rng(0)
    strength = (1 / np.sqrt(np.arange(1, dim + 1))).astype(np.float32)
    units = rng.standard_normal(size=(2 * k, dim), dtype=np.float32) * strength
    frequency = rng.gamma(0.5, size=2 * k)
    x = rng.standard_normal(size=(num, dim), dtype=np.float32)
    x *= 0.8 * strength
    x += units[rng.choice(2 * k, size=num, p=frequency / frequency.sum())]
    return x


def data(name: str, size: dict) -> np.ndarray:
    return {"embeddings": make_embeddings, "frames": make_frames}[name](**size)


def timed(function):
    """Seconds and result of one call, without making its input."""
    import time

    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def our_kmeans(name: str, size: dict):
    from espnet_ext.cluster.kmeans import kmeans

    x = data(name, size)
    seconds, found = timed(lambda: kmeans(x, size["k"], "euclidean", iterations=100))
    return {"seconds": seconds, "inertia": found.inertia, "history": found.history, "times": found.seconds}


def peer_kmeans(name: str, size: dict):
    from sklearn.cluster import KMeans

    x = data(name, size)
    seconds, found = timed(lambda: KMeans(size["k"], n_init=1, random_state=0).fit(x))
    return {"seconds": seconds, "inertia": exact_inertia(x, found.cluster_centers_), "steps": found.n_iter_}


def peer_mini_batch(name: str, size: dict, **options):
    from sklearn.cluster import MiniBatchKMeans

    x = data(name, size)
    seconds, found = timed(lambda: MiniBatchKMeans(size["k"], random_state=0, **options).fit(x))
    return {"seconds": seconds, "inertia": exact_inertia(x, found.cluster_centers_), "steps": found.n_steps_}


def exact_inertia(x: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of squared distances, by numpy in float64."""
    total = 0.0
    for part in np.array_split(x, max(1, len(x) // 8192)):
        table = (centroids**2).sum(1) - 2 * part @ centroids.T
        total += float(((part - centroids[table.argmin(1)]) ** 2).sum(dtype=np.float64))
    return total


def compared(question: str, ours: dict, peer: dict) -> Row:
    """Time to equal inertia; the whole time of ours where it never was as low."""
    reached = [when for when, value in zip(ours["times"], ours["history"], strict=True) if value <= peer["inertia"]]
    more = 100 * (ours["inertia"] / peer["inertia"] - 1)
    took = reached[0] if reached else ours["seconds"]
    note = f"to equal inertia; ours ends {more:+.2f} % after {ours['seconds']:.3g} s"
    if not reached and more > 0:
        note = f"equal inertia not reached: ours ends {more:+.2f} %"
    return Row(question, took, peer["seconds"], note=note)


def our_agglomeration(size: dict):
    from espnet_ext.cluster.agglomerate import agglomerate

    x = make_embeddings(**size)
    seconds, labels = timed(lambda: agglomerate(x, size["k"]))
    return {"seconds": seconds, "labels": labels.tolist()}


def peer_agglomeration(size: dict):
    from scipy.cluster.hierarchy import fcluster, linkage

    x = make_embeddings(**size)
    seconds, labels = timed(lambda: fcluster(linkage(x, "ward"), size["k"], "maxclust"))
    return {"seconds": seconds, "labels": labels.tolist()}


def call(function: str, **arguments):
    """One measured process: its own result, with the peak of its memory."""
    found = measure(f"{__file__}:{function}", **arguments)
    return found.result | {"peak_mb": found.peak_mb}


def main() -> list[Row]:
    def title(size):
        return f"{size['num']:,} x {size['dim']} -> {size['k']:,}"

    rows = []
    ours = call("our_kmeans", name="embeddings", size=EMBEDDINGS)
    peer = call("peer_kmeans", name="embeddings", size=EMBEDDINGS)
    batch = call("peer_mini_batch", name="embeddings", size=EMBEDDINGS, n_init=1)
    what = f"k-means {title(EMBEDDINGS)}"
    rows.append(compared(f"{what}, scikit-learn KMeans", ours, peer))
    rows.append(compared(f"{what}, MiniBatchKMeans", ours, batch))
    rows.append(Row(f"{what}, peak memory", ours["peak_mb"], peer["peak_mb"], unit="MB"))
    ours = call("our_kmeans", name="frames", size=FRAMES)
    peer = call("peer_mini_batch", name="frames", size=FRAMES, **FAIRSEQ)
    rows.append(compared(f"units {title(FRAMES)}, MiniBatchKMeans as fairseq", ours, peer))
    rows.append(Row(f"units {title(FRAMES)}, peak memory", ours["peak_mb"], peer["peak_mb"], unit="MB"))
    ours, peer = call("our_agglomeration", size=AHC_PEER), call("peer_agglomeration", size=AHC_PEER)
    pairs = len(set(zip(ours["labels"], peer["labels"], strict=True)))
    note = "the same clusters" if pairs == AHC_PEER["k"] else f"{pairs - AHC_PEER['k']} clusters differ"
    rows.append(Row(f"Ward {title(AHC_PEER)}, scipy", ours["seconds"], peer["seconds"], note=note))
    rows.append(Row(f"Ward {title(AHC_PEER)}, peak memory", ours["peak_mb"], peer["peak_mb"], unit="MB"))
    ours = call("our_agglomeration", size=AHC_PAPER)
    distances_gb = 8e-9 * AHC_PAPER["num"] ** 2 / 2
    note = f"scipy would need a table of {distances_gb:.2g} GB"
    rows.append(Row(f"Ward {title(AHC_PAPER)}", ours["seconds"], None, note=note))
    rows.append(Row(f"Ward {title(AHC_PAPER)}, peak memory", ours["peak_mb"], None, unit="MB"))
    return rows


if __name__ == "__main__":
    for row in main():
        print(row, row.ratio)
