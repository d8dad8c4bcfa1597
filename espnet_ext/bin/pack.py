"""Pack a trained model with its calibration and results: an ESPnet-style zip that loads anywhere.

espnet_ext pack --exp exp/spk_train_ecapa --scores exp/spk_train_ecapa --out ecapa.zip
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", required=True, help="experiment folder: config.yaml and weights")
    parser.add_argument("--model_file", help="weights, by path or by name in that folder (default: the best by EER)")
    parser.add_argument("--scores", help="the --out of `score`: calibration, mean, cohort, RESULTS.md, results.json")
    parser.add_argument("--extra", nargs="+", default=[], metavar="FILE", help="more files to carry: pictures, README")
    parser.add_argument("--tag", help="name inside the package (default: the experiment folder's)")
    parser.add_argument("--out", required=True, help="the .zip to write")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    if not args.out.endswith(".zip"):
        raise UserError(f"--out {args.out}: give a name that ends in .zip")
    from dataclasses import replace

    from espnet_ext.zoo.pack import pack
    from espnet_ext.zoo.package import COMPANIONS, REPORTS, read_experiment, read_files

    folder = Path(args.exp)
    if not folder.is_dir():
        raise UserError(f"--exp {folder}: no such folder; train the model first")
    if args.model_file and Path(args.model_file).is_file():
        package = read_files(folder / "config.yaml", args.model_file)
    else:
        package = read_experiment(folder, args.model_file)
    extras = [Path(path) for path in args.extra]
    if args.scores:
        scores = Path(args.scores)
        if not scores.is_dir():
            raise UserError(f"--scores {scores}: no such folder; score the model first")
        if not any((scores / name).is_file() for name in REPORTS):
            raise UserError(f"--scores {scores}: holds no {REPORTS[0]}; give the folder that was --out of score")
        companions = {key: scores / name for key, name in COMPANIONS.items() if (scores / name).is_file()}
        package = replace(package, files=package.files | companions)
        extras += [scores / name for name in REPORTS if (scores / name).is_file()]
    if package.config.get("frontend") in ("huggingface", "torchaudio"):
        from importlib import import_module

        kind = import_module(f"espnet_ext.upstream.{package.config['frontend']}")
        conf = kind.portable_conf(package.config.get("frontend_conf") or {})
        package = replace(package, config={**package.config, "frontend_conf": conf})
    packed = pack(package, args.out, args.tag or folder.resolve().name, extras)
    for name in packed.names:
        print(f"  {name}")
    print(f"{packed.path}: {packed.path.stat().st_size:,d} bytes, SHA-256 {packed.sha256}")


if __name__ == "__main__":
    sys.exit(main())
