"""Data directories and the phone aligner: train on some, give others their ``utt2phones``, compare with known times."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_ext.datadir import DataDir
from espnet_ext.datadir.alignment import Interval
from espnet_ext.datadir.pronunciation import TABLE, read_pronunciations
from espnet_ext.errors import UserError
from espnet_ext.inference.phone_aligner import PAUSE, PhoneAligner, cepstra
from espnet_ext.ssl.geometry import RATE_HZ
from espnet_ext.ssl.quality import phones_at

log = logging.getLogger(__name__)
_TOGETHER = 64  # utterances whose paths are looked for at once
_GRID_S = 0.010  # how densely labels are compared


@dataclass
class Aligned:
    """phones: {utterance: intervals} from 0 to its end; words: the same of words; misfits: those without a path."""

    phones: dict[str, list[Interval]]
    words: dict[str, list[Interval]]
    misfits: list[str]


def pronunciations(data: DataDir) -> dict[str, list[list[str]]]:
    """Return the phones of the words of every utterance; UserError where the table or a line of it is missing."""
    path = data.path / TABLE
    if not path.is_file():
        raise UserError(f"{path} is missing; make it from the text: espnet_ext phonemize --data {data.path}")
    table = read_pronunciations(path)
    missing = [utt for utt in data.utterances if utt not in table]
    if missing:
        raise UserError(f"{path}: no line for {missing[0]!r} ({len(missing)} are missing)")
    return {utt: table[utt] for utt in data.utterances}


def train_aligner(directories: Sequence[DataDir], num_train: int, iterations: int) -> PhoneAligner:
    """Train on at most ``num_train`` utterances of the directories, evenly spread over their sorted ids."""
    every = [(data, utt, words) for data in directories for utt, words in pronunciations(data).items()]
    if len(every) > num_train:
        every = [every[place] for place in np.linspace(0, len(every) - 1, num_train).round().astype(int)]
    frames = cepstra(audio(data, utt) for data, utt, _ in every)
    seconds = sum(map(len, frames)) / 100
    log.info("training on %d utterances, %.1f min", len(frames), seconds / 60)
    return PhoneAligner.train(frames, [words for *_, words in every], iterations)


def audio(data: DataDir, utt: str) -> np.ndarray:
    """Return the samples at 16 kHz; errors name the utterance."""
    try:
        return data.audio(utt, RATE_HZ)
    except UserError as error:
        raise UserError(f"{data.path}: utterance {utt}: {error}") from None


def align_directory(aligner: PhoneAligner, data: DataDir) -> Aligned:
    """Return when the phones and words of every utterance sound; phones end with the utterance's last sample."""
    answer = Aligned({}, {}, [])
    for utts, words in _chunks(pronunciations(data)):
        wavs = [audio(data, utt) for utt in utts]
        for utt, wav, found in zip(utts, wavs, aligner.align(cepstra(wavs), words), strict=True):
            if found is None:
                answer.misfits.append(utt)
                continue
            answer.phones[utt], answer.words[utt] = found
            answer.phones[utt][-1] = answer.phones[utt][-1]._replace(end_s=len(wav) / RATE_HZ)
    return answer


def _chunks(table: Mapping[str, list]) -> Iterator[tuple[list[str], list]]:
    utts = list(table)
    for start in range(0, len(utts), _TOGETHER):
        chunk = utts[start : start + _TOGETHER]
        yield chunk, [table[utt] for utt in chunk]


def describe(aligned: Aligned) -> str:
    """One line: how much there is, and how often the commonest labels sound, which is what a guess would get."""
    share: dict[str, float] = {}
    for phones in aligned.phones.values():
        for label, start_s, end_s in phones:
            share[label] = share.get(label, 0) + end_s - start_s
    total, pause = sum(share.values()), share.pop(PAUSE, 0)
    spoken = sum(phone.label != PAUSE for phones in aligned.phones.values() for phone in phones)
    commonest = max(share, key=share.get)
    return (
        f"{len(aligned.phones)} utterances, {total / 60:.1f} min; {spoken:,} phones of {len(share)} kinds, "
        f"{1000 * (total - pause) / spoken:.0f} ms on average; {PAUSE} {100 * pause / total:.1f} % of the time, "
        f"the commonest phone ({commonest}) {100 * share[commonest] / total:.1f} %"
    )


@dataclass(frozen=True)
class Agreement:
    """Of two alignments. errors_s: (boundaries,) absolute differences of starts; frames: share that has the same label.

    other: utterances whose labels differ, which have no boundaries to compare.
    """

    errors_s: np.ndarray
    frames: float | None
    other: int

    def within(self, seconds: float) -> float:
        """Return the share of boundaries that differ by ``seconds`` at most (and by rounding)."""
        return float((self.errors_s <= seconds + 1e-6).mean()) if len(self.errors_s) else float("nan")

    def __str__(self) -> str:
        text = (
            f"{len(self.errors_s):,} starts: {100 * self.within(0.02):.1f} % within 20 ms, "
            f"{100 * self.within(0.05):.1f} % within 50 ms, median {1000 * float(np.median(self.errors_s)):.0f} ms"
            if len(self.errors_s)
            else "no starts to compare"
        )
        if self.frames is not None:
            text += f"; the same label in {100 * self.frames:.1f} % of the time"
        return text + (f"; {self.other} utterances with other labels" if self.other else "")


def compare(reference: Mapping[str, list[Interval]], found: Mapping[str, list[Interval]], labels: bool) -> Agreement:
    """Compare starts of what is no pause, in the utterances that both have and where the order of labels is the same.

    labels: labels mean the same in both (phones). Otherwise (words) their number alone has to be equal.
    """
    errors: list[np.ndarray] = []
    same = total = other = 0
    for utt in sorted(set(reference) & set(found)):
        a, b = ([one for one in table[utt] if one.label != PAUSE] for table in (reference, found))
        if len(a) != len(b) or (labels and [x.label for x in a] != [x.label for x in b]):
            other += 1
        else:
            errors.append(np.abs(np.array([x.start_s - y.start_s for x, y in zip(a, b, strict=True)])))
        if labels:
            times = np.arange(0, min(reference[utt][-1].end_s, found[utt][-1].end_s), _GRID_S)
            at = [[table[utt][k].label if k >= 0 else None for k in phones_at(table[utt], times)]
                  for table in (reference, found)]  # fmt: skip
            same += sum(x == y for x, y in zip(*at, strict=True))
            total += len(times)
    return Agreement(np.concatenate(errors) if errors else np.zeros(0), same / total if total else None, other)
