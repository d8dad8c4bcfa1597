"""Rank over training steps, and rank against a probe's score, as pictures."""

import os
from collections.abc import Mapping, Sequence

from espnet_ext.files import atomic_write


def save_rank_plot(path: str | os.PathLike, panels: Mapping[str, Sequence[dict]]) -> None:
    """Draw a panel per list, a line per layer over the steps; PNG.

    Rows have ``checkpoint``, ``step`` (None where unknown: checkpoints lie side by side), ``layer``, ``rankme_t``.
    """
    figure, axes = _figure(len(panels), 1, (5.2, 3.9))
    for axis, (name, rows) in zip(axes[0], panels.items(), strict=True):
        layers = sorted({row["layer"] for row in rows})
        names = list(dict.fromkeys(row["checkpoint"] for row in rows))
        known = all(row["step"] is not None for row in rows)
        for layer in layers:
            own = [row for row in rows if row["layer"] == layer]
            x = [row["step"] if known else names.index(row["checkpoint"]) for row in own]
            style = "--" if layer == 0 and len(layers) > 1 else "-"
            axis.plot(x, [row["rankme_t"] for row in own], marker="o", color=_colour(layer, layers), markersize=3.5,
                      linewidth=1.5, linestyle=style if known else "", label=f"layer {layer}")  # fmt: skip
        if known:
            axis.set_xlabel("Steps")
        else:
            axis.set_xticks(range(len(names)), [name[-24:] for name in names], rotation=30, ha="right", fontsize=7)
        count = rows[0]["num_utterances"]
        axis.set_ylabel("RankMe-t")
        axis.set_ylim(bottom=0)
        _finish(axis, f"{name}, {count} utterances")
    axes[0][-1].legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(figure, path)


def save_study_plot(path: str | os.PathLike, panels: Mapping[tuple[str, str], Mapping[int, Sequence[tuple]]]) -> None:
    """Draw rank against score: a row of panels per probe, a column per list, a line per layer through its checkpoints.

    panels: ``(probe, list) -> {layer: [(rank, score), …]}`` in the order of the steps; the first has a hollow mark.
    """
    probes, lists = (list(dict.fromkeys(key[place] for key in panels)) for place in (0, 1))
    figure, axes = _figure(len(lists), len(probes), (4.6, 3.6))
    for (probe, name), by_layer in panels.items():
        axis = axes[probes.index(probe)][lists.index(name)]
        for layer, points in by_layer.items():
            ranks, scores = zip(*points, strict=True)
            colour = _colour(layer, list(by_layer))
            axis.plot(ranks, scores, "-", color=colour, linewidth=0.8, alpha=0.6)
            axis.plot(ranks[1:], scores[1:], "o", color=colour, markersize=4, label=f"layer {layer}")
            axis.plot(ranks[:1], scores[:1], "o", color=colour, markersize=5, markerfacecolor="white")
        axis.set(xlabel=f"RankMe-t on {name}", ylabel=probe)
        _finish(axis, f"{probe} / {name}")
    axes[0][-1].legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(figure, path)


def _figure(columns: int, rows: int, size: tuple[float, float]):
    # The object interface draws without a display and leaves the user's pyplot state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns + 1, size[1] * rows), dpi=140, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _colour(layer: int, layers: Sequence[int]):
    """Dark to light with the depth; told apart by everybody, and in grey."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * layers.index(layer) / max(1, len(layers) - 1))


def _finish(axis, title: str) -> None:
    axis.set_title(title, fontsize=10, fontweight="bold", loc="left")
    axis.grid(color="#e4e4e4", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure, path: str | os.PathLike) -> None:
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")
