"""A recipe that only notes what it was asked for, for drivers that call ``run.sh``."""

import shlex
import sys
from pathlib import Path


def write_recipe(folder: Path, script: str) -> None:
    """Write ``run.sh`` that gives its options to ``script``, a program in Python, which stands beside it."""
    (folder / "recipe.py").write_text(script)
    # Not as a shebang, which takes no path with a blank.
    (folder / "run.sh").write_text(f'#!/usr/bin/env bash\nexec {shlex.quote(sys.executable)} recipe.py "$@"\n')
    (folder / "run.sh").chmod(0o755)
