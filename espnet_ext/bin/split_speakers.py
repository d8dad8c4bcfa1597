"""Cut a data directory into train and dev with no speaker in common.

espnet_ext split_speakers --in dump/train --train dump/train_fit --dev dump/train_dev --num_dev_speakers 20
"""

import argparse
import sys

from espnet_ext.errors import cli
from espnet_ext.options import BOOL


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="source", required=True, help="data directory to cut")
    parser.add_argument("--train", required=True, help="data directory to write: the speakers that are left")
    parser.add_argument("--dev", required=True, help="data directory to write: the dev speakers")
    parser.add_argument("--num_dev_speakers", type=int, required=True, help="speakers of the dev directory")
    parser.add_argument(
        "--trials",
        choices=BOOL,
        default="true",
        help="true: dev is for trials, its speakers have two utterances or more; false: any will do (default: true)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other speakers")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.datadir import DataDir
    from espnet_ext.datadir.operations import split_speakers

    split_speakers(args.source, args.train, args.dev, args.num_dev_speakers, args.seed, BOOL[args.trials])
    for path in (args.train, args.dev):
        data = DataDir(path)
        print(f"{path}: {len(data.utterances)} utterances, {len(data.spk2utt)} speakers")


if __name__ == "__main__":
    sys.exit(main())
