"""The DET curve of one or several systems as a picture, on probit axes."""

import os
from collections.abc import Sequence

import numpy as np

from espnet_ext.files import atomic_write
from espnet_ext.metrics.detection import Roc

TICKS = np.array([0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 95]) / 100
#: Okabe and Ito's colours: told apart by everybody, and in grey.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666"]


def save_det_plot(path: str | os.PathLike, panels: Sequence[tuple[str, Sequence[tuple[str, Roc, float]]]]) -> None:
    """Draw one panel per trial list: ``(title, [(system, operating points, EER in [0, 1]), ...])``; PNG.

    Systems of the same name have the same colour in every panel; a dot marks the EER.
    """
    # The object interface draws without a display and leaves the user's pyplot state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy.special import ndtri

    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.5 * columns, 5.1 * rows), dpi=140, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    names = list(dict.fromkeys(name for _, curves in panels for name, _, _ in curves))
    low, high = _limits([rate for _, curves in panels for _, _, rate in curves])
    ticks = TICKS[(low <= TICKS) & (high >= TICKS)]
    labels = [f"{100 * tick:g}" for tick in ticks]
    ends = ndtri([low, high])
    for axis, (title, curves) in zip(axes.flat, panels, strict=False):
        axis.plot(ends, ends, color="#b0b0b0", linewidth=0.8, linestyle=(0, (4, 4)), zorder=1)
        for name, points, rate in curves:
            colour = COLOURS[names.index(name) % len(COLOURS)]
            # Rates of 0 and 1 have no place on a probit axis: draw them just outside the frame.
            fpr, fnr = (ndtri(np.clip(values, low / 10, 1 - (1 - high) / 10)) for values in (points.fpr, points.fnr))
            axis.plot(fpr, fnr, color=colour, linewidth=1.6, label=f"{name}, EER {100 * rate:.2f} %", zorder=3)
            if low <= rate <= high:
                middle = ndtri(rate)
                axis.plot(middle, middle, "o", color=colour, markersize=5.5, markeredgecolor="white", zorder=4)
        axis.set_xticks(ndtri(ticks), labels)
        axis.set_yticks(ndtri(ticks), labels)
        axis.set(xlim=ends, ylim=ends, xlabel="False alarms (%)", ylabel="Misses (%)")
        axis.set_box_aspect(1)
        axis.set_title(title, fontsize=10.5, fontweight="bold", loc="left")
        axis.grid(color="#e4e4e4", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, length=3, color="#808080")
        # Below the axes, because good, bad and middling systems together leave no corner free.
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8.5, frameon=False)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _limits(rates: Sequence[float]) -> tuple[float, float]:
    """Axis limits around the EERs: low enough for the operating points that matter, high enough for a fair part."""
    low = min(max(min(rates) / 30, 1e-5), 2e-3)
    high = min(max(2.5 * max(rates), 0.4), 0.97)
    return low, high
