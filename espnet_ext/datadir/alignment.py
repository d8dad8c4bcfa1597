"""Tables of phones or words with their times: ``utt2phones`` and ``utt2words`` in a data directory.

A line is ``utterance label:start:end label:start:end …``, times in seconds from the start of the audio, 3 decimals.
"""

import os
from collections.abc import Sequence
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
    return intervals


def read_intervals(path: str | os.PathLike) -> dict[str, list[Interval]]:
    """Return the table ``path`` as a dict from utterance to its intervals, in the order of the file."""
    return {key: parse_intervals(value, f"{os.fspath(path)}, key {key}") for key, value in read_scp(path).items()}
