"""From clusters to the data a student trains on: prune, hold out, compare with the round before.

espnet_ext pseudo_label --data dump/train_unlabelled --clusters exp/ipl/r2/clusters/utt2cluster --previous exp/ipl/r1 \\
    --out exp/ipl/r2

Writes OUT/pseudo_labels (utterance, pseudo-speaker), OUT/train, OUT/dev with pseudo-trials, and last OUT/labels.json.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, type=Path, help="data directory without speakers, of the format stage")
    add("--clusters", required=True, type=Path, help="utt2cluster of this round")
    add("--out", required=True, type=Path, help="folder of this round")
    add("--previous", type=Path, help="folder of the round before, where there was one")
    add("--min_utterances", type=int, default=5, help="smaller clusters are dropped (default: 5)")
    add("--piece_s", type=float, default=0, help="an utterance counts once per so many seconds; 0: once (default)")
    add("--rate_hz", type=int, default=16000, help="sampling rate that utt2num_samples counts (default: 16000)")
    add("--num_dev_utterances", type=int, default=200, help="about this many are held out to validate on")
    add("--max_trials", type=int, default=4000, help="most pseudo-trials (default: 4000)")
    add("--tolerance", type=float, default=0.005, help="stop when the agreement changed less (default: .005)")
    add("--seed", type=int, default=0, help="of what is held out (default: 0)")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    if args.piece_s < 0 or args.rate_hz < 1:
        raise UserError(f"--piece_s {args.piece_s} and --rate_hz {args.rate_hz}: seconds and samples per second")
    from espnet_ext.datadir import read_scp, write_scp, write_trials
    from espnet_ext.datadir.operations import replace_tables
    from espnet_ext.datadir.tableset import read_tables, restrict
    from espnet_ext.files import atomic_write, only_writer
    from espnet_ext.spk import ipl
    from espnet_ext.zoo.archive import sha256

    if args.num_dev_utterances < 4:
        raise UserError("--num_dev_utterances has to be 4 or more: two of each of two pseudo-speakers")
    utt2cluster = read_scp(args.clusters)
    settings = {"clusters": sha256(args.clusters), "tolerance": args.tolerance, "seed": args.seed}
    settings |= {
        name: getattr(args, name) for name in ("min_utterances", "piece_s", "num_dev_utterances", "max_trials")
    }
    if (args.out / "labels.json").is_file():
        if json.loads((args.out / "labels.json").read_text(encoding="utf-8"))["settings"] == settings:
            print(f"{args.out / 'train'}: made before from these clusters")
            return
        if (args.out / "model" / "checkpoint.pth").is_file():
            raise UserError(
                f"{args.out}: a student was trained on other labels than {args.clusters} and these options make; "
                "remove the folder, or give the new labels one of their own"
            )
    tables = read_tables(args.data)
    unknown = next((utt for utt in utt2cluster if utt not in tables["utt2spk"]), None)
    if unknown is not None:
        raise UserError(f"{args.clusters}: utterance {unknown!r} is not in {args.data}; cluster its embeddings again")
    if args.piece_s and "utt2num_samples" not in tables:
        raise UserError(
            f"{args.data / 'utt2num_samples'} is missing, and --piece_s needs it; the stage format makes it"
        )
    counts = ipl.count_pieces(
        tables["utt2num_samples"] if args.piece_s else tables["utt2spk"], args.piece_s, args.rate_hz
    )
    sessions = tables.get("utt2session")
    try:
        labels = ipl.pseudo_speakers(utt2cluster, args.min_utterances, counts)
        held = ipl.hold_out(labels, args.num_dev_utterances, args.min_utterances, args.seed)
        trials = ipl.pseudo_trials(labels, held, args.max_trials, args.seed)
    except UserError as error:
        raise UserError(f"{args.clusters}: {error}") from None
    agreements, before = [], None
    if args.previous and (args.previous / "pseudo_labels").is_file():
        agreements = json.loads((args.previous / "labels.json").read_text(encoding="utf-8"))["agreements"]
        before = ipl.agreement(labels, read_scp(args.previous / "pseudo_labels"))
    agreements = [*agreements, before]
    number = len(agreements)
    found = {
        "round": number,
        "settings": settings,
        "agreement": before,
        "agreements": agreements,
        "stop": ipl.is_settled(agreements, args.tolerance),
        "all": asdict(ipl.Spread.of(utt2cluster, sessions)),
        "kept": asdict(ipl.Spread.of(labels, sessions)),
        "held_out": len(held),
    }
    fit = sorted(labels.keys() - set(held))
    with only_writer(args.out):
        write_scp(args.out / "pseudo_labels", labels)
        parts = {name: restrict(tables, chosen) for name, chosen in (("train", fit), ("dev", held))}
        parts["train"]["utt2spk"] = {utt: labels[utt] for utt in fit}
        parts["train"] = ipl.repeat_utterances(parts["train"], {utt: counts[utt] for utt in fit})
        # Held-out utterances are of trained classes; without utt2spk nobody takes them for unseen speakers.
        del parts["dev"]["utt2spk"]
        for name, part in parts.items():
            replace_tables(args.out / name, part, trials=True)
        write_trials(args.out / "dev" / "trials", trials)
        with atomic_write(args.out / "labels.json") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    agreed = "" if before is None else f", NMI {before:.4f} with the round before"
    print(
        f"round {number}: {found['kept']['clusters']} of {found['all']['clusters']} clusters, {len(labels)} of "
        f"{len(utt2cluster)} utterances are kept, {len(held)} of them held out{agreed}"
    )


if __name__ == "__main__":
    sys.exit(main())
