"""Extract the i-vector of every utterance of a data directory: kaldi ark/scp out, resumable, on one or many jobs.

espnet_ext extract_ivectors --data dump/test --extractor exp/ivector --out exp/ivector/embeddings/test
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options, check_device, parse_shard, spread_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="data directory (wav.scp, optional segments)")
    parser.add_argument("--extractor", required=True, help="folder that train_ivector_extractor wrote")
    parser.add_argument("--out", required=True, help="folder for embedding.scp and its arks")
    parser.add_argument("--posterior_scale", type=float, help="weight of a frame (default: as in training)")
    parser.add_argument("--min_posterior", type=float, help="smaller responsibilities drop (default: as in training)")
    parser.add_argument("--subtract_mean", choices=BOOL, default="false", help="subtract the training i-vectors' mean")
    parser.add_argument("--whiten", choices=BOOL, default="false", help="whiten by the training i-vectors' PCA")
    parser.add_argument("--length_norm", choices=BOOL, default="false", help="scale every i-vector to length 1")
    add_job_options(parser)
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    log_to_screen()
    from espnet_ext.datadir import DataDir
    from espnet_ext.inference import extract
    from espnet_ext.inference.ivector import IvectorExtractor, identity

    shard = parse_shard(args.shard)
    options = {name: BOOL[getattr(args, name)] for name in ("subtract_mean", "whiten", "length_norm")}
    options |= {"posterior_scale": args.posterior_scale, "min_posterior": args.min_posterior}
    model_id = f"{identity(args.extractor)} {sorted(options.items())}"
    device = spread_device(check_device(args.device), shard)
    scp = extract.run(
        extract.Extraction(
            DataDir(args.data, BOOL[args.allow_commands]),
            Path(args.out),
            model_id,
            shard=shard,
            skip_broken=BOOL[args.skip_broken],
        ),
        lambda: IvectorExtractor.from_pretrained(args.extractor, device, **options),
    )
    if scp is not None:
        print(scp)


if __name__ == "__main__":
    sys.exit(main())
