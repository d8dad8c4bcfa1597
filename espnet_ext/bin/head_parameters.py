"""Print how many parameters speaker heads have, side by side, as trained and as used for an embedding.

The pretrained encoder and the classifier do not count, and neither is loaded: --upstream says their sizes.
"""

import argparse
import re
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m espnet_ext.bin.head_parameters",
        description=__doc__,
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="configurations of task spk, one per head")
    parser.add_argument("--baseline", metavar="CONFIG", help="the head that the others are compared with")
    parser.add_argument(
        "--upstream",
        nargs="+",
        default=["768x13", "1024x25"],
        metavar="DIMxLAYERS",
        help="feature size and number of layers of the encoder (default: 768x13 1024x25, the base and large models)",
    )
    return parser


@cli
def main(argv=None):
    args = get_parser().parse_args(argv)
    sizes = []
    for word in args.upstream:
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", word):
            raise UserError(f"--upstream {word}: should be DIMxLAYERS, for example 768x13")
        sizes.append(tuple(map(int, word.split("x"))))
    configs = list(dict.fromkeys([*args.configs, *([args.baseline] if args.baseline else [])]))
    from espnet_ext.spk.parameters import parameter_table
    from espnet_ext.tasks.spk import count_config

    for dim, layers in sizes:
        heads = [(Path(config).stem, count_config(config, dim, layers)) for config in configs]
        print(f"encoder of {layers} layers, {dim} features per frame")
        print(parameter_table(heads, configs.index(args.baseline) if args.baseline else None), end="\n\n")


if __name__ == "__main__":
    sys.exit(main())
