"""Error rate against layer as a picture."""

import os
from collections.abc import Mapping, Sequence

from espnet_ext.files import atomic_write
from espnet_ext.metrics.det_plot import COLOURS

Point = tuple[str, float, tuple[float, float] | None]


def save_layer_plot(
    path: str | os.PathLike, title: str, lines: Mapping[str, Sequence[Point]], floor: str | None = None
) -> None:
    """Draw one line per system over (layer, EER in [0, 1], interval or None); PNG.

    The interval of the second system (the first where there is one only) is a band; the layer called ``floor`` is a
    dashed line across.
    """
    # The object interface draws without a display and leaves the user's pyplot state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=140, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    banded = list(lines)[min(1, len(lines) - 1)]
    for (system, points), colour in zip(lines.items(), COLOURS, strict=False):
        layers = [(int(layer), 100 * rate, interval) for layer, rate, interval in points if layer != floor]
        places = [layer for layer, _, _ in layers]
        axis.plot(
            places, [rate for _, rate, _ in layers], "o-", color=colour, markersize=4, linewidth=1.6, label=system
        )
        ends = [(layer, interval) for layer, _, interval in layers if interval is not None]
        if system == banded and ends:
            low, high = zip(*(interval for _, interval in ends), strict=True)
            band = [[100 * value for value in side] for side in (low, high)]
            axis.fill_between([layer for layer, _ in ends], *band, color=colour, alpha=0.15, linewidth=0)
        for _, rate, _ in (point for point in points if point[0] == floor):
            axis.axhline(100 * rate, color=colour, linewidth=1, linestyle=(0, (4, 3)))
            axis.annotate(f"{floor}, {system}", (1, 100 * rate), xycoords=("axes fraction", "data"), fontsize=7.5,
                          ha="right", va="bottom", color=colour)  # fmt: skip
    axis.set(xlabel="Layer", ylabel="EER (%)")
    axis.set_ylim(bottom=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title(title, fontsize=10.5, fontweight="bold", loc="left")
    axis.grid(color="#e4e4e4", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8.5, frameon=False, ncols=len(lines), loc="upper center", bbox_to_anchor=(0.5, -0.13))
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")
