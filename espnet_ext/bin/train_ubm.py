"""Train a universal background model, a mixture of full-covariance Gaussians, on unlabelled speech.

espnet_ext train_ubm --data dump/train --out exp/ubm --num_gaussians 128
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options, check_device, parse_shard


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="data directory (wav.scp, optional segments); no label is read")
    parser.add_argument("--out", required=True, help="folder for ubm.npz")
    group = parser.add_argument_group("mixture")
    group.add_argument("--num_gaussians", type=int, default=128, help="components; Kaldi's VoxCeleb recipe has 2048")
    group.add_argument("--init_iterations", type=int, default=20, help="EM iterations on the frames in memory")
    group.add_argument("--diagonal_iterations", type=int, default=4, help="EM iterations with diagonal covariances")
    group.add_argument("--full_iterations", type=int, default=4, help="EM iterations with full covariances; 0: none")
    group.add_argument("--num_selected", type=int, default=0, help="components evaluated per frame; 0: all")
    group.add_argument("--max_frames", type=int, default=10_000_000, help="every n-th frame, so that there are no more")
    group.add_argument("--init_frames", type=int, default=500_000, help="frames in memory for the start")
    group.add_argument("--variance_floor", type=float, default=1e-4, help="of the features' variance over the corpus")
    group.add_argument("--seed", type=int, default=0)
    _add_features(parser)
    add_jobs(parser)
    return parser


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Options of how, not what; with --shard a call does a job's share of the next step."""
    group = parser.add_argument_group("jobs")
    group.add_argument("--nj", type=int, default=1, help="processes on this machine")
    add_job_options(group)


def _add_features(parser: argparse.ArgumentParser) -> None:
    from espnet_ext.ivector.features import add_feature_options

    add_feature_options(parser)


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    log_to_screen()
    from dataclasses import fields

    from espnet_ext.datadir import DataDir
    from espnet_ext.ivector.features import features_from
    from espnet_ext.ivector.ubm import UbmConfig, UbmJob

    config = UbmConfig(**{field.name: getattr(args, field.name) for field in fields(UbmConfig)})
    data = DataDir(args.data, BOOL[args.allow_commands])
    run_job(args, UbmJob(data, Path(args.out), config, features_from(args), args.device, BOOL[args.skip_broken]))


def run_job(args: argparse.Namespace, job) -> None:
    """Run a training's steps as ``add_jobs`` asks for, and print the result's path once it is there."""
    from espnet_ext.ivector.rounds import run

    shard = parse_shard(args.shard)
    check_device(args.device)
    if args.nj < 1 or (args.nj > 1 and shard[1] > 1):
        raise UserError("--nj must be at least 1, and 1 where --shard shares the work out already")
    result = run(job, shard, args.nj)
    if result is not None:
        print(result)


if __name__ == "__main__":
    sys.exit(main())
