"""The report on trained heads: tables, sentences, and the picture of error against the amount of training data."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_ext.files import atomic_write
from espnet_ext.metrics.det_plot import COLOURS
from espnet_ext.metrics.report import Result, write_results_json, write_results_md
from espnet_ext.spk.head_results import OWN_SYSTEMS, TrainedHead, comparison, main_table, mix_table, result_of

EXPLANATION = """EER: where misses and false alarms are equal; the interval is 95 %, speakers resampled, not trials.
Dev EER: of the best epoch, on the trials that chose it. Trained: parameters of head and layer weights, without encoder
and classifier; used: those that an embedding needs.

![EER against data](curve.png)"""


def write_report(
    out: Path,
    heads: Sequence[TrainedHead],
    where: tuple[str, str],
    system: str,
    baseline: str | None,
    info: Mapping,
) -> str:
    """Write ``RESULTS.md``, ``results.json`` and ``curve.png`` into ``out``; return what is shown on the screen."""
    measured = result_of(heads[0], where, system)
    floors = {name: result for name, result in heads[0].eers[where].items() if name not in OWN_SYSTEMS}
    table = main_table(heads, where, system, floors)
    sentences = comparison(heads, baseline, where, system) if baseline else []
    notes = "\n".join(f"- {sentence}" for sentence in sentences)
    mixes = mix_table(heads)
    save_curve(out / "curve.png", heads, where, system, [(name, result.value) for name, result in floors.items()])
    sections = [
        (f"{' '.join(where)}, {system}, {measured.count:,} trials", table),
        ("", notes),
        ("Share of every layer in the mix, %", mixes),
        ("What the columns mean", EXPLANATION),
    ]
    write_results_md(out / "RESULTS.md", "Speaker heads", [section for section in sections if section[1]], info)
    write_results_json(out / "results.json", [result for head in heads for result in _results(head)], info)
    return "\n\n".join(text for text in (table, notes, mixes) if text)


def _results(head: TrainedHead) -> list[Result]:
    mark = {"head": head.head, "encoder": head.upstream, "by": head.by, "fraction": f"{head.fraction:g}"}
    results = [
        Result("eer", one.value, one.ci, count=one.count, where=mark | one.where)
        for systems in head.eers.values()
        for one in systems.values()
    ]
    results.append(Result("parameters_trained", head.parameters.train, where=mark))
    results.append(Result("parameters_used", head.parameters.test, where=mark))
    for layer, share in enumerate([] if head.mix is None else head.mix):
        results.append(Result("layer_share", float(share), where=mark | {"layer": str(layer)}))
    return results


def save_curve(
    path: str | os.PathLike,
    heads: Sequence[TrainedHead],
    where: tuple[str, str],
    system: str,
    levels: Sequence[tuple[str, float]] = (),
) -> None:
    """Draw EER with 95 % intervals against the part of the data, one panel per encoder; PNG.

    A head trained on all data alone is a single point. Series by speaker are dashed. ``levels``: (name, EER in [0, 1])
    of systems without training, as horizontal lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    upstreams = list(dict.fromkeys(head.upstream for head in heads))
    names = list(dict.fromkeys(head.head for head in heads))
    columns = min(3, len(upstreams))
    rows = -(-len(upstreams) // columns)
    figure = Figure(figsize=(5.4 * columns, 4.2 * rows), dpi=140, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, upstream in zip(axes.flat, upstreams, strict=False):
        here = [head for head in heads if head.upstream == upstream]
        for number, name in enumerate(names):
            own = [head for head in here if head.head == name]
            for by, line in (("utterance", "-"), ("speaker", "--")):
                series = sorted((h for h in own if h.by == by or h.fraction == 1), key=lambda head: head.fraction)
                if by == "speaker" and all(head.by == "utterance" for head in own) or not series:
                    continue
                _draw(axis, series, where, system, COLOURS[number % len(COLOURS)], line, name, by)
        for level, (name, value) in enumerate(levels):
            axis.axhline(
                100 * value, color="#808080", linewidth=1, linestyle=("dotted", "dashdot")[level % 2], label=name
            )
        axis.set(xlabel="training data (%)", ylabel="EER (%)", ylim=(0, None))
        axis.set_title(f"{upstream or 'encoder'}, {' '.join(where)}", fontsize=10.5, fontweight="bold", loc="left")
        axis.grid(color="#e4e4e4", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    for axis in list(axes.flat)[len(upstreams) :]:
        axis.set_visible(False)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _draw(axis, series, where, system: str, colour: str, line: str, name: str, by: str) -> None:
    results = [result_of(head, where, system) for head in series]
    x = [100 * head.fraction for head in series]
    y = [100 * result.value for result in results]
    ends = [result.ci or (result.value, result.value) for result in results]
    error = [[max(0, v - 100 * low) for v, (low, _) in zip(y, ends, strict=True)]]
    error.append([max(0, 100 * high - v) for v, (_, high) in zip(y, ends, strict=True)])
    label = name if by == "utterance" else f"{name}, by speaker"
    axis.errorbar(x, y, error, color=colour, linestyle=line, marker="o", markersize=4.5, capsize=2.5, label=label)
