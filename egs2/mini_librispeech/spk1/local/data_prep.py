#!/usr/bin/env python3
"""LibriSpeech (official layout) -> data/train, data/dev, data/test for speaker verification, disjoint in speakers."""

import argparse
import logging
import random
import sys
from collections import defaultdict
from pathlib import Path

from espnet_ext.audio.io import audio_info
from espnet_ext.datadir import DataDir, Segment
from espnet_ext.datadir.librispeech import ARCHIVES, URL, download, read_genders, scan, tables_of
from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--corpus", help="folder LibriSpeech/ with SPEAKERS.TXT (default: download it)")
    parser.add_argument("--parts", help="parts to use, with commas between (default: those of --corpus, else the mini)")
    parser.add_argument("--download_dir", default="downloads", help="archives and LibriSpeech/ go here")
    parser.add_argument("--url", default=URL, help="where the archives are")
    parser.add_argument("--num_dev_speakers", type=int, default=8, help="only where no dev-* part is there")
    parser.add_argument("--num_test_speakers", type=int, default=12, help="only where no dev-* part is there")
    parser.add_argument("--cut_s", type=float, default=4, help="cut training utterances to about this; 0: leave them")
    parser.add_argument("--out", default="data", help="folder of the data directories")
    return parser


def assign(found: dict, genders: dict, num_dev: int, num_test: int) -> dict:
    """Speakers of train, dev and test: {set: [(part, reader)]}.

    Where dev-* parts are there, parts keep their role. Where they are not, the readers of the test-* parts are divided:
    test and dev take those with two chapters or more (trials across chapters), half of each sex; the rest joins train.
    """
    roles = ("train", "dev", "test")
    speakers = {role: [(p, r) for p in found if p.startswith(role) for r in found[p]] for role in roles}
    if all(speakers.values()):
        return speakers
    by_sex = defaultdict(list)
    for part, reader in speakers["dev"] + speakers["test"]:
        if len({utt.split("-")[1] for utt in found[part][reader]}) > 1:
            by_sex[genders[reader]].append((part, reader))
    for pool in by_sex.values():
        random.Random(0).shuffle(pool)
    turns = [pool.pop() for _ in range(max(map(len, by_sex.values()), default=0)) for pool in by_sex.values() if pool]
    if len(turns) < num_dev + num_test:
        raise UserError(
            f"only {len(turns)} readers of {' '.join(found)} have two chapters, --num_dev_speakers {num_dev} and "
            f"--num_test_speakers {num_test} need {num_dev + num_test}; lower them or add a part"
        )
    test, dev = turns[:num_test], turns[num_test : num_test + num_dev]
    rest = [s for s in speakers["dev"] + speakers["test"] if s not in test and s not in dev]
    return {"train": speakers["train"] + rest, "dev": dev, "test": test}


def pieces(utt: str, path: Path, cut_s: float) -> dict:
    """{piece: Segment} of one utterance, all of the same length, that nearest to ``cut_s`` seconds."""
    info = audio_info(path)
    duration_s = info.num_samples / info.rate_hz
    count = max(1, round(duration_s / cut_s))
    edges = [round(duration_s * k / count, 3) for k in range(count)] + [-1]
    return {f"{utt}-{k:02d}": Segment(utt, edges[k], edges[k + 1]) for k in range(count)}


def write_data_dir(folder: Path, speakers: list, found: dict, genders: dict, cut_s: float) -> None:
    """Kaldi data directory; `text` holds the whole utterances that have a transcript, and is left out if none has.

    An epoch uses every utterance once. Cutting makes a reader's share of it his share of the speech, so that one
    utterance of 14 s counts as much as two of 7 s; its pieces stay one session, and have no transcript.
    """
    tables = tables_of(speakers, found, genders)
    if cut_s:
        segments = {}
        for utt, path in tables["wav.scp"].items():
            segments.update(pieces(utt, path, cut_s))
        for name in ("utt2spk", "utt2session"):
            tables[name] = {piece: tables[name][segment.recording] for piece, segment in segments.items()}
        tables |= {"segments": segments, "text": {}}
    for name in ("segments", "text"):  # left from another call with other options
        (folder / name).unlink(missing_ok=True)
    DataDir.write(folder, {name: table for name, table in tables.items() if table})
    logging.info("%s: %d speakers, %d utterances", folder, len(tables["spk2gender"]), len(tables["utt2spk"]))


@cli
def main(argv=None):
    args = get_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.corpus:
        corpus = Path(args.corpus).resolve()
        parts = args.parts.split(",") if args.parts else [p for p in ARCHIVES if (corpus / p).is_dir()]
    else:
        parts = (args.parts or "train-clean-5,dev-clean,test-clean").split(",")
        corpus = download(parts, args.url, Path(args.download_dir).resolve())
    genders = read_genders(corpus)
    found = scan(corpus, parts)
    sets = assign(found, genders, args.num_dev_speakers, args.num_test_speakers)
    for name, speakers in sets.items():
        if not speakers:
            raise UserError(f"{corpus}: no speaker is left for {name}; name more parts with --parts")
        write_data_dir(Path(args.out) / name, speakers, found, genders, args.cut_s if name == "train" else 0)


if __name__ == "__main__":
    sys.exit(main())
