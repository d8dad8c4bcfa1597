"""Make a balanced trial list from a data directory: target and non-target pairs, across sessions where it can."""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m espnet_ext.bin.make_trials", description=__doc__)
    add = parser.add_argument
    add("--data", required=True, type=Path, help="data directory with utt2spk, and utt2session, spk2gender if known")
    add("--out", required=True, type=Path, help="trial list to write, Kaldi's format")
    add("--max_trials", type=int, default=20000, help="most trials, target and non-target together (default: 20000)")
    add("--seed", type=int, default=0, help="of the choice (default: 0)")
    add(
        "--cross_session",
        choices=["true", "prefer", "false"],
        default="prefer",
        help="target trials across two sessions only (true), within a session only for speakers with a single one "
        "(prefer, default), or any (false)",
    )
    add("--same_gender", choices=["true", "false"], default="false", help="non-target trials within a gender only")
    add("--utt2session", type=Path, help="session of every utterance (default: utt2session in --data, where it exists)")
    add("--spk2gender", type=Path, help="gender of every speaker (default: spk2gender in --data, where it exists)")
    add(
        "--conditions",
        nargs="*",
        default=[],
        choices=["cross_session", "same_gender"],
        help="also write these parts of the list, each to OUT.<condition>",
    )
    return parser


@cli
def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_ext.datadir import read_scp, write_trials
    from espnet_ext.datadir.pairing import choose_trials

    if args.max_trials < 2:
        raise UserError(f"--max_trials must be at least 2, one target and one non-target trial; got {args.max_trials}")
    tables = {}
    for name in ("utt2session", "spk2gender"):
        path = getattr(args, name) or args.data / name
        tables[name] = read_scp(path) if getattr(args, name) or path.is_file() else None
    try:
        pairing = choose_trials(
            read_scp(args.data / "utt2spk"),
            args.max_trials,
            args.seed,
            cross_session=args.cross_session,
            same_gender=args.same_gender == "true",
            **tables,
        )
        lists = {args.out: pairing.trials}
        for condition in args.conditions:
            if condition not in pairing.conditions:
                table = {"cross_session": "utt2session", "same_gender": "spk2gender"}[condition]
                raise UserError(f"--conditions {condition} needs the table {table}")
            lists[args.out.with_name(f"{args.out.name}.{condition}")] = pairing.subset(condition)
        for path, trials in lists.items():
            num_targets = int(trials.labels.sum())
            if not 0 < num_targets < len(trials):
                raise UserError(f"{path.name} would have {num_targets} target trials of {len(trials)}; leave it out")
    except UserError as error:
        raise UserError(f"{args.data}: {error}") from None
    for path, trials in lists.items():
        num_targets = int(trials.labels.sum())
        write_trials(path, trials)
        print(f"{path}: {len(trials)} trials, {num_targets} target and {len(trials) - num_targets} non-target")
    print(f"{pairing.num_speakers} speakers, {pairing.num_target_speakers} of them with target trials")


if __name__ == "__main__":
    sys.exit(main())
