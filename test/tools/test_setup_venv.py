"""setup_venv.sh with a stand-in for Python that installs nothing: what it calls, when, and what it says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "setup_venv.sh"

# `-m venv` makes a folder with a copy of this file, `-m pip` only notes its words; the rest is a real Python.
STAND_IN = f"""#!/bin/sh
case "$*" in
    "-m venv "*)
        for folder in "$@"; do :; done
        rm -rf "$folder"; mkdir -p "$folder/bin"; echo > "$folder/pyvenv.cfg"; cp "$0" "$folder/bin/python" ;;
    "-m pip "*)
        echo "$*" >> "$CALLS"
        if [ -n "$PIP_SLEEPS" ]; then sleep "$PIP_SLEEPS"; fi
        if [ -n "$PIP_SAYS" ]; then echo "$PIP_SAYS"; exit 1; fi ;;
    *"print(sys.executable)"*) echo "$0" ;;
    *Python.h*) exit 0 ;;
    *ensurepip*) [ -z "$NO_VENV" ] ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    """Call the script with the stand-in; `.calls()` are the words that pip was given."""
    python = tmp_path / "my pythön" / "python3"
    python.parent.mkdir()
    python.write_text(STAND_IN)
    python.chmod(0o755)
    calls = tmp_path / "calls"
    venv = tmp_path / "a folder" / "venv"
    bin_ = tmp_path / "bin"
    base = {**os.environ, "PYTHON": str(python), "CALLS": str(calls), "CXX": "true"}
    base["PATH"] = f"{bin_}{os.pathsep}{base['PATH']}"

    def disk_has_left(kb):
        bin_.mkdir(exist_ok=True)
        (bin_ / "df").write_text(f"#!/bin/sh\necho Filesystem\necho /dev/x 9 9 {kb} 1% /\n")
        (bin_ / "df").chmod(0o755)

    disk_has_left(kb=20_000_000)  # whatever the disk of the tests has

    def call(**env):
        env = {**base, **env}
        return subprocess.run([SCRIPT, venv], env=env, capture_output=True, text=True, cwd=tmp_path, timeout=60)

    call.venv, call.env, call.tmp_path = venv, base, tmp_path
    call.disk_has_left = disk_has_left
    call.calls = lambda: calls.read_text().splitlines() if calls.exists() else []
    return call


def failed(answer) -> str:
    """The one line of a failure."""
    assert answer.returncode == 2
    line = answer.stderr.splitlines()[-1]
    assert line.startswith("setup_venv.sh: error: ")
    return line


def test_installs_once(setup):
    answer = setup()
    assert answer.returncode == 0, answer.stderr
    # The old pip first: newer ones refuse a dependency of espnet.
    assert setup.calls() == ["-m pip install pip==25.3", "-m pip install -c tools/constraints.txt -e .[test,onnx]"]
    answer = setup()
    assert answer.returncode == 0 and not answer.stderr
    assert len(setup.calls()) == 2


def test_another_wish_installs_again(setup):
    setup()
    stamp = setup.venv / ".espnet_ext_installed"
    stamp.write_text(stamp.read_text().replace(str(ROOT), "/another/checkout"))
    assert setup().returncode == 0
    assert len(setup.calls()) == 4


def test_a_killed_run_leaves_no_stamp(setup):
    process = subprocess.Popen(
        [SCRIPT, setup.venv], env={**setup.env, "PIP_SLEEPS": "30"}, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 20
    while not setup.calls():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (setup.venv / ".espnet_ext_installed").exists()
    assert setup().returncode == 0
    assert len(setup.calls()) == 3
    assert (setup.venv / ".espnet_ext_installed").exists()


@pytest.mark.parametrize(
    ("says", "line"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "no space left"),
        ("WARNING: … Failed to establish a new connection: [Errno -2]", "the package index cannot be reached"),
        ("error: command '/usr/bin/g++' failed with exit code 1", "apt-get install g++ python3-dev"),
        ("something else", "the installation failed; see "),
    ],
)
def test_a_failure_is_explained(setup, says, line):
    answer = setup(PIP_SAYS=says)
    assert line in failed(answer)
    assert says in answer.stderr
    assert not (setup.venv / ".espnet_ext_installed").exists()


def test_what_is_missing_is_said_before_anything_is_made(setup, tmp_path):
    assert "has no venv module" in failed(setup(NO_VENV="1"))
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")  # like a pyenv shim of a version that is not there
    old.chmod(0o755)
    assert "is not a working Python 3.10, 3.11 or 3.12" in failed(setup(PYTHON=str(old)))
    setup.disk_has_left(kb=2_000_000)
    assert "needs 8 GB and its disk has 2 GB left" in failed(setup())
    setup.disk_has_left(kb=20_000_000)
    setup.venv.mkdir(parents=True, exist_ok=True)
    (setup.venv / "thesis.txt").write_text("mine")
    assert "is no virtual environment" in failed(setup())
    assert (setup.venv / "thesis.txt").exists()
    assert not setup.calls()
