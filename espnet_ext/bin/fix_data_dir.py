"""Mend a Kaldi data directory: sort, drop repeated lines, keep what all tables have; the old files go to .backup.

espnet_ext fix_data_dir data/train
"""

import argparse
import sys

from espnet_ext.errors import cli


def get_parser() -> argparse.ArgumentParser:
    """The command line, as in Kaldi's utils/fix_data_dir.sh."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data directory")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.datadir.fix import fix

    for line in fix(args.data) or ["nothing to mend"]:
        print(f"{args.data}: {line}")


if __name__ == "__main__":
    sys.exit(main())
