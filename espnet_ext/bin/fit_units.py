"""Fit the centroids that turn speech into units: k-means on cepstra, log-mel energies, or layers of an encoder.

Or draw them: random projections with random codebooks (BEST-RQ, arXiv 2202.01855), the features normalised.

espnet_ext fit_units --data dump/train --features mfcc --num_units 100 --out exp/it1/centroids
espnet_ext fit_units --data dump/train --features exp/it1/train/hf --layers 6 --num_units 500 --out exp/it2/centroids
espnet_ext fit_units --data dump/train --features logmel:2 --quantizer random_projection --num_units 8192 --out exp/rq

The same command given again does nothing, as long as audio and encoder are the same.
"""

import argparse
import sys

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options, check_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data directory (wav.scp, optional segments)")
    parser.add_argument(
        "--features",
        required=True,
        help="mfcc, logmel, logmel:2 (two frames as one: 50 Hz), or an encoder: hf:FOLDER, torchaudio:NAME, …",
    )
    parser.add_argument("--layers", type=int, nargs="*", default=[], help="layers of the encoder, a stream for each")
    parser.add_argument("--num_units", type=int, nargs="+", required=True, help="units, for all layers or for each")
    parser.add_argument(
        "--quantizer", choices=["kmeans", "random_projection"], default="kmeans", help="how frames become units"
    )
    parser.add_argument(
        "--levels", type=int, default=1, help="levels of residual k-means, or random codebooks, a stream for each"
    )
    parser.add_argument(
        "--projection_size", type=int, default=16, help="numbers that a random projection leaves of a frame"
    )
    parser.add_argument(
        "--max_frames", type=int, default=500_000, help="fit to this many, of randomly drawn utterances"
    )
    parser.add_argument("--iterations", type=int, default=50, help="steps of k-means at most")
    parser.add_argument("--restarts", type=int, default=1, help="k-means runs, of which the best is kept")
    parser.add_argument("--seed", type=int, default=0, help="of the utterances, of k-means and random draws")
    parser.add_argument("--out", required=True, help="folder for quantizer.json and a .npz per layer")
    parser.add_argument("--max_batch_s", type=float, default=60.0, help="seconds of padded audio per batch")
    add_job_options(parser, "device", "allow_commands")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    log_to_screen()
    for name in ("levels", "max_frames", "iterations", "restarts", "max_batch_s"):
        if getattr(args, name) <= 0:
            raise UserError(f"--{name} must be above 0")
    if args.projection_size < 2:
        raise UserError("--projection_size must be 2 or more: of one number nothing but its sign would be told")
    from espnet_ext.datadir import DataDir
    from espnet_ext.files import only_writer
    from espnet_ext.inference.units import UnitFit

    fit = UnitFit(
        DataDir(args.data, BOOL[args.allow_commands]), args.features, tuple(args.layers), tuple(args.num_units),
        args.levels, args.max_frames, args.seed, args.iterations, args.restarts, args.quantizer, args.projection_size,
    )  # fmt: skip
    with only_writer(args.out):
        quantizer = fit.finished(args.out)
        if quantizer is None:
            quantizer = fit.run(args.out, check_device(args.device), args.max_batch_s)
    names = ", ".join(f"{stream.name} ({stream.num_units})" for stream in quantizer.streams)
    print(f"{args.out}: {names}, {quantizer.rate_hz:g} Hz")


if __name__ == "__main__":
    sys.exit(main())
