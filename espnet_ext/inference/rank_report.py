"""What ``rank`` leaves behind: a table by checkpoint and layer, ``rank.csv``, ``results.json`` and the curve."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_ext.files import atomic_write
from espnet_ext.inference.rank import RankSettings
from espnet_ext.metrics.rank_plot import save_rank_plot
from espnet_ext.metrics.report import Result, markdown_table, write_results_json, write_results_md
from espnet_ext.train.rank_list import RankList

MEASURES = {
    "rankme_t": "RankMe-t",
    "share": "share of min(N, K)",
    "mean_cosine": "mean cosine",
    "unit_std": "unit std",
    "frames_rank": "rank of frames",
    "inertia": "inertia",
    "davies_bouldin": "Davies–Bouldin",
}
EXPLANATION = """\
RankMe-t (arXiv 2409.10787): an utterance is the {pool} of a layer's frames; the rank of a layer is the exponential of
the entropy of the singular values of all utterances' vectors, not centred, 1 to min(N, K). Layer 0 is the input of the
first transformer layer and takes no part in the mean; layer i is the output of layer i.

A number depends on the utterances and on how many they are: it compares only with numbers of the same list, layer and
width. It is for choosing checkpoints and seeing a collapse; it does not choose layers, where lower ranks can be better.
Mean cosine is that of all pairs of vectors, 1 where all point the same way; unit std is the mean standard deviation
of the dimensions of vectors of length 1: {unit_std:.4f} (1/sqrt(K)) where they point everywhere, 0 after a collapse."""


def layers_of(rows: Sequence[dict]) -> list[int]:
    """The layers that were measured, ascending."""
    return sorted({row["layer"] for row in rows})


def mean_over_layers(values: Mapping[int, float]) -> float:
    """Mean over layers without layer 0, unless it is the only one."""
    counted = [value for layer, value in values.items() if layer] or list(values.values())
    return sum(counted) / len(counted)


def rank_table(rows: Sequence[dict]) -> str:
    """Markdown of the rows of one list: a line per checkpoint, a column per layer, and the mean without layer 0."""
    table: dict[tuple, dict[int, float]] = {}
    for row in rows:
        table.setdefault((row["checkpoint"], row["step"]), {})[row["layer"]] = row["rankme_t"]
    layers = layers_of(rows)
    header = ["checkpoint", "step", *map(str, layers), "mean 1–" if 0 in layers and len(layers) > 1 else "mean"]
    lines = [
        [name, "–" if step is None else f"{step:,}", *(f"{values[layer]:.1f}" for layer in layers)]
        + [f"{mean_over_layers(values):.1f}"]
        for (name, step), values in table.items()
    ]
    return markdown_table(header, lines)


def companion_table(rows: Sequence[dict]) -> str:
    """Markdown of the rows of one checkpoint and list: everything that was measured, a line per layer."""
    measures = [name for name in MEASURES if name in rows[0]]
    lines = [[str(row["layer"]), *(_short(row[name]) for name in measures)] for row in rows]
    return markdown_table(["layer", *(MEASURES[name] for name in measures)], lines)


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4f}"


def write_rank_csv(path: Path, rows: Sequence[dict], lists: Sequence[RankList], settings: RankSettings) -> None:
    """Write a row per checkpoint, list and layer, with what the numbers rest on."""
    facts = {
        one.name: {"list_checksum": one.checksum, "seconds": round(one.seconds, 1), "pool": settings.pool}
        | {"eps": settings.eps}
        for one in lists
    }
    full = [row | facts[row["list"]] for row in rows]
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(full[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(full)


def rank_results(rows: Sequence[dict]) -> list[Result]:
    """Every number; the number of utterances is part of a rank's name: ranks of other numbers do not compare."""
    results = []
    for row in rows:
        where = {"checkpoint": row["checkpoint"], "list": row["list"], "layer": str(row["layer"])}
        if row["step"] is not None:
            where["step"] = str(row["step"])
        for name in MEASURES:
            if name in row:
                metric = f"{name}_n{row['num_utterances']}" if "rank" in name else name
                results.append(Result(metric, row[name], count=row["num_utterances"], where=where))
    return results


def list_notes(lists: Sequence[RankList]) -> str:
    """A line per list: utterances, minutes, checksum, what was cut or left out."""
    notes = []
    for one in lists:
        more = f", {one.num_cut} cut to the longest length" if one.num_cut else ""
        more += f", {len(one.broken)} broken left out" if one.broken else ""
        notes.append(
            f"- `{one.name}`: {len(one):,} utterances of {one.data.path}, {one.seconds / 60:.1f} min{more}; checksum "
            f"{one.checksum} (ids in `list_{one.name}`)"
        )
    return "\n".join(notes)


def write_report(
    out: Path, rows: Sequence[dict], lists: Sequence[RankList], settings: RankSettings, info: Mapping
) -> str:
    """Write ``RESULTS.md``, ``rank.csv``, ``results.json``, ``rank.png`` and the lists; return the screen's text."""
    for one in lists:
        one.write(out / f"list_{one.name}")
    write_rank_csv(out / "rank.csv", rows, lists, settings)
    save_rank_plot(out / "rank.png", {one.name: [row for row in rows if row["list"] == one.name] for one in lists})
    sections, shown = [], []
    for one in lists:
        own = [row for row in rows if row["list"] == one.name]
        title = f"{one.name}: RankMe-t by layer, {own[0]['num_utterances']} utterances"
        text = rank_table(own)
        last = own[-1]["checkpoint"]
        more = companion_table([row for row in own if row["checkpoint"] == last])
        sections += [(title, text), (f"{one.name}: {last} in full", more)]
        shown.append(f"{title}\n\n{text}")
    explanation = EXPLANATION.format(pool=settings.pool, unit_std=rows[0]["size"] ** -0.5)
    took = sorted({(row["checkpoint"], row["list"]): row["wall_time_s"] for row in rows}.values())
    cost = f"- one checkpoint on one list took {took[len(took) // 2]:g} s (the median; each is in `rank.csv`)"
    text = f"{explanation}\n\n{list_notes(lists)}\n{cost}\n\n![RankMe-t](rank.png)"
    write_results_md(out / "RESULTS.md", "Embedding rank", [*sections, ("What this is", text)], info)
    write_results_json(out / "results.json", rank_results(rows), info)
    return "\n\n".join(shown)
