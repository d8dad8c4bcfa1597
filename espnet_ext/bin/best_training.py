"""Tell which of several trainings has the lowest EER on the dev trials, for example of a sweep of learning rates."""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m espnet_ext.bin.best_training", description=__doc__)
    parser.add_argument("trainings", nargs="+", metavar="NAME=FOLDER", help="experiment folders of task spk")
    parser.add_argument("--out", required=True, type=Path, help="file for the name of the best one")
    return parser


@cli
def main(argv=None):
    args = get_parser().parse_args(argv)
    pairs = [word.partition("=")[::2] for word in args.trainings]
    if not all(name and folder for name, folder in pairs):
        raise UserError("every training is given as NAME=FOLDER, for example 1e-3=exp/spk_light_lr1e-3")
    from espnet_ext.files import atomic_write
    from espnet_ext.spk.head_results import dev_eer

    found = [(dev_eer(folder), name) for name, folder in pairs]
    for (eer, name), (_, folder) in zip(found, pairs, strict=True):
        if eer is None:
            raise UserError(f"{folder}: no epoch was validated on dev trials; train it first")
        print(f"{name}: dev EER {eer:.2f} %")
    best = min(found)[1]
    with atomic_write(args.out) as file:
        file.write(best + "\n")
    print(f"best: {best} -> {args.out}")


if __name__ == "__main__":
    sys.exit(main())
