"""Find when the phones of a transcript sound, with nothing but the speech: utt2phones from utt2pronunciation.

espnet_ext phonemize --data data/train data/test
espnet_ext align_phones --train data/train --data data/train data/test
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", required=True, nargs="+", help="data directories that the aligner learns from (utt2pronunciation)")
    add("--data", required=True, nargs="+", help="data directories to align (utt2pronunciation)")
    add("--table", default="utt2phones", help="table to write into each of --data (default: utt2phones)")
    add("--overwrite", choices=BOOL, default="false", help="true: replace that table where it is there")
    add("--num_train", type=int, default=1000, help="training utterances at most, evenly spread (default: 1000)")
    add("--iterations", type=int, default=12, help="passes over them at most (default: 12)")
    add("--compare", metavar="TABLE", help="utt2phones or utt2words of --data with known times: print how far off")
    add("--skip_broken", choices=BOOL, default="false", help="true: leave utterances that do not fit out of the table")
    add_job_options(parser, "allow_commands")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    log_to_screen()
    if min(args.num_train, args.iterations) < 1:
        raise UserError("--num_train and --iterations have to be at least 1")
    from espnet_ext.datadir import DataDir, write_scp
    from espnet_ext.datadir.alignment import format_intervals, read_intervals
    from espnet_ext.inference.align import align_directory, compare, describe, pronunciations, train_aligner

    allow = BOOL[args.allow_commands]
    directories = [DataDir(path, allow) for path in args.data]
    for data in directories:
        if data.has(args.table) and not BOOL[args.overwrite]:
            there = data.path / args.table
            raise UserError(f"{there} is there already; replace it with --overwrite true, or name another --table")
        if args.compare and not data.has(args.compare):
            raise UserError(f"--compare: {data.path / args.compare} is missing")
        pronunciations(data)
    known = {data.path: read_intervals(data.path / args.compare) for data in directories if args.compare}
    aligner = train_aligner([DataDir(path, allow) for path in args.train], args.num_train, args.iterations)
    found = {data.path: align_directory(aligner, data) for data in directories}
    misfits = [f"{path}: {utt}" for path, one in found.items() for utt in one.misfits]
    if misfits and not BOOL[args.skip_broken]:
        raise UserError(
            f"{misfits[0]} is too short for its phones ({len(misfits)} such utterances); is its text right? "
            "--skip_broken true leaves such out of the table"
        )
    empty = next((path for path, one in found.items() if not one.phones), None)
    if empty is not None:
        raise UserError(f"{empty}: no utterance is long enough for its phones")
    for path, one in found.items():
        write_scp(Path(path) / args.table, {utt: format_intervals(phones) for utt, phones in one.phones.items()})
        print(f"{path / args.table}: {describe(one)}")
        if one.misfits:
            print(f"{path}: {len(one.misfits)} too short for their phones; espnet_ext fix_data_dir {path} drops them")
        if args.compare:
            words = Path(args.compare).name.startswith("utt2words")
            agreement = compare(known[path], one.words if words else one.phones, labels=not words)
            print(f"{path} against {args.compare}: {agreement}")


if __name__ == "__main__":
    sys.exit(main())
