#!/usr/bin/env python3
"""Run a command, or an array of them, on this machine; every job writes its own log.

    run.py [options] [JOB=1:8] log/x.JOB.log command … JOB …

The exit code is that of the first job that failed. When run.py ends, however it ends, so do its jobs.
"""

import ctypes
import glob
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

from job_args import ENDED, Request, parse, report_failures, stop

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
GRACE_S = 10  # between asking a job to end and killing it
QUIET_S = 15  # between two lines of progress


def follow_parent() -> None:
    """Runs in the job before its command: end when run.py ends, even by kill -9 (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def now() -> str:
    """Date and time as they stand in the logs."""
    return time.strftime("%a %b %d %H:%M:%S %Z %Y")


def visible_gpus() -> list[str]:
    """The GPUs of this machine that we may use."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return sorted((path[len("/dev/nvidia") :] for path in glob.glob("/dev/nvidia[0-9]*")), key=int)


class Slots:
    """Where jobs may run: how many at once, and for each the environment with its threads and GPUs."""

    def __init__(self, request: Request):
        jobs = len(request.numbers)
        at_once = min(request.options["max_jobs_run"] or jobs, jobs)
        gpus, wanted = visible_gpus(), request.options["gpu"]
        share = bool(wanted and jobs > 1 and len(gpus) >= wanted)  # a single job keeps all that it can see
        if share:
            at_once = min(at_once, len(gpus) // wanted)
        self.free = []
        for slot in reversed(range(at_once)):
            env = dict(os.environ)
            if request.options["num_threads"]:
                env["OMP_NUM_THREADS"] = str(request.options["num_threads"])
            elif jobs > 1 and "OMP_NUM_THREADS" not in env:
                env["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // at_once))
            if share:
                env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot * wanted : (slot + 1) * wanted])
            self.free.append(env)


def start(request: Request, number: int, env: dict[str, str]) -> subprocess.Popen:
    """Write the head of the log and start one job."""
    command = [request.fill(word, number) for word in request.command]
    with open(request.log_of(number), "w", encoding="utf-8") as log:
        log.write(f"# {shlex.join(command)}\n# Running on {socket.gethostname()}\n# Started at {now()}\n#\n")
        log.flush()
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                preexec_fn=follow_parent,
            )
        except OSError as error:
            log.write(f"{command[0]}: {error.strerror}\n")
            # 127 is what a shell gives for a command that cannot be started.
            return subprocess.Popen(["/bin/sh", "-c", "exit 127"], start_new_session=True)


def finish(request: Request, number: int, code: int, elapsed_s: float) -> None:
    """Write the foot of the log."""
    threads = request.options["num_threads"] or 1
    with open(request.log_of(number), "a", encoding="utf-8") as log:
        log.write(f"\n# Accounting: time={elapsed_s:.0f} threads={threads}\n")
        log.write(f"{ENDED}{code}) at {now()}, elapsed time {elapsed_s:.1f} seconds\n")


def end_all(running: dict[int, tuple]) -> None:
    """Ask every job to end, and kill those that do not."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in running:
            try:
                os.killpg(pid, sign)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + GRACE_S
        for process, *_ in running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
        else:
            return


def describe(code: int) -> str:
    """How a job ended, from its exit code (negative: the signal that killed it)."""
    if code >= 0:
        return f"failed with exit code {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


def run(request: Request) -> dict[int, int]:
    """Run all jobs and give their exit codes."""
    slots = Slots(request)
    waiting, running, codes = list(reversed(request.numbers)), {}, {}
    began = said = time.monotonic()
    try:
        while waiting or running:
            while waiting and slots.free:
                number, env = waiting.pop(), slots.free.pop()
                process = start(request, number, env)
                running[process.pid] = (process, number, env, time.monotonic())
            pid, status = os.wait()
            if pid not in running:
                continue
            process, number, env, started = running.pop(pid)
            process.returncode = codes[number] = os.waitstatus_to_exitcode(status)
            slots.free.append(env)
            finish(request, number, codes[number], time.monotonic() - started)
            clock = time.monotonic()
            if clock - said > QUIET_S and (waiting or running):
                left_s = (clock - began) / len(codes) * (len(waiting) + len(running))
                print(f"run.py: {len(codes)} of {len(request.numbers)} jobs, {left_s:.0f} s left", file=sys.stderr)
                said = clock
    finally:
        end_all(running)
    return codes


def main() -> int:
    """Parse, run, report."""
    request = parse(sys.argv[1:], __doc__)
    if request.options["num_nodes"] > 1:
        stop("--num-nodes needs a cluster; choose --cmd_backend slurm")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        request.prepare_logs()
        codes = run(request)
    except KeyboardInterrupt:
        print("run.py: interrupted; its jobs were ended", file=sys.stderr)
        return 130
    except OSError as error:
        stop(f"cannot write {error.filename or request.log}: {error.strerror}")
    failures = {number: describe(code) for number, code in codes.items() if code}
    if failures:
        report_failures(request, failures)
        code = codes[min(failures)]
        return code if code > 0 else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
