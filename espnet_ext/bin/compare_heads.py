"""Compare trained speaker heads: a table of EER, parameters and layer weights, and the curve of EER against data."""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m espnet_ext.bin.compare_heads", description=__doc__)
    add = parser.add_argument
    add("--out", required=True, type=Path, help="folder for RESULTS.md, results.json and curve.png")
    add(
        "--system",
        required=True,
        action="append",
        nargs=5,
        metavar=("HEAD", "ENCODER", "BY", "FRACTION", "EXP"),
        help="one training: names for the table, part of the data (by utterance or speaker), its folder; repeatable",
    )
    add("--baseline", help="HEAD that the others are compared with")
    add("--set", metavar="SET[.CONDITION]", help="trial list of the table and the curve (default: the first scored)")
    add("--score", default="raw", help="system of the results that counts (default: raw)")
    add("--seed", type=int, default=0, help="of the trainings, for the report (default: 0)")
    return parser


@cli
def main(argv=None):
    args = get_parser().parse_args(argv)
    given = []
    for head, encoder, by, fraction, folder in args.system:
        if by not in ("utterance", "speaker"):
            raise UserError(f"--system {head}: BY is utterance or speaker, not {by!r}")
        try:
            given.append((head, encoder, by, float(fraction), folder))
        except ValueError:
            raise UserError(f"--system {head}: FRACTION is a number such as 0.2, not {fraction!r}") from None

    from espnet_ext.metrics.report import run_info
    from espnet_ext.spk.head_report import write_report
    from espnet_ext.spk.head_results import read_head

    heads = [read_head(*words) for words in given]
    where = next(iter(heads[0].eers), ("", ""))
    if args.set:
        name, _, condition = args.set.partition(".")
        where = name, condition or "all"
    print(write_report(args.out, heads, where, args.score, args.baseline, run_info(args.seed)))


if __name__ == "__main__":
    sys.exit(main())
