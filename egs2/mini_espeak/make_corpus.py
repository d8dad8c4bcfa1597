#!/usr/bin/env python3
"""Make the embedded corpus: synthetic speakers, noise, music and room responses, as Kaldi data directories."""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.files import atomic_write

VERSION = 6
"""Raise it with every change that changes the bytes: an older corpus is then not taken for the present one."""
DONE, OPTIONS, SUMS = ".completed", "options.json", "SHA256SUMS"
CLIP_KINDS = ("noise", "music", "rirs")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to make: train/, test/, noise/, music/, rirs/, audio/")
    parser.add_argument("--num_speakers", type=int, default=40, help="speakers of train/")
    parser.add_argument("--num_utts", type=int, default=25, help="utterances of each of them")
    parser.add_argument("--num_test_speakers", type=int, default=20, help="speakers of test/, none of them in train/")
    parser.add_argument("--num_test_utts", type=int, default=15, help="utterances of each of them")
    parser.add_argument("--num_sessions", type=int, default=5, help="recording sessions (room, microphone) per speaker")
    parser.add_argument("--num_clips", type=int, default=24, help="clips in each of noise/, music/ and rirs/; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument("--nj", type=int, default=min(2, os.cpu_count() or 1), help="parallel processes")
    parser.add_argument("--overwrite", default="false", choices=["true", "false"], help="replace a different corpus")
    return parser


@cli
def main(argv=None) -> None:
    args = get_parser().parse_args(argv)
    options = check(args)
    out = Path(args.out)
    if not claim(out, options, args.overwrite == "true"):
        print(f"{out}: already complete, nothing to do")
        return
    started = time.monotonic()
    jobs = []
    for subset, speakers, utts in (
        ("train", args.num_speakers, args.num_utts),
        ("test", args.num_test_speakers, args.num_test_utts),
    ):
        jobs += [(str(out / "audio" / subset), subset, i, utts, args.num_sessions, args.seed) for i in range(speakers)]
    # One thread per process: the work is parallel over speakers already.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    run_jobs(jobs, args.nj)
    from corpus.tables import write_clips, write_sums, write_tables

    for subset in ("train", "test"):
        folders = [Path(job[0]) / f"{subset}{job[2]:04d}" for job in jobs if job[1] == subset]
        if folders:
            write_tables(out / subset, folders)
    for kind in CLIP_KINDS if args.num_clips else ():
        write_clips(out, kind, args.num_clips, args.seed)
    write_sums(out, SUMS)
    write_json(out / DONE, {"where": str(out.resolve())})
    num_utts = sum(job[3] for job in jobs)
    print(f"{out}: {len(jobs)} speakers, {num_utts} utterances in {time.monotonic() - started:.1f} s")


def check(args) -> dict:
    """Return the options that decide the bytes. Raises UserError for a number out of its range."""
    for name in ("num_speakers", "num_utts", "num_test_utts", "num_sessions", "nj"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give at least 1")
    for name in ("num_test_speakers", "num_clips", "seed"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}; give 0 or more")
    names = ("num_speakers", "num_utts", "num_test_speakers", "num_test_utts", "num_sessions", "num_clips", "seed")
    return {"version": VERSION, **{name: getattr(args, name) for name in names}}


def claim(out: Path, options: dict, overwrite: bool) -> bool:
    """Make ``out`` ready for these options; False where it holds the finished corpus already.

    The options are written first, so that only the same command continues what a killed one began. A corpus that was
    moved counts as unfinished: its paths are written anew. Raises UserError where the folder holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    note = out / OPTIONS
    found = read_json(note)
    if found == options:
        if (read_json(out / DONE) or {}).get("where") == str(out.resolve()):
            return False
        for left_over in out.glob("audio/*/.*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)
        return True
    if isinstance(found, dict) and found.keys() == options.keys():
        different = {k: f"{k} {found[k]} instead of {options[k]}" for k in options if found[k] != options[k]}
        if set(different) == {"version"}:
            print(f"{out}: made by another version of the generator; it is made anew", file=sys.stderr)
        elif not overwrite:
            said = ", ".join(different.values())
            raise UserError(f"--out {out} holds another corpus ({said}); give a new folder or --overwrite true")
        clear(out)
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty and holds no corpus of ours; give a new folder")
    write_json(note, options)
    return True


def clear(out: Path) -> None:
    """Remove the corpus from ``out``, and nothing that somebody else put there; the note of its options goes last."""
    for name in (DONE, SUMS, "audio", "train", "test", *CLIP_KINDS, OPTIONS):
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_json(path: Path):
    """Return the content of a small JSON file, None where there is none or it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def write_json(path: Path, content: dict) -> None:
    """Write a small JSON file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1) + "\n")


def speaker(job: tuple) -> str:
    """Make one speaker, in a worker process."""
    from corpus.speaker import make_speaker

    return make_speaker(*job)


def run_jobs(jobs: list[tuple], nj: int) -> None:
    """Make the speakers in ``nj`` processes, showing how many are done and the time left."""
    from espnet_ext.datadir import workers

    started = time.monotonic()
    for i, _ in enumerate(workers.run(speaker, jobs, nj), 1):
        if i % 10 == 0 or i == len(jobs):
            left_s = (time.monotonic() - started) / i * (len(jobs) - i)
            print(f"{i}/{len(jobs)} speakers, {left_s:.0f} s left", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
