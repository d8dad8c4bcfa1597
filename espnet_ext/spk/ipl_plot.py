"""The picture of iterative pseudo-labelling: error rates and agreement of labels against the round."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from espnet_ext.files import atomic_write
from espnet_ext.metrics.det_plot import COLOURS

if TYPE_CHECKING:
    from espnet_ext.spk.ipl_report import Round


def save_rounds_plot(path: str | os.PathLike, rows: "Sequence[Round]", floors: "Sequence[Round]") -> None:
    """Draw EER against the round (left, intervals as bands) and how good its labels are (right); PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from espnet_ext.spk.ipl_report import lists_of

    figure = Figure(figsize=(9.6, 4.6), dpi=140, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    places = range(len(rows))
    for colour, (name, part) in zip(COLOURS * 9, lists_of(rows), strict=False):
        points = [(place, row.value("eer", (name, part))) for place, row in zip(places, rows, strict=True)]
        points = [(place, result) for place, result in points if result is not None]
        at = [place for place, _ in points]
        left.plot(at, [100 * result.value for _, result in points], "o-", color=colour, label=f"{name}, {part}")
        bands = [(place, *result.ci) for place, result in points if result.ci is not None]
        if bands:
            at, low, high = zip(*bands, strict=True)
            left.fill_between(at, [100 * x for x in low], [100 * x for x in high], color=colour, alpha=0.12, lw=0)
        for floor in floors:
            result = floor.value("eer", (name, part))
            if result is not None:
                label = f"{floor.name}, {name}, {part}"
                left.axhline(100 * result.value, color=colour, linewidth=1, linestyle=(0, (4, 4)), label=label)
    left.set_ylim(bottom=0)
    left.set(ylabel="EER (%) on unseen speakers, oracle", title="Errors")
    lines = [
        ("NMI with speakers, oracle", lambda row: row.oracle.get("nmi")),
        ("purity, oracle", lambda row: row.oracle.get("purity")),
        ("agreement with the round before", lambda row: (row.labels or {}).get("agreement")),
    ]
    for colour, marker, (label, value) in zip(COLOURS, "o^s", lines, strict=False):
        points = [(place, value(row)) for place, row in zip(places, rows, strict=True)]
        points = [(place, one) for place, one in points if one is not None]
        if points:
            right.plot(*zip(*points, strict=True), marker=marker, color=colour, label=label)
    right.set_ylim(0, 1.02)
    right.set(ylabel="pseudo-labels that the round trained on", title="Labels")
    for axis in (left, right):
        axis.set_xticks(list(places), [row.name for row in rows])
        axis.set_xlim(-0.3, max(len(rows) - 0.7, 0.3))
        axis.set_xlabel("round")
        axis.grid(color="#e4e4e4", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8.5, frameon=False)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")
