"""Ablations of Speaker-IPL: experiments that differ from a reference in one thing, and one table of them.

A file says what is varied; its options are those of ``ipl.sh``::

    augmentation:
        none: {train_args: "--preprocessor_conf rir_apply_prob=0 --preprocessor_conf noise_apply_prob=0"}
    clusters:
        "20": {num_clusters: 20}
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.metrics.report import markdown_table

REFERENCE = "reference"


@dataclass(frozen=True)
class Experiment:
    """One row of the table with one seed: ``group`` is what is varied, ``name`` its value."""

    group: str
    name: str
    options: Mapping[str, str]
    seed: int

    @property
    def tag(self) -> str:
        """The name of its folder: exp/ipl_<tag>."""
        words = [word for word in (self.group, self.name, f"s{self.seed}") if word]
        return "ablation_" + re.sub(r"[^A-Za-z0-9_.-]", "_", "_".join(words))

    @property
    def where(self) -> dict[str, str]:
        """What a result of it is a result of."""
        return {"varied": self.group, "value": self.name, "seed": str(self.seed)}

    def command(self, run: str, more: Sequence[str] = ()) -> list[str]:
        """The call of ``run.sh`` that makes it, or goes on with it."""
        options = {"ipl_tag": self.tag, "seed": str(self.seed), **self.options}
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        return [run, "--stage", "init", "--stop_stage", "loop", *more, *words]


def read_ablation(path: Path, seeds: Sequence[int] = (0,), groups: Sequence[str] = ()) -> list[Experiment]:
    """Read the experiments of a file, the reference first; ``groups`` keeps some of them only.

    Raises:
        UserError: a file that is not {what is varied: {value: {option of ipl.sh: its value}}}, or an unknown group.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    form = f"{path}: should be {{what is varied: {{value: {{option of ipl.sh: its value}}}}}}"
    if not isinstance(content, dict) or not content:
        raise UserError(form)
    unknown = [group for group in groups if group not in content]
    if unknown:
        raise UserError(f"{path}: nothing is varied under {unknown[0]!r}; there are {', '.join(map(str, content))}")
    rows = [(REFERENCE, "", {})]
    for group, values in content.items():
        if not isinstance(values, dict) or not all(isinstance(options, dict) for options in values.values()):
            raise UserError(f"{form}; see {group!r}")
        if not groups or group in groups:
            rows += [(str(group), str(name), options) for name, options in values.items()]
    kept = ("ipl_tag", "seed", "stage", "stop_stage")
    for group, name, options in rows:
        clash = next((key for key in kept if key in options), None)
        if clash:
            raise UserError(f"{path}: {group} {name}: {clash} is set by the driver; leave it out")
    plain = [(group, name, {key: str(value) for key, value in options.items()}) for group, name, options in rows]
    return [Experiment(*row, seed) for row in plain for seed in seeds]


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
    rows: dict[tuple[str, str], list[dict]] = {}
    for one, outcome in zip(experiments, outcomes, strict=True):
        rows.setdefault((one.group, one.name), []).append(outcome)
    cells = []
    for (group, name), found in rows.items():
        lasts = [max((r for r in outcome["clusters"]), key=int) for outcome in found]
        cell = [group, name or "–", "/".join(dict.fromkeys(lasts))]
        cell.append(spread([100 * outcome["eer"]["0"] for outcome in found], 2))
        pairs = list(zip(found, lasts, strict=True))
        cell.append(spread([100 * outcome["eer"][last] for outcome, last in pairs], 2))
        for metric, digits in (("clusters", 0), ("agreement", 3), ("oracle_nmi", 3), ("oracle_purity", 3)):
            cell.append(spread([outcome.get(metric, {}).get(last) for outcome, last in pairs], digits))
        cells.append(cell)
    return markdown_table(columns, cells)


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean, and ± the deviation of a sample where there are several."""
    if any(value is None for value in values):
        return "–"
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.{max(digits, 1)}f}"
