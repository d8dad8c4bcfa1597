"""Phones or words with their times: ``utt2phones`` and ``utt2words`` in a data directory, and TextGrids to make them.

A line is ``utterance label:start:end label:start:end …``, times in seconds from the start of the audio, 3 decimals.
"""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_ext.datadir.tables import read_scp
from espnet_ext.errors import UserError


class Interval(NamedTuple):
    """A phone or a word and when it sounds: ``start_s`` <= time < ``end_s``, in seconds from the start of the audio."""

    label: str
    start_s: float
    end_s: float

    def shifted(self, by_s: float) -> "Interval":
        """Return the interval ``by_s`` seconds later."""
        return Interval(self.label, self.start_s + by_s, self.end_s + by_s)


def format_intervals(intervals: Sequence[Interval]) -> str:
    """Return the intervals of one utterance as the text that follows its id; labels hold no white space."""
    return " ".join(f"{s.label}:{s.start_s:.3f}:{s.end_s:.3f}" for s in intervals)


def parse_intervals(text: str, where: str = "") -> list[Interval]:
    """Return the intervals that ``format_intervals`` wrote. Raises UserError for anything else, naming ``where``."""
    intervals = []
    for token in text.split():
        parts = token.rsplit(":", 2)
        try:
            intervals.append(Interval(parts[0], float(parts[1]), float(parts[2])))
        except (IndexError, ValueError):
            raise UserError(f"{where}: {token!r} is not label:start:end with times in seconds") from None
        before, now = intervals[-2:][0], intervals[-1]
        if not (before.start_s <= now.start_s <= now.end_s < math.inf):
            raise UserError(f"{where}: {token!r} ends before it starts, or starts before what stands before it")
    return intervals


def read_intervals(path: str | os.PathLike) -> dict[str, list[Interval]]:
    """Return the table ``path`` as a dict from utterance to its intervals, in the order of the file."""
    return {key: parse_intervals(value, f"{os.fspath(path)}, key {key}") for key, value in read_scp(path).items()}


# Values of a TextGrid in their order, which is the same in its long form (`xmin = 0`) and its short one (`0`).
_VALUE = re.compile(r'"((?:[^"]|"")*)"|(?<![\w\[."-])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w\]])')


def read_textgrid(path: str | os.PathLike, tier: str = "phones") -> list[Interval]:
    """Return the intervals of one tier of a Praat TextGrid, as aligners write it; an empty label stays empty.

    Errors: ``UserError`` for a file that is none, has no such tier, or ends in the middle.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    found = _VALUE.finditer(text)
    values = [float(value[2]) if value[1] is None else value[1].replace('""', '"') for value in found]
    try:
        if values[:2] != ["ooTextFile", "TextGrid"]:
            raise UserError(f"{os.fspath(path)}: is no TextGrid (it should begin with ooTextFile, TextGrid)")
        place, names = 5, []
        for _ in range(int(values[4])):
            kind, name, _, _, count = values[place : place + 5]
            width = 3 if kind == "IntervalTier" else 2
            items = values[place + 5 : place + 5 + width * int(count)]
            place += 5 + len(items)
            names.append(name)
            if name != tier or width == 2:
                continue
            if len(items) < width * int(count):
                raise IndexError
            return [
                Interval(label.strip(), start_s, end_s)
                for start_s, end_s, label in zip(items[::3], items[1::3], items[2::3], strict=True)
            ]
    except (IndexError, ValueError, TypeError, AttributeError):
        raise UserError(f"{os.fspath(path)}: ends in the middle, or is damaged") from None
    raise UserError(f"{os.fspath(path)}: has no tier {tier!r} of intervals; it has {', '.join(map(str, names))}")
