"""Effective rank of every layer of encoders or checkpoints from unlabelled audio (RankMe-t): a table and a curve.

espnet_ext rank --checkpoints exp/ssl_train_hubert/it1/model --data dump/dev --out exp/rank
espnet_ext rank --checkpoints hf:facebook/hubert-base-ls960 --data in=dump/dev out=dump/other --out exp/rank
"""

import argparse
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options, check_device, parse_layers


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, help="folder for RESULTS.md, rank.csv, rank.png, …")
    parser.add_argument(
        "--frames", choices=BOOL, default="false", help="true: the effective rank of all frames as well"
    )
    parser.add_argument(
        "--num_clusters", type=int, default=0, help="of k-means, for inertia and Davies–Bouldin; 0: none (default: 0)"
    )
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every command about rank has."""
    add = parser.add_argument
    add("--checkpoints", nargs="+", required=True, metavar="SPEC", help="encoders: hf:FOLDER_OR_ID, torchaudio:NAME, "
        "s3prl:NAME, a checkpoint file, the folder of a training of task ssl (its random initialisation and every "
        "checkpoint in it), or init:SPEC (that shape with random weights)")  # fmt: skip
    add("--data", nargs="+", required=True, metavar="[NAME=]DIR", help="data directories without labels, a list each")
    add("--utt_list", help="file with the utterances of --data to take, an id per line (default: all)")
    add("--num_utterances", type=int, default=10_000, help="per list, evenly spread; ranks compare only where it is "
        "the same (default: 10000)")  # fmt: skip
    add("--max_s", type=float, default=20.0, help="longer utterances give their beginning, seconds (default: 20)")
    add("--layers", help="only these, for example 0,4,-1 (default: all)")
    add("--pool", choices=["sum", "mean"], default="sum", help="over time (default: sum, the paper's)")
    add("--eps", type=float, default=1e-7, help="added to each share of the singular values (default: 1e-7)")
    add("--max_batch_s", type=float, default=30.0, help="seconds of padded audio per batch (default: 30)")
    add("--seed", type=int, default=0, help="of random weights and k-means (default: 0)")
    add_job_options(parser, "device", "skip_broken", "allow_commands")


def read_options(args: argparse.Namespace):
    """Return checkpoints, lists, settings and device of ``add_arguments``."""
    if args.num_utterances < 2 or not (args.max_s > 0 and args.max_batch_s > 0 and args.eps >= 0):
        raise UserError("--num_utterances must be at least 2, --max_s and --max_batch_s above 0, --eps not below 0")
    layers = parse_layers(args.layers)
    from espnet_ext.datadir import DataDir
    from espnet_ext.inference.checkpoints import find_checkpoints
    from espnet_ext.inference.rank import RankSettings
    from espnet_ext.train.rank_list import RankList, read_ids

    device = check_device(args.device)
    named = [_named(text) for text in args.data]
    if len({name for name, _ in named}) < len(named):
        raise UserError("--data: two lists have the same name; give NAME=DIR")
    if args.utt_list and len(named) > 1:
        raise UserError("--utt_list goes with one --data directory")
    ids = read_ids(args.utt_list) if args.utt_list else None
    lists = [
        RankList(
            DataDir(path, BOOL[args.allow_commands]), name, ids, args.num_utterances, args.max_s,
            skip_broken=BOOL[args.skip_broken],
        )
        for name, path in named
    ]  # fmt: skip
    settings = RankSettings(
        args.pool, args.eps, layers, BOOL[getattr(args, "frames", "false")], getattr(args, "num_clusters", 0),
        args.seed, args.max_batch_s,
    )  # fmt: skip
    return find_checkpoints(args.checkpoints), lists, settings, device


def _named(text: str) -> tuple[str, str]:
    name, found, path = text.partition("=")
    if not found or "/" in name:
        path = text
        name = Path(path).resolve().name
    return name, path


@cli
def main(argv=None):
    """Run the command."""
    start = time.perf_counter()
    args = get_parser().parse_args(argv)
    log_to_screen()
    if args.num_clusters < 0 or args.num_clusters == 1:
        raise UserError("--num_clusters has to be 0 or at least 2")
    checkpoints, lists, settings, device = read_options(args)
    from espnet_ext.files import only_writer
    from espnet_ext.inference.rank import rank_rows
    from espnet_ext.inference.rank_report import write_report
    from espnet_ext.metrics.report import run_info

    with only_writer(args.out):
        rows = rank_rows(checkpoints, lists, settings, device, args.out)
        info = run_info(args.seed, pool=args.pool, eps=args.eps, wall_time_s=round(time.perf_counter() - start, 1))
        print(write_report(args.out, rows, lists, settings, info))


if __name__ == "__main__":
    sys.exit(main())
