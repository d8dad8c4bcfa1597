"""Check a Kaldi data directory and print every problem with its file, line, key and the command that mends it.

espnet_ext validate_data_dir --no-text data/train
"""

import argparse
import sys

from espnet_ext.errors import UserError, cli
from espnet_ext.options import BOOL, add_job_options


def get_parser() -> argparse.ArgumentParser:
    """The command line; options as in Kaldi's utils/validate_data_dir.sh."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data directory")
    parser.add_argument("--no-text", "--no_text", action="store_true", help="text may be missing")
    parser.add_argument("--no-wav", "--no_wav", action="store_true", help="wav.scp may be missing")
    parser.add_argument("--no-feats", "--no_feats", action="store_true", help="accepted: features are never required")
    parser.add_argument("--no-spk-sort", "--no_spk_sort", action="store_true", help="speakers may be in any order")
    parser.add_argument("--non-print", "--non_print", action="store_true", help="text may hold unprintable characters")
    parser.add_argument("--no-files", "--no_files", action="store_true", help="do not look whether the audio exists")
    add_job_options(parser, "allow_commands")
    parser.add_argument("--max_shown", type=int, default=20, help="problems to print; the others are counted")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.datadir.validate import find_problems, find_warnings

    problems = find_problems(
        args.data,
        text=not args.no_text,
        wav=not args.no_wav,
        spk_sort=not args.no_spk_sort,
        non_print=args.non_print,
        files=not args.no_files,
        allow_commands=BOOL[args.allow_commands],
    )
    for problem in problems[: args.max_shown]:
        print(problem, file=sys.stderr)
    if problems:
        raise UserError(f"{args.data}: {len(problems)} problems, {min(len(problems), args.max_shown)} of them above")
    for warning in find_warnings(args.data):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{args.data}: no problems")


if __name__ == "__main__":
    sys.exit(main())
