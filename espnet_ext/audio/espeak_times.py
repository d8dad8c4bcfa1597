"""When espeak's phones and words sound: from the events of the synthesiser to intervals without gaps."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from espnet_ext.datadir.alignment import Interval

PAUSE = "sil"
"""Label of a pause among the phones."""

_PUNCTUATION = '.,;:!?"()[]-'
_STRESS_MARKS = str.maketrans("", "", "ˈˌ")
# Modifier letters and combining marks (ʲ ː ʰ ˤ ̃ …). As in espeak's own text output, what begins with one is no phone.
_MARKS = "\u02b0-\u036f"


class Event(NamedTuple):
    """The start of a word, or of a phone and its label (empty for a pause), at a sample of espeak's own rate."""

    is_word: bool
    position: int  # in the text, from 0
    sample: int
    label: str


def phone_names(text: str) -> list[str]:
    """Return the phones, without stress marks, of what espeak writes: words by blanks, phones by ``_``."""
    # What stands in brackets, (en), is no phone: it says in which language the next words are said.
    names = re.split("[ _]+", re.sub(r"\([^)]*\)", " ", text).translate(_STRESS_MARKS))
    return [name for name in names if name]


def align(
    text: str, events: Sequence[Event], rate_hz: int, duration_s: float, names: Sequence[str] = ()
) -> tuple[list[Interval], list[Interval]]:
    """Turn espeak's events into the intervals of phones and of words.

    Phones follow each other without gap from 0 to ``duration_s``, labels in IPA without stress marks, pauses as
    ``PAUSE``; there is one interval per word of ``text``, in order. A phone event marks where the phone starts, except
    for the first of a word: its closure starts at the word event. Some pairs of function words ("of the") come as one
    event: their phones are shared out by the number of letters. names: the phones as espeak writes them; from there are
    marks that events lack, as that of a long vowel in Finnish.
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
        if name.startswith("("):  # (en): another language begins
            continue
        label = name.translate(_STRESS_MARKS) or PAUSE
        if label == PAUSE:
            if phones and phones[-1][0] != PAUSE:
                phones.append([PAUSE, sample / rate_hz, -1])
        elif re.match(f"[{_MARKS}]", label) and phones and phones[-1][0] != PAUSE:
            phones[-1][0] += label
        else:
            start = sample / rate_hz
            # Of a consonant that links two words (one of) the event comes with the word's: that time is its own.
            if word_start is not None and (not phones or word_start / rate_hz > phones[-1][1]):
                start = min(start, word_start / rate_hz)
            phones.append([label, start, owner])
        word_start = None
    if phones:
        phones[0][1] = 0.0
    for before, one, after in zip(phones, phones[1:], phones[2:], strict=False):
        # espeak says both sounds of "el" as one and tells of the second where they end.
        if one[1] == after[1] and PAUSE not in (before[0], one[0]):
            one[1] = (before[1] + one[1]) / 2
    _add_marks([phone for phone in phones if phone[0] != PAUSE], names)
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


def _add_marks(phones: list[list], names: Sequence[str]) -> None:
    """Give phones ``[label, …]`` the names that differ from their labels by marks alone, in the order of both."""
    said, written = _unmarked(label for label, *_ in phones), _unmarked(names)
    for first, other, count in difflib.SequenceMatcher(None, said, written, autojunk=False).get_matching_blocks():
        for phone, name in zip(phones[first : first + count], names[other : other + count], strict=True):
            phone[0] = name


def _unmarked(labels: Iterable[str]) -> list[str]:
    return [re.sub(f"[{_MARKS}]", "", label) for label in labels]


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
