"""One writer per folder, and nothing left of a killed one; the rest of `atomic_write` is tested with audio."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write, only_writer

HOLD = """
import sys
from espnet_ext.files import only_writer
with only_writer(sys.argv[1]):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds ``tmp_path / "exp"`` until its standard input is closed, or for good."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "exp")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_second_process_is_told_who_is_there(tmp_path, other):
    message = rf"exp: another process \({other.pid} on .*\) is writing there"
    with pytest.raises(UserError, match=message), only_writer(tmp_path / "exp"):
        raise AssertionError("two writers")
    with only_writer(tmp_path / "exp", ".2of2.lock"):  # another part of the folder
        pass
    other.communicate()
    assert other.returncode == 0 and not os.listdir(tmp_path / "exp")
    with only_writer(tmp_path / "exp"):
        assert os.listdir(tmp_path / "exp") == [".lock"]
    assert not os.listdir(tmp_path / "exp")


def test_kill_9_leaves_nothing_in_the_way(tmp_path, other):
    other.kill()
    other.wait()
    assert os.listdir(tmp_path / "exp") == [".lock"]
    with only_writer(tmp_path / "exp"):
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with only_writer(tmp_path):
        pass


def test_what_a_killed_writer_left_goes_with_the_next_write_of_that_file(tmp_path):
    script = "import os, sys\nfrom espnet_ext.files import atomic_write\nwith atomic_write(sys.argv[1]) as file:\n"
    for name in ("table", "table.b"):
        subprocess.run([sys.executable, "-c", script + "    os.kill(os.getpid(), 9)", tmp_path / name])
    assert len(os.listdir(tmp_path)) == 2
    with atomic_write(tmp_path / "table") as one, atomic_write(tmp_path / "table") as two:  # the living are left alone
        one.write("one")
        two.write("two")
    assert (tmp_path / "table").read_text() == "one"
    (left,) = set(os.listdir(tmp_path)) - {"table"}
    assert left.startswith(".table.b.")
