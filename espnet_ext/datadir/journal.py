"""What the format stage has finished, one JSON line per utterance, so that a killed run goes on where it stopped."""

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO

from espnet_ext.files import atomic_write


@dataclass(frozen=True, slots=True)
class Done:
    """One finished utterance: what it was made of, and what came out."""

    utt: str
    source: str  # the wav.scp entry
    start_s: float | None
    end_s: float | None
    rate_hz: int
    source_bytes: int  # size and time of the source file tell whether it is still the same file
    source_time_ns: int
    path: str = ""  # for the new wav.scp: the source itself, or the file that was written
    written_bytes: int = -1  # size of the written file; -1: the source is used as it is
    num_samples: int = 0
    broken: str = ""  # why it cannot be used

    def still_holds(self) -> bool:
        """Tell whether source and written file are as they were; a broken utterance is always tried again."""
        if self.broken or file_identity(self.source) != (self.source_bytes, self.source_time_ns):
            return False
        return self.written_bytes < 0 or _size(self.path) == self.written_bytes


def file_identity(path: str) -> tuple[int, int]:
    """Return size and modification time of a file in ns; (-1, -1) where there is none, or where it is a command."""
    try:
        stat = os.stat(path)
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _size(path: str) -> int:
    return file_identity(path)[0]


class Journal:
    """The file of ``Done`` lines. Only one process writes it; a line that a killed run left half is ignored."""

    def __init__(self, path: Path):
        self.path = path
        self._file: IO[str] | None = None

    def read(self) -> dict[str, Done]:
        """Return ``{utterance: Done}``, the last line of each."""
        done: dict[str, Done] = {}
        if not self.path.is_file():
            return done
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError):
                    entry = Done(**json.loads(line))
                    done[entry.utt] = entry
        return done

    def rewrite(self, entries: Iterable[Done]) -> None:
        """Replace the file by ``entries`` sorted by utterance, whole or not at all."""
        self.close()
        with atomic_write(self.path) as file:
            file.writelines(_line(entry) for entry in sorted(entries, key=lambda entry: entry.utt))

    def append(self, entries: Iterable[Done]) -> None:
        """Add lines and hand them to the system at once."""
        if self._file is None:
            self._file = open(self.path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115
        self._file.write("".join(map(_line, entries)))
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(entry: Done) -> str:
    return json.dumps({field.name: getattr(entry, field.name) for field in fields(entry)}, ensure_ascii=False) + "\n"
