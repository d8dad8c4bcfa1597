"""Write one Kaldi data directory with everything of several; ids that clash are refused.

espnet_ext combine_data data/all data/train_a data/train_b
"""

import argparse
import sys

from espnet_ext.errors import cli


def get_parser() -> argparse.ArgumentParser:
    """The command line, as in Kaldi's utils/combine_data.sh."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", help="data directory to write")
    parser.add_argument("sources", nargs="+", help="data directories to read")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.datadir import DataDir
    from espnet_ext.datadir.operations import combine

    for line in combine(args.dest, args.sources):
        print(f"{args.dest}: {line}", file=sys.stderr)
    data = DataDir(args.dest)
    print(f"{args.dest}: {len(data.utterances)} utterances, {len(data.spk2utt)} speakers")


if __name__ == "__main__":
    sys.exit(main())
