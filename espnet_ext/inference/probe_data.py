"""What probes are trained on and scored on: lists of utterances with their phones, speakers and trials."""

import functools
import itertools
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.datadir import DataDir, Trials
from espnet_ext.datadir.alignment import read_intervals
from espnet_ext.datadir.pairing import choose_trials
from espnet_ext.errors import UserError
from espnet_ext.metrics.probes import PROBES
from espnet_ext.ssl.quality import phones_at
from espnet_ext.train.rank_list import RATE_HZ, RankList

_MOST_TRIALS = 20_000  # of a list that is drawn
_LABELS = ("utt2phones", "utt2spk", "utt2session", "trials")


@dataclass
class ProbeData:
    """What probes are trained on and scored on; the utterances of the lists are different ones.

    dev: utterances that choose a layer, scored as ``test`` is. draw_trials: of a directory without trials, draw them.
    """

    train: RankList
    test: RankList
    probes: tuple[str, ...]
    dev: RankList | None = None
    draw_trials: bool = False

    def __post_init__(self):
        for one, other in itertools.combinations(self.lists, 2):
            shared = set(one.lengths) & set(other.lengths)
            if shared:
                raise UserError(
                    f"{one.data.path} and {other.data.path} share {len(shared)} utterances ({min(shared)}, …): "
                    "probes have to be scored on other utterances than they are trained on"
                )
        for probe in self.probes:
            for one in self.scored.values():
                missing = missing_tables(probe, self.train.data, one.data, self.draw_trials)
                if missing:
                    raise UserError(
                        f"--probes {probe}: {missing[0]} is missing; leave the probe out, or give a directory with it"
                    )

    @property
    def scored(self) -> dict[str, RankList]:
        """The lists that probes are scored on, by what the names of the scores begin with."""
        return {"": self.test} if self.dev is None else {"": self.test, "dev_": self.dev}

    @property
    def lists(self) -> list[RankList]:
        return [self.train, *self.scored.values()]

    def facts(self) -> list:
        """What the scores rest on, besides the checkpoint: the audio and the labels of every list."""
        tables = [[one.data.path / name for name in _LABELS] for one in self.lists]
        labels = [[zlib.crc32(path.read_bytes()) if path.is_file() else None for path in row] for row in tables]
        return [[one.stamp for one in self.lists], labels, list(self.probes)]

    @functools.cached_property
    def phones(self) -> tuple[dict[str, list], dict[str, int]]:
        """Intervals of every utterance of all lists, and a number for every phone of the training list."""
        aligned = {}
        for one in self.lists:
            table = read_intervals(one.data.path / "utt2phones")
            missing = [utt for utt in one.lengths if utt not in table]
            if missing:
                raise UserError(f"{one.data.path}/utt2phones: no line for {missing[0]!r} ({len(missing)} are missing)")
            aligned |= {utt: table[utt] for utt in one.lengths}
        known = sorted({interval.label for utt in self.train.lengths for interval in aligned[utt]})
        return aligned, {label: number for number, label in enumerate(known)}

    def frame_labels(self, utt: str, frames: int, hop: int, field: int) -> np.ndarray:
        """Return the phone's number at the middle of the samples that each frame sees, -1 where there is none.

        A phone that the training list lacks has a number that no classifier gives: its frames count as wrong.
        """
        aligned, numbers = self.phones
        intervals = aligned[utt]
        at = phones_at(intervals, (np.arange(frames) * hop + field / 2) / RATE_HZ)
        labels = np.array([numbers.get(interval.label, len(numbers)) for interval in intervals])
        return np.where(at >= 0, labels[at], -1)

    @functools.cached_property
    def speaker_split(self) -> tuple[dict[str, str], set[str]]:
        """Speaker of every utterance that the speaker probe uses, and those that it is scored on.

        Of each speaker the last session is held out where there are several, else the last quarter of the utterances.
        """
        return self._speaker_split(self.train.lengths)

    @functools.cached_property
    def speaker_dev_split(self) -> tuple[dict[str, str], set[str]]:
        """The same of what is trained on there: what chooses a layer is not what the probe is scored on."""
        speakers, held_out = self.speaker_split
        return self._speaker_split([utt for utt in speakers if utt not in held_out])

    def _speaker_split(self, utterances: Iterable[str]) -> tuple[dict[str, str], set[str]]:
        data = self.train.data
        sessions = data.table("utt2session") if data.has("utt2session") else {}
        by_speaker: dict[str, list[str]] = {}
        for utt in utterances:
            by_speaker.setdefault(data.utt2spk.get(utt, ""), []).append(utt)
        by_speaker.pop("", None)
        speakers, held_out = {}, set()
        for speaker, utts in by_speaker.items():
            last = max(sessions.get(utt, "") for utt in utts)
            out = [utt for utt in utts if sessions.get(utt, "") == last]
            if len(out) == len(utts):
                out = utts[len(utts) - max(1, len(utts) // 4) :]
            if len(out) < len(utts):
                speakers |= dict.fromkeys(utts, speaker)
                held_out |= set(out)
        if len(set(speakers.values())) < 2:
            raise UserError(
                f"{data.path}: the speaker probe needs 2 speakers with 2 utterances or more among the "
                f"{len(self.train)} taken; raise --num_train or leave the probe out"
            )
        return speakers, held_out

    def trials(self, one: RankList) -> Trials:
        """Trials of a list: its directory's, or drawn (always alike), as many target as non-target ones."""
        data = one.data
        if data.has("trials") or not self.draw_trials:
            return data.trials()
        speakers = {utt: data.utt2spk[utt] for utt in one.lengths}
        sessions = data.table("utt2session") if data.has("utt2session") else None
        try:
            return choose_trials(speakers, _MOST_TRIALS, 0, sessions).trials
        except UserError as error:
            raise UserError(f"{data.path}: {error}") from None


def missing_tables(probe: str, train: DataDir, test: DataDir, draw_trials: bool = False) -> list[Path]:
    """Return the files that a probe needs and that are not there."""
    in_train, in_test = PROBES[probe].in_train, PROBES[probe].in_test
    if draw_trials and not test.has("trials"):
        in_test = tuple("utt2spk" if name == "trials" else name for name in in_test)
    wanted = [(train, name) for name in in_train] + [(test, name) for name in in_test]
    return [data.path / name for data, name in wanted if not data.has(name)]
