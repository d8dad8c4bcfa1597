"""Ablations of Speaker-IPL: run every experiment of a file with run.sh, and put them into one table.

espnet_ext ipl_ablation --config conf/ablation.yaml --seeds 0 1 2       (in egs2/<corpus>/ipl1, after ./run.sh)

Writes ablation.md and ablation.json into --out. The same command goes on where it was stopped.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", type=Path, default=Path("conf/ablation.yaml"), help="what is varied (default: conf/ablation.yaml)")
    add("--run", default="./run.sh", help="the recipe (default: ./run.sh)")
    add("--only", nargs="*", default=[], metavar="WHAT", help="these parts of the file; the reference is always run")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds of every row (default: 0)")
    add("--options", default="", help="options for every experiment, for example '--ngpu 1 --max_rounds 3'")
    add("--expdir", type=Path, default=Path("exp"), help="where the recipe puts experiments (default: exp)")
    add("--out", type=Path, help="folder of the table (default: --expdir)")
    add("--dry_run", choices=["true", "false"], default="false", help="true: only say what would run")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.metrics.report import Result, run_info, write_results_json, write_results_md
    from espnet_ext.spk.ipl_ablation import ablation_table, read_ablation, read_outcome

    experiments = read_ablation(args.config, args.seeds, args.only)
    if args.dry_run == "true":
        for one in experiments:
            print(shlex.join(one.command(args.run, shlex.split(args.options))))
        return
    info = run_info(None, args.config, seeds=args.seeds, options=args.options or None)
    out = args.out or args.expdir
    outcomes, failed = [], []
    for one in experiments:
        command = one.command(args.run, shlex.split(args.options))
        print(f"== {one.group} {one.name}, seed {one.seed}: {shlex.join(command)}", flush=True)
        if subprocess.run(command).returncode:
            failed.append(one)
            continue
        outcomes.append((one, read_outcome(args.expdir / f"ipl_{one.tag}")))
        table = ablation_table(*zip(*outcomes, strict=True))
        write_results_md(out / "ablation.md", "Ablations of Speaker-IPL", [("", table)], info)
        results = [
            Result(metric, value, where=one.where | {"round": round_})
            for one, outcome in outcomes
            for metric, rounds in outcome.items()
            for round_, value in rounds.items()
        ]
        write_results_json(out / "ablation.json", results, info)
    if outcomes:
        print(table)
    if failed:
        names = ", ".join(f"{one.group} {one.name} (seed {one.seed})" for one in failed)
        raise UserError(f"{len(failed)} of {len(experiments)} experiments failed: {names}; what each said is above")


if __name__ == "__main__":
    sys.exit(main())
