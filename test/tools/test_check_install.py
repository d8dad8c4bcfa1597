"""check_install.py: complete, incomplete, ill-matched and missing environments."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "check_install.py"


@pytest.fixture
def module():
    spec = importlib.util.spec_from_file_location("check_install", SCRIPT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def found(module, **changes):
    """What a complete environment says, with changes to its versions; None takes a package away."""
    versions = {name: "1" for name in (*module.NEEDED, *module.OPTIONAL)}
    tried = module.tried_versions((3, 11))
    versions = {name: tried[module.normal(name)] for name in versions}
    versions.update(changes)
    versions = {name: version for name, version in versions.items() if version}
    return {"python": [3, 11, 7], "versions": versions, "broken": {}, "cuda": []}


def check(module, capsys, **changes):
    """The number of missing things and what was printed."""
    report = module.Report()
    module.check_packages(report, found(module, **changes))
    return report.missing, capsys.readouterr().out


def test_this_environment_is_complete():
    answer = subprocess.run([sys.executable, SCRIPT, "--python", sys.executable], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
    assert "all that is needed is there" in answer.stdout


def test_no_environment(tmp_path):
    answer = subprocess.run([sys.executable, SCRIPT, "--python", tmp_path / "python"], capture_output=True, text=True)
    assert answer.returncode == 1
    assert "mend: tools/setup_venv.sh" in answer.stdout


def test_an_empty_environment(tmp_path):
    """A Python without any package: every need is named with its reason."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -S -I "$@"\n')
    bare.chmod(0o755)
    env = {**os.environ, "PYTHON": str(bare)}
    answer = subprocess.run([sys.executable, SCRIPT], env=env, capture_output=True, text=True)
    assert answer.returncode == 1
    lines = [line for line in answer.stdout.splitlines() if line.startswith("MISSING")]
    assert [line for line in lines if "torchaudio" in line and "espnet2.tasks imports it" in line]
    assert [line for line in lines if "espnet_ext" in line]


def test_packages(module, capsys):
    assert check(module, capsys)[0] == 0
    missing, text = check(module, capsys, torchaudio=None)
    assert missing == 1 and "MISSING  torchaudio" in text
    missing, text = check(module, capsys, torch="2.15.0+cu130")
    assert missing == 1 and "torch and torchaudio" in text and "do not fit" in text
    missing, text = check(module, capsys, torch="2.11.0+cpu")
    assert missing == 0
    missing, text = check(module, capsys, numpy="2.4.1")
    assert missing == 0 and "note     numpy 2.4.1" in text and "tried with 2.2.6" in text
    missing, text = check(module, capsys, pytest=None)
    assert missing == 0 and "make test" in text


def test_constraints_give_each_python_its_own_line(module):
    old, new = module.tried_versions((3, 10)), module.tried_versions((3, 12))
    assert old["scipy"] != new["scipy"] and old["torch"] == new["torch"] == "2.11.0"
    assert set(new) <= set(old)  # Python 3.10 needs some backports besides


def test_constraints_name_what_setup_asks_for(module):
    """Every direct dependency is pinned, so that tomorrow's installation is today's."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    tried = module.tried_versions((3, 11))
    for name in (*module.NEEDED, *module.OPTIONAL):
        assert module.normal(name) in tried
        assert module.normal(name) in module.normal(text)
