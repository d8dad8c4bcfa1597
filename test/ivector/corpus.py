"""A small corpus on disk, and the three commands on it."""

from pathlib import Path

import kaldiio
import numpy as np
import soundfile
from tiny_model import RATE_HZ, voice

from espnet_ext.bin import extract_ivectors, train_ivector_extractor, train_ubm

UBM = ("--num_gaussians", 4, "--init_iterations", 6, "--diagonal_iterations", 2, "--full_iterations", 2)
EXTRACTOR = ("--dim", 3, "--iterations", 3)


def make_corpus(folder: Path, utterances: int = 14) -> Path:
    """Write wav.scp and its files, in a folder with a blank and an umlaut in its name; there are no labels."""
    folder = folder / "dätä set"
    folder.mkdir(parents=True)
    lines = []
    for number in range(utterances):
        path = folder / f"wav {number}.flac"
        soundfile.write(path, voice(0.8 + 0.1 * (number % 5), number), RATE_HZ)
        lines.append(f"utt{number:02d} {path}\n")
    (folder / "wav.scp").write_text("".join(lines))
    return folder


def ubm(data: Path, out: Path, *options) -> int:
    """Run train_ubm."""
    return train_ubm.main([str(word) for word in ("--data", data, "--out", out, *UBM, *options)])


def extractor(data: Path, mixture: Path, out: Path, *options) -> int:
    """Run train_ivector_extractor."""
    words = ("--data", data, "--ubm", mixture, "--out", out, *EXTRACTOR, *options)
    return train_ivector_extractor.main([str(word) for word in words])


def extract(data: Path, model: Path, out: Path, *options) -> int:
    """Run extract_ivectors."""
    return extract_ivectors.main([str(word) for word in ("--data", data, "--extractor", model, "--out", out, *options)])


def vectors(out: Path) -> np.ndarray:
    """All i-vectors (N, R) in the order of their ids."""
    return np.stack(list(kaldiio.load_scp(str(out / "embedding.scp")).values()))
