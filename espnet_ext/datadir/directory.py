"""``DataDir``: one Kaldi data directory, its tables read when they are asked for."""

import functools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_ext.audio.io import audio_info, check_section, read_audio, resampled_length, section_length
from espnet_ext.datadir.tables import fix_command, read_scp, write_scp
from espnet_ext.datadir.trials import Trials, read_trials
from espnet_ext.datadir.validate import validate
from espnet_ext.errors import UserError


class Segment(NamedTuple):
    """An utterance inside a recording, in seconds; ``end_s`` -1 is the end of the recording (Kaldi)."""

    recording: str
    start_s: float
    end_s: float


def spk2utt_of(utt2spk: Mapping[str, str]) -> dict[str, list[str]]:
    """Turn ``{utterance: speaker}`` into ``{speaker: sorted utterances}``, sorted by speaker."""
    spk2utt: dict[str, list[str]] = {}
    for utt in sorted(utt2spk):
        spk2utt.setdefault(utt2spk[utt], []).append(utt)
    return dict(sorted(spk2utt.items()))


def _identity(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []  # a command, or a missing file, which is said when it is read
    return [status.st_size, status.st_mtime_ns]


class DataDir:
    """A Kaldi data directory.

    Tables are read at first use: ``wav_scp utt2spk text`` as ``{key: str}``, ``spk2utt`` as ``{speaker: [utterance]}``
    (from ``utt2spk`` where the file is missing), ``segments`` as ``{utterance: Segment}`` (empty where there is none),
    ``utt2num_samples`` as ``{utterance: int}``; any other by ``table(name)``. Relative paths in ``wav.scp`` start
    from the current directory, as in Kaldi. Raises ``UserError`` that names the file, the line and the key.
    """

    def __init__(self, path: str | os.PathLike, allow_commands: bool = False):
        self.path = Path(path)
        self.allow_commands = allow_commands
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such data directory; run the stage that makes it")

    def __repr__(self) -> str:
        return f"DataDir({str(self.path)!r})"

    def has(self, name: str) -> bool:
        """Tell whether the table ``name`` is there."""
        return (self.path / name).is_file()

    def table(self, name: str) -> dict[str, str]:
        """Read any ``key value`` table, for example ``utt2gender``."""
        return read_scp(self.path / name)

    @functools.cached_property
    def wav_scp(self) -> dict[str, str]:
        return self.table("wav.scp")

    @functools.cached_property
    def utt2spk(self) -> dict[str, str]:
        return self.table("utt2spk")

    @functools.cached_property
    def text(self) -> dict[str, str]:
        return self.table("text")

    @functools.cached_property
    def spk2utt(self) -> dict[str, list[str]]:
        if not self.has("spk2utt"):
            return spk2utt_of(self.utt2spk)
        return {speaker: utts.split() for speaker, utts in self.table("spk2utt").items()}

    @functools.cached_property
    def segments(self) -> dict[str, Segment]:
        if not self.has("segments"):
            return {}
        return {utt: self._segment(utt, value) for utt, value in self.table("segments").items()}

    def _segment(self, utt: str, value: str) -> Segment:
        try:
            recording, start, end = value.split()
            return Segment(recording, float(start), float(end))
        except ValueError:
            raise UserError(
                f"{self.path / 'segments'}: utterance {utt!r} needs 'recording start end' in seconds, not {value!r}"
            ) from None

    @functools.cached_property
    def utt2num_samples(self) -> dict[str, int]:
        table = self.table("utt2num_samples")
        try:
            return {utt: int(value) for utt, value in table.items()}
        except ValueError:
            utt = next(utt for utt, value in table.items() if not value.isdigit())
            path = self.path / "utt2num_samples"
            raise UserError(f"{path}: {utt!r} has {table[utt]!r}, not a whole number") from None

    @functools.cached_property
    def utterances(self) -> list[str]:
        """The ids of all utterances in C order: those of ``segments`` where it exists, else of ``wav.scp``."""
        return sorted(self.segments or self.wav_scp)

    def trials(self, name: str = "trials") -> Trials:
        """Read the trial list ``name`` of this directory and check that it names only utterances that are here."""
        trials = read_trials(self.path / name)
        trials.check(self.utterances, self.path / name, str(self.path))
        return trials

    def check(self, **options: bool) -> None:
        """Raise ``UserError`` for the first problem; options as in ``espnet_ext.datadir.validate.find_problems``."""
        validate(self.path, **{"allow_commands": self.allow_commands, **options})

    def source(self, utt: str) -> tuple[str, float | None, float | None]:
        """Return (wav.scp entry, start_s, end_s) of an utterance; start and end are None for a whole file."""
        segment = self.segments.get(utt) if self.segments else Segment(utt, 0.0, -1.0)
        if segment is None or segment.recording not in self.wav_scp:
            name = "segments" if segment is None else "wav.scp"
            key = utt if segment is None else segment.recording
            raise UserError(f"{self.path / name}: no line for {key!r}; mend it: {fix_command(self.path / name)}")
        entry = self.wav_scp[segment.recording]
        return (entry, segment.start_s, segment.end_s) if self.segments else (entry, None, None)

    def audio(self, utt: str, rate_hz: int = 16000) -> np.ndarray:
        """Read one utterance: float32 ``(samples,)``, mono, at ``rate_hz``."""
        entry, start_s, end_s = self.source(utt)
        return read_audio(entry, rate_hz, start_s, end_s, self.allow_commands)

    def num_samples(self, utt: str, rate_hz: int = 16000) -> int:
        """Return an utterance's length in samples at ``rate_hz``: by ``utt2num_samples``, else by its file's header."""
        if self.has("utt2num_samples"):
            if utt not in self.utt2num_samples:
                path = self.path / "utt2num_samples"
                raise UserError(f"{path}: no line for utterance {utt!r}; mend it: {fix_command(path)}")
            number, counted_hz = self.utt2num_samples[utt], self._counted_hz
            return number if counted_hz in (None, rate_hz) else resampled_length(number, counted_hz, rate_hz)
        entry, start_s, end_s = self.source(utt)
        info = audio_info(entry, self.allow_commands)
        return section_length(info, rate_hz, *check_section(info, entry, start_s, end_s))

    @functools.cached_property
    def _counted_hz(self) -> int | None:
        """Rate at which ``utt2num_samples`` counts, that of the first file; None where it cannot be read."""
        try:
            return audio_info(self.source(self.utterances[0])[0]).rate_hz
        except (UserError, IndexError):
            return None  # it is said when it is read

    def stamp(self, digest, utterances: Iterable[str] | None = None) -> None:
        """Update a ``hashlib`` digest with every utterance, its source, and the size and time of the source's file.

        utterances: which ones; None: all.
        """
        identity = functools.lru_cache(_identity)  # many segments may lie in one recording
        for utt in self.utterances if utterances is None else utterances:
            source = self.source(utt)
            digest.update(json.dumps([utt, *source, identity(source[0])]).encode())

    @classmethod
    def write(cls, path: str | os.PathLike, tables: Mapping[str, Mapping]) -> "DataDir":
        """Write ``{table name: {key: value}}`` and return the directory; ``spk2utt`` is made from ``utt2spk``.

        ``wav.scp`` is written last, so that a directory that has it is whole.
        """
        tables = dict(tables)
        if "utt2spk" in tables:
            tables["spk2utt"] = spk2utt_of(tables["utt2spk"])
        for name in sorted(tables, key=lambda name: name == "wav.scp"):
            write_scp(Path(path) / name, {key: _text(value) for key, value in tables[name].items()})
        return cls(path)


def _text(value: object) -> str:
    """Return a table's value as text: a list (``spk2utt``) and a ``Segment`` are joined by blanks."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
