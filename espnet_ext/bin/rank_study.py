"""Does rank tell which checkpoint of a run is better: RankMe-t of every layer against linear probes.

espnet_ext rank_study --checkpoints exp/ssl_train_hubert/it1/model --data in=dump/dev out=dump/other \\
    --train dump/train --test dump/test --out exp/rank_study
"""

import argparse
import sys
import time
from pathlib import Path

from espnet_ext.bin.rank import add_arguments, read_options
from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.metrics.probes import PROBES, add_probes
from espnet_ext.options import BOOL, add_probe_sets, check_sizes


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add = parser.add_argument
    add_probe_sets(
        parser,
        train="that probes are trained on (utt2phones, utt2spk)",
        test="of other utterances that they are scored on (utt2phones, trials)",
    )
    add_probes(parser)
    add("--out", required=True, type=Path, help="folder for RESULTS.md, results.json, study.png, …")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    start = time.perf_counter()
    args = get_parser().parse_args(argv)
    log_to_screen()
    check_sizes(args)
    checkpoints, lists, settings, device = read_options(args)
    if len(checkpoints) < 3:
        raise UserError(
            f"--checkpoints: a correlation needs 3 encoders or more, better 5; there are {len(checkpoints)}. Train "
            'with --rank_conf "{every_steps: 100, keep: true}" to keep more of a run'
        )
    from espnet_ext.datadir import DataDir
    from espnet_ext.files import only_writer
    from espnet_ext.inference.probe_data import ProbeData, missing_tables
    from espnet_ext.inference.rank import rank_rows
    from espnet_ext.inference.rank_study import LogMelFloor, probe_rows
    from espnet_ext.inference.rank_study_report import write_study
    from espnet_ext.metrics.report import run_info
    from espnet_ext.train.rank_list import RankList

    directories = [DataDir(path, BOOL[args.allow_commands]) for path in (args.train, args.test)]
    probes = args.probes or [probe for probe in PROBES if not missing_tables(probe, *directories)]
    if not probes:
        missing = [str(missing_tables(probe, *directories)[0]) for probe in PROBES]
        raise UserError(f"no labels for any probe: {', '.join(dict.fromkeys(missing))} are missing")
    sizes = args.num_train, args.num_test
    train, test = (
        RankList(one, one.path.name, None, number, args.max_s, skip_broken=BOOL[args.skip_broken])
        for one, number in zip(directories, sizes, strict=True)
    )
    data = ProbeData(train, test, tuple(probe for probe in PROBES if probe in probes))
    with only_writer(args.out):
        ranks = rank_rows(checkpoints, lists, settings, device, args.out)
        scores, floor = (
            probe_rows(systems, data, device, args.out, args.max_batch_s, args.seed)
            for systems in (checkpoints, [LogMelFloor()])
        )
        info = run_info(args.seed, pool=args.pool, eps=args.eps, wall_time_s=round(time.perf_counter() - start, 1))
        print(write_study(args.out, checkpoints, ranks, scores, floor[0], lists, settings, data, info))


if __name__ == "__main__":
    sys.exit(main())
