"""Iterative pseudo-labelling with several seeds: run the recipe with each, and compare start and end, paired.

espnet_ext ipl_seeds --seeds 0 1 2 --train all_unlabelled --test test dump/test/trials*     (in egs2/<corpus>/ipl1)

The stages up to trials have to have run. Writes seeds.md and seeds.json into --out. Finished seeds are not run again.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from espnet_ext.bin.ipl_report import add_sets, read_sets
from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add_sets(parser)
    add("--run", default="./run.sh", help="the recipe (default: ./run.sh)")
    add("--options", default="", help="options for every run, for example '--nj 1 --max_rounds 2'")
    add("--tag", default="seed", help="experiments are EXPDIR/ipl_<tag><seed> (default: seed)")
    add("--expdir", type=Path, default=Path("exp"), help="where the recipe puts experiments (default: exp)")
    add("--out", type=Path, help="folder of the table (default: --expdir)")
    add("--num_bootstrap", type=int, default=1000, help="speaker resamplings for the interval (default: 1000)")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    sets = read_sets(args)
    from espnet_ext.metrics.report import run_info, write_results_json, write_results_md
    from espnet_ext.spk.ipl_report import Yardstick
    from espnet_ext.spk.ipl_seeds import compare, seeds_results, seeds_table

    experiments = []
    for seed in args.seeds:
        tag = f"{args.tag}{seed}"
        command = [args.run, "--stage", "init", "--stop_stage", "score", "--seed", str(seed), "--ipl_tag", tag]
        command += shlex.split(args.options)
        print(f"== seed {seed}: {shlex.join(command)}", flush=True)
        if subprocess.run(command).returncode:
            raise UserError(f"seed {seed} failed; what it said is above, and the same command goes on from there")
        experiments.append(args.expdir / f"ipl_{tag}")
    tests = Yardstick(sets, args.train, None, args.rate_hz, args.num_bootstrap)
    found = compare(experiments, tests)
    table, out = seeds_table(found, args.seeds), args.out or args.expdir
    info = run_info(None, None, seeds=" ".join(map(str, args.seeds)), options=args.options or None)
    note = (
        "Cosine after the mean of the unlabelled set was taken off; both: the mean of the two cosines. ± is the "
        "deviation between seeds. In brackets: the middle 95 % over resampled test speakers, the same for all systems."
    )
    write_results_md(out / "seeds.md", "Start and end, several seeds", [("", f"{table}\n\n{note}")], info)
    write_results_json(out / "seeds.json", seeds_results(found, args.seeds), info)
    print(table)


if __name__ == "__main__":
    sys.exit(main())
