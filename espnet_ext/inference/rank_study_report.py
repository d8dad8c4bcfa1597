"""What ``rank_study`` leaves behind: correlations by layer, scores, ``results.json``, CSV and a picture."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.files import atomic_write
from espnet_ext.inference.checkpoints import Checkpoint
from espnet_ext.inference.probe_data import ProbeData
from espnet_ext.inference.rank_report import list_notes, rank_results, rank_table, write_rank_csv
from espnet_ext.metrics.correlation import pearson, regret, spearman
from espnet_ext.metrics.probes import PROBES
from espnet_ext.metrics.rank_plot import save_study_plot
from espnet_ext.metrics.report import Result, markdown_table, write_results_json, write_results_md

EXPLANATION = """\
Does RankMe-t, which needs no labels, tell which checkpoint of a run is better (arXiv 2409.10787)? For every layer
alone, over {n} checkpoints, the first of them {first}: Pearson's and Spearman's correlation of the rank with a probe's
score{trained}. Layers are never pooled:
rank does not choose layers. A correlation over {n} points is a rough number{rough}.
Both may simply rise as training goes on: what it is good for shows where they turn.

Regret is the score of the best checkpoint minus that of the checkpoint with the highest rank, in points; beside it the
same for the checkpoint with the lowest dev loss, of those at the end of an epoch, where the training has noted it.

The encoder is frozen. Phone accuracy: frames, classified by a linear discriminant of one layer, trained on the training
utterances. Speaker accuracy: the same of the mean over time, on utterances of known speakers that were held out
({split}). EER: zero-shot, cosine of mean and deviation over time, minus the training utterances' mean."""


@dataclass(frozen=True)
class Correlation:
    """Of one layer on one list with one probe.

    spearman_trained: without the random initialisation, None where there is none or fewer than 3 others.
    regret_loss: None where no losses are known.
    """

    probe: str
    list: str
    layer: int
    pearson: float
    spearman: float
    spearman_trained: float | None
    regret_rank: float
    regret_loss: float | None
    count: int
    untrained: int


def correlate(
    checkpoints: Sequence[Checkpoint], rank_rows: Sequence[dict], probe_rows: Sequence[dict]
) -> list[Correlation]:
    """Return correlations for every probe, list and layer; pairs are matched by checkpoint."""
    names = [one.name for one in checkpoints]
    losses = loss_by_name(checkpoints)
    trained = np.array([not one.untrained for one in checkpoints])
    found = []
    for (probe, name), by_layer in series(names, rank_rows, probe_rows).items():
        for layer, pairs in by_layer.items():
            ranks, scores = np.array(pairs).T
            by_loss = None
            if losses:
                chosen = min(losses, key=losses.get)
                by_loss = float(scores.max() - scores[names.index(chosen)])
            of_trained = None
            if 3 <= trained.sum() < len(trained):
                of_trained = spearman(ranks[trained], scores[trained])
            values = pearson(ranks, scores), spearman(ranks, scores), of_trained, regret(ranks, scores)
            found.append(Correlation(probe, name, layer, *values, by_loss, len(pairs), int((~trained).sum())))
    return found


def loss_by_name(checkpoints: Sequence[Checkpoint]) -> dict[str, float]:
    """Return the dev losses that trainings have noted (at the end of epochs); empty for fewer than 3."""
    losses = {one.name: one.valid_loss for one in checkpoints if one.valid_loss is not None}
    return losses if len(losses) >= 3 else {}


def series(
    names: Sequence[str], rank_rows: Sequence[dict], probe_rows: Sequence[dict]
) -> dict[tuple[str, str], dict[int, list[tuple[float, float]]]]:
    """Return ``(probe, list) -> {layer: [(rank, score), …]}`` in the order of ``names``."""
    ranks = {(row["list"], row["layer"], row["checkpoint"]): row["rankme_t"] for row in rank_rows}
    probes = [probe for probe in PROBES if probe in probe_rows[0]]
    scores = {(probe, row["layer"], row["checkpoint"]): row[probe] for row in probe_rows for probe in probes}
    lists = list(dict.fromkeys(row["list"] for row in rank_rows))
    layers = sorted({row["layer"] for row in rank_rows})
    return {
        (probe, one): {
            layer: [(ranks[one, layer, name], scores[probe, layer, name]) for name in names] for layer in layers
        }
        for probe in probes
        for one in lists
    }


def correlation_table(found: Sequence[Correlation]) -> str:
    """Markdown: a line per probe and layer, columns for every list."""
    lists = list(dict.fromkeys(one.list for one in found))
    trained = any(one.spearman_trained is not None for one in found)
    measures = ["Pearson", "Spearman", *(["trained"] if trained else []), "regret"]
    header = [
        "probe",
        "layer",
        *(f"{what} {name}" if what == "Pearson" else what for name in lists for what in measures),
    ]
    known = any(one.regret_loss is not None for one in found)
    lines: dict[tuple[str, int], list[str]] = {}
    for one in found:
        line = lines.setdefault((one.probe, one.layer), [one.probe, str(one.layer)])
        line += [_signed(one.pearson), _signed(one.spearman)]
        line += [_signed(one.spearman_trained)] if trained else []
        line.append(f"{one.regret_rank:.2f}")
    if known:
        header.append("regret by loss")
        for one in found:
            line = lines[one.probe, one.layer]
            if len(line) < len(header):
                line.append(f"{one.regret_loss:.2f}")
    return markdown_table([*header, "n"], [[*line, str(found[0].count)] for line in lines.values()])


def _signed(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:+.2f}"


def score_table(rows: Sequence[dict], probe: str) -> str:
    """Markdown: a line per checkpoint, a column per layer."""
    table: dict[tuple, list[str]] = {}
    for row in rows:
        table.setdefault((row["checkpoint"], row["step"]), []).append(f"{row[probe]:.2f}")
    layers = sorted({row["layer"] for row in rows})
    lines = [[name, "–" if step is None else f"{step:,}", *values] for (name, step), values in table.items()]
    return markdown_table(["checkpoint", "step", *map(str, layers)], lines)


def floor_line(rows: Sequence[dict], floor: dict, probe: str) -> str:
    """Say what log-mel energies score, and what the last checkpoint's best layer does."""
    last = [row for row in rows if row["checkpoint"] == rows[-1]["checkpoint"]]
    best = max(last, key=lambda row: row[probe])
    return (
        f"{PROBES[probe].score} of log-mel energies: {floor[probe]:.2f}; of the best layer ({best['layer']}) of "
        f"{best['checkpoint']}: {best[probe]:.2f} ({best[probe] - floor[probe]:+.2f})."
    )


def write_study(
    out: Path,
    checkpoints: Sequence[Checkpoint],
    rank_rows: Sequence[dict],
    probe_rows: Sequence[dict],
    floor: dict,
    lists: Sequence,
    settings,
    data: ProbeData,
    info: Mapping,
) -> str:
    """Write ``RESULTS.md``, ``results.json``, ``rank.csv``, ``probes.csv``, ``study.png``; return the screen's text.

    floor: the row of ``LogMelFloor``.
    """
    layers = {row["layer"] for row in rank_rows}
    probe_rows = [row for row in probe_rows if row["layer"] in layers]
    for one in lists:
        one.write(out / f"list_{one.name}")
    write_rank_csv(out / "rank.csv", rank_rows, lists, settings)
    with atomic_write(out / "probes.csv") as file:
        writer = csv.DictWriter(file, list(probe_rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(probe_rows)
    found = correlate(checkpoints, rank_rows, probe_rows)
    points = series([one.name for one in checkpoints], rank_rows, probe_rows)
    titled = {(PROBES[probe].score, name): by_layer for (probe, name), by_layer in points.items()}
    save_study_plot(out / "study.png", titled)
    main = correlation_table(found)
    sections = [("Correlation of rank and score, by layer", main)]
    floors = {probe: floor_line(probe_rows, floor, probe) for probe in data.probes}
    sections += [
        (f"{PROBES[probe].score}, by layer", f"{score_table(probe_rows, probe)}\n\n{floors[probe]}")
        for probe in data.probes
    ]
    sections += [
        (f"{one.name}: RankMe-t by layer", rank_table([row for row in rank_rows if row["list"] == one.name]))
        for one in lists
    ]
    sections.append(("What this is", explanation(checkpoints, lists, data)))
    write_results_md(out / "RESULTS.md", "Rank against probes", sections, info)
    write_results_json(out / "results.json", _results(found, [*probe_rows, floor]) + rank_results(rank_rows), info)
    return "\n\n".join([main, *floors.values()])


def explanation(checkpoints: Sequence[Checkpoint], lists: Sequence, data: ProbeData) -> str:
    """The text below the tables."""
    count = len(checkpoints)
    # Fisher: the 95 % interval of a correlation of 0 over n points.
    rough = f": with no relation at all it would lie within ±{math.tanh(1.96 / math.sqrt(count - 3)):.2f}" \
        " in 95 of 100 cases" if count > 3 else ""  # fmt: skip
    split = "the last session of each speaker" if data.train.data.has("utt2session") else "a quarter of each speaker's"
    untrained = '; "trained" is Spearman\'s without the random initialisation, whose rank can be high'
    trained = untrained if any(one.untrained for one in checkpoints) else ""
    text = EXPLANATION.format(n=count, first=checkpoints[0].name, trained=trained, rough=rough, split=split)
    probes = "\n".join(
        f"- probes are {what} {len(one):,} utterances of {one.data.path} ({one.seconds / 60:.1f} min; checksum "
        f"{one.checksum})"
        for what, one in (("trained on", data.train), ("scored on", data.test))
    )
    return f"{text}\n\n{list_notes(lists)}\n{probes}\n\n![Rank against score](study.png)"


def _results(found: Sequence[Correlation], probe_rows: Sequence[dict]) -> list[Result]:
    results = []
    for one in found:
        where = {"probe": one.probe, "list": one.list, "layer": str(one.layer)}
        for metric in ("pearson", "spearman", "spearman_trained", "regret_rank", "regret_loss"):
            value = getattr(one, metric)
            if value is not None:
                count = one.count - one.untrained if metric == "spearman_trained" else one.count
                results.append(Result(metric, value, count=count, where=where))
    for row in probe_rows:
        where = {"checkpoint": row["checkpoint"], "layer": str(row["layer"])}
        results += [Result(f"probe_{probe}", row[probe], unit="%", where=where) for probe in PROBES if probe in row]
    return results
