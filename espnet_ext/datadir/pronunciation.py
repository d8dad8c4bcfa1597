"""The table ``utt2pronunciation``: the phones of every word of an utterance, without times.

A line is ``utterance phone phone | phone …``: words are separated by ``|``.
"""

import os
from collections.abc import Sequence

from espnet_ext.datadir.tables import read_scp
from espnet_ext.errors import UserError

TABLE = "utt2pronunciation"
SEPARATOR = "|"


def format_pronunciation(words: Sequence[Sequence[str]]) -> str:
    """Return the phones of the words of one utterance as the text that follows its id."""
    return f" {SEPARATOR} ".join(" ".join(phones) for phones in words)


def parse_pronunciation(text: str, where: str = "") -> list[list[str]]:
    """Return the phones of every word that ``format_pronunciation`` wrote; UserError, naming ``where``, for none."""
    words: list[list[str]] = [[]]
    for token in text.split():
        if token == SEPARATOR:
            words.append([])
        else:
            words[-1].append(token)
    if not all(words):
        raise UserError(f"{where}: {text!r} has a word without phones; words are separated by a single {SEPARATOR}")
    return words


def read_pronunciations(path: str | os.PathLike) -> dict[str, list[list[str]]]:
    """Return the table ``path`` as a dict from utterance to the phones of its words."""
    return {key: parse_pronunciation(value, f"{os.fspath(path)}, key {key}") for key, value in read_scp(path).items()}
