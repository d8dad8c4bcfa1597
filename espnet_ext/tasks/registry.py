"""Which tasks there are: a name for ``espnet_ext.bin.train`` and recipes, and the ``AbsTask`` class behind it.

A task from outside is found in three ways: an installed package names it in its entry points
(``entry_points={"espnet_ext.tasks": ["toy=toy_task:ToyTask"]}``), Python code calls ``register``, or the class is
given in place of the name (``python -m espnet_ext.bin.train toy_task:ToyTask …``).
"""

import difflib
import importlib
import os
import sys
from importlib.metadata import entry_points

from espnet_ext import compat
from espnet_ext.errors import UserError

ENTRY_POINTS = "espnet_ext.tasks"

# Adding a task of ours is one line here.
TASKS: dict[str, str] = {
    "spk": "espnet_ext.tasks.spk:SpeakerTask",
    "ssl": "espnet_ext.tasks.ssl:SslTask",
}


def register(name: str, target: str) -> None:
    """Make ``target`` (``"module:Class"``, an ``AbsTask``) known as task ``name``; a name is never given twice."""
    if TASKS.get(name, target) != target:
        raise UserError(f"task {name!r} is already {TASKS[name]}; give {target} another name")
    TASKS[name] = target


def task_names() -> list[str]:
    """Return every known name in alphabetical order: ours, registered ones, and those of installed packages."""
    return sorted({*TASKS, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def get_task(name: str):
    """Return the task class for a name or for ``module:Class``; ``UserError`` says what there is instead."""
    target = TASKS.get(name)
    if target is None:
        installed = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
        target = installed.get(name)
    if target is None and ":" in name:
        target = name
        # `python -m` has the current directory on the path already; the console script does not.
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.insert(0, os.getcwd())
    if target is None:
        near = difflib.get_close_matches(name, task_names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown task {name!r}{hint} (there are: {', '.join(task_names())}; or give module:Class)")
    return _load(name, target)


def _load(name: str, target: str):
    module_name, _, class_name = target.partition(":")
    compat.prepare()
    try:
        with compat.quiet():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that the task itself fails to import is a fault of the task, and its traceback helps.
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise UserError(
            f"task {name!r}: no module {module_name!r}; run from its directory, set PYTHONPATH, or install it"
        ) from None
    task = getattr(module, class_name, None)
    if not (isinstance(task, type) and hasattr(task, "build_model")):
        raise UserError(f"task {name!r}: {module_name} ({module.__file__}) has no AbsTask class {class_name!r}")
    return task
