"""For tests of drivers that call ``run.sh``: a recipe that only notes what it was asked for, and what they read."""

import json
import shlex
import subprocess
import sys
from pathlib import Path


def write_recipe(folder: Path, script: str) -> None:
    """Write ``run.sh`` that gives its options to ``script``, a program in Python, which stands beside it."""
    (folder / "recipe.py").write_text(script)
    # Not as a shebang, which takes no path with a blank.
    (folder / "run.sh").write_text(f'#!/usr/bin/env bash\nexec {shlex.quote(sys.executable)} recipe.py "$@"\n')
    (folder / "run.sh").chmod(0o755)


def assert_recipe_knows(recipe: Path, experiments, last_stage: str) -> None:
    """Check that the real ``run.sh`` takes the options of every experiment, up to its last stage, and has its files."""
    for one in experiments:
        assert (recipe / one.options.get("train_config", "run.sh")).is_file(), one
        command = [*one.command("./run.sh"), "--dry_run", "true"]
        answer = subprocess.run(["bash", *command], cwd=recipe, capture_output=True, text=True)
        assert answer.returncode == 0 and f"would run stage {last_stage}" in answer.stdout, answer.stderr


def cells(text: str) -> list[list[str]]:
    """Rows of the Markdown tables in a text, title and rule included."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def varied(path: str) -> set[tuple[str, str]]:
    """What is varied, and seed, of all results in a driver's JSON file."""
    results = json.loads(Path(path).read_text())["results"]
    return {(one["where"]["varied"], one["where"]["seed"]) for one in results}
