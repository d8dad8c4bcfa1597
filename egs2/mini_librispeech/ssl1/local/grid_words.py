#!/usr/bin/env python3
"""GRID (official layout) -> a data directory with utt2words: real speech with known word times, for the aligner.

Needs PyAV for the sound of the clips: pip install av. Only what GRID itself gives is written.
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.datadir import DataDir
from espnet_ext.datadir.alignment import Interval, format_intervals
from espnet_ext.errors import UserError, cli

UNITS_PER_S = 25000  # of GRID's .align files: 1000 per video frame of 40 ms


def read_words(path: Path) -> list[Interval]:
    """Return the words of an .align file (`start end word`), without pauses."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    words = [Interval(word, int(start) / UNITS_PER_S, int(end) / UNITS_PER_S) for start, end, word in rows]
    return [word for word in words if word.label not in ("sil", "sp")]


def write_sound(clip: Path, path: Path) -> None:
    """Write the sound of a video as mono FLAC at 16 kHz."""
    import av
    import numpy as np
    import soundfile

    with av.open(str(clip)) as video:
        resample = av.AudioResampler(format="s16", layout="mono", rate=16000)
        frames = [out for frame in video.decode(audio=0) for out in resample.resample(frame)]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate([frame.to_ndarray()[0] for frame in frames]), 16000)


@cli
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=Path, help="folder with s1/, …, and alignments/")
    parser.add_argument("--out", default=Path("data/grid"), type=Path, help="data directory to write")
    args = parser.parse_args(argv)
    try:
        import av  # noqa: F401
    except ImportError:
        raise UserError("PyAV is missing; install it with: pip install av") from None
    tables = {name: {} for name in ("wav.scp", "utt2spk", "text", "utt2words")}
    for path in sorted(args.corpus.glob("alignments/*/*.align")):
        speaker, clip = path.parent.name, args.corpus / path.parent.name / f"{path.stem}.mpg"
        if not clip.is_file():
            continue
        utt, words = f"{speaker}-{path.stem}", read_words(path)
        sound = (args.out / "audio" / f"{utt}.flac").resolve()
        write_sound(clip, sound)
        tables["wav.scp"][utt], tables["utt2spk"][utt] = sound, speaker
        tables["text"][utt] = " ".join(word.label for word in words)
        tables["utt2words"][utt] = format_intervals(words)
    if not tables["wav.scp"]:
        raise UserError(f"{args.corpus} holds no alignments/SPEAKER/CLIP.align with SPEAKER/CLIP.mpg")
    data = DataDir.write(args.out, tables)
    print(f"{args.out}: {len(data.utterances)} utterances")


if __name__ == "__main__":
    sys.exit(main())
