"""Turn a data directory into units: features and nearest centroids in one pass, sharded, going on where it was killed.

espnet_ext make_units --data dump/train --centroids exp/it1/centroids --out exp/it1/units/train
"""

import argparse
import json
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options, check_device, parse_shard, spread_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data directory (wav.scp, optional segments)")
    parser.add_argument("--centroids", required=True, help="folder that fit_units made")
    parser.add_argument("--features", help="the encoder, where it has moved since the fit")
    parser.add_argument("--out", required=True, help="folder for units.scp, units.json and arks of uint16")
    parser.add_argument("--max_batch_s", type=float, help="seconds of padded audio per batch; 60 on a GPU, 16 on a CPU")
    add_job_options(parser)
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    log_to_screen()
    if args.max_batch_s is not None and args.max_batch_s <= 0:
        raise UserError("--max_batch_s must be above 0")
    from espnet_ext.datadir import DataDir
    from espnet_ext.inference import extract
    from espnet_ext.inference.units import UnitLabeler
    from espnet_ext.ssl.features import identity_of, make_features
    from espnet_ext.ssl.quantizer import Quantizer
    from espnet_ext.ssl.units import DESCRIPTION, TABLE, write_description

    shard = parse_shard(args.shard)
    quantizer = Quantizer.load(args.centroids)
    spec = args.features or quantizer.features
    if not args.features:
        quantizer.check_features(args.centroids)
    device = spread_device(check_device(args.device), shard)
    layers = [layer for layer in quantizer.layers if layer is not None]
    task = extract.Extraction(
        DataDir(args.data, BOOL[args.allow_commands]),
        Path(args.out),
        json.dumps([quantizer.identity, identity_of(spec)]),
        shard=shard,
        skip_broken=BOOL[args.skip_broken],
        table=TABLE,
    )
    if not (task.scp.is_file() and extract.is_finished(task)):
        # It describes units that are whole; another run's, with other centroids, must not be taken for these.
        (task.out / DESCRIPTION).unlink(missing_ok=True)
    # Larger batches fill a GPU; on a CPU they only leave its caches.
    batch_s = args.max_batch_s or (16.0 if device == "cpu" else 60.0)
    scp = extract.run(task, lambda: UnitLabeler(quantizer, make_features(spec, layers, device), batch_s))
    if scp is not None:
        write_description(task.out, quantizer)
        print(scp)


if __name__ == "__main__":
    sys.exit(main())
