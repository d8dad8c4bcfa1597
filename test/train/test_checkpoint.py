"""Checkpoints are whole or absent."""

import datetime
import os
import subprocess

import numpy as np
import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.train.checkpoint import atomic_saves, load, read_reporter, restore


class Unpicklable:
    def __reduce__(self):
        raise KeyboardInterrupt  # a kill in the middle of writing


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pth"
    plain = torch.save
    with atomic_saves():
        torch.save({"epoch": 1}, path)
        with pytest.raises(KeyboardInterrupt):
            torch.save({"epoch": 2, "x": Unpicklable()}, path)
    assert torch.save is plain
    assert torch.load(path)["epoch"] == 1 and os.listdir(tmp_path) == ["checkpoint.pth"]


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UserError, match="damaged") as caught:
        load(path, "cpu")
    assert "\n" not in str(caught.value)


class Runs:
    """What a pickle from a stranger may hold."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_what_a_training_noted_is_read_without_running_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pth"
    values = {"loss": np.float64(0.5), "acc": np.float32(0.25), "total_count": 7, "flag": np.bool_(True)}
    values |= {"time": datetime.timedelta(seconds=3), "none": None, "number": np.int64(3)}
    reporter = {"epoch": 1, "stats": {1: {"train": values}}}
    torch.save({"reporter": reporter, "optimizers": [{"state": torch.zeros(3)}]}, path)
    assert read_reporter(path) == reporter
    torch.save({"reporter": reporter, "schedulers": [Runs()]}, path)
    with pytest.raises(UserError, match="damaged, or not of a training") as caught:
        read_reporter(path)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()
    for content in (b"", b"nothing", path.read_bytes()[:300]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged, or not of a training"):
            read_reporter(path)
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="damaged, or not of a training"):
        read_reporter(path)


def test_a_checkpoint_of_another_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"another model .*--resume false") as caught:
        restore(
            lambda: torch.nn.Linear(2, 3).load_state_dict(torch.nn.Linear(4, 3).state_dict()), "model", tmp_path / "x"
        )
    assert "\n" not in str(caught.value)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where mounting one is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_oserror_that_names_the_file(small_disk):
    path = small_disk / "checkpoint.pth"
    with atomic_saves():
        torch.save(torch.zeros(1000), path)
        with pytest.raises(OSError, match="No space left") as caught:
            torch.save(torch.zeros(1_000_000), path)
    assert caught.value.filename == str(path)
    assert len(torch.load(path)) == 1000 and os.listdir(small_disk) == ["checkpoint.pth"]
