"""One speaker of the corpus: his audio and the rows he adds to the tables. The unit of work and of resumption."""

import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np

from corpus.channel import RATE_HZ, draw_session, record
from corpus.grammar import sentence
from corpus.voices import draw_voice, utterance_voice
from espnet_ext.audio.espeak import PAUSE, Espeak
from espnet_ext.audio.io import AudioWriter
from espnet_ext.datadir.alignment import Interval, format_intervals

ROWS = "rows.json"
"""In a speaker's folder: ``{table: {utterance: value}}`` and the checksums of the audio."""


def generator(seed: int, *names) -> np.random.Generator:
    """Return the random generator of one thing: it depends on ``seed`` and the thing's name, never on the order."""
    return np.random.default_rng([seed, zlib.crc32(":".join(map(str, names)).encode())])


def make_speaker(folder: str, subset: str, index: int, num_utts: int, num_sessions: int, seed: int) -> str:
    """Write the audio and the rows of speaker ``index`` of ``subset`` to ``folder``/<speaker>; return that folder.

    A finished folder is left alone: it is made beside and moved into place whole.
    """
    speaker = f"{subset}{index:04d}"
    final = Path(folder) / speaker
    if (final / ROWS).is_file():
        return str(final)
    beside = Path(folder) / f".{speaker}.{os.getpid()}.tmp"
    try:
        beside.mkdir(parents=True)
        about = _fill(beside, speaker, "mf"[index % 2], num_utts, num_sessions, seed)
        (beside / ROWS).write_text(json.dumps(about, ensure_ascii=False, indent=0), encoding="utf-8")
        os.replace(beside, final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return str(final)


def _fill(folder: Path, speaker: str, gender: str, num_utts: int, num_sessions: int, seed: int) -> dict:
    """Write the audio of a speaker to ``folder`` and return what ``ROWS`` is to hold."""
    voice = draw_voice(generator(seed, speaker, "voice"), gender)
    sessions = [draw_session(generator(seed, speaker, "session", k)) for k in range(num_sessions)]
    espeak = Espeak(RATE_HZ)
    rows: dict[str, dict[str, str]] = {}
    sums = {}
    for i in range(num_utts):
        k = i * num_sessions // num_utts
        utterance = f"{speaker}-{k:02d}-{i:04d}"
        text, wav, phones, words = say(espeak, voice, sessions[k], generator(seed, utterance))
        path = folder / f"{utterance}.flac"
        with open(path, "wb") as file, AudioWriter(file, path, RATE_HZ) as writer:
            writer.write(wav)
        sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for table, value in (
            ("text", text.replace(",", "")),
            ("utt2spk", speaker),
            ("utt2session", f"{speaker}-{k:02d}"),
            ("utt2num_samples", str(len(wav))),
            ("utt2phones", format_intervals(phones)),
            ("utt2words", format_intervals(words)),
        ):
            rows.setdefault(table, {})[utterance] = value
    return {"rows": rows, "sums": sums, "gender": voice.gender, "accent": voice.accent}


def say(espeak: Espeak, voice, session, rng: np.random.Generator):
    """Return (text, wav float32 (samples,), phones, words) of one utterance.

    The recording begins 0.05 to 0.3 s before the speech and ends as much after it; those parts are pauses too.
    """
    text = sentence(rng)
    speech = espeak.synthesise(text + ".", **utterance_voice(voice, rng))
    spoken_s = speech.phones[-1].start_s if speech.phones[-1].label == PAUSE else speech.phones[-1].end_s
    before, after = (int(x * RATE_HZ) for x in rng.uniform(0.05, 0.3, 2))
    wav = np.concatenate([np.zeros(before), speech.wav[: round(spoken_s * RATE_HZ)], np.zeros(after)])
    before_s, duration_s = before / RATE_HZ, len(wav) / RATE_HZ
    inner = [x.shifted(before_s) for x in speech.phones if x.start_s < spoken_s]
    phones = [Interval(PAUSE, 0.0, before_s), *inner, Interval(PAUSE, inner[-1].end_s, duration_s)]
    words = [x.shifted(before_s) for x in speech.words]
    return text, record(wav, session, rng), phones, words
