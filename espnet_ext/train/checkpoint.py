"""Checkpoints that are whole or absent, and what a kill between two files leaves mended on resume."""

import datetime
import logging
import os
import pickle
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write

STEPS = "optim_steps"  # in the reporter's statistics: the optimiser's steps since the training began


@contextmanager
def atomic_saves():
    """Let every ``torch.save`` to a path inside the block write beside the file and move it into place.

    ESPnet's trainer saves over ``checkpoint.pth`` itself, so that a kill or a full disk in that moment loses both the
    old and the new checkpoint. Its ``run`` is one method of 300 lines; this is the one place where we reach into it.
    """
    plain = torch.save

    def save(obj, target, *args, **kwargs):
        if not isinstance(target, (str, os.PathLike)):
            return plain(obj, target, *args, **kwargs)
        with atomic_write(target, "wb") as file:
            checked = _CheckedFile(file)
            try:
                plain(obj, checked, *args, **kwargs)
            except RuntimeError:
                # PyTorch's writer hides the reason (a full disk, say) behind "unexpected pos".
                if checked.error is not None:
                    raise checked.error from None
                raise

    torch.save = save
    try:
        yield
    finally:
        torch.save = plain


class _CheckedFile:
    """A binary file that remembers why a write failed."""

    def __init__(self, file):
        self._file, self.error = file, None
        self.flush, self.fileno = file.flush, file.fileno

    def write(self, data) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def load(path: Path, device: str) -> dict:
    """Read ``checkpoint.pth``; a damaged one is named in one line."""
    try:
        return torch.load(path, map_location=device, weights_only=False)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: damaged ({_first_line(error)}); remove it to start anew") from None


def read_reporter(path: Path) -> dict:
    """Return what the reporter of ``checkpoint.pth`` noted (``epoch``, ``stats``): numbers and times, no code is run.

    For folders that somebody else may have trained. The rest of the file, gigabytes of moments, is not read.
    """
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    # Which of the two names it has depends on the numpy of the training.
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")]
    try:
        with torch.serialization.safe_globals([*names, np.dtype, *dtypes, datetime.timedelta]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["reporter"]
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path}: damaged, or not of a training ({_first_line(error)}); restore it, or train again"
        ) from None


def restore(load_state, what: str, path: Path) -> None:
    """Call ``load_state()``; a state that does not fit ends with one line that says what changed."""
    try:
        load_state()
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} belongs to a training with another {what} ({_first_line(error, 1)}); "
            "use another --output_dir, or --resume false to start anew"
        ) from None


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict, own_options: bool) -> None:
    """Load an optimiser's state; with ``own_options`` learning rate, decay, … stay those of the configuration.

    torch takes the saved ones: whoever lowers the learning rate of a training that diverged would see it diverge again.
    A scheduler sets the rate itself, from the configuration or from its own state.
    """
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    if own_options:
        for group, own in zip(optimizer.param_groups, options, strict=True):
            group.update(own)


def _first_line(error: Exception, number: int = 0) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[min(number, len(lines) - 1)][:160]


def optimizer_steps(stats: Mapping[int, Mapping], accum_grad: int) -> dict[int, int]:
    """Return how many steps the optimiser had made at the end of every epoch, by the reporter's ``stats``.

    ``Trainer`` notes them. Of trainings without that note they are counted as ESPnet makes them: the gradients of
    ``accum_grad`` iterations a step, begun anew in every epoch.
    """
    steps, total, seen = {}, 0, 0
    for epoch, values in sorted(stats.items()):
        if "train" in values:
            iterations = values["train"]["total_count"] - seen
            seen += iterations
            total = round(values["train"].get(STEPS, total + iterations // accum_grad))
            steps[epoch] = total
    return steps


def remove_leftovers(output_dir: Path) -> None:
    """Remove what killed runs were about to move into place."""
    for path in output_dir.glob(".*.pth.*.tmp"):
        path.unlink(missing_ok=True)


def mend_outputs(states: dict, reporter, output_dir: Path, best_model_criterion) -> None:
    """Make what ESPnet writes after ``checkpoint.pth`` if a kill came in between: the epoch's model and its links."""
    epoch = reporter.get_epoch()
    model = output_dir / f"{epoch}epoch.pth"
    if not model.exists():
        logging.info(f"Writing {model}, which the last run did not reach")
        torch.save(states["model"], model)
    links = {"latest.pth": epoch}
    for phase, key, mode in best_model_criterion:
        if reporter.has(phase, key):
            links[f"{phase}.{key}.best.pth"] = reporter.get_best_epoch(phase, key, mode)
    for name, target in links.items():
        link, wanted = output_dir / name, f"{target}epoch.pth"
        if (output_dir / wanted).exists() and not (link.is_symlink() and os.readlink(link) == wanted):
            beside = output_dir / f".{name}.tmp"
            beside.unlink(missing_ok=True)
            beside.symlink_to(wanted)
            os.replace(beside, link)
