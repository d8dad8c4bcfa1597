"""When espeak's phones and words sound: from the events of the synthesiser to intervals without gaps."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from espnet_ext.datadir.alignment import Interval

PAUSE = "sil"
"""Label of a pause among the phones."""

_PUNCTUATION = '.,;:!?"()[]-'
_STRESS_MARKS = str.maketrans("", "", "ˈˌ")


class Event(NamedTuple):
    """The start of a word, or of a phone and its label (empty for a pause), at a sample of espeak's own rate."""

    is_word: bool
    position: int  # in the text, from 0
    sample: int
    label: str


def align(text: str, events: Sequence[Event], rate_hz: int, duration_s: float) -> tuple[list[Interval], list[Interval]]:
    """Turn espeak's events into the intervals of phones and of words.

    Phones follow each other without gap from 0 to ``duration_s``, labels in IPA without stress marks, pauses as
    ``PAUSE``; there is one interval per word of ``text``, in order. A phone event marks where the phone starts, except
    for the first of a word: its closure starts at the word event. Some pairs of function words ("of the") come as one
    event: their phones are shared out by the number of letters.
    """
    spans = [match.span() for match in re.finditer(r"\S+", text) if any(c.isalnum() for c in match.group())]
    phones: list[list] = []  # [label, start_s, index of the word that owns it; -1 for a pause]
    owner, word_start = 0, None
    for is_word, position, sample, name in events:
        if is_word:
            found = [i for i, (start, end) in enumerate(spans) if start <= position < end]
            # Numbers raise events inside of their word; only a step forward starts a new one.
            owner = max(found[-1] if found else owner, owner)
            word_start = sample
            continue
        label = name.translate(_STRESS_MARKS) or PAUSE
        if label == PAUSE:
            if phones and phones[-1][0] != PAUSE:
                phones.append([PAUSE, sample / rate_hz, -1])
        else:
            start = sample if word_start is None else min(sample, word_start)
            phones.append([label, start / rate_hz, owner])
        word_start = None
    if phones:
        phones[0][1] = 0.0
    ends = [start for _, start, _ in phones[1:]] + [duration_s]
    kept = [
        (Interval(label, start, end), i) for (label, start, i), end in zip(phones, ends, strict=True) if end > start
    ]
    words: list[Interval] = []
    said = sorted({i for _, i in kept if i >= 0})
    for i, after in zip(said, said[1:] + [len(spans)], strict=True):
        labels = [text[start:end].strip(_PUNCTUATION) for start, end in spans[i:after]]
        words.extend(_share_out(labels, [phone for phone, k in kept if k == i]))
    return [phone for phone, _ in kept], words


def _share_out(labels, phones) -> list[Interval]:
    """Share the phones of one word event out to its words, in proportion to their letters, at least one phone each."""
    letters = np.cumsum([len(label) for label in labels])
    cuts = [0, *(round(len(phones) * n / letters[-1]) for n in letters)]
    for i in range(1, len(cuts)):
        cuts[i] = min(max(cuts[i], cuts[i - 1] + 1), len(phones) - (len(labels) - i))
    return [
        Interval(label, phones[a].start_s, phones[b - 1].end_s)
        for label, a, b in zip(labels, cuts, cuts[1:], strict=False)
        if b > a
    ]
