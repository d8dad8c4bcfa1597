"""Cluster the embeddings of utterances without labels: k-means, agglomerative, both, spectral or HDBSCAN.

espnet_ext cluster --embeddings exp/ivector/embeddings/train/embedding.scp --out exp/ipl/r1/clusters \\
    --method kmeans_ahc --num_kmeans 50000 --num_clusters 7500

Writes utt2cluster (a Kaldi table, clusters are numbers from 0), centroids.npy (row = cluster), transform.npz (what new
embeddings go through) and cluster.json (settings, sizes, inertia, seconds). The same command given again does nothing.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options, check_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--embeddings", required=True, nargs="+", metavar="SCP", help="embedding.scp of one or several sets")
    add("--out", required=True, type=Path, help="folder for utt2cluster, centroids.npy, transform.npz, cluster.json")
    add("--assign", type=Path, metavar="DIR", help="no clustering: write utt2cluster by the clusters of this --out")
    add("--method", default="kmeans", choices=["kmeans", "ahc", "kmeans_ahc", "spectral", "hdbscan"])
    add("--num_clusters", type=int, help="clusters (hdbscan finds its own number)")
    add("--num_kmeans", type=int, default=0, help="first k-means to so many centroids, and cluster those; 0: not")
    add("--metric", default="cosine", choices=["cosine", "euclidean"], help="of k-means and of the saved centroids")
    add("--linkage", default="ward", choices=["ward", "average"], help="of ahc; average: cosine (default: ward)")
    add("--weighted", default="false", choices=BOOL, help="true: a centroid counts as its utterances (paper: once)")
    add("--min_size", type=int, default=5, help="smallest cluster of hdbscan; the others' utterances are left out")
    add("--center", default="true", choices=BOOL, help="take the mean of these embeddings off (default: true)")
    add("--whiten", type=int, default=0, help="PCA-whiten to so many directions; 0: not (default: 0)")
    add("--length_norm", default="true", choices=BOOL, help="bring every embedding to length 1 (default: true)")
    add("--iterations", type=int, default=50, help="of k-means, at most (default: 50)")
    add("--restarts", type=int, default=1, help="starts of k-means; the best is kept (default: 1)")
    add("--batch_size", type=int, default=0, help="mini-batch k-means with so many vectors; 0: all (default: 0)")
    add("--seed", type=int, default=0, help="(default: 0)")
    add_job_options(parser, "device")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    start = time.perf_counter()
    args = get_parser().parse_args(argv)
    log_to_screen()
    for option in ("num_clusters", "iterations", "restarts", "min_size"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            raise UserError(f"--{option} must be 1 or more, got {getattr(args, option)}")
    for option in ("num_kmeans", "whiten", "batch_size"):
        if getattr(args, option) < 0:
            raise UserError(f"--{option} must not be negative, got {getattr(args, option)}")
    if not args.assign and (args.method == "hdbscan") != (args.num_clusters is None):
        raise UserError(f"--method {args.method} " + ("finds its own" if args.num_clusters else "needs --num_clusters"))

    from espnet_ext.cluster import store
    from espnet_ext.files import only_writer
    from espnet_ext.spk.embeddings import EmbeddingTable

    if check_device(args.device) == "mps":
        raise UserError("--device mps has no float64, which the clustering needs; use --device cpu")
    table = EmbeddingTable.read(*args.embeddings)
    vectors = one_vector_each(table.vectors)
    with only_writer(args.out):
        if args.assign:
            assign_new(args, table, vectors)
            return
        settings = settings_of(args, table.utterances, vectors)
        report = store.finished(args.out, settings)
        if report is None:
            report = run(args, settings, table.utterances, vectors, start)
        else:
            logging.info(f"{args.out} holds this clustering already")
    kept = report["num_utterances"] - report["in_no_cluster"]
    print(
        f"{args.out / 'utt2cluster'}: {report['num_clusters']} clusters of {kept:,} utterances, "
        f"{report['smallest']} to {report['largest']} in one (median {report['median']:g})"
    )


def one_vector_each(vectors):
    """One vector per utterance: the mean of its crops, each of length 1."""
    import numpy as np

    if vectors.shape[1] == 1:
        return vectors[:, 0]
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).mean(1)


def settings_of(args, utterances, vectors) -> dict:
    """What decides the result: the options and a checksum of the input."""
    import hashlib

    sha = hashlib.sha256("\n".join(utterances).encode())
    sha.update(repr(vectors.shape).encode())
    sha.update(vectors.data if vectors.flags.c_contiguous else vectors.tobytes())
    left_out = ("out", "assign", "embeddings", "device")
    return {name: value for name, value in vars(args).items() if name not in left_out} | {"input": sha.hexdigest()}


def run(args, settings, utterances, vectors, start) -> dict:
    """Cluster and write."""
    import numpy as np

    from espnet_ext.cluster import store
    from espnet_ext.cluster.methods import cluster
    from espnet_ext.cluster.transform import Transform

    where = ", ".join(args.embeddings)
    needed = max(args.num_clusters or args.min_size, args.num_kmeans)
    if needed > len(utterances):
        raise UserError(f"{where}: {len(utterances)} utterances cannot make {needed} clusters; ask for fewer")
    if len(utterances) < 2 and BOOL[args.center]:
        raise UserError(f"{where}: one utterance less its own mean is nothing; give more, or --center false")
    transform = Transform.fit(vectors, BOOL[args.center], args.whiten, BOOL[args.length_norm], where)
    vectors = transform(vectors)
    on_mean = np.flatnonzero(~vectors.any(1))
    if len(on_mean):
        raise UserError(
            f"{where}: the embedding of {utterances[on_mean[0]]!r} equals the mean of all ({len(on_mean)} such), so it "
            "has no direction; are all embeddings the same? --center false keeps them as they are"
        )
    found = cluster(
        vectors,
        args.method,
        args.num_clusters,
        args.num_kmeans,
        args.metric,
        args.linkage,
        BOOL[args.weighted],
        args.min_size,
        args.seed,
        args.device,
        iterations=args.iterations,
        restarts=args.restarts,
        batch_size=args.batch_size or None,
    )
    facts = {"device": args.device, "embeddings": args.embeddings, "seconds": round(time.perf_counter() - start, 2)}
    return store.save(args.out, utterances, found, transform, settings, facts)


def assign_new(args, table, vectors) -> None:
    """Give new utterances the clusters of an earlier run."""
    from espnet_ext.cluster import store

    found, transform = store.load(args.assign)
    if vectors.shape[1] != len(transform.mean):
        raise UserError(
            f"{table.where}: embeddings of size {vectors.shape[1]}, {args.assign} was made from size "
            f"{len(transform.mean)}; embed both with the same model"
        )
    labels = found.assign(transform(vectors), args.device)
    store.write_labels(args.out, table.utterances, labels)
    print(f"{args.out / 'utt2cluster'}: {len(labels):,} utterances in the clusters of {args.assign}")


if __name__ == "__main__":
    sys.exit(main())
