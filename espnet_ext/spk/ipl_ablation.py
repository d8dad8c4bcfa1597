"""Ablations of Speaker-IPL: experiments (``metrics/experiments.py``) with options of ``ipl.sh``, and their table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.metrics.experiments import REFERENCE, Experiment, Row, by_row, option_words, read_rows, spread
from espnet_ext.metrics.report import markdown_table

# Options that the driver gives itself.
_KEPT = ("ipl_tag", "seed", "stage", "stop_stage")


@dataclass(frozen=True)
class Ablation(Experiment):
    """One row of the table with one seed; its folder is exp/ipl_<tag>."""

    prefix = "ablation_"

    def command(self, run: str, more: Sequence[str] = ()) -> list[str]:
        """The call of ``run.sh`` that makes it, or goes on with it."""
        options = {"ipl_tag": self.tag, "seed": str(self.seed), **self.options}
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        return [run, "--stage", "init", "--stop_stage", "loop", *more, *words]


def read_ablation(path: Path, seeds: Sequence[int] = (0,), groups: Sequence[str] = ()) -> list[Ablation]:
    """Read the experiments of a file, the reference first; ``groups`` keeps some of them only.

    Raises:
        UserError: see ``read_rows``.
    """
    reference, rows = read_rows(path, "ipl.sh", _KEPT, groups)
    rows = [Row(REFERENCE, "", {}, {}), *rows]
    return [
        Ablation(group, name, option_words(reference | options), seed)
        for group, name, options, _ in rows
        for seed in seeds
    ]


def read_outcome(exp: Path) -> dict[str, dict[str, float]]:
    """What ``results.json`` of an experiment says: ``{metric: {round: value}}``, the EER of the first trial list."""
    rows = json.loads((exp / "results.json").read_text(encoding="utf-8"))["results"]
    first = next(row["where"] for row in rows if row["metric"] == "eer")
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        where = row["where"]
        if row["metric"] != "eer" or all(where[key] == first[key] for key in ("set", "condition")):
            found.setdefault(row["metric"], {})[where["round"]] = row["value"]
    return found


def ablation_table(experiments: Sequence[Experiment], outcomes: Sequence[dict]) -> str:
    """Markdown: start and last round of every row, over its seeds (mean, and deviation where there are several)."""
    columns = ["varied", "value", "rounds", "EER % of round 0", "EER % of the last", "clusters", "agreement"]
    columns += ["oracle: NMI", "oracle: purity"]
    cells = []
    for (group, name), found in by_row(experiments, outcomes).items():
        lasts = [max((r for r in outcome["clusters"]), key=int) for outcome in found]
        cell = [group, name or "–", "/".join(dict.fromkeys(lasts))]
        cell.append(spread([100 * outcome["eer"]["0"] for outcome in found], 2))
        pairs = list(zip(found, lasts, strict=True))
        cell.append(spread([100 * outcome["eer"][last] for outcome, last in pairs], 2))
        for metric, digits in (("clusters", 0), ("agreement", 3), ("oracle_nmi", 3), ("oracle_purity", 3)):
            cell.append(spread([outcome.get(metric, {}).get(last) for outcome, last in pairs], digits))
        cells.append(cell)
    return markdown_table(columns, cells)
