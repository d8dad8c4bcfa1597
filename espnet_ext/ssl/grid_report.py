"""What the rows of a grid over prediction targets came to, read from the reports of their stage score: one table."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.metrics.correlation import spearman
from espnet_ext.metrics.experiments import REFERENCE, by_row, spread
from espnet_ext.metrics.probes import PROBES
from espnet_ext.metrics.report import Result, markdown_table
from espnet_ext.ssl.grid import GridRow


@dataclass
class Outcome:
    """What a row came to, as its reports say; None and empty: not known.

    purity, pnmi: of the units it was trained on, by stream. bits: the sum of the streams' entropies, bit per frame.
    accuracy, commonest: at masked frames of the dev data and of always giving the commonest unit, by stream, %.
    probes: score on the test data, of the layer chosen elsewhere; layers: which; floor: that of log-mel energies, %.
    """

    iteration: int
    train_s: float
    bits: float
    purity: list[float] = field(default_factory=list)
    pnmi: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    commonest: list[float] = field(default_factory=list)
    probes: dict[str, float] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)


def scored_sets(exp: Path) -> list[str]:
    """Return the test sets that an experiment has units of, by name."""
    return sorted(path.parent.name.removeprefix("units_") for path in exp.glob("units_*/results.json"))


def read_outcome(row: GridRow, test_set: str) -> Outcome:
    """Read the reports of stage score: the units' quality, and the encoder's masked accuracy and probes."""
    encoder = _results(row.exp / f"it{row.iteration}" / f"probe_{test_set}" / "results.json")
    units = _results(row.exp / f"units_{test_set}" / "results.json")
    units = [one for one in units if one["where"]["system"] == f"iteration {row.iteration}"]
    single = {one["metric"]: one["value"] for one in encoder if not one["where"]}
    found = Outcome(row.iteration, single["train_s"], single["bits"])
    found.purity = [one["value"] for one in units if one["metric"] == "phone_purity"]
    found.pnmi = [one["value"] for one in units if one["metric"] == "pnmi"]
    found.accuracy = [100 * one["value"] for one in encoder if one["metric"] == "acc_m"]
    found.commonest = [100 * one["value"] for one in encoder if one["metric"] == "commonest"]
    for one in encoder:
        probe = one["metric"].removeprefix("chosen_")
        if probe != one["metric"] and one["where"]["system"] == "log-mel":
            found.floor[probe] = one["value"]
        elif probe != one["metric"]:
            found.probes[probe], found.layers[probe] = one["value"], one["where"]["layer"]
    return found


def _results(path: Path) -> list[dict]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["results"]
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: stage score of the recipe makes it, for every set of --test_sets"
        ) from None


def grid_table(rows: Sequence[GridRow], outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line for log-mel energies and for every row, mean (± deviation) over seeds, (+) to the reference."""
    probes = [probe for probe in PROBES if any(probe in one.probes for one in outcomes)]
    columns = [
        "varied",
        "value",
        "iteration",
        "streams",
        "bits",
        "PNMI",
        "phone purity",
        "masked acc. %",
        "commonest %",
    ]
    columns += [word for probe in probes for word in (f"{PROBES[probe].heading} %", "layer")] + ["training s"]
    floor = next((one.floor for one in outcomes if one.floor), {})
    cells = []
    if floor:
        line = ["log-mel energies", *["–"] * 8]
        line += [word for probe in probes for word in (f"{_shown(probe, floor[probe]):.2f}", "–")]
        cells.append([*line, "–"])
    grouped = by_row(rows, outcomes)
    references = {found[0].iteration: found for (group, _), found in grouped.items() if group == REFERENCE}
    for (group, name), found in grouped.items():
        first = found[0]
        line = [group, name, str(first.iteration), str(len(first.accuracy) or len(first.pnmi))]
        line += [spread([one.bits for one in found], 1)]
        line += [_range([one.pnmi for one in found], 3), _range([one.purity for one in found], 3)]
        line += [
            spread([float(np.mean(one)) if one else None for one in values], 1)
            for values in ([one.accuracy for one in found], [one.commonest for one in found])
        ]
        for probe in probes:
            scores = [_shown(probe, one.probes.get(probe)) for one in found]
            cell = spread(scores, 2)
            ours = [_shown(probe, one.probes.get(probe)) for one in references.get(first.iteration, [])]
            if group != REFERENCE and None not in scores and ours and None not in ours:
                cell += f" ({np.mean(scores) - np.mean(ours):+.2f})"
            line += [cell, "/".join(dict.fromkeys(one.layers.get(probe, "–") for one in found))]
        cells.append([*line, spread([one.train_s for one in found], 0)])
    return markdown_table(columns, cells)


def _shown(probe: str, score: float | None) -> float | None:
    return None if score is None else PROBES[probe].measured(score)


def _range(streams: Sequence[Sequence[float]], digits: int) -> str:
    """Mean over seeds: of the only stream, or from the lowest to the highest of several."""
    if not all(streams):
        return "–"
    means = np.mean(streams, axis=0)
    if len(means) == 1:
        return spread([one[0] for one in streams], digits)
    return f"{means.min():.{digits}f}–{means.max():.{digits}f}"


def directions(rows: Sequence[GridRow], outcomes: Sequence[Outcome]) -> list[str]:
    """Lines: Spearman's correlation of how detailed and how phonetic units are with probes, over rows of an iteration.

    The paper's claims are more detail, better speakers; more abstraction, better phones.
    """
    lines = []
    grouped = list(by_row(rows, outcomes).values())
    for iteration in sorted({found[0].iteration for found in grouped}):
        points = [found for found in grouped if found[0].iteration == iteration and found[0].pnmi]
        if len(points) < 5:
            continue
        measures = {
            "bits": [np.mean([one.bits for one in found]) for found in points],
            "the highest PNMI": [np.mean([max(one.pnmi) for one in found]) for found in points],
        }
        said = []
        for probe in PROBES:
            if all(probe in one.probes for found in points for one in found):
                scores = [np.mean([one.probes[probe] for one in found]) for found in points]
                # Of trials, higher is better too: 100 - EER.
                name = f"100 - {PROBES[probe].heading}" if PROBES[probe].is_error else PROBES[probe].heading
                said += [f"{what} and {name} {_signed(spearman(x, scores))}" for what, x in measures.items()]
        if said:
            rough = math.tanh(1.96 / math.sqrt(len(points) - 3))
            lines.append(
                f"Spearman's correlation over the {len(points)} rows of iteration {iteration}: {'; '.join(said)}. "
                f"With no relation at all it would lie within ±{rough:.2f} in 95 of 100 cases."
            )
    return lines


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def grid_results(rows: Sequence[GridRow], outcomes: Sequence[Outcome]) -> list[Result]:
    """Return every number of the table, by row and seed."""
    results = []
    for row, one in zip(rows, outcomes, strict=True):
        results += [
            Result("train_s", one.train_s, unit="s", where=row.where),
            Result("bits", one.bits, where=row.where),
        ]
        for metric, values in (("phone_purity", one.purity), ("pnmi", one.pnmi), ("acc_m", one.accuracy)):
            streams = [row.where | {"stream": str(number)} for number in range(len(values))]
            results += [Result(metric, value, where=where) for value, where in zip(values, streams, strict=True)]
        for probe, score in one.probes.items():
            results.append(Result(probe, score, unit="%", where=row.where | {"layer": one.layers[probe]}))
            results.append(Result(f"floor_{probe}", one.floor[probe], unit="%", where=row.where))
    return results
