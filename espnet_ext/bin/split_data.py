"""Cut a Kaldi data directory into parts for parallel jobs: DIR/splitN/1 … N, whole speakers each.

espnet_ext split_data data/train 8
"""

import argparse
import sys

from espnet_ext.errors import cli


def get_parser() -> argparse.ArgumentParser:
    """The command line, as in Kaldi's utils/split_data.sh."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data directory")
    parser.add_argument("num", type=int, help="number of parts")
    parser.add_argument("--per-utt", "--per_utt", action="store_true", help="cut through speakers: DIR/splitNutt/1 … N")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.datadir.operations import split

    parts = split(args.data, args.num, args.per_utt)
    print(f"{parts[0].parent}: {len(parts)} parts")


if __name__ == "__main__":
    sys.exit(main())
