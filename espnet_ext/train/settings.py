"""A training folder belongs to one set of settings: what was changed since is said, never silently ignored."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.train.checkpoint import load

# What a folder's name stands for besides the parts of the model. Left out on purpose: max_epoch (a training may go on
# for longer), devices, processes and logging, and where the data lie.
DECISIVE = (
    *("optim", "optim_conf", "scheduler", "grad_clip", "accum_grad", "batch_size", "batch_bins", "seed", "autocast"),
    *("margin_conf", "model_conf", "init", "freeze_param", "target_duration", "sample_rate", "spk_num", "min_s"),
    *("drop_padding", "init_param"),
)
# What the outputs of the model mean: a training does not go on with others even where their number is the same.
MEANING = ("num_units", "quantizers")


@contextmanager
def kept_settings(args: argparse.Namespace, parts: Sequence[str]) -> Iterator[None]:
    """Run a training in the block, after a look at what its folder was trained with before (with ``--resume true``).

    ``parts`` are the names of the model's parts (``encoder``, …), compared with their ``_conf``. ESPnet writes
    ``config.yaml`` anew and resumes whatever is there: a finished training would stay as it is under a configuration
    that it was not trained with. That raises ``UserError``, and so do other units. Else an unfinished training goes on,
    and the log says with which changes; where it cannot, because the model has another shape, the old ``config.yaml``
    comes back.
    """
    folder = Path(args.output_dir)
    recorded, checkpoint = folder / "config.yaml", folder / "checkpoint.pth"
    if not args.resume or not checkpoint.is_file() or not recorded.is_file():
        yield
        return
    text = recorded.read_bytes()
    changes = _changes(args, parts, text)
    if changes:
        shown = ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
        finished = load(checkpoint, "cpu")["reporter"]["epoch"] >= args.max_epoch
        if finished or any(change.startswith(MEANING) for change in changes):
            raise UserError(
                f"{folder} holds a{' finished' if finished else ''} training with other settings: {shown}; give the "
                "new one its own folder (--output_dir; in a recipe its tag, as --spk_tag), or train this one anew with "
                "--resume false (in --train_args)"
            )
        logging.warning(f"{folder}: the training goes on with other settings: {shown}")
    try:
        yield
    except UserError:
        with atomic_write(recorded, "wb") as file:
            file.write(text)
        raise


def _changes(args: argparse.Namespace, parts: Sequence[str], text: bytes) -> list[str]:
    import yaml
    from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

    try:
        old = yaml.safe_load(text.decode())
    except (yaml.YAMLError, UnicodeDecodeError):
        old = None
    if not isinstance(old, dict):
        return []  # cut off by a kill; ESPnet writes it again
    keys = [*MEANING, *DECISIVE, *(name + suffix for name in parts for suffix in ("", "_conf"))]
    # Through YAML and back, so that both are written alike.
    now = yaml.safe_load(yaml_no_alias_safe_dump({key: getattr(args, key) for key in keys if hasattr(args, key)}))
    return [change for key in now if key in old for change in differences(key, old[key], now[key])]


def differences(name: str, old: Any, new: Any) -> Iterator[str]:
    """Yield ``name.key was OLD, is NEW`` for everything in which two values of a configuration differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{name} was {old!r}, is {new!r}"
