"""Embed every utterance of a data directory: kaldi ark/scp out, resumable, on one or many jobs.

espnet_ext embed --model exp/spk_train_ecapa --data dump/test --out exp/spk_train_ecapa/embeddings/test
espnet_ext embed --upstream hf:facebook/hubert-base-ls960 --layer 5 --data dump/test --out exp/hubert_5/embeddings/test
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options, check_device, parse_shard, spread_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model: one of")
    model.add_argument("--model", help="experiment folder, weights file, package (.zip) or Hugging Face tag")
    model.add_argument("--model_file", help="weights; with --train_config")
    model.add_argument("--train_config", help="config.yaml of the training (default: beside --model_file)")
    model.add_argument(
        "--upstream",
        help="no training: mean and deviation over time of one layer of a pretrained encoder; hf:FOLDER_OR_ID, "
        "torchaudio:PIPELINE, s3prl:NAME, or the path of a checkpoint; with --layer",
    )
    model.add_argument("--layer", type=int, help="of --upstream: 0 is the input of the first layer, -1 the last output")
    model.add_argument("--floor", choices=["mfcc"], help="no model: mean and deviation of MFCCs, the floor of a table")
    parser.add_argument("--data", required=True, help="data directory (wav.scp, optional segments)")
    parser.add_argument("--out", required=True, help="folder for embedding.scp and its arks")
    parser.add_argument("--num_crops", type=int, default=0, help="crops per utterance; 0: whole utterances")
    parser.add_argument("--crop_s", type=float, default=8.0, help="length of a crop in seconds")
    parser.add_argument("--max_window_s", type=float, default=60.0, help="longer audio is embedded in equal windows")
    parser.add_argument("--max_batch_s", type=float, help="seconds of padded audio per batch (CPU: 15, GPU: 120)")
    add_job_options(parser)
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    log_to_screen()
    if sum(bool(choice) for choice in (args.model, args.model_file, args.upstream, args.floor)) != 1:
        raise UserError(
            "give one of --model, --model_file (with --train_config), --upstream (with --layer) and --floor"
        )
    if (args.upstream is None) != (args.layer is None):
        raise UserError("--upstream and --layer go together; espnet_ext layer_probe finds the layer that is best")
    lengths_s = [args.crop_s, args.max_window_s, *([] if args.max_batch_s is None else [args.max_batch_s])]
    if args.num_crops < 0 or min(lengths_s) <= 0:
        raise UserError("--num_crops must not be negative; --crop_s, --max_window_s and --max_batch_s must be above 0")
    from espnet_ext.datadir import DataDir
    from espnet_ext.inference import extract

    shard = parse_shard(args.shard)
    if args.floor:
        from espnet_ext.inference.floor import MfccFloor

        model_id, make = MfccFloor.model_id, MfccFloor
    elif args.upstream:
        model_id, make = _upstream(args, shard)
    else:
        model_id, make = _model(args, shard)
    task = extract.Extraction(
        DataDir(args.data, BOOL[args.allow_commands]),
        Path(args.out),
        model_id,
        args.num_crops,
        args.crop_s,
        shard,
        BOOL[args.skip_broken],
    )
    scp = extract.run(task, make)
    if scp is not None:
        print(scp)


def _model(args, shard):
    """What the model is called in the work folder, and how to make it (only if there is something left to do)."""
    from espnet_ext.inference.spk import SpeakerEmbedder
    from espnet_ext.zoo.package import read_files, resolve

    if args.model:
        package = resolve(args.model)
    else:
        package = read_files(args.train_config or Path(args.model_file).parent / "config.yaml", args.model_file)
    device = spread_device(check_device(args.device), shard)
    options = {"max_window_s": args.max_window_s, "batch_s": args.max_batch_s}
    return package.identity + f" {args.max_window_s:g}", lambda: SpeakerEmbedder.of(package, device, **options)


def _upstream(args, shard):
    """As ``_model``, for one layer of a pretrained encoder."""
    from espnet_ext.inference.zero_shot import open_zero_shot

    device = spread_device(check_device(args.device), shard)
    options = {"max_window_s": args.max_window_s, "batch_s": args.max_batch_s}
    model_id, embedder, _ = open_zero_shot(args.upstream, [args.layer], device, **options)
    return model_id, lambda: embedder


if __name__ == "__main__":
    sys.exit(main())
