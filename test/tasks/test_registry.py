"""A task from outside, in ten lines: by module:Class, by register(), and by an installed package's entry point."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from espnet_ext.bin.train import main
from espnet_ext.errors import UserError
from espnet_ext.tasks import registry

TEN_LINES = """
import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet_ext.tasks.base import Task
class Line(AbsESPnetModel):
    def __init__(self, slope=0.0): super().__init__(); self.a = torch.nn.Parameter(torch.tensor(slope))
    def forward(self, x, y, **_): loss = ((self.a * x - y) ** 2).mean(); return loss, {"loss": loss.detach()}, len(x)
    def collect_feats(self, x, y, **_): return {"feats": x}
class LineTask(Task):
    model_class, data_names = Line, ("x", "y")
"""


@pytest.fixture
def line_task(tmp_path, monkeypatch):
    """The module of ten lines on the path, and data for it: y = 2 x."""
    (tmp_path / "line_task.py").write_text(TEN_LINES)
    (tmp_path / "x").write_text("".join(f"k{i} {i / 8}\n" for i in range(8)))
    (tmp_path / "y").write_text("".join(f"k{i} {i / 4}\n" for i in range(8)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    yield tmp_path
    sys.modules.pop("line_task", None)


def options(folder, output) -> list[str]:
    data = [f"{folder}/{name},{name},csv_float" for name in "xy"]
    pairs = [(f"--{part}_data_path_and_name_and_type", entry) for part in ("train", "valid") for entry in data]
    return [
        *(word for pair in pairs for word in pair),
        *("--output_dir", str(output), "--max_epoch", "60", "--batch_size", "4", "--optim_conf", "lr=0.1"),
        *("--use_tensorboard", "false", "--num_workers", "0", "--keep_nbest_models", "1"),
    ]


def test_ten_lines_are_a_task(line_task, tmp_path):
    assert len(TEN_LINES.strip().splitlines()) <= 10
    assert main(["line_task:LineTask", *options(line_task, tmp_path / "exp")]) == 0
    slope = torch.load(tmp_path / "exp" / "valid.loss.best.pth", weights_only=True)["a"]
    assert slope == pytest.approx(2.0, abs=0.05)


def test_registered_by_name(line_task, tmp_path):
    registry.register("line", "line_task:LineTask")
    registry.register("line", "line_task:LineTask")  # a module that is imported twice does no harm
    assert "line" in registry.task_names()
    assert main(["line", *options(line_task, tmp_path / "exp"), "--dry_run", "true"]) == 0
    with pytest.raises(UserError, match="already"):
        registry.register("line", "other:Task")


def test_entry_point_of_an_installed_package(line_task, monkeypatch):
    point = EntryPoint("line", "line_task:LineTask", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.ENTRY_POINTS else [])
    assert registry.get_task("line").__name__ == "LineTask" and "line" in registry.task_names()


def test_from_the_current_directory(line_task):
    answer = subprocess.run(
        [sys.executable, "-m", "espnet_ext.bin.train", "line_task:LineTask", "--print_config"],
        cwd=line_task,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error::FutureWarning"},
    )
    assert answer.returncode == 0, answer.stderr
    assert "model_conf" in answer.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("spkk", "unknown task 'spkk'; did you mean 'spk'? (there are: spk, ssl; or give module:Class)"),
        ("no_such_module:Task", "no module 'no_such_module'"),
        ("os:Task", "has no AbsTask class 'Task'"),
    ],
)
def test_a_wrong_name_is_one_line(name, says, capsys):
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1


def test_misspelt_model_key(line_task, tmp_path, capsys):
    arguments = ["line_task:LineTask", *options(line_task, tmp_path / "exp"), "--model_conf", "slop=1"]
    assert main(arguments) == 2
    assert "model_conf has no key 'slop'; did you mean slope?" in capsys.readouterr().err


def test_help_lists_the_tasks(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and "Tasks: spk, ssl." in capsys.readouterr().out
