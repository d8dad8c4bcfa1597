"""The DET curve of one or several systems as a picture, on probit axes."""

import os
from collections.abc import Sequence

import numpy as np

from espnet_ext.files import atomic_write
from espnet_ext.metrics.detection import Roc

TICKS = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 95]) / 100
COLOURS = [
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#666666",
]  # Okabe and Ito: safe to tell apart


def save_det_plot(path: str | os.PathLike, panels: Sequence[tuple[str, Sequence[tuple[str, Roc, float]]]]) -> None:
    """Draw one panel per trial list: ``(title, [(system, operating points, EER in [0, 1]), ...])``; PNG.

    Systems of the same name have the same colour in every panel; a dot marks the EER.
    """
    # The object interface draws without a display and leaves the user's pyplot state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy.special import ndtri

    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.4, 4.8 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    names = list(dict.fromkeys(name for _, curves in panels for name, _, _ in curves))
    low, high = _limits(panels)
    ticks = TICKS[(low <= TICKS) & (high >= TICKS)]
    for axis, (title, curves) in zip(axes.flat, panels, strict=False):
        for name, points, rate in curves:
            colour = COLOURS[names.index(name) % len(COLOURS)]
            fpr, fnr = ndtri(np.clip(points.fpr, low / 2, high * 1.2)), ndtri(np.clip(points.fnr, low / 2, high * 1.2))
            axis.plot(fpr, fnr, color=colour, linewidth=1.8, label=f"{name}, EER {100 * rate:.2f} %")
            if low <= rate <= high:
                axis.plot(ndtri(rate), ndtri(rate), "o", color=colour, markersize=5, markeredgecolor="white", zorder=5)
        ends = ndtri([low, high])
        axis.plot(ends, ends, color="#bbbbbb", linewidth=0.8, linestyle=(0, (4, 4)), zorder=0)
        labels = [f"{100 * tick:g}" for tick in ticks]
        axis.set_xticks(ndtri(ticks), labels)
        axis.set_yticks(ndtri(ticks), labels)
        axis.set(xlim=ends, ylim=ends, aspect="equal", title=title)
        axis.set(xlabel="False alarms (%)", ylabel="Misses (%)")
        axis.grid(color="#e6e6e6", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, length=3)
        axis.legend(loc="upper right", fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _limits(panels) -> tuple[float, float]:
    """Axis limits from the range of the rates: from half the best EER's tenth to beyond the worst EER."""
    rates = [rate for _, curves in panels for _, _, rate in curves]
    low = max(min(max(min(rates) / 20, 1e-4), 0.01), 1e-4)
    high = min(max(max(rates) * 1.8, 0.2), 0.95)
    return low, high
