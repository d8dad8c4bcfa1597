"""What run.py and slurm.py share: Kaldi's job interface, and the log every job leaves. Standard library only.

    run.py [--mem 4G] [--num-threads 2] [--gpu 1] [--max-jobs-run 4] [--config FILE] [JOB=1:8] LOG COMMAND …

``JOB`` (any name) is replaced by the number of the job in LOG and in every word of COMMAND. The command is started as
it is, without a shell. Option names may be written with ``-`` or ``_``.
"""

import os
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

ENDED = "# Ended (code "
TAIL_LINES = 20
SHOWN_FAILURES = 3

_OPTIONS = {
    "mem": ("", "memory of one job, for example 4G"),
    "num_threads": (0, "CPU cores of one job; 0: not said"),
    "gpu": (0, "GPUs of one job (with --num-nodes: of one node)"),
    "max_jobs_run": (0, "jobs that may run at once; 0: all of them"),
    "num_nodes": (1, "machines of one job"),
    "time": ("", "longest wall time of one job, as in Slurm"),
    "config": ("", "file with options for sbatch, one a line (read by slurm.py)"),
}


def stop(message: str) -> NoReturn:
    """End with one line and exit code 2."""
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    sys.exit(2)


@dataclass
class Request:
    """One call of a job command."""

    log: str
    command: list[str]
    name: str = ""  # what stands for the number, "JOB"; empty for a single job
    first: int = 1
    last: int = 1
    options: dict = field(default_factory=dict)

    @property
    def numbers(self) -> range:
        """The numbers of the jobs."""
        return range(self.first, self.last + 1)

    def fill(self, text: str, number: int) -> str:
        """``text`` with the number of the job in the place of its name."""
        return text.replace(self.name, str(number)) if self.name else text

    def log_of(self, number: int) -> Path:
        """The log of one job."""
        return Path(self.fill(self.log, number))

    def prepare_logs(self) -> None:
        """Make the folders of the logs and drop the logs of an earlier run, so that none is taken for a new one."""
        for number in self.numbers:
            self.log_of(number).parent.mkdir(parents=True, exist_ok=True)
            self.log_of(number).unlink(missing_ok=True)


def parse(argv: list[str], doc: str) -> Request:
    """Read the words of a call; a mistake is one line and exit code 2."""
    options = {name: default for name, (default, _) in _OPTIONS.items()}
    words = list(argv)
    while words and words[0].startswith("-"):
        option, equals, value = words.pop(0).partition("=")
        key = option.lstrip("-").replace("-", "_")
        if key in ("help", "h"):
            print(doc.strip() + "\n\noptions:")
            for name, (_, meaning) in _OPTIONS.items():
                print(f"  --{name.replace('_', '-'):14s} {meaning}")
            sys.exit(0)
        if key not in options:
            stop(f"no option {option}; there are: {', '.join('--' + name.replace('_', '-') for name in options)}")
        if not equals:
            if not words:
                stop(f"{option} needs a value")
            value = words.pop(0)
        if isinstance(options[key], int) and not value.isdigit():
            stop(f"{option} takes a whole number, not '{value}'")
        options[key] = int(value) if isinstance(options[key], int) else value
    request = Request(log="", command=[], options=options)
    array = re.fullmatch(r"([A-Za-z_][A-Za-z_0-9]*)=(\d+)(?::(\d+))?", words[0]) if words else None
    if array:
        request.name, first, last = array.groups()
        request.first, request.last = int(first), int(last or first)
        if request.last < request.first:
            stop(f"{words[0]} has no jobs; write it as {request.name}=1:{max(request.first, 1)}")
        words.pop(0)
    if len(words) < 2:
        stop("needs a log file and a command, for example: JOB=1:4 log/x.JOB.log python x.py JOB")
    request.log, request.command = words[0], words[1:]
    if request.first != request.last and request.name not in request.log:
        stop(f"the jobs would all write {request.log}; put {request.name} into the name of the log")
    return request


def exit_code_in(log: Path) -> int | None:
    """The exit code in the last lines of a log; None where the job has not ended."""
    for line in reversed(tail(log, 3)):
        if line.startswith(ENDED):
            return int(line[len(ENDED) :].partition(")")[0])
    return None


def tail(log: Path, lines: int = TAIL_LINES, limit_bytes: int = 20_000) -> list[str]:
    """The last lines of a log; of a progress bar only what it showed last."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").splitlines(keepends=False)[-lines:]]


def report_failures(request: Request, failures: dict[int, str]) -> None:
    """Say on stderr which jobs failed and how, with the ends of the first few logs."""
    program = Path(sys.argv[0]).name
    for number in sorted(failures)[:SHOWN_FAILURES]:
        log = request.log_of(number)
        print(f"{program}: the last lines of {log}:", file=sys.stderr)
        for line in tail(log):
            print(f"    {line}", file=sys.stderr)
    total = len(request.numbers)
    for number, how in sorted(failures.items()):
        which = f"job {number}" if request.name else "the job"
        print(f"{program}: {which} {how}, log {request.log_of(number)}", file=sys.stderr)
    print(f"{program}: {len(failures)} of {total} failed: {shlex.join(request.command)}", file=sys.stderr)
