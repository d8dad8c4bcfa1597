"""Write a part of a Kaldi data directory: some utterances, or some speakers.

espnet_ext subset_data_dir data/train 1000 data/train_1k
espnet_ext subset_data_dir --per-spk data/train 5 data/train_5each
espnet_ext subset_data_dir --utt-list some.txt data/train data/train_some
espnet_ext subset_data_dir --fraction 0.2 data/train data/train_f0.2
"""

import argparse
import sys

from espnet_ext.errors import UserError, cli

HOW = ("first", "last", "shortest", "per_spk", "speakers")


def get_parser() -> argparse.ArgumentParser:
    """The command line; arguments as in Kaldi's utils/subset_data_dir.sh."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="+", metavar="SOURCE [NUM] DEST", help="NUM utterances; none with a list")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--first", action="store_true", help="the first NUM instead of random ones")
    which.add_argument("--last", action="store_true", help="the last NUM")
    which.add_argument("--shortest", action="store_true", help="the NUM shortest")
    which.add_argument("--per-spk", "--per_spk", action="store_true", help="NUM random ones of each speaker")
    which.add_argument("--speakers", action="store_true", help="whole random speakers, until NUM utterances or more")
    which.add_argument(
        "--fraction",
        type=float,
        metavar="F",
        help="this part (0 to 1) of every speaker's utterances; a smaller part of the same seed lies in a larger one",
    )
    which.add_argument("--utt-list", "--utt_list", metavar="FILE", help="the utterances in the first column of FILE")
    which.add_argument("--spk-list", "--spk_list", metavar="FILE", help="the speakers in the first column of FILE")
    parser.add_argument(
        "--by", choices=("utterance", "speaker"), default="utterance", help="speaker: --fraction keeps whole speakers"
    )
    parser.add_argument("--seed", type=int, default=0, help="for what is random")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    parser = get_parser()
    # A number between two paths, after options: only intermixed parsing takes Kaldi's order and ours.
    args = parser.parse_intermixed_args(argv)
    from espnet_ext.datadir.operations import read_ids, subset

    listed = bool(args.utt_list or args.spk_list or args.fraction is not None)
    if len(args.arguments) != (2 if listed else 3):
        raise UserError(f"give {'SOURCE DEST' if listed else 'SOURCE NUM DEST'}, not {' '.join(args.arguments)!r}")
    source, path = args.arguments[0], args.arguments[-1]
    if not listed and not args.arguments[1].isdecimal():
        raise UserError(f"{args.arguments[1]!r} is not a number of utterances")
    if args.fraction is not None:
        from espnet_ext.datadir.fractions import take_fraction

        data = take_fraction(source, path, args.fraction, args.by, args.seed)
    else:
        data = subset(
            source,
            path,
            num=None if listed else int(args.arguments[1]),
            how=next((how for how in HOW if getattr(args, how)), "random"),
            utterances=read_ids(args.utt_list) if args.utt_list else None,
            speakers=read_ids(args.spk_list) if args.spk_list else None,
            seed=args.seed,
        )
    print(f"{path}: {len(data.utterances)} utterances, {len(data.spk2utt)} speakers")


if __name__ == "__main__":
    sys.exit(main())
