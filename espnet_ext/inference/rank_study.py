"""Rank against probes over checkpoints: frozen layers, linear classifiers in closed form, unseen utterances."""

import functools
import logging
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import torch

from espnet_ext.datadir import Trials
from espnet_ext.errors import UserError
from espnet_ext.inference.checkpoints import Checkpoint
from espnet_ext.inference.linear_probe import ClassStatistics
from espnet_ext.inference.probe_data import ProbeData
from espnet_ext.inference.rank import Opener, remembered
from espnet_ext.inference.zero_shot import mean_and_deviation
from espnet_ext.metrics.detection import RankedTrials
from espnet_ext.spk.scoring import cosine_scores, unit_crops
from espnet_ext.ssl.features import LogMel
from espnet_ext.train.rank_list import RankList
from espnet_ext.upstream.layers import frame_grid

log = logging.getLogger(__name__)

# Speakers' vectors are few: more of the identity than for frames.
_SPEAKER_SHRINKAGE = 0.1


class LogMelFloor(torch.nn.Module):
    """What an encoder has to beat, as an encoder of one layer: 80 log-mel energies of the samples that a frame sees."""

    num_layers = 1
    frames_past_end = False
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
    """Return a row per layer with the score of every probe, in %; a pass over the audio of each list, no frame is kept.

    With ``data.dev``, ``dev_<probe>`` besides.
    """
    hop, field = frame_grid(encoder)
    for one in data.lists:
        one.min_samples = encoder.samples_for(1)
    statistics: dict[int, ClassStatistics] = {}
    num_phones = len(data.phones[1]) if "phone" in data.probes else 0

    def learn(layer: int, frames: np.ndarray, labels: np.ndarray) -> None:
        if layer not in statistics:
            statistics[layer] = ClassStatistics(frames.shape[1], num_phones)
        statistics[layer].add(frames, labels)

    def phones(utt: str, samples: int, frames: int) -> np.ndarray:
        # s3prl has up to two frames more than fit.
        if not 0 <= frames - (1 + (samples - field) // hop) <= 2:
            raise UserError(
                f"utterance {utt}: {frames} frames of {samples} samples; where this encoder's frames lie is not known, "
                "so they have no phones; leave the phone probe out"
            )
        return data.frame_labels(utt, frames, hop, field)

    labelled = phones if num_phones else None
    of_train = _pass(encoder, data.train, device, batch_s, labelled, learn)
    classifiers = {layer: one.fit() for layer, one in statistics.items()}
    statistics.clear()
    rows = [{"layer": layer} for layer in range(encoder.num_layers)]
    for prefix, one in data.scored.items():
        right, count = np.zeros(encoder.num_layers), np.zeros(encoder.num_layers)

        def score(layer: int, frames: np.ndarray, labels: np.ndarray, right=right, count=count) -> None:
            right[layer] += (classifiers[layer](frames) == labels).sum()
            count[layer] += len(labels)

        needed = {"phone", "eer"} & {*data.probes}
        vectors = _pass(encoder, one, device, batch_s, labelled, score) if needed else {}
        trials = data.trials(one) if "eer" in data.probes else None
        for layer, row in enumerate(rows):
            if num_phones:
                if not count[layer]:
                    raise UserError(f"{one.data.path}/utt2phones: no frame has a phone")
                row[f"{prefix}phone"] = float(100 * right[layer] / count[layer])
            if "speaker" in data.probes:
                split = data.speaker_dev_split if prefix else data.speaker_split
                row[f"{prefix}speaker"] = speaker_accuracy({u: v[layer] for u, v in of_train.items()}, *split)
            if trials is not None:
                mean = np.mean([v[layer] for v in of_train.values()], axis=0)
                moved = {u: v[layer] - mean for u, v in vectors.items()}
                row[f"{prefix}eer"] = 100 - 100 * float(trial_eer(moved, trials, one.data.path))
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
            for row, (utt, samples, number) in enumerate(zip(utts, lengths.tolist(), counts, strict=True)):
                labels[row, :number] = frame_labels(utt, samples, number)
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


def speaker_accuracy(vectors: Mapping[str, np.ndarray], speakers: Mapping[str, str], held_out: Set[str]) -> float:
    """Return the share (%) of held-out utterances whose speaker a linear classifier of the mean over time finds."""
    names = {speaker: number for number, speaker in enumerate(sorted(set(speakers.values())))}
    used = [utt for utt in speakers if utt in vectors]
    x = np.stack([vectors[utt][: len(vectors[utt]) // 2] for utt in used])
    y = np.array([names[speakers[utt]] for utt in used])
    test = np.array([utt in held_out for utt in used])
    statistics = ClassStatistics(x.shape[1], len(names))
    statistics.add(x[~test], y[~test])
    return float(100 * (statistics.fit(_SPEAKER_SHRINKAGE)(x[test].astype(np.float64)) == y[test]).mean())


def trial_eer(vectors: Mapping[str, np.ndarray], trials: Trials, path: Path) -> float:
    """Return the EER (0 to 1) of those of the trials of directory ``path`` that are among ``vectors``, by cosine."""
    row = {utt: number for number, utt in enumerate(vectors)}
    there = np.array([a in row and b in row for a, b in zip(trials.enroll, trials.test, strict=True)])
    labels = trials.labels[there]
    if len(set(labels.tolist())) < 2:
        raise UserError(
            f"{path}/trials: among the {len(row)} utterances taken there are not both target and non-target "
            "trials; raise --num_test"
        )
    enroll, test = (
        np.array([row[utt] for utt, use in zip(side, there, strict=True) if use])
        for side in (trials.enroll, trials.test)
    )
    units = unit_crops(np.stack(list(vectors.values())).astype(np.float32))
    return RankedTrials(cosine_scores(units, enroll, test), labels).curve().eer()
