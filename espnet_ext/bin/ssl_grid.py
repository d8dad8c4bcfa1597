"""A grid over HuBERT's prediction targets: run every row of a file with run.sh, and put them into one table.

espnet_ext ssl_grid --config conf/grid.yaml       (in egs2/<corpus>/ssl1, after ./run.sh --stop_stage split)

Writes grid.md and grid.json into --out. The same command goes on where it was stopped; finished rows are read only.
"""

import argparse
import sys

from espnet_ext.errors import UserError, cli
from espnet_ext.metrics.experiments import add_arguments, run_all

NOTE = """\
Rows of an iteration compare with the reference of that iteration, in brackets the difference; rows of iteration 2 start
from the reference's first iteration unless they say so. streams: unit sequences that are predicted, a head each. bits:
entropy of the unit counts, summed over streams, bit per frame: how detailed the targets are at most. PNMI and phone
purity: how phonetic they are, from the lowest to the highest stream. Masked accuracy: dev data, mean over streams;
commonest: what is right by always giving the commonest unit. phones, speakers: linear probes of the frozen encoder;
EER: zero-shot. Their layer is chosen on other data than what is scored (see it*/probe_*/RESULTS.md of a row)."""


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "conf/grid.yaml")
    parser.add_argument("--test_set", help="of the recipe's --test_sets, the one to show (default: the first by name)")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.metrics.report import run_info, write_results_json, write_results_md
    from espnet_ext.ssl.grid import read_grid
    from espnet_ext.ssl.grid_report import directions, grid_results, grid_table, read_outcome, scored_sets

    rows = read_grid(args.config, args.seeds, args.only, args.expdir)
    info = run_info(None, args.config, seeds=args.seeds, options=args.options or None)
    out = args.out or args.expdir

    def report(finished) -> str:
        names = scored_sets(finished[0].exp)
        if not names:
            raise UserError(f"{finished[0].exp}: no units were compared with phones; give --test_sets with utt2phones")
        name = args.test_set or names[0]
        if name not in names:
            raise UserError(f"--test_set {name}: {finished[0].exp} was scored on {', '.join(names)}")
        outcomes = [read_outcome(row, name) for row in finished]
        table = "\n\n".join([grid_table(finished, outcomes), *directions(finished, outcomes)])
        write_results_md(out / "grid.md", "Prediction targets", [(name, f"{table}\n\n{NOTE}")], info)
        write_results_json(out / "grid.json", grid_results(finished, outcomes), info)
        return table

    run_all(rows, args, report)


if __name__ == "__main__":
    sys.exit(main())
