"""What a pre-trained encoder came to: its masked prediction on the dev data, and linear probes of its frozen layers.

A layer is chosen on the dev data (phones, trials) or on training utterances that were held out (speakers), never on the
utterances that its score is reported of.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError
from espnet_ext.inference.checkpoints import Checkpoint, find_checkpoints
from espnet_ext.inference.probe_data import ProbeData
from espnet_ext.inference.rank_study import LogMelFloor, probe_rows
from espnet_ext.metrics.probes import PROBES
from espnet_ext.metrics.report import Result, markdown_table, write_results_json, write_results_md
from espnet_ext.ssl.units import UnitFolder, read_units
from espnet_ext.train.rank_list import RankList

log = logging.getLogger(__name__)

EXPLANATION = """\
The encoder is frozen. Phone accuracy: frames, classified by a linear discriminant of one layer. Speaker accuracy: the
same of the mean over time, on utterances of known speakers that were held out. EER: zero-shot, cosine of mean and
deviation over time, minus the training utterances' mean. In bold the layer that does best where it is chosen: on other
speakers (dev) for phones and trials; for speakers on held-out utterances besides those that are scored."""
MASKED_PREDICTION = """\
Masked accuracy is that of the dev data; what is always the commonest unit is right as often as the column beside it
says, and a loss below the entropy of the unit counts needs hearing."""


@dataclass(frozen=True)
class StreamFacts:
    """A stream of units on the dev data: counts alone, and how well the encoder predicts it at masked frames (0 to 1).

    commonest: share of the most frequent unit. entropy: of the counts, nats. accuracy, loss (nats): None, not known.
    """

    name: str
    commonest: float
    entropy: float
    accuracy: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Training:
    """The checkpoint that is used: its epoch, steps until then, and the time of all epochs of the run, seconds."""

    epoch: int
    steps: int
    seconds: float
    streams: tuple[StreamFacts, ...]


def unit_counts(folder: UnitFolder) -> list[np.ndarray]:
    """Return how often every unit occurs, (K,) for each stream."""
    counts = [np.zeros(stream.num_units, dtype=np.int64) for stream in folder.streams]
    for place in folder.places().values():
        units = read_units(place)
        for stream, column in zip(counts, units.T, strict=True):
            stream += np.bincount(column, minlength=len(stream))
    if not all(stream.sum() for stream in counts):
        raise UserError(f"{folder.scp}: no units in it")
    return counts


def read_training(exp: Path, checkpoint: Checkpoint, dev_units: Sequence[UnitFolder]) -> Training:
    """Return what the training noted on the dev data at ``checkpoint``, and the counts of ``dev_units`` beside it.

    dev_units: the folders that it was validated on, in its order. Errors: ``UserError`` for others.
    """
    from espnet_ext.train.checkpoint import optimizer_steps, read_reporter
    from espnet_ext.zoo.yaml_file import load_yaml

    config = load_yaml(exp / "config.yaml")
    if config.get("preprocessor") != "units":
        raise UserError(f"{exp}/config.yaml: no training of task ssl; give the folder of one")
    if [folder.quantizer for folder in dev_units] != config.get("quantizers"):
        given = " ".join(str(folder.path) for folder in dev_units)
        raise UserError(
            f"--dev_units {given}: not the units that {exp} predicted; give those of the dev data by the same "
            f"centroids, which were {' '.join(config['dev_units'])}"
        )
    if not (exp / "checkpoint.pth").is_file():
        raise UserError(f"{exp}/checkpoint.pth is missing: it knows how the training went; train again, or restore it")
    stats = read_reporter(exp / "checkpoint.pth")["stats"]
    stats = {epoch: both for epoch, both in stats.items() if "valid" in both}
    # An average of several epochs has none of its own.
    epoch = checkpoint.epoch or min(stats, key=lambda epoch: stats[epoch]["valid"]["loss_m"])
    if epoch not in stats:
        raise UserError(f"{exp}/checkpoint.pth: knows nothing of epoch {epoch}; give a checkpoint of an epoch")
    dev = stats[epoch]["valid"]
    names = config["stream_names"]
    streams = []
    for name, counts in zip(names, [one for folder in dev_units for one in unit_counts(folder)], strict=True):
        share = counts[counts > 0] / counts.sum()
        end = f"_{name}" if len(names) > 1 else ""
        facts = float(share.max()), float(-(share * np.log(share)).sum()), dev.get(f"acc_m{end}")
        streams.append(StreamFacts(name, *facts, dev.get(f"loss_m{end}")))
    seconds = sum(part["time"].total_seconds() for both in stats.values() for part in both.values() if "time" in part)
    every = max(1, int(config.get("accum_grad") or 1))
    return Training(epoch, optimizer_steps(stats, every)[epoch], seconds, tuple(streams))


def choose_probes(train: RankList, dev: RankList, test: RankList, wanted: Sequence[str] = tuple(PROBES)) -> ProbeData:
    """Return the data of the ``wanted`` probes that there are labels for; what is left out, and why, is logged."""
    kept = []
    for probe in (probe for probe in PROBES if probe in wanted):
        try:
            data = ProbeData(train, test, (probe,), dev, draw_trials=True)
            if probe == "speaker":
                _ = data.speaker_dev_split
            elif probe == "eer":
                _ = data.trials(test), data.trials(dev)
            kept.append(probe)
        except UserError as error:
            log.warning("left out: %s: %s", PROBES[probe].score.partition(" (")[0], error)
    return ProbeData(train, test, tuple(kept), dev, draw_trials=True)


def measure(
    checkpoint: Checkpoint, data: ProbeData, device: str, out: Path, cache: Path, batch_s: float, seed: int
) -> tuple[list[dict], dict]:
    """Return a row per layer (``probe_layers``) and that of log-mel energies, kept in ``cache`` for other encoders."""
    if not data.probes:
        return [], {}
    rows = probe_rows([checkpoint], data, device, out, batch_s, seed)
    return rows, probe_rows([LogMelFloor()], data, "cpu", cache, batch_s, 0)[0]


def chosen(rows: Sequence[dict], probe: str) -> dict:
    """Return the row of the layer that is best where layers are chosen, the lowest one of equals."""
    return max(rows, key=lambda row: row[f"dev_{probe}"])


def write_report(
    out: Path,
    name: str,
    training: Training | None,
    rows: Sequence[dict],
    floor: Mapping,
    data: ProbeData,
    info: Mapping,
) -> str:
    """Write ``RESULTS.md`` and ``results.json``; return the screen's text.

    name: of the encoder. training: None where it was not trained here. rows, floor: of ``measure``.
    """
    sections = []
    if training is not None:
        table = f"{training_table(training)}\n\n{MASKED_PREDICTION}"
        sections.append((f"Masked prediction, epoch {training.epoch}", table))
    if rows:
        sections.append((f"Linear probes on {data.test.data.path.name}, by layer", probe_table(rows, floor, data)))
        lists = "\n".join(
            f"- {what}: {len(one):,} utterances of {one.data.path} (checksum {one.checksum})"
            for what, one in (("training", data.train), ("dev", data.dev), ("test", data.test))
        )
        held_out = f"; speakers: {len(data.speaker_split[1])} utterances held out" if "speaker" in data.probes else ""
        sections.append(("What this is", f"{EXPLANATION}\n\n{lists}{held_out}"))
    write_results_md(out / "RESULTS.md", f"What {name} came to", sections, info)
    write_results_json(out / "results.json", _results(training, rows, floor, data), info)
    tables = [training_table(training)] if training is not None else []
    return "\n\n".join([*tables, *([probe_table(rows, floor, data)] if rows else [])])


def training_table(training: Training) -> str:
    """Markdown: a line per stream."""
    columns = ["stream", "masked accuracy %", "commonest unit %", "masked loss", "entropy of the counts"]
    return markdown_table(
        columns,
        [
            [
                stream.name,
                "–" if stream.accuracy is None else f"{100 * stream.accuracy:.1f}",
                f"{100 * stream.commonest:.1f}",
                "–" if stream.loss is None else f"{stream.loss:.3f}",
                f"{stream.entropy:.3f}",
            ]
            for stream in training.streams
        ],
    )


def probe_table(rows: Sequence[dict], floor: Mapping, data: ProbeData) -> str:
    """Markdown: a line per layer and one for log-mel energies; scores where layers are chosen, and on the test data."""
    columns = ["layer"]
    for probe in data.probes:
        name = PROBES[probe].measure
        columns += [f"dev: {name}", name]
    lines = []
    for row in [*rows, floor]:
        line = [str(row["layer"]) if row is not floor else "log-mel energies"]
        for probe in data.probes:
            dev, test = (f"{PROBES[probe].measured(row[key]):.2f}" for key in (f"dev_{probe}", probe))
            line += [dev, f"**{test}**" if row is chosen(rows, probe) else test]
        lines.append(line)
    return markdown_table(columns, lines)


def _results(training: Training | None, rows: Sequence[dict], floor: Mapping, data: ProbeData) -> list[Result]:
    results = [] if training is None else _training_results(training)
    for row in [*rows, floor] if rows else []:
        system = "log-mel" if row is floor else "encoder"
        for probe in data.probes:
            where = {"set": data.test.data.path.name, "system": system, "layer": str(row["layer"])}
            results += [Result(f"probe_{key}", row[key], unit="%", where=where) for key in (probe, f"dev_{probe}")]
            if row is floor or row is chosen(rows, probe):
                results.append(Result(f"chosen_{probe}", row[probe], unit="%", where=where))
    return results


def _training_results(training: Training) -> list[Result]:
    results = [
        Result("train_s", training.seconds, unit="s"),
        Result("steps", training.steps),
        Result("bits", sum(stream.entropy for stream in training.streams) / math.log(2), unit="bit/frame"),
    ]
    for stream in training.streams:
        facts = {"acc_m": stream.accuracy, "commonest": stream.commonest}
        facts |= {"loss_m": stream.loss, "unit_entropy_nats": stream.entropy}
        where = {"set": "dev", "stream": stream.name}
        results += [Result(name, value, where=where) for name, value in facts.items() if value is not None]
    return results


def open_lists(
    train: DataDir, dev: DataDir, test: DataDir, num_train: int, num_test: int, skip_broken: bool
) -> tuple[RankList, RankList, RankList]:
    """Return lists of utterances to train on, to choose layers on and to score, evenly spread.

    What is in ``test`` is not taken for choosing: a test set may be a part of the dev data.
    """
    taken = set(test.utterances)
    rest = [utt for utt in dev.utterances if utt not in taken]
    if len(rest) < 2:
        raise UserError(f"{dev.path}: all of it is in {test.path} too; layers have to be chosen on something else")
    return (
        RankList(train, train.path.name, None, num_train, skip_broken=skip_broken),
        RankList(dev, dev.path.name, rest, num_test, skip_broken=skip_broken),
        RankList(test, test.path.name, None, num_test, skip_broken=skip_broken),
    )


def open_checkpoint(exp: Path, model_file: str) -> Checkpoint:
    """Return the checkpoint of a training of task ``ssl``."""
    if not (exp / model_file).is_file():
        raise UserError(f"{exp / model_file}: no such file; give the folder of a training of task ssl")
    return find_checkpoints([str(exp / model_file)])[0]


def open_encoder(spec: str) -> Checkpoint:
    """Return the one encoder that ``spec`` names, which ``find_checkpoints`` explains."""
    found = find_checkpoints([spec])
    if len(found) > 1:
        raise UserError(f"--encoder {spec}: holds {len(found)} checkpoints; give --exp, or one file of them")
    return found[0]
