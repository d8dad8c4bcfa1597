"""A grid over prediction targets (arXiv 2409.10788): experiments with options of ``ssl.sh``, and their table.

Every group says which iteration it is about; options that take a word per iteration are given for that one::

    initial target:
        iteration: 1
        log-mel: {features: logmel}
    layer:
        iteration: 2
        "1, 2, 3": {layers: "1,2,3"}
        "2, of log-mel": {from: [initial target, log-mel]}

A row of iteration 2 starts from the first iteration of the reference, or of the row that ``from`` names, which is not
trained again. The reference is run.sh as it is, both iterations of it; ``reference: {option: value}`` is for all rows.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.metrics.experiments import REFERENCE, Experiment, Row, option_words, read_rows

_KEPT = ("ssl_tag", "seed", "stage", "stop_stage", "skip_stages", "start_iter", "stop_iter", "expdir")
_PER_ITERATION = ("features", "layers", "quantizer", "num_units", "levels", "train_config")


@dataclass(frozen=True)
class GridRow(Experiment):
    """One row of the table with one seed: an iteration, which starts from the encoder of ``start`` (a folder)."""

    iteration: int
    expdir: Path
    start: Path | None = None

    prefix = "grid_"

    @property
    def tag(self) -> str:
        """Its folder is exp/ssl_<tag>; the iterations of the reference share one."""
        if self.group == REFERENCE:
            return f"{self.prefix}{REFERENCE}_s{self.seed}"
        return super().tag

    @property
    def where(self) -> dict[str, str]:
        return super().where | {"iteration": str(self.iteration)}

    @property
    def exp(self) -> Path:
        return self.expdir / f"ssl_{self.tag}"

    def command(self, run: str, more: Sequence[str] = ()) -> list[str]:
        """The call of ``run.sh`` that makes it, or goes on with it."""
        words = {"ssl_tag": self.tag, "seed": str(self.seed), "expdir": str(self.expdir)}
        words |= {"start_iter": str(self.iteration), "stop_iter": str(self.iteration)}
        options = dict(self.options)
        if self.start is not None:
            options.setdefault("features", f"hf:{self.start}")
        before = ["-"] * (self.iteration - 1)
        words |= {key: " ".join([*before, value]) if key in _PER_ITERATION else value for key, value in options.items()}
        command = [run, "--stage", "clusters", "--stop_stage", "score", *more]
        return [*command, *(word for key, value in words.items() for word in (f"--{key}", value))]

    def is_finished(self, command: Sequence[str]) -> bool:
        """Whether this very command, with the recipe's files as they are, has come to its end."""
        try:
            return json.loads(self._mark.read_text(encoding="utf-8")) == _said(command)
        except (OSError, ValueError):
            return False

    def note_finished(self, command: Sequence[str]) -> None:
        with atomic_write(self._mark) as file:
            json.dump(_said(command), file)

    @property
    def _mark(self) -> Path:
        return self.exp / f"it{self.iteration}" / "grid.json"


def _said(command: Sequence[str]) -> list[list]:
    """A call of ``run.sh``, and the checksums of that file and of the training configurations beside it."""
    run = Path(command[0])
    files = [run, *sorted(run.parent.glob("conf/train*.yaml"))]
    return [list(command), *([str(file), zlib.crc32(file.read_bytes())] for file in files if file.is_file())]


def read_grid(
    path: Path, seeds: Sequence[int] = (0,), groups: Sequence[str] = (), expdir: Path = Path("exp")
) -> list[GridRow]:
    """Read the rows of a file, the reference's iterations first; ``groups`` keeps some, and what those start from.

    Raises:
        UserError: see ``read_rows``; a group without an iteration, options with several words, a wrong ``from``.
    """
    reference, every = read_rows(path, "ssl.sh", _KEPT, (), ("iteration",))
    _, kept = read_rows(path, "ssl.sh", _KEPT, groups, ("iteration",))
    clash = next((key for key in _PER_ITERATION if key in reference), None)
    if clash:
        raise UserError(f"{path}: {REFERENCE}: {clash} has a word per iteration; run.sh gives it")
    iterations = {(row.group, row.name): _check(path, row) for row in every}
    starts = {(row.group, row.name): _start(path, row, iterations) for row in every}
    chosen = set() if list(groups) == [REFERENCE] else {(row.group, row.name) for row in kept}
    for place in list(chosen):
        while place := starts[place]:
            chosen.add(place)
    # Of the reference as many iterations as there are rows to compare, all of them where it stands alone.
    last = max([iterations[place] for place in chosen] or [*iterations.values(), 1])
    rows = [Row(REFERENCE, f"iteration {number}", {}, {"iteration": number}) for number in range(1, last + 1)]
    rows += [row for row in every if (row.group, row.name) in chosen]
    found = [
        _grid_row(row, starts.get((row.group, row.name)), reference, seed, expdir) for row in rows for seed in seeds
    ]
    folders: dict[Path, str] = {}
    for one in found:
        if one.group != REFERENCE and folders.setdefault(one.exp, one.name) != one.name:
            raise UserError(
                f"{path}: {one.group}: {folders[one.exp]!r} and {one.name!r} have the same folder; rename one"
            )
    return found


def _grid_row(row: Row, start: tuple[str, str] | None, reference: dict, seed: int, expdir: Path) -> GridRow:
    options = option_words(reference | {key: value for key, value in row.options.items() if key != "from"})
    iteration, encoder = row.settings["iteration"], None
    if iteration > 1:
        before = GridRow(*(start or (REFERENCE, "")), {}, seed, iteration - 1, expdir)
        encoder = before.exp / f"it{iteration - 1}" / "hf"
    return GridRow(row.group, row.name, options, seed, iteration, expdir, encoder)


def _check(path: Path, row: Row) -> int:
    """Return the iteration of a row, whose options are as they should be."""
    iteration = row.settings.get("iteration")
    if isinstance(iteration, bool) or not isinstance(iteration, int) or iteration < 1:
        raise UserError(f"{path}: {row.group}: say which iteration it is about, for example iteration: 2")
    for key, value in option_words(row.options).items():
        if key in _PER_ITERATION and len(value.split()) != 1:
            raise UserError(f"{path}: {row.group} {row.name}: {key} takes one word, that of iteration {iteration}")
    return iteration


def _start(path: Path, row: Row, iterations: dict) -> tuple[str, str] | None:
    """Return the row that another one starts from, None where that is the reference."""
    if "from" not in row.options:
        return None
    named, wanted = row.options["from"], row.settings["iteration"] - 1
    place = tuple(map(str, named)) if isinstance(named, list) else named
    if place not in iterations or iterations[place] != wanted:
        raise UserError(
            f"{path}: {row.group} {row.name}: from: no row of iteration {wanted} is {named}; give [GROUP, ROW]"
        )
    return place
