"""Writing files: one writer per folder; what `atomic_write` promises is tested with the audio that it writes."""

import errno
import fcntl
import multiprocessing
import os

import pytest

from espnet_ext.errors import UserError
from espnet_ext.files import only_writer


def _hold_and_die(folder, ready):
    with only_writer(folder):
        ready.set()
        os.kill(os.getpid(), 9)


def _hold(folder, ready, end):
    with only_writer(folder):
        ready.set()
        end.wait(60)


def test_a_second_process_is_told_who_is_there(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "exp", ready, end))
    other.start()
    assert ready.wait(60)
    with pytest.raises(UserError, match=rf"exp: another process \({other.pid} on .*\) is writing there"):
        with only_writer(tmp_path / "exp"):
            raise AssertionError("two writers")
    with only_writer(tmp_path / "exp", ".2of2.lock"):  # another part of the folder
        pass
    end.set()
    other.join()
    with only_writer(tmp_path / "exp"):
        assert os.listdir(tmp_path / "exp") == [".lock"]
    assert not os.listdir(tmp_path / "exp")


def test_kill_9_leaves_nothing_in_the_way(tmp_path):
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_hold_and_die, args=(tmp_path, context.Event()))
    other.start()
    other.join()
    assert other.exitcode == -9 and os.listdir(tmp_path) == [".lock"]
    with only_writer(tmp_path):
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with only_writer(tmp_path):
        pass
