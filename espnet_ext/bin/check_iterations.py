"""Look through the iterations of a HuBERT pre-training before the first is trained: settings, layers, encoders.

espnet_ext check_iterations --exp exp/ssl_a --iteration 1 train_config=conf/train.yaml features=mfcc layers=- \\
    quantizer=kmeans num_units=100 levels=1 --iteration 2 train_config=conf/train.yaml features=previous layers=6 \\
    quantizer=kmeans num_units=500 levels=1
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.options import BOOL

KEYS = ("train_config", "features", "layers", "quantizer", "num_units", "levels")


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--iteration", nargs="+", action="append", required=True, metavar=("NUMBER", "KEY=WORD"),
        help=f"one of them, with all of {', '.join(KEYS)}, as ssl.sh takes them; repeatable, in order",
    )  # fmt: skip
    parser.add_argument("--exp", type=Path, required=True, help="their folder; what lies there is made by then")
    parser.add_argument("--max_frames", type=int, default=500_000, help="that centroids are fitted to")
    parser.add_argument("--warm_start", choices=BOOL, default="false", help="true: encoders go on from each other")
    parser.add_argument("--train_args", default="", help="more options of every training, in one word: --train_args=…")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    words = {}
    for number, *settings in args.iteration:
        words[number] = dict(setting.partition("=")[::2] for setting in settings)
        if not number.isdecimal() or set(words[number]) != set(KEYS):
            raise UserError(f"--iteration {number}: give its number and a KEY=WORD for each of {', '.join(KEYS)}")
    from espnet_ext.inference.iterations import Iteration, Plan

    iterations = [Iteration.of(int(number), settings) for number, settings in words.items()]
    Plan(iterations, args.exp, args.max_frames, BOOL[args.warm_start], args.train_args.split()).check()
    print(f"iterations {', '.join(words)}: nothing is wrong that can be seen before they are trained")


if __name__ == "__main__":
    sys.exit(main())
