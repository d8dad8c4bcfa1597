"""Phone error rate of a linear CTC head on a frozen encoder beside log-mel: mini_pr, SUPERB's PR in small.

espnet_ext phone_recognition --models it1=hf:exp/it1/hf it2=hf:exp/it2/hf --train dump/probe --dev dump/dev \\
    --test dump/test --out exp/mini_pr
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options, add_probe_sets, check_device, check_sizes


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", required=True, nargs="+", metavar="NAME=SPEC", help="encoders: hf:FOLDER, an experiment, …")
    add_probe_sets(
        parser,
        number=1000,
        train="that heads are trained on (utt2pronunciation)",
        dev="that chooses the rate (utt2pronunciation)",
        test="that they are scored on (utt2pronunciation)",
    )
    add("--steps", type=int, default=300, help="of 8 utterances (default: 300)")
    add("--learning_rates", type=float, nargs="+", default=[3e-3, 1e-2, 3e-2], help="(default: 0.003 0.01 0.03)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the heads (default: 0 1 2)")
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
    if args.steps < 2 or min(args.learning_rates) <= 0:
        raise UserError("--steps has to be at least 2, --learning_rates above 0")
    models = dict(one.partition("=")[::2] for one in args.models)
    if not all(models.values()) or len(models) < len(args.models):
        raise UserError(f"--models {' '.join(args.models)}: give each as NAME=SPEC, with a name of its own")
    from espnet_ext.datadir import DataDir
    from espnet_ext.files import only_writer
    from espnet_ext.inference.phone_recognition import Recipe, StackedLogMel, Utterances, recognise, write_report
    from espnet_ext.metrics.report import run_info
    from espnet_ext.upstream.load import load_upstream

    allow, skip, device = BOOL[args.allow_commands], BOOL[args.skip_broken], check_device(args.device)
    sizes = {"train": args.num_train, "dev": args.num_test, "test": args.num_test}
    sets = {name: Utterances(DataDir(getattr(args, name), allow), number, skip) for name, number in sizes.items()}
    for one, other in itertools.combinations(sets, 2):
        shared = set(sets[one].phones) & set(sets[other].phones)
        if shared:
            raise UserError(f"--{one} and --{other} share {len(shared)} utterances ({min(shared)}, …)")
    recipe = Recipe(args.steps, learning_rates=tuple(args.learning_rates), seeds=tuple(args.seeds))
    with only_writer(args.out):
        rows = [recognise("log-mel", StackedLogMel(), *sets.values(), recipe, device)]
        for name, spec in models.items():
            encoder = load_upstream(spec, freeze=True).to(device).eval()
            rows.append(recognise(name, encoder, *sets.values(), recipe, device))
        info = run_info(args.seeds[0], wall_time_s=round(time.perf_counter() - start, 1))
        print(write_report(args.out, rows, sets, recipe, info))


if __name__ == "__main__":
    sys.exit(main())
