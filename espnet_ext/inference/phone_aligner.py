"""When phones sound, from speech and its pronunciation alone: a flat-start monophone aligner on cepstra.

Every phone is a chain of three states, with a pause allowed before, between and behind words. To begin with the loud
frames of an utterance are shared out evenly to its states and the quiet ones are pause; then, in turns, a Gaussian per
state is fitted (linear discriminants: one covariance for all) and the best path through each utterance's chain is
looked for (Viterbi training; Juang & Rabiner, IEEE Trans. ASSP 38(9), 1990).

A frame sees cepstra and their slope, no more: with second differences or neighbouring frames, states come to mean what
sounds beside them, and all edges drift by as much as the frame can see (35 ms with three frames on either side).
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from espnet_ext.datadir.alignment import Interval
from espnet_ext.errors import UserError
from espnet_ext.inference.linear_probe import ClassStatistics, LinearClassifier
from espnet_ext.inference.viterbi import Chain, best_paths
from espnet_ext.ssl.features import HOP, WINDOW, Cepstra
from espnet_ext.ssl.geometry import RATE_HZ

log = logging.getLogger(__name__)
Words = Sequence[Sequence[str]]

PAUSE = "sil"
_STATES = 3  # per phone and pause, of at least one frame (10 ms) each
_QUIET = 0.3  # of the way from the quietest to the loudest frames: what lies below is pause to begin with
_SETTLED = 0.005  # training ends where fewer frames than this share change their state
_PAUSES = np.zeros(_STATES, dtype=np.int64)  # the states of a pause share a class


@dataclass
class PhoneAligner:
    """phones: those known, in the order of their classes 1 + 3 k …; class 0 is the pause."""

    phones: list[str]
    classifier: LinearClassifier | None = None
    log_priors: np.ndarray | None = None
    history: list[float] = field(default_factory=list)

    @classmethod
    def train(cls, frames: Sequence[np.ndarray], words: Sequence[Words], iterations: int = 12) -> "PhoneAligner":
        """Learn from the features (T, D) of utterances, as ``cepstra`` makes them, and the phones of their words.

        An utterance that is too short for its phones is left out with a warning. Errors: ``UserError`` where all are.
        """
        aligner = cls(sorted({phone for one in words for phones in one for phone in phones}))
        chains = [aligner.chain(one) for one in words]
        fits = [number for number, one in enumerate(frames) if len(one) >= shortest(words[number])]
        if len(fits) < len(frames):
            log.warning("%d training utterances are too short for their phones", len(frames) - len(fits))
        if not fits:
            raise UserError("no training utterance is long enough for its phones; is the text that of the audio?")
        frames, chains = [frames[k] for k in fits], [chains[k] for k in fits]
        total = sum(map(len, frames))
        states = [flat_start(one[:, 0], chain) for one, chain in zip(frames, chains, strict=True)]
        for number in range(1, iterations + 1):
            aligner._fit(frames, states)
            paths = best_paths([aligner.scores(one) for one in frames], chains)
            found = [chain.classes[path] for chain, path in zip(chains, paths, strict=True)]
            changed = sum(int((old != new).sum()) for old, new in zip(states, found, strict=True)) / total
            aligner.history.append(changed)
            log.info("pass %d of %d: %.1f %% of the frames changed their state", number, iterations, 100 * changed)
            states = found
            if changed < _SETTLED:
                break
        aligner._fit(frames, states)
        return aligner

    def _fit(self, frames: Sequence[np.ndarray], states: Sequence[np.ndarray]) -> None:
        statistics = ClassStatistics(frames[0].shape[1], 1 + _STATES * len(self.phones))
        for one, classes in zip(frames, states, strict=True):
            statistics.add(one, classes)
        self.classifier = statistics.fit()
        with np.errstate(divide="ignore"):
            self.log_priors = np.log(statistics.counts / statistics.counts.sum())

    def scores(self, frames: np.ndarray) -> np.ndarray:
        """Return log p(class | frame) - log p(class) (T, classes) of features (T, D); 0 for what was never heard."""
        values = frames @ self.classifier.weights + self.classifier.bias
        most = values.max(axis=1, keepdims=True)
        values -= most + np.log(np.exp(values - most).sum(axis=1, keepdims=True))
        heard = np.isfinite(self.log_priors)
        return np.where(heard, values - np.where(heard, self.log_priors, 0), 0)

    def chain(self, words: Words) -> Chain:
        """Return the states of an utterance: words, and a pause of three states around each that may be left out.

        A phone that was never trained on has a class behind all others; ``align`` gives it the score 0.
        """
        number = {phone: place for place, phone in enumerate(self.phones)}
        classes, origin = [_PAUSES], [np.full(_STATES, -1)]
        place = _STATES  # of the state that comes next
        for word in words:
            own = [1 + _STATES * number.get(phone, len(number)) + np.arange(_STATES) for phone in word]
            over = np.full(_STATES * len(word), -1)
            if place > _STATES:
                over[0] = place - _STATES - 1
            classes += [*own, _PAUSES]
            origin += [over, np.full(_STATES, -1)]
            place += len(over) + _STATES
        first, last = np.zeros((2, place), dtype=bool)
        first[[0, _STATES]] = True
        last[[place - 1, place - 1 - _STATES]] = True
        return Chain(np.concatenate(classes), np.concatenate(origin), first, last)

    def align(self, frames: Sequence[np.ndarray], words: Sequence[Words]) -> list[tuple[list, list] | None]:
        """Return per utterance the intervals of phones, without gaps from 0 on, and of words; None where none fit.

        Words are labelled by their phones.
        """
        never = np.zeros(_STATES)
        scores = [np.pad(self.scores(one), ((0, 0), (0, len(never)))) for one in frames]
        chains = [self.chain(one) for one in words]
        paths = best_paths(scores, chains)
        return [None if path is None else intervals(path, one) for path, one in zip(paths, words, strict=True)]


def cepstra(wavs: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return 13 MFCCs and their slopes (T, 26) at 100 Hz of waveforms (samples,) at 16 kHz.

    Each has mean 0 and deviation 1 over the utterance, which takes away most of microphone and level.
    """
    found = []
    for wav in wavs:
        ((every,),) = Cepstra()([wav])
        frames = every[:, :26]
        found.append((frames - frames.mean(axis=0)) / np.maximum(frames.std(axis=0), 1e-5))
    return found


def shortest(words: Words) -> int:
    """Return the frames that an utterance needs at least."""
    return _STATES * sum(map(len, words))


def flat_start(energy: np.ndarray, chain: Chain) -> np.ndarray:
    """Return a class for every frame (T,): pause where it is quiet, else the phones' states in turn, evenly."""
    low, high = np.percentile(energy, [5, 95])
    loud = np.flatnonzero(energy > low + _QUIET * (high - low))
    states = np.flatnonzero(chain.classes)
    classes = np.zeros(len(energy), dtype=np.int64)
    if len(loud) < len(states):
        loud = np.arange(len(energy))
    classes[loud] = chain.classes[states[np.arange(len(loud)) * len(states) // len(loud)]]
    return classes


def frame_edge_s(frame: np.ndarray | int) -> np.ndarray | float:
    """Return where a frame begins: half a step before the middle of the samples that it sees, in seconds."""
    return (frame * HOP + WINDOW / 2 - HOP / 2) / RATE_HZ


def intervals(path: np.ndarray, words: Words) -> tuple[list[Interval], list[Interval]]:
    """Return the intervals of phones and of words of a path (T,) through the chain of ``words``.

    Phones follow each other without gap from 0; the end of the last one is that of the last frame.
    """
    # What each block of three states is: (label, number of the word or -1).
    blocks = [(PAUSE, -1)]
    for number, word in enumerate(words):
        blocks += [*((phone, number) for phone in word), (PAUSE, -1)]
    block = path // _STATES
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    edges = [0.0, *frame_edge_s(starts[1:]).tolist(), frame_edge_s(len(path))]
    phones, spoken = [], {}
    for start, begin_s, end_s in zip(starts, edges, edges[1:], strict=False):
        label, number = blocks[block[start]]
        phones.append(Interval(label, begin_s, end_s))
        if number >= 0:
            spoken.setdefault(number, []).append(phones[-1])
    said = [Interval("".join(words[k]), parts[0].start_s, parts[-1].end_s) for k, parts in spoken.items()]
    return phones, said
