"""Experiments of a recipe: rows that differ from a reference in one thing, run by run.sh, together in one table.

A file says what is varied; its options are those of the recipe's template::

    augmentation:
        none: {train_args: "--preprocessor_conf rir_apply_prob=0 --preprocessor_conf noise_apply_prob=0"}
    clusters:
        "20": {num_clusters: 20}

``reference: {option: its value}`` holds for every row; without it the reference is run.sh as it is.
"""

import argparse
import re
import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from espnet_ext.errors import UserError

REFERENCE = "reference"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Experiment(ABC):
    """One row of the table with one seed: ``group`` is what is varied, ``name`` its value.

    A family of experiments says how its folders begin (``prefix``) and what makes it (``command``).
    """

    group: str
    name: str
    options: Mapping[str, str]
    seed: int

    prefix = ""

    @property
    def tag(self) -> str:
        """What the name of its folder ends with."""
        words = [word for word in (self.group, self.name, f"s{self.seed}") if word]
        return self.prefix + re.sub(r"[^A-Za-z0-9_.-]", "_", "_".join(words))

    @property
    def where(self) -> dict[str, str]:
        """What a result of it is a result of."""
        return {"varied": self.group, "value": self.name, "seed": str(self.seed)}

    @abstractmethod
    def command(self, run: str, more: Sequence[str] = ()) -> list[str]:
        """The call of ``run.sh`` that makes it, or goes on with it; ``more`` are options for every experiment."""

    def is_finished(self, command: Sequence[str]) -> bool:
        """Whether this command has made it before, so that it need not run again."""
        return False

    def note_finished(self, command: Sequence[str]) -> None:  # noqa: B027 (what is never found finished notes nothing)
        """Remember that this command has made it."""


class Row(NamedTuple):
    """A row as the file has it: ``settings`` are those of its group, ``options`` those of the recipe and the row."""

    group: str
    name: str
    options: dict
    settings: dict


def read_rows(
    path: Path, recipe: str, kept: Sequence[str], groups: Sequence[str] = (), settings: Sequence[str] = ()
) -> tuple[dict, list[Row]]:
    """Return the options of the reference, and the rows of a file; ``groups`` keeps some of them only.

    Args:
        recipe: the template whose options are given, for messages. kept: options that the driver sets itself.
        groups: ``reference`` among them is no group, and keeps nothing.
        settings: keys of a group that are no rows.

    Raises:
        UserError: a file that is not {what is varied: {value: {option: its value}}}, or an unknown group.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    form = f"{path}: should be {{what is varied: {{value: {{option of {recipe}: its value}}}}}}"
    if not isinstance(content, dict) or not content:
        raise UserError(form)
    reference = content.pop(REFERENCE, {})
    if not isinstance(reference, dict) or any(isinstance(value, dict) for value in reference.values()):
        raise UserError(f"{path}: {REFERENCE} should be {{option of {recipe}: its value}}")
    unknown = [group for group in groups if group not in content and group != REFERENCE]
    if unknown:
        raise UserError(f"{path}: nothing is varied under {unknown[0]!r}; there are {', '.join(map(str, content))}")
    rows = []
    for group, values in content.items():
        facts = {key: values[key] for key in settings if key in values} if isinstance(values, dict) else {}
        if not isinstance(values, dict) or not all(
            isinstance(options, dict) for name, options in values.items() if name not in facts
        ):
            raise UserError(f"{form}; see {group!r}")
        if not groups or group in groups:
            rows += [Row(str(group), str(name), values[name], facts) for name in values if name not in facts]
    for group, name, options, _ in [Row(REFERENCE, "", reference, {}), *rows]:
        clash = next((key for key in kept if key in options), None)
        if clash:
            raise UserError(f"{path}: {group} {name}: {clash} is set by the driver; leave it out")
    return reference, rows


def option_words(options: Mapping) -> dict[str, str]:
    """Values as the command line takes them."""
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in options.items()}


def add_arguments(parser: argparse.ArgumentParser, config: str) -> None:
    """The options of every such driver."""
    add = parser.add_argument
    add("--config", type=Path, default=Path(config), help=f"what is varied (default: {config})")
    add("--run", default="./run.sh", help="the recipe (default: ./run.sh)")
    add("--only", nargs="*", default=[], metavar="WHAT", help="these parts of the file; the reference is always run")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds of every row (default: 0)")
    add("--options", default="", help="options for every experiment, for example '--ngpu 1 --max_rounds 3'")
    add("--expdir", type=Path, default=Path("exp"), help="where the recipe puts experiments (default: exp)")
    add("--out", type=Path, help="folder of the table (default: --expdir)")
    add("--dry_run", choices=["true", "false"], default="false", help="true: only say what would run")


def run_all(experiments: Sequence[Experiment], args: argparse.Namespace, report: Callable[[list], str]) -> None:
    """Run every experiment by the options of ``add_arguments``; ``report`` writes the table of those that went well.

    It is written anew after each of them, and printed at the end. Raises ``UserError`` that names those that failed.
    """
    more = shlex.split(args.options)
    if args.dry_run == "true":
        for one in experiments:
            print(shlex.join(one.command(args.run, more)))
        return
    if shutil.which(args.run) is None:
        raise UserError(f"--run {args.run}: no such program here; go to the recipe's folder, or give its run.sh")
    finished: list[Experiment] = []
    failed: list[Experiment] = []
    table = ""
    for one in experiments:
        command = one.command(args.run, more)
        before = one.is_finished(command)
        note = " (finished before)" if before else ""
        print(f"== {one.group} {one.name}, seed {one.seed}: {shlex.join(command)}{note}", flush=True)
        if not before:
            if subprocess.run(command).returncode:
                failed.append(one)
                continue
            one.note_finished(command)
        finished.append(one)
        table = report(finished)
    if finished:
        print(table)
    if failed:
        names = ", ".join(f"{one.group} {one.name} (seed {one.seed})" for one in failed)
        raise UserError(f"{len(failed)} of {len(experiments)} experiments failed: {names}; what each said is above")


def by_row(experiments: Sequence[Experiment], outcomes: Iterable[Item]) -> dict[tuple[str, str], list[Item]]:
    """Return ``{(what is varied, value): [outcome of every seed]}``."""
    rows: dict[tuple[str, str], list] = {}
    for one, outcome in zip(experiments, outcomes, strict=True):
        rows.setdefault((one.group, one.name), []).append(outcome)
    return rows


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean, and ± the deviation of a sample where there are several."""
    if any(value is None for value in values):
        return "–"
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.{max(digits, 1)}f}"
