"""Rank against probes over checkpoints: frozen layers, linear classifiers in closed form, unseen utterances."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from espnet_ext.datadir import DataDir
from espnet_ext.datadir.alignment import read_intervals
from espnet_ext.errors import UserError
from espnet_ext.inference.checkpoints import Checkpoint
from espnet_ext.inference.linear_probe import ClassStatistics
from espnet_ext.inference.rank import Opener, remembered
from espnet_ext.inference.zero_shot import mean_and_deviation
from espnet_ext.metrics.detection import RankedTrials
from espnet_ext.spk.scoring import cosine_scores, unit_crops
from espnet_ext.ssl.features import LogMel
from espnet_ext.ssl.quality import phones_at
from espnet_ext.train.rank_list import RATE_HZ, RankList

log = logging.getLogger(__name__)

#: What a probe needs in the training and in the test directory, and what its score is; higher is better.
PROBES = {
    "phone": (["utt2phones"], ["utt2phones"], "phone accuracy (%)"),
    "speaker": (["utt2spk"], [], "speaker accuracy (%)"),
    "eer": ([], ["trials"], "100 - EER (%)"),
}
# Speakers' vectors are few: more of the identity than for frames.
_SPEAKER_SHRINKAGE = 0.1


class LogMelFloor(torch.nn.Module):
    """What an encoder has to beat, as an encoder of one layer: 80 log-mel energies of the samples that a frame sees."""

    num_layers = 1
    name, step = "log-mel", None

    def identity(self) -> str:
        """Changes with what the features are."""
        return "logmel 1"

    def open(self, device: str, seed: int = 0) -> "LogMelFloor":
        """Stand in for a checkpoint."""
        return self

    def samples_for(self, num_frames: int) -> int:
        """Return the samples of ``num_frames``, which lie as HuBERT's: 400 every 320."""
        return 320 * (num_frames - 1) + 400

    def hidden_states(self, wav: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (1, batch, frames, 80) and lengths (batch,) in frames of waveforms (batch, samples)."""
        features = LogMel()([row[:number] for row, number in zip(wav.cpu().numpy(), lengths.tolist(), strict=True)])
        every_other = [torch.from_numpy(frames[::2]) for (frames,) in features]  # they come every 160 samples
        states = torch.nn.utils.rnn.pad_sequence(every_other, batch_first=True)
        return states[None].to(wav.device), torch.tensor([len(x) for x in every_other], device=wav.device)


@dataclass
class ProbeData:
    """What probes are trained on and scored on; the utterances of the two lists are different ones."""

    train: RankList
    test: RankList
    probes: tuple[str, ...]

    def __post_init__(self):
        shared = set(self.train.lengths) & set(self.test.lengths)
        if shared:
            raise UserError(
                f"{self.train.data.path} and {self.test.data.path} share {len(shared)} utterances ({min(shared)}, …): "
                "probes have to be scored on other utterances than they are trained on"
            )
        for probe in self.probes:
            missing = missing_tables(probe, self.train.data, self.test.data)
            if missing:
                raise UserError(
                    f"--probes {probe}: {missing[0]} is missing; leave the probe out, or give a directory with it"
                )

    def facts(self) -> list:
        """What the scores rest on, besides the checkpoint."""
        return [[one.checksum, one.data.path.as_posix()] for one in (self.train, self.test)] + [list(self.probes)]

    @functools.cached_property
    def phones(self) -> tuple[dict[str, list], dict[str, int]]:
        """Intervals of every utterance of both lists, and a number for every phone of the training list."""
        aligned = {}
        for one in (self.train, self.test):
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
        data = self.train.data
        sessions = data.table("utt2session") if data.has("utt2session") else {}
        by_speaker: dict[str, list[str]] = {}
        for utt in self.train.lengths:
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


def missing_tables(probe: str, train: DataDir, test: DataDir) -> list[Path]:
    """Return the files that a probe needs and that are not there."""
    in_train, in_test, _ = PROBES[probe]
    wanted = [(train, name) for name in in_train] + [(test, name) for name in in_test]
    return [data.path / name for data, name in wanted if not data.has(name)]


def probe_rows(
    checkpoints: Sequence[Checkpoint | LogMelFloor], data: ProbeData, device: str, out: Path, batch_s: float, seed: int
):
    """Score every layer of every checkpoint: rows with checkpoint, step, layer and a score in % per probe."""
    rows = []
    for number, checkpoint in enumerate(checkpoints, start=1):
        log.info("%s (%d of %d): probes", checkpoint.name, number, len(checkpoints))
        measure = functools.partial(_open_and_probe, Opener(checkpoint, device, seed), data, device, batch_s)
        found = remembered(out / "checkpoints", checkpoint, ["probes 1", *data.facts(), device, seed], measure)
        rows += [{"checkpoint": checkpoint.name, "step": checkpoint.step} | row for row in found]
    return rows


def _open_and_probe(opened: Opener, data: ProbeData, device: str, batch_s: float) -> list[dict]:
    return probe_layers(opened(), data, device, batch_s)


def probe_layers(encoder: torch.nn.Module, data: ProbeData, device: str, batch_s: float = 30.0) -> list[dict]:
    """Return a row per layer with the score of every probe, in %; two passes over the audio, no frame is kept."""
    field = encoder.samples_for(1)
    frame = functools.partial(data.frame_labels, hop=encoder.samples_for(2) - field, field=field)
    data.train.min_samples = data.test.min_samples = field
    statistics: dict[int, ClassStatistics] = {}
    num_phones = len(data.phones[1]) if "phone" in data.probes else 0

    def learn(layer: int, frames: np.ndarray, labels: np.ndarray) -> None:
        if layer not in statistics:
            statistics[layer] = ClassStatistics(frames.shape[1], num_phones)
        statistics[layer].add(frames, labels)

    labelled = frame if num_phones else None
    of_train = _pass(encoder, data.train, device, batch_s, labelled, learn)
    classifiers = {layer: one.fit() for layer, one in statistics.items()}
    statistics.clear()
    right = np.zeros(encoder.num_layers)
    count = np.zeros(encoder.num_layers)

    def score(layer: int, frames: np.ndarray, labels: np.ndarray) -> None:
        right[layer] += (classifiers[layer](frames) == labels).sum()
        count[layer] += len(labels)

    of_test = _pass(encoder, data.test, device, batch_s, labelled, score) if {"phone", "eer"} & {*data.probes} else {}
    rows = [{"layer": layer} for layer in range(encoder.num_layers)]
    for layer, row in enumerate(rows):
        if num_phones:
            if not count[layer]:
                raise UserError(f"{data.test.data.path}/utt2phones: no frame has a phone")
            row["phone"] = float(100 * right[layer] / count[layer])
        if "speaker" in data.probes:
            row["speaker"] = speaker_accuracy({utt: vectors[layer] for utt, vectors in of_train.items()}, data)
        if "eer" in data.probes:
            mean = np.mean([vectors[layer] for vectors in of_train.values()], axis=0)
            row["eer"] = 100 - 100 * float(
                trial_eer({utt: v[layer] - mean for utt, v in of_test.items()}, data.test.data)
            )
    return rows


@torch.no_grad()
def _pass(encoder, utterances: RankList, device: str, batch_s: float, frame_labels, take) -> dict[str, list]:
    """Give every layer's labelled frames to ``take``; return {utterance: [mean and deviation (2 K,) per layer]}."""
    vectors: dict[str, list] = {}
    for utts, wav, lengths in utterances.batches(batch_s):
        states, frames = encoder.hidden_states(wav.to(device), lengths.to(device))
        counts = frames.tolist()
        labels = None
        if frame_labels is not None:
            labels = np.full((len(utts), states[0].size(1)), -1)
            for row, (utt, number) in enumerate(zip(utts, counts, strict=True)):
                labels[row, :number] = frame_labels(utt, number)
        pooled = []
        for layer, hidden in enumerate(states):
            pooled.append(mean_and_deviation(hidden, frames).cpu().numpy())
            if not np.isfinite(pooled[-1]).all():
                raise UserError(
                    f"layer {layer} of one of {', '.join(utts)} holds NaN or infinity: the encoder diverged"
                )
            if labels is not None:
                take(layer, hidden.cpu().numpy()[labels >= 0], labels[labels >= 0])
        for row, utt in enumerate(utts):
            vectors[utt] = [layer[row] for layer in pooled]
    return vectors


def speaker_accuracy(vectors: Mapping[str, np.ndarray], data: ProbeData) -> float:
    """Return the share (%) of held-out utterances whose speaker a linear classifier of the mean over time finds."""
    speakers, held_out = data.speaker_split
    names = {speaker: number for number, speaker in enumerate(sorted(set(speakers.values())))}
    used = [utt for utt in speakers if utt in vectors]
    x = np.stack([vectors[utt][: len(vectors[utt]) // 2] for utt in used])
    y = np.array([names[speakers[utt]] for utt in used])
    test = np.array([utt in held_out for utt in used])
    statistics = ClassStatistics(x.shape[1], len(names))
    statistics.add(x[~test], y[~test])
    return float(100 * (statistics.fit(_SPEAKER_SHRINKAGE)(x[test].astype(np.float64)) == y[test]).mean())


def trial_eer(vectors: Mapping[str, np.ndarray], data: DataDir) -> float:
    """Return the EER (0 to 1) of the directory's trials among ``vectors``, by cosine."""
    trials = data.trials()
    row = {utt: number for number, utt in enumerate(vectors)}
    there = np.array([a in row and b in row for a, b in zip(trials.enroll, trials.test, strict=True)])
    labels = trials.labels[there]
    if len(set(labels.tolist())) < 2:
        raise UserError(
            f"{data.path}/trials: among the {len(row)} utterances taken there are not both target and non-target "
            "trials; raise --num_test"
        )
    enroll, test = (
        np.array([row[utt] for utt, use in zip(side, there, strict=True) if use])
        for side in (trials.enroll, trials.test)
    )
    units = unit_crops(np.stack(list(vectors.values())).astype(np.float32))
    return RankedTrials(cosine_scores(units, enroll, test), labels).curve().eer()
