"""Train an i-vector extractor, a total variability matrix, on unlabelled speech.

espnet_ext train_ivector_extractor --data dump/train --ubm exp/ubm --out exp/ivector --dim 100
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.bin.train_ubm import add_jobs, run_job
from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="data directory (wav.scp, optional segments); no label is read")
    parser.add_argument("--ubm", required=True, help="folder that train_ubm wrote")
    parser.add_argument("--out", required=True, help="folder for ivector.npz")
    group = parser.add_argument_group("extractor")
    group.add_argument("--dim", type=int, default=100, help="size of an i-vector; Kaldi's VoxCeleb recipe has 400")
    group.add_argument("--iterations", type=int, default=10, help="EM iterations; Kaldi has 5")
    group.add_argument("--num_selected", type=int, default=0, help="Gaussians evaluated per frame; 0: all")
    group.add_argument("--min_posterior", type=float, default=0.025, help="smaller responsibilities are dropped")
    group.add_argument("--posterior_scale", type=float, default=0.1, help="weight of a frame; Kaldi: 1")
    group.add_argument("--max_utterances", type=int, default=100_000, help="only the longest so many; 0: all")
    group.add_argument("--start_scale", type=float, default=0.1, help="T's random start, in deviations of the features")
    group.add_argument("--update_covariances", choices=BOOL, default="true", help="train the covariances too")
    group.add_argument("--minimum_divergence", choices=BOOL, default="true", help="keep the factors' prior N(0, I)")
    group.add_argument("--variance_floor", type=float, default=1e-4, help="of the features' variance over the corpus")
    group.add_argument("--seed", type=int, default=0)
    add_jobs(parser)
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    log_to_screen()
    from dataclasses import fields

    from espnet_ext.datadir import DataDir
    from espnet_ext.ivector.training import ExtractorConfig, ExtractorJob
    from espnet_ext.ivector.ubm import FILE

    options = {field.name: getattr(args, field.name) for field in fields(ExtractorConfig)}
    config = ExtractorConfig(**{name: BOOL.get(value, value) for name, value in options.items()})
    ubm = Path(args.ubm) / FILE if not args.ubm.endswith(".npz") else Path(args.ubm)
    if not ubm.is_file():
        raise UserError(f"{ubm}: no such mixture; train_ubm makes it")
    data = DataDir(args.data, BOOL[args.allow_commands])
    run_job(args, ExtractorJob(data, ubm, Path(args.out), config, args.device, BOOL[args.skip_broken]))


if __name__ == "__main__":
    sys.exit(main())
