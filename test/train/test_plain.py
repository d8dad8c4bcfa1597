"""Faults that reach the user through other processes are one line all the same."""

import argparse

import pytest
from espnet2.tasks.abs_task import AbsTask

from espnet_ext.errors import UserError
from espnet_ext.tasks.base import Task
from espnet_ext.train.plain import plain


def test_what_pytorch_says_in_plain_words():
    wrapped = "Caught AudioError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    assert plain(UserError(wrapped + "espnet_ext.audio.io.AudioError: x.wav: empty")) == "x.wav: empty"
    assert plain(Exception("-- Process 1\nTraceback\n  x\nespnet_ext.errors.UserError: no disk")) == "no disk"
    assert "lower batch_size" in plain(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert "lower num_workers" in plain(RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."))
    assert plain(RuntimeError("anything else")) is None
    assert "was killed" in plain(Exception("process 1 terminated with signal SIGKILL"))
    assert "error above" in plain(Exception("process 1 terminated with exit code 2"))


@pytest.mark.parametrize("multiprocessing", [True, False])
def test_a_process_of_several_says_its_error_itself(monkeypatch, capsys, multiprocessing):
    def fail(args):
        raise UserError("x.wav: empty")

    monkeypatch.setattr(AbsTask, "main_worker", fail)
    with pytest.raises(SystemExit if multiprocessing else UserError):
        Task.main_worker(
            argparse.Namespace(multiprocessing_distributed=multiprocessing, distributed=multiprocessing, dist_rank=0,
                               dist_launcher=None, dry_run=True)
        )  # fmt: skip
    assert capsys.readouterr().err == ("train: error: x.wav: empty\n" if multiprocessing else "")
