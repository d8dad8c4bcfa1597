"""Choose the number of clusters without labels: the one on which clusterings of random shares agree best.

espnet_ext choose_clusters --embeddings exp/ipl/r0/embeddings/train/embedding.scp --candidates 2500 5000 7500 \\
    --num_kmeans 50000 --out exp/ipl/r1/num_clusters

Writes the number to --out, and the agreement of every candidate (NMI above chance) beside it, as --out.json.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.options import add_job_options


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--embeddings", required=True, nargs="+", metavar="SCP", help="embedding.scp of one or several sets")
    add("--candidates", required=True, nargs="+", type=int, metavar="K", help="numbers of clusters to choose from")
    add("--out", required=True, type=Path, help="file for the chosen number")
    add("--method", default="kmeans_ahc", choices=["kmeans", "ahc", "kmeans_ahc", "spectral"])
    add("--num_kmeans", type=int, default=0, help="first k-means to so many centroids, as in cluster; 0: not")
    add("--share", type=float, default=0.8, help="of the utterances that each seed clusters (default: .8)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add_job_options(parser, "device")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    if min(args.candidates) < 2 or not 0 < args.share <= 1:
        raise UserError("--candidates have to be 2 or more, --share above 0 and at most 1")
    from espnet_ext.cluster.transform import Transform
    from espnet_ext.files import atomic_write
    from espnet_ext.spk.embeddings import EmbeddingTable
    from espnet_ext.spk.ipl_choose import seed_agreement

    table = EmbeddingTable.read(*args.embeddings)
    vectors = Transform.fit(table.vectors.mean(1), center=True, whiten=0, length_norm=True)(table.vectors.mean(1))
    kept = args.out.with_name(args.out.name + ".json")
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "device", "embeddings")}
    settings["input"] = hashlib.sha256(vectors.tobytes()).hexdigest()
    if kept.is_file() and args.out.is_file() and json.loads(kept.read_text(encoding="utf-8"))["settings"] == settings:
        print(f"{args.out}: chosen before")
        return
    try:
        found = seed_agreement(
            vectors, args.candidates, args.method, args.num_kmeans, args.seeds, args.share, device=args.device
        )
    except UserError as error:
        raise UserError(f"{table.where}: {error}") from None
    best = max(found, key=found.get)
    with atomic_write(kept) as file:
        json.dump({"num_clusters": best, "agreement": found, "settings": settings}, file, indent=1)
        file.write("\n")
    with atomic_write(args.out) as file:
        file.write(f"{best}\n")
    told = ", ".join(f"{k}: {value:.3f}" for k, value in found.items())
    print(f"{best} clusters; agreement between seeds above chance {told}")


if __name__ == "__main__":
    sys.exit(main())
