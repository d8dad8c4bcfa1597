#!/usr/bin/env python3
"""Run a command, or an array of them, as one Slurm job and wait for it; every job writes its own log.

    slurm.py [options] [JOB=1:8] log/x.JOB.log command … JOB …

--mem, --num-threads, --gpu, --max-jobs-run, --num-nodes and --time become sbatch's options. --config names a file with
more of them, one a line (`--partition=speech`); lines after `[gpu]` count only for jobs with a GPU, after `[cpu]` only
for those without. On the node the command runs under run.py, so its log is the same as on one machine.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from job_args import Request, exit_code_in, parse, report_failures, stop

RUN = Path(__file__).resolve().with_name("run.py")
# How long a log on a shared filesystem may take to show up here; after a failure some never do.
VISIBLE_S, VISIBLE_AFTER_FAILURE_S = 90, 15


def read_config(path: str, gpu: bool) -> list[str]:
    """The sbatch options of a config file that count for a job with or without a GPU."""
    if not path:
        return []
    options, section = [], ""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        stop(f"--config {path}: {error.strerror}")
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip()
        if line in ("[gpu]", "[cpu]"):
            section = line
        elif line.startswith("--"):
            if section in ("", "[gpu]" if gpu else "[cpu]"):
                options += shlex.split(line)
        elif line:
            stop(f"{path}, line {number}: '{line}' is no option of sbatch; write --name=value, [gpu] or [cpu]")
    return options


def sbatch_command(request: Request, output: Path) -> list[str]:
    """The call of sbatch; its script comes on standard input."""
    options = request.options
    command = ["sbatch", "--wait", "--parsable", "--export=ALL", f"--output={output}", "--open-mode=append"]
    command += [f"--job-name={Path(request.log).name.split('.')[0] or 'job'}", f"--chdir={os.getcwd()}"]
    command += [f"--nodes={options['num_nodes']}", "--ntasks-per-node=1"]
    if options["mem"]:
        command.append(f"--mem={options['mem'].upper()}")
    if options["num_threads"]:
        command.append(f"--cpus-per-task={options['num_threads']}")
    if options["gpu"]:
        command.append(f"--gres=gpu:{options['gpu']}")
    if options["time"]:
        command.append(f"--time={options['time']}")
    if request.name:
        limit = f"%{options['max_jobs_run']}" if options["max_jobs_run"] else ""
        command.append(f"--array={request.first}-{request.last}{limit}")
    return command + read_config(options["config"], gpu=options["gpu"] > 0)


def batch_script(request: Request) -> str:
    """What each job runs: run.py on the node, for its own number."""
    words = [sys.executable, str(RUN)]
    if request.options["num_threads"]:
        words += ["--num-threads", str(request.options["num_threads"])]
    text = shlex.join(words)
    if request.name:
        text += f' {request.name}="${{SLURM_ARRAY_TASK_ID}}"'
    # srun does not take the cores of sbatch over by itself since Slurm 22.05.
    return (
        f'#!/bin/bash\nexport SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"\n'
        f"exec {text} {shlex.join([request.log, *request.command])}\n"
    )


def submit(request: Request, output: Path) -> int:
    """Submit, wait, and cancel when we are interrupted; the exit code of sbatch, which is the largest of the jobs'."""
    # Its own session: Ctrl-C has to reach us alone, so that the job is cancelled before sbatch stops waiting.
    process = subprocess.Popen(
        sbatch_command(request, output),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    job = ""
    try:
        process.stdin.write(batch_script(request))
        process.stdin.close()
        job = process.stdout.readline().strip().partition(";")[0]
        if job:
            print(f"slurm.py: job {job}, logs {request.log}", file=sys.stderr, flush=True)
        errors = process.stderr.read().strip()
        code = process.wait()
    except BaseException:
        if job:
            subprocess.run(["scancel", job], check=False)
        process.terminate()
        raise
    if not job:
        stop(f"sbatch did not take the job: {errors.splitlines()[-1] if errors else f'exit code {code}'}")
    return code


def collect(request: Request, code: int) -> dict[int, str]:
    """Wait until the logs are visible here; the jobs that failed, and how."""
    deadline = time.monotonic() + (VISIBLE_AFTER_FAILURE_S if code else VISIBLE_S)
    while True:
        codes = {number: exit_code_in(request.log_of(number)) for number in request.numbers}
        if None not in codes.values() or time.monotonic() > deadline:
            break
        os.listdir(request.log_of(request.first).parent)  # makes NFS look again
        time.sleep(0.5)
    return {
        number: "did not end: Slurm ended it (time, memory, a lost node), see `sacct` and the q folder beside its log"
        if ended is None
        else f"failed with exit code {ended}"
        for number, ended in codes.items()
        if ended != 0
    }


def main() -> int:
    """Parse, submit, wait, report."""
    request = parse(sys.argv[1:], __doc__)
    if shutil.which("sbatch") is None:
        stop("there is no sbatch on this machine; --cmd_backend local runs the jobs here")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        request.prepare_logs()
        # What Slurm itself has to say about a job; %A, %a: the job and the number in the array.
        queue = request.log_of(request.first).parent / "q"
        queue.mkdir(exist_ok=True)
        name = Path(request.log.replace(request.name, "") if request.name else request.log).name.replace("%", "")
        code = submit(request, queue / f"{name}.{'%A.%a' if request.name else '%j'}")
    except KeyboardInterrupt:
        print("slurm.py: interrupted; its jobs were cancelled", file=sys.stderr)
        return 130
    except OSError as error:
        stop(f"cannot write {error.filename or request.log}: {error.strerror}")
    failures = collect(request, code)
    if failures:
        report_failures(request, failures)
        return code or 1
    if code:
        print(f"slurm.py: Slurm reports exit code {code}, though every log ends well: see {queue}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
