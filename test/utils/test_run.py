"""run.py: the numbers, the logs, the failures, and that nothing it started survives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "utils" / "run.py"


def run(*words, cwd, **env):
    command = [sys.executable, str(RUN), *map(str, words)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(ready, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_jobs_get_their_number_everywhere(tmp_path):
    command = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "x JOB/4 'q\" $HOME"]
    answer = run("JOB=2:4", "a folder/lög.JOB.txt", *command, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    logs = sorted((tmp_path / "a folder").iterdir())
    assert [log.name for log in logs] == ["lög.2.txt", "lög.3.txt", "lög.4.txt"]
    text = logs[1].read_text()
    assert repr(["x 3/4 'q\" $HOME"]) in text  # no shell has seen the word
    for part in ("# Running on ", "# Started at ", "# Accounting: time=", "# Ended (code 0) at ", "elapsed time "):
        assert part in text


def test_a_failed_job_is_named_with_the_end_of_its_log(tmp_path):
    script = "import sys; print('reason', 7 * int(sys.argv[1])); sys.exit(3 if sys.argv[1] == '2' else 0)"
    answer = run("JOB=1:3", "x.JOB.log", sys.executable, "-c", script, "JOB", cwd=tmp_path)
    assert answer.returncode == 3
    assert "reason 14" in answer.stderr and "reason 7\n" not in answer.stderr
    assert "job 2 failed with exit code 3, log x.2.log" in answer.stderr
    assert "1 of 3 failed" in answer.stderr
    assert "# Ended (code 0)" in (tmp_path / "x.3.log").read_text()  # the others went on


def test_a_killed_job_and_a_command_that_is_not_there(tmp_path):
    answer = run("x.log", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)", cwd=tmp_path)
    assert answer.returncode == 1 and "killed by SIGKILL (out of memory?)" in answer.stderr
    answer = run("x.log", "no-such-command", cwd=tmp_path)
    assert answer.returncode == 127 and "no-such-command: No such file or directory" in answer.stderr


def test_max_jobs_run(tmp_path):
    (tmp_path / "now").mkdir()
    script = (
        "import os, sys, time; open(sys.argv[1], 'w'); n = len(os.listdir('now')); time.sleep(0.2)\n"
        "os.remove(sys.argv[1]); print('at once', n)"
    )
    for limit in (1, 2):
        words = ["--max-jobs-run", limit, "J=1:4", "x.J.log", sys.executable, "-c", script, "now/J"]
        assert run(*words, cwd=tmp_path).returncode == 0
        seen = [int(log.read_text().split("at once ")[1].split()[0]) for log in tmp_path.glob("x.*.log")]
        assert max(seen) <= limit


def test_threads_and_gpus_are_shared_out(tmp_path):
    script = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ.get('CUDA_VISIBLE_DEVICES'))"
    words = ["--gpu", 1, "--num_threads=3", "JOB=1:4", "x.JOB.log", sys.executable, "-c", script]
    assert run(*words, cwd=tmp_path, CUDA_VISIBLE_DEVICES="4,7").returncode == 0
    seen = [log.read_text().splitlines()[4] for log in sorted(tmp_path.glob("x.*.log"))]
    assert set(seen) == {"3 4", "3 7"}
    words = ["--gpu", 2, "y.log", sys.executable, "-c", script]
    assert run(*words, cwd=tmp_path, CUDA_VISIBLE_DEVICES="4,7", OMP_NUM_THREADS="1").returncode == 0
    assert (tmp_path / "y.log").read_text().splitlines()[4].endswith(" 4,7")  # a single job keeps what it sees


def test_a_log_of_an_earlier_run_does_not_stay(tmp_path):
    (tmp_path / "x.2.log").write_text("# Ended (code 0) at another time\n")
    script = "import os; print(os.path.exists('x.2.log'))"
    run("--max-jobs-run", 1, "JOB=1:2", "x.JOB.log", sys.executable, "-c", script, cwd=tmp_path)
    assert "\nFalse\n" in (tmp_path / "x.1.log").read_text()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_job_survives(tmp_path, sign):
    script = "import os, time; open(f'pid.{os.getpid()}', 'w'); time.sleep(60)"
    command = [sys.executable, str(RUN), "JOB=1:2", "x.JOB.log", sys.executable, "-c", script]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    wait_until(lambda: len(list(tmp_path.glob("pid.*"))) == 2)
    process.send_signal(sign)
    process.communicate(timeout=20)
    assert process.returncode != 0
    for path in tmp_path.glob("pid.*"):
        wait_until(lambda pid=int(path.suffix[1:]): not alive(pid))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mems", "4G", "x.log", "true"], "no option --mems"),
        (["--gpu", "one", "x.log", "true"], "--gpu takes a whole number, not 'one'"),
        (["--mem"], "--mem needs a value"),
        (["JOB=1:2", "x.log", "true"], "put JOB into the name of the log"),
        (["JOB=2:1", "x.JOB.log", "true"], "JOB=2:1 has no jobs"),
        (["x.log"], "needs a log file and a command"),
        (["--num-nodes", "2", "x.log", "true"], "--cmd_backend slurm"),
        (["/proc/no/x.log", "true"], "cannot write /proc/no"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, message):
    answer = run(*words, cwd=tmp_path)
    assert answer.returncode == 2
    assert message in answer.stderr and len(answer.stderr.splitlines()) == 1
