"""What a pre-trained encoder came to: masked accuracy, and linear probes with the layer chosen on dev data.

espnet_ext ssl_probe --exp exp/ssl_train_hubert/it2/model --dev_units exp/ssl_train_hubert/it2/units/train_dev \\
    --train dump/train_fit --dev dump/train_dev --test dump/test --out exp/ssl_train_hubert/it2/probe_test

espnet_ext ssl_probe --encoder units:exp/ssl_train_hubert/it2/centroids \\
    --train dump/train_fit --dev dump/train_dev --test dump/test --out exp/units_probe

Any encoder can be probed, and units too. Probes without labels are left out. Trials of a directory without any are
drawn from its speakers.
"""

import argparse
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.metrics.probes import PROBES, add_probes
from espnet_ext.options import BOOL, add_job_options, add_probe_sets, check_device, check_sizes


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--exp", type=Path, help="folder of a training of task ssl")
    which.add_argument("--encoder", metavar="SPEC", help="any other: hf:ID_OR_FOLDER, s3prl:NAME, torchaudio:PIPELINE, "
        "units:FOLDER (centroids of fit_units in place of frames), or a path")  # fmt: skip
    add("--model_file", default="valid.loss_m.best.pth", help="weights in the folder --exp")
    add("--dev_units", nargs="+", help="with --exp: units of the dev data that it predicted (make_units)")
    add_probe_sets(
        parser,
        train="that probes are trained on (utt2phones, utt2spk)",
        dev="that chooses layers (utt2phones, utt2spk or trials)",
        test="that they are scored on (utt2phones, utt2spk or trials)",
    )
    add_probes(parser)
    add("--max_batch_s", type=float, default=30.0, help="seconds of padded audio per batch (default: 30)")
    add("--cache", type=Path, help="folder that keeps what log-mel energies score, for other encoders (default: --out)")
    add("--seed", type=int, help="noted in the results")
    add("--out", required=True, type=Path, help="folder for RESULTS.md and results.json")
    add_job_options(parser, "device", "skip_broken", "allow_commands")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    start = time.perf_counter()
    args = get_parser().parse_args(argv)
    log_to_screen()
    check_sizes(args)
    if args.max_batch_s <= 0:
        raise UserError("--max_batch_s must be above 0")
    if bool(args.exp) != bool(args.dev_units):
        raise UserError(
            "--exp and --dev_units go together: the units of the dev data that the training was validated on"
        )
    device = check_device(args.device)
    from espnet_ext.datadir import DataDir
    from espnet_ext.files import only_writer
    from espnet_ext.inference import ssl_probe
    from espnet_ext.metrics.report import run_info
    from espnet_ext.ssl.units import UnitFolder

    training = None
    if args.exp:
        checkpoint = ssl_probe.open_checkpoint(args.exp, args.model_file)
        training = ssl_probe.read_training(args.exp, checkpoint, [UnitFolder.read(path) for path in args.dev_units])
    else:
        checkpoint = ssl_probe.open_encoder(args.encoder)
    directories = [DataDir(path, BOOL[args.allow_commands]) for path in (args.train, args.dev, args.test)]
    lists = ssl_probe.open_lists(*directories, args.num_train, args.num_test, BOOL[args.skip_broken])
    data = ssl_probe.choose_probes(*lists, args.probes or PROBES)
    if training is None and not data.probes:
        raise UserError(
            f"no labels for any probe; add utt2phones or utt2spk to {args.train}, {args.dev} and {args.test}"
        )
    with only_writer(args.out):
        rows, floor = ssl_probe.measure(
            checkpoint, data, device, args.out, args.cache or args.out, args.max_batch_s, args.seed or 0
        )
        which = {"model_file": args.model_file} if args.exp else {"encoder": args.encoder}
        info = run_info(args.seed, **which, wall_time_s=round(time.perf_counter() - start, 1))
        name = str(args.exp or args.encoder)
        print(ssl_probe.write_report(args.out, name, training, rows, floor, data, info))


if __name__ == "__main__":
    sys.exit(main())
