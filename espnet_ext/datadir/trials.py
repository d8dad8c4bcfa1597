"""Trial lists of speaker verification: pairs of utterances, and whether the speaker is the same."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from espnet_ext.datadir.tables import BLANKS, read_lines
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write

_KALDI = {"target": 1, "nontarget": 0}
_DIGIT = {"1": 1, "0": 0}
_FORMATS = "'utt1 utt2 target|nontarget' (Kaldi), '1|0 utt1 utt2' (VoxCeleb) or 'utt1*utt2 1|0' (ESPnet)"


@dataclass
class Trials:
    """Pairs ``(enroll[i], test[i])`` with ``labels`` int8 ``(trials,)``: 1 same speaker, 0 different speakers."""

    enroll: list[str]
    test: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.enroll)

    @property
    def utterances(self) -> list[str]:
        """Every utterance that occurs, once, sorted."""
        return sorted({*self.enroll, *self.test})

    def check(self, known: Collection[str], path: str | os.PathLike, where: str) -> None:
        """Raise ``UserError`` for the first utterance not in ``known``; ``path`` is the list, ``where`` the set."""
        known = known if isinstance(known, (set, frozenset, dict)) else set(known)
        missing = [u for u in self.utterances if u not in known]
        if missing:
            first = set(missing)
            number = next(
                i for i, pair in enumerate(zip(self.enroll, self.test, strict=True), 1) if first.intersection(pair)
            )
            pair = (self.enroll[number - 1], self.test[number - 1])
            key = next(u for u in pair if u in first)
            raise UserError(
                f"{path} line {number}: utterance {key!r} is not in {where} ({len(missing)} such utterances); "
                "make the trials from that set, or add the utterances to it"
            )


def read_trials(path: str | os.PathLike) -> Trials:
    """Read a trial list in Kaldi's, VoxCeleb's or ESPnet's format, told apart by its first line.

    Raises ``UserError`` with file and line for a missing or empty file and a line that is not in the format.
    """
    enroll: list[str] = []
    test: list[str] = []
    labels: list[int] = []
    parse = None
    for number, line in read_lines(path):
        fields = line.replace("\t", " ").strip(BLANKS + "\r").split(" ")
        if "" in fields:
            fields = [field for field in fields if field]
        parse = parse or _parser(fields)
        trial = parse(fields) if parse else None
        if trial is None:
            raise UserError(f"{path} line {number}: {line[:200]!r} is not a trial; a line is {_FORMATS}")
        enroll.append(trial[0])
        test.append(trial[1])
        labels.append(trial[2])
    return Trials(enroll, test, np.array(labels, dtype=np.int8))


def _parser(fields: list[str]):
    return next((parse for parse in (_kaldi, _voxceleb, _espnet) if parse(fields) is not None), None)


def _kaldi(fields: list[str]):
    return (fields[0], fields[1], _KALDI[fields[2]]) if len(fields) == 3 and fields[2] in _KALDI else None


def _voxceleb(fields: list[str]):
    return (fields[1], fields[2], _DIGIT[fields[0]]) if len(fields) == 3 and fields[0] in _DIGIT else None


def _espnet(fields: list[str]):
    pair = fields[0].split("*")
    if len(fields) != 2 or len(pair) != 2 or not all(pair) or fields[1] not in _DIGIT:
        return None
    return pair[0], pair[1], _DIGIT[fields[1]]


def write_trials(path: str | os.PathLike, trials: Trials) -> None:
    """Write trials in Kaldi's format, in their order; whole or not at all."""
    names = ("nontarget", "target")
    rows: Iterable[tuple] = zip(trials.enroll, trials.test, trials.labels.tolist(), strict=True)
    with atomic_write(path) as file:
        file.writelines(f"{enroll} {test} {names[label]}\n" for enroll, test, label in rows)
