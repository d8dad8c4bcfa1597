"""Report of iterative pseudo-labelling: EER of every round, agreement of its labels, RESULTS.md and a picture.

espnet_ext ipl_report --exp exp/ipl --train train_unlabelled --test test dump/test/trials --speakers data/train/utt2spk
"""

import argparse
import json
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--exp", required=True, type=Path, help="folder of r0, r1, …; RESULTS.md, results.json and rounds.png go there")
    add_sets(parser)
    add("--speakers", type=Path, help="utt2spk of the unlabelled set, if known, for the oracle columns")
    add(
        "--floor",
        action="append",
        nargs="+",
        default=[],
        metavar="NAME EMBEDDING_SCP",
        help="a row to compare with: vectors of the test utterances, and of others, which standardise the dimensions",
    )
    add("--num_bootstrap", type=int, default=200, help="speaker resamplings for intervals; 0: none (default: 200)")
    add("--seed", type=int, default=0, help="of the resampling (default: 0)")
    add("--config", help="training config, for the report")
    add("--info", action="append", default=[], metavar="KEY=VALUE", help="one more fact for the report; repeatable")
    return parser


def add_sets(parser: argparse.ArgumentParser) -> None:
    """The options of what rounds are measured on; ``read_sets`` reads --test."""
    add = parser.add_argument
    add("--train", required=True, help="name of the unlabelled set, whose mean is taken off")
    add(
        "--test",
        required=True,
        action="append",
        nargs="+",
        metavar="NAME TRIALS",
        help="a test set: its name and its trial files (trials or trials.<condition>); may be repeated",
    )
    add("--rate_hz", type=int, default=16000, help="sampling rate that utt2num_samples counts (default: 16000)")


def read_sets(args: argparse.Namespace) -> dict[str, list[str]]:
    """Trial files of every test set."""
    if any(len(words) < 2 for words in args.test):
        raise UserError("--test needs a name and at least one trial file")
    return {name: trials for name, *trials in args.test}


@cli
def main(argv=None):
    """Run the command."""
    start = time.perf_counter()
    args = get_parser().parse_args(argv)
    sets = read_sets(args)
    if any(len(words) < 2 for words in args.floor):
        raise UserError("--floor needs a name and at least one file")
    from espnet_ext.metrics.report import run_info
    from espnet_ext.spk import ipl_report

    tests = ipl_report.Yardstick(sets, args.train, args.speakers, args.rate_hz, args.num_bootstrap, args.seed)
    rows = [ipl_report.report_round(name, folder, tests) for name, folder in ipl_report.find_rounds(args.exp, tests)]
    floors = [ipl_report.report_floor(name, files, args.exp, tests) for name, *files in args.floor]
    info = run_info(args.seed, args.config, **dict(item.partition("=")[::2] for item in args.info))
    if (args.exp / "settings.json").is_file():
        settings = json.loads((args.exp / "settings.json").read_text(encoding="utf-8"))
        info["settings"] = {name: value for name, value in settings.items() if value.strip()}
    info["scoring_time_s"] = round(time.perf_counter() - start, 1)
    print(ipl_report.write_report(args.exp, rows, floors, info))


if __name__ == "__main__":
    sys.exit(main())
