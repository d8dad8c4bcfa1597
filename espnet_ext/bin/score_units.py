"""Compare units with phones where phone times exist: phone purity, cluster purity, PNMI.

espnet_ext score_units --data dump/test --units mfcc exp/it1/units/test --units layer6 exp/it2/units/test --out exp
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data directory with utt2phones (label:start:end, seconds)")
    parser.add_argument(
        "--units", nargs=2, action="append", required=True, metavar=("NAME", "DIR"), help="may be given several times"
    )
    parser.add_argument("--out", required=True, help="folder for RESULTS.md and results.json")
    parser.add_argument("--seed", type=int, help="noted in the results")
    parser.add_argument("--config", help="noted in the results")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.datadir import DataDir
    from espnet_ext.metrics.report import run_info
    from espnet_ext.ssl.quality import folder_quality, write_report
    from espnet_ext.ssl.units import UnitFolder

    if len({name for name, _ in args.units}) < len(args.units):
        raise UserError("--units: two have the same name; give each its own")
    data = DataDir(args.data)
    rows = {}
    for name, path in args.units:
        folder = UnitFolder.read(path)
        rows[name] = (folder, folder_quality(folder, data))
    print(write_report(Path(args.out), rows, data, run_info(args.seed, args.config)))


if __name__ == "__main__":
    sys.exit(main())
