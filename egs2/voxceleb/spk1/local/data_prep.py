#!/usr/bin/env python3
"""VoxCeleb1/2, MUSAN and RIRS_NOISES in official layout -> data/train, data/vox1 with its trials, lists of noises.

data/train_vox1 is the part of data/train from VoxCeleb1.

Nothing is opened, only listed: 1.2 million files take minutes. An utterance id10001/1zcIwhmdeo4/00001.wav is named
id10001-1zcIwhmdeo4-00001; its video, id10001-1zcIwhmdeo4, is its session.
"""

import argparse
import logging
import os
import re
import sys
from pathlib import Path

from espnet_ext.datadir import DataDir, Trials, read_trials, write_scp, write_trials
from espnet_ext.datadir.fetch import fetch
from espnet_ext.errors import UserError, cli

LISTS_URL = "https://mm.kaist.ac.kr/datasets/voxceleb/meta"
# Official trial lists: file, and its number of trials as stated by VoxCeleb's site.
LISTS = {
    "o": ("veri_test.txt", 37720),
    "o_cleaned": ("veri_test2.txt", 37611),
    "e": ("list_test_all.txt", 581480),
    "e_cleaned": ("list_test_all2.txt", 579818),
    "h": ("list_test_hard.txt", 552536),
    "h_cleaned": ("list_test_hard2.txt", 550894),
}
O_SPEAKERS = range(10270, 10310)  # the 40 speakers of VoxCeleb1's test part, whose names begin with E


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--corpus", help="folder that holds vox1/, vox2/, musan/ and RIRS_NOISES/; those it has are used"
    )
    parser.add_argument("--vox1", help="VoxCeleb1: wav/id1*/, or dev/wav/id1*/ and test/wav/id1*/")
    parser.add_argument("--vox2", help="VoxCeleb2's dev part, converted to wav or flac: dev/wav/id0*/ or dev/aac/id0*/")
    parser.add_argument("--train_on", default="vox1,vox2", help="corpora whose dev parts are trained on")
    parser.add_argument("--lists", default="o_cleaned,o", help=f"trial lists of data/vox1, of: {','.join(LISTS)}")
    parser.add_argument("--lists_dir", default="downloads", help="the official lists; a missing one is downloaded")
    parser.add_argument("--musan", help="MUSAN: noise/*/*.wav, music/*/*.wav, speech/*/*.wav")
    parser.add_argument("--rirs", help="RIRS_NOISES: simulated_rirs/{small,medium}room/*/*.wav")
    parser.add_argument("--out", default="data", help="folder of the data directories")
    return parser


def subfolders(folder: Path) -> list:
    """Names of the folders in ``folder``, sorted; empty where it does not exist."""
    return sorted(e.name for e in os.scandir(folder) if e.is_dir()) if folder.is_dir() else []


def scan(corpus: str, tops: list) -> dict:
    """{utterance: path} of speaker/video/number.{wav,flac} below the folders ``tops`` of ``corpus``.

    Errors: ``UserError`` where nothing is found, and where only VoxCeleb2's m4a files are, with the command to convert.
    """
    found, m4a = {}, 0
    for top in (Path(corpus).resolve() / top for top in tops):
        for speaker in (s for s in subfolders(top) if re.fullmatch(r"id\d{5}", s)):
            for video in subfolders(top / speaker):
                for entry in os.scandir(top / speaker / video):
                    number, extension = os.path.splitext(entry.name)
                    if extension in (".wav", ".flac"):
                        found[f"{speaker}-{video}-{number}"] = entry.path
                    m4a += extension == ".m4a"
    if m4a:
        raise UserError(
            f"{corpus}: {m4a} .m4a files, which libsndfile does not read; local/convert_m4a.sh converts them"
        )
    if not found:
        raise UserError(f"{corpus}: no id*/video/*.wav below {' or '.join(tops)}; name the folder that holds them")
    return found


def is_test_speaker(utt: str) -> bool:
    return int(utt[2:7]) in O_SPEAKERS


def training_files(args: argparse.Namespace, vox1: dict) -> dict:
    """{utterance: path} of the dev parts named by --train_on; refuses what would leak into the chosen trial lists."""
    corpora, lists = args.train_on.split(","), args.lists.split(",")
    for name, known in (*((c, ("vox1", "vox2")) for c in corpora), *((x, LISTS) for x in lists)):
        if name not in known:
            raise UserError(f"{name}: not one of {','.join(known)} (--train_on, --lists)")
    leaking = [x for x in lists if x[0] in "eh"]
    if "vox1" in corpora and leaking:
        raise UserError(
            f"--lists {','.join(leaking)}: E and H try speakers of VoxCeleb1's dev part, which --train_on names; "
            "train on vox2 alone, or keep to o and o_cleaned"
        )
    files = {utt: path for utt, path in vox1.items() if not is_test_speaker(utt)} if "vox1" in corpora else {}
    if "vox2" in corpora:
        if not args.vox2:
            raise UserError("--train_on vox2 needs --vox2 DIR")
        files |= scan(args.vox2, ["dev/wav", "dev/aac", "."])
    return files


def read_genders(*corpora) -> dict:
    """{speaker: "f" or "m"} from vox1_meta.csv and vox2_meta.csv beside the audio, where they are."""
    genders = {}
    for path in (Path(c) / f"vox{n}_meta.csv" for c in corpora if c for n in (1, 2)):
        lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
        rows = ([field.strip() for field in re.split(r"[\t,]", line)] for line in lines)
        genders |= {row[0]: row[2] for row in rows if len(row) > 2}
    return genders


def write_data_dir(folder: Path, files: dict, genders: dict) -> None:
    utt2spk = {utt: utt[:7] for utt in files}
    sessions = {utt: utt.rpartition("-")[0] for utt in files}
    tables = {"wav.scp": files, "utt2spk": utt2spk, "utt2session": sessions}
    speakers = set(utt2spk.values())
    if speakers <= genders.keys():
        tables["spk2gender"] = {speaker: genders[speaker] for speaker in speakers}
    (folder / "spk2gender").unlink(missing_ok=True)  # left from a call with other metadata
    DataDir.write(folder, tables)
    logging.info("%s: %d speakers, %d utterances", folder, len(speakers), len(files))


def official_trials(name: str, folder: Path) -> Trials:
    """One of the official lists (`1 id10270/x/00001.wav id10270/y/00002.wav`) with our utterance names."""
    file, count = LISTS[name]
    trials = read_trials(fetch(f"{LISTS_URL}/{file}", folder / file))
    if len(trials) != count:
        logging.warning("%s has %d trials, the official list %d", folder / file, len(trials), count)
    rename = {path: os.path.splitext(path)[0].replace("/", "-") for path in trials.utterances}
    return Trials([rename[u] for u in trials.enroll], [rename[u] for u in trials.test], trials.labels)


def write_noises(args: argparse.Namespace, out: Path) -> None:
    """data/{musan_noise,musan_music,musan_speech,rirs}/wav.scp for the augmentation."""
    sources = [(f"musan_{kind}", args.musan, [kind]) for kind in ("noise", "music", "speech") if args.musan]
    if args.rirs:
        sources.append(("rirs", args.rirs, ["simulated_rirs/smallroom", "simulated_rirs/mediumroom"]))
    for name, root, folders in sources:
        paths = [p for folder in folders for p in sorted((Path(root).resolve() / folder).glob("*/*.wav"))]
        if not paths:
            raise UserError(f"{root}: no {folders[0]}/*/*.wav; give the folder that the official archive unpacks to")
        write_scp(out / name / "wav.scp", {f"{p.parts[-3]}-{p.stem}": p for p in paths})
        logging.info("%s: %d files", out / name / "wav.scp", len(paths))


@cli
def main(argv=None):
    args = get_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = Path(args.out)
    for option, name in (("vox1", "vox1"), ("vox2", "vox2"), ("musan", "musan"), ("rirs", "RIRS_NOISES")):
        if args.corpus and not getattr(args, option) and (Path(args.corpus) / name).is_dir():
            setattr(args, option, str(Path(args.corpus) / name))
    if not args.vox1:
        raise UserError("VoxCeleb1 is needed for the trials: --vox1 DIR, or --corpus DIR with vox1/ in it")
    vox1 = scan(args.vox1, ["dev/wav", "test/wav", "wav", "."])
    train = training_files(args, vox1)
    lists = {name: official_trials(name, Path(args.lists_dir)) for name in args.lists.split(",")}
    used = {utt for trials in lists.values() for utt in trials.utterances}
    for name, trials in lists.items():
        trials.check(vox1, Path(args.lists_dir) / LISTS[name][0], f"VoxCeleb1 in {args.vox1}")
    write_noises(args, out)
    genders = read_genders(args.vox1, args.vox2)
    write_data_dir(out / "train", train, genders)
    if "vox1" in args.train_on.split(","):  # SUPERB's training set, for run_heads.sh
        write_data_dir(out / "train_vox1", {utt: path for utt, path in train.items() if utt in vox1}, genders)
    write_data_dir(out / "vox1", {utt: vox1[utt] for utt in used}, genders)
    for name, trials in lists.items():
        write_trials(out / "vox1" / f"trials.{name}", trials)


if __name__ == "__main__":
    sys.exit(main())
