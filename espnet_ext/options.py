"""Options that commands share: share of the work, device, layers, sets of a probe. --help imports nothing heavy."""

import re

from espnet_ext.errors import UserError

BOOL = {"true": True, "false": False}

_SHARED = {
    "shard": {"default": "1/1", "metavar": "I/N", "help": "this job and the number of jobs; the last one merges"},
    "device": {"default": "cpu", "help": "cpu, cuda, cuda:N"},
    "skip_broken": {"choices": BOOL, "default": "false", "help": "true: leave broken audio out, and list it"},
    "allow_commands": {"choices": BOOL, "default": "false", "help": "true: run wav.scp entries ending in |"},
}


def add_job_options(parser, *names: str) -> None:
    """Give a parser, or a group of one, the options ``--<name>`` of how, not what; without names all of them.

    Names: ``shard``, ``device``, ``skip_broken``, ``allow_commands``. ``parse_shard``, ``check_device`` and ``BOOL``
    read their values.
    """
    for name in names or _SHARED:
        settings = dict(_SHARED[name])
        if name == "device" and (not names or "shard" in names):
            settings["help"] = "cpu, cuda (job I takes GPU I), cuda:N"
        parser.add_argument(f"--{name}", **settings)


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """``"0,4,-1"`` to (0, 4, -1), None to None, which means all; ``UserError`` for what is no list of numbers."""
    if text is None:
        return None
    try:
        return tuple(int(layer) for layer in text.split(","))
    except ValueError:
        raise UserError(f"--layers {text}: give whole numbers with commas, for example 0,4,-1") from None


def add_probe_sets(parser, number: int = 2000, **roles: str) -> None:
    """Give a parser the data directories of a probe, and how many of their utterances it takes (``check_sizes``).

    roles: what each directory is for, by the name of its option; the first one is ``train``.
    """
    for name, what in roles.items():
        parser.add_argument(f"--{name}", required=True, help=f"data directory {what}")
    train, *others = (f"--{name}" for name in roles)
    for name, sets in (("num_train", train), ("num_test", " and ".join(others))):
        text = f"utterances of {sets}, evenly spread (default: {number})"
        parser.add_argument(f"--{name}", type=int, default=number, help=text)


def check_sizes(args) -> None:
    """``UserError`` where the options of ``add_probe_sets`` ask for fewer utterances than a probe needs."""
    if min(args.num_train, args.num_test) < 2:
        raise UserError("--num_train and --num_test have to be at least 2")


def parse_shard(text: str) -> tuple[int, int]:
    """``"2/8"`` to (2, 8); ``UserError`` where it is not a job and a number of jobs, counted from 1."""
    job, _, jobs = text.partition("/")
    if not (job.isdigit() and jobs.isdigit() and 1 <= int(job) <= int(jobs)):
        raise UserError(f"--shard {text}: give the job and the number of jobs, counted from 1, for example 2/8")
    return int(job), int(jobs)


def check_device(device: str) -> str:
    """Give ``device`` back where torch can use it; ``UserError`` for a GPU that is not there."""
    if device == "cpu":
        return device
    import torch

    if not re.fullmatch(r"cuda(:\d+)?|mps", device):
        raise UserError(f"device {device!r} is not known; use cpu, cuda, cuda:N or mps")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps needs an Apple GPU; use --device cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {device} needs an NVIDIA GPU and torch sees none here; use --device cpu")
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0")
    return device


def spread_device(device: str, shard: tuple[int, int]) -> str:
    """The GPU of one of several jobs on a machine: job i of ``cuda`` takes GPU i, and begins again where they end."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{(shard[0] - 1) % torch.cuda.device_count()}"
