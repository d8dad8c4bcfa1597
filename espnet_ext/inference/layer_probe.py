"""How much of the speaker is in every layer of a pretrained encoder: error rates of zero-shot embeddings."""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.datadir import DataDir, Trials, read_scp
from espnet_ext.errors import UserError
from espnet_ext.metrics.bootstrap import confidence_intervals
from espnet_ext.metrics.detection import Curve, RankedTrials
from espnet_ext.metrics.report import Result
from espnet_ext.spk.embeddings import EmbeddingTable
from espnet_ext.spk.scoring import cosine_scores, unit_utterances

#: Kaldi's mark of a float vector and its length, before the numbers.
_HEADER = struct.Struct("<2s3sBi")
RAW, CENTRED, SCALED = "raw", "minus mean", "standardised"


class StoredVectors:
    """Vectors of an ``embedding.scp`` of which only a part is read: one layer of all utterances at a time.

    Raises ``UserError`` for a file that does not hold float32 vectors of ``size`` numbers.
    """

    def __init__(self, scp: Path, size: int):
        self.scp, self.size = scp, size
        self.places = {utt: entry.rpartition(":")[::2] for utt, entry in read_scp(scp).items()}

    @property
    def utterances(self) -> list[str]:
        """Ids, in the order of the rows."""
        return list(self.places)

    def part(self, start: int, stop: int) -> np.ndarray:
        """Numbers ``start`` to ``stop`` of every vector: float32 (utterances, stop - start)."""
        part = np.empty((len(self.places), stop - start), dtype="<f4")
        files = {}
        try:
            for row, (path, offset) in zip(part, self.places.values(), strict=True):
                file = files[path] if path in files else files.setdefault(path, open(path, "rb"))  # noqa: SIM115
                file.seek(int(offset))
                header = file.read(_HEADER.size)
                if header != _HEADER.pack(b"\0B", b"FV ", 4, self.size):
                    raise UserError(f"{path}: is not what was written there; remove {self.scp.parent}, and begin again")
                file.seek(4 * start, os.SEEK_CUR)
                row[:] = np.frombuffer(file.read(row.nbytes), dtype="<f4")
        finally:
            for file in files.values():
                file.close()
        return part


@dataclass
class ProbeSet:
    """Vectors and what they are tested on; ``enroll``, ``test`` rows, ``labels`` and speaker numbers, all (N,)."""

    vectors: StoredVectors
    unlabelled: StoredVectors | None
    enroll: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray  # of every row of ``vectors``

    def measure(self, start: int, stop: int, where: dict[str, str], num_bootstrap: int, seed: int) -> list[Result]:
        """Error rates of numbers ``start`` to ``stop`` of the vectors: raw, minus the mean, and standardised.

        Mean and deviation are those of the unlabelled set, which has no utterance of the trials.
        """
        systems, vectors = {RAW: None}, self.vectors.part(start, stop)
        table = EmbeddingTable(self.vectors.utterances, vectors, f"{self.vectors.scp}, {where['layer']}")
        if self.unlabelled is not None:
            others = self.unlabelled.part(start, stop).astype(np.float64)
            mean, deviation = others.mean(axis=0), others.std(axis=0)
            systems |= {CENTRED: (mean, 1.0), SCALED: (mean, np.where(deviation > 0, deviation, 1.0))}
        results = []
        for system, statistics in systems.items():
            moved = table.vectors
            if statistics is not None:
                mean, deviation = statistics
                moved = ((moved - mean) / deviation).astype(np.float32)
            scores = cosine_scores(unit_utterances(moved), self.enroll, self.test)
            results += self._error_rates(scores, where | {"system": system}, num_bootstrap, seed)
        return results

    def _error_rates(self, scores: np.ndarray, where: dict[str, str], num_bootstrap: int, seed: int) -> list[Result]:
        ranked, interval = RankedTrials(scores, self.labels), {}
        if num_bootstrap:
            sides = self.speakers[self.enroll], self.speakers[self.test]
            interval = confidence_intervals(ranked, *sides, {"eer": Curve.eer}, num_bootstrap, seed=seed)
        curve = ranked.curve()
        return [
            Result("eer", curve.eer(), interval.get("eer"), "fraction", len(scores), where),
            Result("min_dcf_0.05", curve.min_dcf(0.05), None, "", len(scores), where),
            Result("min_dcf_0.01", curve.min_dcf(0.01), None, "", len(scores), where),
        ]


def probe_set(
    scp: Path, size: int, trials: Trials, utt2spk: dict[str, str], unlabelled: Path | None = None
) -> tuple[ProbeSet, int]:
    """Put vectors and trials together; returns the number of trials left out too, those of broken utterances."""
    vectors = StoredVectors(scp, size)
    row = {utt: number for number, utt in enumerate(vectors.utterances)}
    there = [a in row and b in row for a, b in zip(trials.enroll, trials.test, strict=True)]
    pairs = [(a, b) for a, b, use in zip(trials.enroll, trials.test, there, strict=True) if use]
    enroll, test = np.array([(row[a], row[b]) for a, b in pairs], dtype=np.int64).reshape(-1, 2).T
    # Where the speakers are not known, every utterance is taken for a speaker of its own.
    names = [utt2spk.get(utt, utt) for utt in vectors.utterances]
    speakers = np.unique(names, return_inverse=True)[1]
    others = None if unlabelled is None else StoredVectors(unlabelled, size)
    return ProbeSet(vectors, others, enroll, test, trials.labels[np.array(there)], speakers), there.count(False)


def spans(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each layer lies in the joined vector, for layers of ``sizes``."""
    start = 0
    for size in sizes:
        yield start, start + size
        start += size


def choose(data: DataDir, utterances: Sequence[str]) -> DataDir:
    """A data directory of which only these utterances count."""
    chosen = DataDir(data.path, data.allow_commands)
    chosen.utterances = sorted(utterances)
    return chosen


def spread(utterances: Sequence[str], number: int) -> list[str]:
    """At most ``number`` utterances, evenly spread over a sorted list, so that all speakers take part."""
    if len(utterances) <= number:
        return list(utterances)
    return [utterances[place] for place in np.linspace(0, len(utterances) - 1, number).round().astype(int)]
