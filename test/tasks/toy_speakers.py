"""A corpus of a few buzzing "speakers" in a second: harmonics of a pitch through a formant, and a little noise."""

from pathlib import Path

import numpy as np
import soundfile

from espnet_ext.datadir.directory import DataDir
from espnet_ext.datadir.trials import Trials, write_trials

RATE_HZ = 16000


def voice(speaker: int, seed: int, duration_s: float) -> np.ndarray:
    """Return one utterance float32 ``(samples,)``; pitch and formant belong to the speaker."""
    rng = np.random.default_rng([speaker, seed])
    time = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    pitch = 90 + 17 * speaker * (1 + 0.02 * rng.standard_normal())
    formant = 500 + 230 * ((speaker * 7) % 11)
    wav = sum(
        np.exp(-(((k * pitch - formant) / 400) ** 2)) * np.sin(2 * np.pi * k * pitch * time + rng.uniform(0, 6))
        for k in range(1, 30)
    )
    wav = wav / np.abs(wav).max() * 0.3 + 0.01 * rng.standard_normal(len(time))
    return wav.astype(np.float32)


def write_corpus(folder: Path, speakers: range, utterances: int = 4, duration_s: float = 0.8) -> DataDir:
    """Write wavs and a data directory with all trials among its utterances."""
    tables: dict = {"wav.scp": {}, "utt2spk": {}, "utt2num_samples": {}}
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    for speaker in speakers:
        for number in range(utterances):
            utt = f"s{speaker:02d}-{number:02d}"
            wav = voice(speaker, number, duration_s * (1 + 0.1 * number))
            soundfile.write(folder / "wav" / f"{utt}.wav", wav, RATE_HZ)
            tables["wav.scp"][utt] = str(folder / "wav" / f"{utt}.wav")
            tables["utt2spk"][utt] = f"s{speaker:02d}"
            tables["utt2num_samples"][utt] = len(wav)
    data = DataDir.write(folder, tables)
    utts = sorted(tables["wav.scp"])
    pairs = [(a, b) for i, a in enumerate(utts) for b in utts[i + 1 :]]
    labels = np.array([a.split("-")[0] == b.split("-")[0] for a, b in pairs], dtype=np.int8)
    write_trials(folder / "trials", Trials([a for a, _ in pairs], [b for _, b in pairs], labels))
    return data


def small_options(folder: Path, output: Path, *more: str) -> list[str]:
    """Return a command line that trains a very small x-vector on the corpus in ``folder`` in about a second."""
    return [
        "spk",
        *("--train_dir", str(folder / "train"), "--dev_dir", str(folder / "dev"), "--output_dir", str(output)),
        *("--encoder", "xvector", "--encoder_conf", "{ndim: 16, output_size: 24}", "--pooling", "stats"),
        *("--projector", "xvector", "--projector_conf", "output_size=12"),
        *("--frontend_conf", "n_mels=20", "--target_duration", "0.5", "--batch_size", "12", "--max_epoch", "3"),
        *("--num_workers", "0", "--use_tensorboard", "false", *more),
    ]
