"""Check every utterance of a data directory and bring it to mono at one rate: what is right stays where it is.

espnet_ext format_data --in data/train --out dump/train --rate_hz 16000 --nj 8
"""

import argparse
import sys

from espnet_ext.errors import UserError, cli
from espnet_ext.options import BOOL, add_job_options


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="source", required=True, help="data directory to read")
    parser.add_argument("--out", required=True, help="data directory to write")
    parser.add_argument("--rate_hz", type=int, default=16000, help="sampling rate in Hz that every utterance gets")
    parser.add_argument("--nj", type=int, help="processes (default: one per processor)")
    add_job_options(parser, "skip_broken", "allow_commands")
    parser.add_argument("--min_duration_s", type=float, default=0.0, help="drop what is shorter, in seconds")
    parser.add_argument("--max_shown", type=int, default=50, help="broken utterances to print; all are in OUT/broken")
    return parser


def _show(broken: dict[str, str], max_shown: int) -> None:
    for utt in list(broken)[:max_shown]:
        print(f"broken: {utt}: {broken[utt]}", file=sys.stderr)
    if len(broken) > max_shown:
        print(f"… and {len(broken) - max_shown} more", file=sys.stderr)


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    if args.rate_hz < 1 or (args.nj is not None and args.nj < 1):
        raise UserError("--rate_hz and --nj have to be at least 1")
    from espnet_ext.datadir.format import BrokenUtterances, format_data

    try:
        report = format_data(
            args.source,
            args.out,
            args.rate_hz,
            args.nj,
            BOOL[args.skip_broken],
            args.min_duration_s,
            BOOL[args.allow_commands],
        )
    except BrokenUtterances as error:
        _show(error.broken, args.max_shown)
        raise
    _show(report.broken, args.max_shown)
    print(
        f"{args.out}: {report.kept} utterances ({report.written} written, {report.kept - report.written} used where "
        f"they are, {report.resumed} finished before); dropped: {len(report.broken)} broken, {report.too_short} "
        f"shorter than {args.min_duration_s:g} s, {report.dropped_trials} trials"
    )


if __name__ == "__main__":
    sys.exit(main())
