"""Copy a Kaldi data directory, with a prefix to its utterance or speaker ids where one is given.

espnet_ext copy_data_dir --utt-prefix sp0.9- --spk-prefix sp0.9- data/train data/train_sp0.9
"""

import argparse
import sys

from espnet_ext.errors import cli


def get_parser() -> argparse.ArgumentParser:
    """The command line, as in Kaldi's utils/copy_data_dir.sh."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="data directory to read")
    parser.add_argument("dest", help="data directory to write")
    parser.add_argument("--utt-prefix", "--utt_prefix", default="", help="put before every utterance id")
    parser.add_argument("--spk-prefix", "--spk_prefix", default="", help="put before every speaker id")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.datadir.operations import copy

    data = copy(args.source, args.dest, args.utt_prefix, args.spk_prefix)
    print(f"{args.dest}: {len(data.utterances)} utterances, {len(data.spk2utt)} speakers")


if __name__ == "__main__":
    sys.exit(main())
