"""Options that commands share: the same words everywhere, read in one place, and mistakes of paths in one line."""

import argparse
import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_ext import bin as commands
from espnet_ext.errors import UserError, cli
from espnet_ext.options import (
    BOOL,
    add_job_options,
    add_probe_sets,
    check_device,
    check_sizes,
    parse_layers,
    parse_shard,
    spread_device,
)

COMMANDS = sorted(path.stem for path in Path(commands.__path__[0]).glob("[!_]*.py"))
SHARED = ("shard", "device", "skip_broken", "allow_commands")
OTHER_MEANING = {("align_phones", "skip_broken")}  # what does not fit its text


def options_of(parser):
    return {action.dest: action for action in parser._actions}


def test_all_or_some():
    parser = argparse.ArgumentParser()
    add_job_options(parser)
    args = parser.parse_args(["--shard", "2/3", "--skip_broken", "true"])
    assert (args.shard, args.device, BOOL[args.skip_broken], BOOL[args.allow_commands]) == ("2/3", "cpu", True, False)
    some = argparse.ArgumentParser()
    add_job_options(some, "device")
    assert set(options_of(some)) == {"help", "device"} and "job I" not in options_of(some)["device"].help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_them_from_one_place(command):
    """No command words one of these options, or its default and choices, in its own way."""
    module = importlib.import_module(f"espnet_ext.bin.{command}")
    if not hasattr(module, "get_parser"):
        return
    found = options_of(module.get_parser())
    own = [name for name in SHARED if name in found and (command, name) not in OTHER_MEANING]
    wanted = argparse.ArgumentParser()
    if own:
        add_job_options(wanted, *own)
    for name in own:
        for value in ("help", "default", "choices", "metavar"):
            assert getattr(found[name], value) == getattr(options_of(wanted)[name], value), (name, value)


def test_a_shard_is_a_job_and_a_number_of_jobs():
    assert parse_shard("2/8") == (2, 8)
    for text in ("0/2", "3/2", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(UserError, match="--shard"):
            parse_shard(text)


def test_layers():
    assert parse_layers(None) is None and parse_layers("0,4,-1") == (0, 4, -1)
    for text in ("one", "", "1;2", "1.5"):
        with pytest.raises(UserError, match=f"--layers {text}: give whole numbers"):
            parse_layers(text)


def test_sets_of_a_probe():
    parser = argparse.ArgumentParser()
    add_probe_sets(parser, number=7, train="to learn from", dev="to choose by", test="to score")
    given = ["--train", "a", "--dev", "b", "--test", "c"]
    args = parser.parse_args(given)
    check_sizes(args)
    assert vars(args) == {"train": "a", "dev": "b", "test": "c", "num_train": 7, "num_test": 7}
    assert "utterances of --dev and --test" in options_of(parser)["num_test"].help
    for option in ("--num_train", "--num_test"):
        with pytest.raises(UserError, match="at least 2"):
            check_sizes(parser.parse_args([*given, option, "1"]))


def test_jobs_spread_over_the_gpus(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [spread_device("cuda", (job, 3)) for job in (1, 2, 3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert spread_device("cpu", (2, 3)) == "cpu" and spread_device("cuda:1", (1, 3)) == "cuda:1"
    assert check_device("cpu") == "cpu"
    with pytest.raises(UserError, match="is not known"):
        check_device("gpu")


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (lambda folder: (folder / "file" / "sub").mkdir(parents=True, exist_ok=True), "a file is in the way"),
        (lambda folder: (folder / "file").mkdir(exist_ok=True), "a file is in the way"),
        (lambda folder: folder.write_text(""), "a folder is in the way of this file"),
        (lambda folder: (folder / ("x" * 300)).write_text(""), "the name is too long"),
        (lambda folder: _raise(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))), "no permission"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line(tmp_path, capsys, fails, said):
    (tmp_path / "file").touch()
    assert cli(lambda argv=None: fails(tmp_path))() == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and str(tmp_path) in line and said in line


def test_other_errors_of_the_system_keep_their_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        cli(lambda argv=None: (tmp_path / "none").read_text())()
    with pytest.raises(OSError, match="no path"):
        cli(lambda argv=None: _raise(OSError(errno.EACCES, "no path")))()


def _raise(error):
    raise error


@pytest.mark.parametrize(("given", "seen"), [(None, "3000"), ("7", "7")])
def test_threads_are_told_to_wait_shortly_before_pytorch_is_there(given, seen):
    """And a command line alone imports no PyTorch, which would read it too early."""
    script = (
        "import os, sys; from espnet_ext.errors import cli\n"
        "def main(argv=None): print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)\n"
        "import espnet_ext.bin.train, espnet_ext.bin.ssl_probe, espnet_ext.bin.main\n"
        "cli(main)()"
    )
    env = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    env |= {"GOMP_SPINCOUNT": given} if given else {}
    answer = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert answer.stdout.split() == [seen, "False"], answer.stderr
