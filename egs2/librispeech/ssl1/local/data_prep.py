#!/usr/bin/env python3
"""LibriSpeech (official layout) -> data/train_960, data/dev, and dev's parts data/dev_clean, data/dev_other.

Nothing is opened, only listed. With --alignments every set gets phones with their times, which units and probes are
compared with: a folder of TextGrids such as https://zenodo.org/records/2619474 (Montreal Forced Aligner).
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from espnet_ext.datadir import DataDir
from espnet_ext.datadir.alignment import Interval, format_intervals, read_textgrid
from espnet_ext.datadir.librispeech import ARCHIVES, URL, download, read_genders, scan, tables_of
from espnet_ext.errors import UserError, cli

TRAIN = "train-clean-100,train-clean-360,train-other-500"
DEV = "dev-clean,dev-other"
SILENCES = ("", "sil", "sp")
UNKNOWN = "spn"  # the aligner's own label for what it could not read


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--corpus", help="folder LibriSpeech/ with SPEAKERS.TXT (default: download it)")
    parser.add_argument("--train_parts", default=TRAIN, help="parts to train on, with commas between")
    parser.add_argument("--dev_parts", default=DEV, help="parts of the dev set, with commas between")
    parser.add_argument("--alignments", help="folder with part/reader/chapter/utterance.TextGrid, for utt2phones")
    parser.add_argument("--download_dir", default="downloads", help="archives and LibriSpeech/ go here")
    parser.add_argument("--url", default=URL, help="where the archives are")
    parser.add_argument("--train_set", default="train_960", help="name of the training set")
    parser.add_argument("--out", default="data", help="folder of the data directories")
    return parser


def read_phones(folder: Path) -> dict[str, Path]:
    """{utterance: its TextGrid} anywhere below ``folder``."""
    found = {path.stem: path for path in folder.rglob("*.TextGrid")}
    if not found:
        raise UserError(f"--alignments {folder}: holds no *.TextGrid")
    return found


def phone_table(utterances: list, grids: dict) -> dict:
    """utt2phones: stress taken off, pauses as ``sil``; an utterance without alignment is ``spn`` throughout."""
    table, missing = {}, []
    for utt in utterances:
        if utt not in grids:
            missing.append(utt)
            table[utt] = format_intervals([Interval(UNKNOWN, 0.0, 3600.0)])
            continue
        phones = read_textgrid(grids[utt])
        table[utt] = format_intervals(
            [p._replace(label="sil" if p.label in SILENCES else p.label.rstrip("012")) for p in phones]
        )
    if len(missing) > len(table) / 10:
        raise UserError(f"--alignments: {len(missing)} of {len(table)} utterances have none ({missing[0]}, …)")
    if missing:
        logging.warning("%d of %d utterances have no alignment (%s, …)", len(missing), len(table), missing[0])
    return table


def write_data_dir(folder: Path, parts: list, found: dict, genders: dict, grids: dict) -> None:
    tables = tables_of([(part, reader) for part in parts for reader in found[part]], found, genders)
    if grids:
        tables["utt2phones"] = phone_table(list(tables["wav.scp"]), grids)
    if len(tables["text"]) < len(tables["wav.scp"]):
        del tables["text"]  # nothing here reads it
    for name in ("text", "utt2phones"):  # left from another call with other options
        (folder / name).unlink(missing_ok=True)
    DataDir.write(folder, tables)
    logging.info("%s: %d speakers, %d utterances", folder, len(tables["spk2gender"]), len(tables["wav.scp"]))


@cli
def main(argv=None):
    args = get_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train, dev = args.train_parts.split(","), args.dev_parts.split(",")
    for part in (*train, *dev):
        if part not in ARCHIVES:
            raise UserError(f"--train_parts, --dev_parts: no part named {part}; choose from {' '.join(ARCHIVES)}")
    both = sorted(set(train) & set(dev))
    if both:
        raise UserError(f"{both[0]} is in --train_parts and in --dev_parts")
    if args.corpus:
        corpus = Path(args.corpus).resolve()
    else:
        corpus = download([*train, *dev], args.url, Path(args.download_dir).resolve())
    genders, found = read_genders(corpus), scan(corpus, [*train, *dev])
    grids = read_phones(Path(os.path.expanduser(args.alignments))) if args.alignments else {}
    out = Path(args.out)
    write_data_dir(out / args.train_set, train, found, genders, grids)
    write_data_dir(out / "dev", dev, found, genders, grids)
    for part in dev:
        write_data_dir(out / part.replace("-", "_"), [part], found, genders, grids)


if __name__ == "__main__":
    sys.exit(main())
