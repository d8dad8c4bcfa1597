"""Ablations of Speaker-IPL: run every experiment of a file with run.sh, and put them into one table.

espnet_ext ipl_ablation --config conf/ablation.yaml --seeds 0 1 2       (in egs2/<corpus>/ipl1, after ./run.sh)

Writes ablation.md and ablation.json into --out. The same command goes on where it was stopped.
"""

import argparse
import sys

from espnet_ext.errors import cli
from espnet_ext.metrics.experiments import add_arguments, run_all


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "conf/ablation.yaml")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.metrics.report import Result, run_info, write_results_json, write_results_md
    from espnet_ext.spk.ipl_ablation import ablation_table, read_ablation, read_outcome

    experiments = read_ablation(args.config, args.seeds, args.only)
    info = run_info(None, args.config, seeds=args.seeds, options=args.options or None)
    out = args.out or args.expdir

    def report(finished) -> str:
        outcomes = [read_outcome(args.expdir / f"ipl_{one.tag}") for one in finished]
        table = ablation_table(finished, outcomes)
        write_results_md(out / "ablation.md", "Ablations of Speaker-IPL", [("", table)], info)
        results = [
            Result(metric, value, where=one.where | {"round": round_})
            for one, outcome in zip(finished, outcomes, strict=True)
            for metric, rounds in outcome.items()
            for round_, value in rounds.items()
        ]
        write_results_json(out / "ablation.json", results, info)
        return table

    run_all(experiments, args, report)


if __name__ == "__main__":
    sys.exit(main())
