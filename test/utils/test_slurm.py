"""slurm.py against a real Slurm of two nodes on this machine's loopback."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import queue, slurm_cluster, why_not

UTILS = Path(__file__).resolve().parents[2] / "utils"
PYTHON = sys.executable


@pytest.fixture(scope="module")
def cluster():
    if why_not():
        pytest.skip(why_not())
    with slurm_cluster() as env:
        yield env


def slurm(*words, cwd, env):
    command = [PYTHON, UTILS / "slurm.py", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_array_words_and_logs(cluster, tmp_path):
    folder = tmp_path / "a földer"
    folder.mkdir()
    script = "import os, sys; print(sys.argv[1:], os.getcwd() == sys.argv[2], os.environ['MINE'])"
    words = ["JOB=1:3", "log/x.JOB.log", PYTHON, "-c", script, "x JOB/3 'q\" $HOME `ls` \\n", folder]
    answer = slurm(*words, cwd=folder, env={**cluster, "MINE": "mine too"})
    assert answer.returncode == 0, answer.stderr
    for number in (1, 2, 3):
        text = (folder / "log" / f"x.{number}.log").read_text()
        assert repr([f"x {number}/3 'q\" $HOME `ls` \\n", str(folder)]) + " True mine too" in text
        assert "# Ended (code 0)" in text


def test_partial_failure(cluster, tmp_path):
    script = "import sys; print('reason', sys.argv[1]); sys.exit(5 if sys.argv[1] == '2' else 0)"
    answer = slurm("JOB=1:3", "x.JOB.log", PYTHON, "-c", script, "JOB", cwd=tmp_path, env=cluster)
    assert answer.returncode == 5
    assert "job 2 failed with exit code 5, log x.2.log" in answer.stderr
    assert "reason 2" in answer.stderr and "reason 3" not in answer.stderr
    assert "1 of 3 failed" in answer.stderr


def test_options_reach_slurm(cluster, tmp_path):
    (tmp_path / "slurm.conf").write_text(
        "--comment='two words'   # for every job\n[gpu]\n--partition=main\n--nice=7\n[cpu]\n--partition=nowhere\n"
    )
    words = ["--mem", "300m", "--num-threads", 2, "--gpu=1", "--time", "0:05:00", "--config", "slurm.conf"]
    command = ["bash", "-c", 'scontrol show job "${SLURM_JOB_ID}"; echo "threads ${OMP_NUM_THREADS}"']
    answer = slurm(*words, "--max-jobs-run", 1, "JOB=1:2", "x.JOB.log", *command, cwd=tmp_path, env=cluster)
    assert answer.returncode == 0, answer.stderr
    text = (tmp_path / "x.1.log").read_text()
    for part in ("mem=300M", "CPUs/Task=2", "gres:gpu:1", "TimeLimit=00:05:00", "ArrayTaskThrottle=1", "JobName=x"):
        assert part in text
    assert "Comment=two words" in text and "Nice=7" in text
    assert "threads 2" in text


def test_no_sbatch_and_a_refused_job(cluster, tmp_path):
    answer = slurm("--mem", "900G", "x.log", "true", cwd=tmp_path, env=cluster)
    assert answer.returncode == 2
    assert "sbatch did not take the job" in answer.stderr and len(answer.stderr.splitlines()) == 1
    (tmp_path / "bad.conf").write_text("partition speech\n")
    answer = slurm("--config", "bad.conf", "x.log", "true", cwd=tmp_path, env=cluster)
    assert answer.returncode == 2 and "bad.conf, line 1" in answer.stderr


def test_a_job_that_slurm_ends(cluster, tmp_path):
    command = ["bash", "-c", 'scancel "${SLURM_JOB_ID}"; sleep 60']
    answer = slurm("x.log", *command, cwd=tmp_path, env=cluster)
    assert answer.returncode != 0
    assert "the job " in answer.stderr and "1 of 1 failed" in answer.stderr


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_jobs_are_cancelled(cluster, tmp_path, sign):
    command = [PYTHON, UTILS / "slurm.py", "x.log", "bash", "-c", "touch started; sleep 60"]
    process = subprocess.Popen(command, cwd=tmp_path, env=cluster, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sign)
    process.communicate(timeout=20)
    assert process.returncode in (130, 143)
    while queue(cluster):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_nodes_through_espnets_launcher(cluster, tmp_path):
    """ESPnet's launcher knows slurm.pl: srun starts one task per node, and they meet through torch.distributed."""
    (tmp_path / "meet.py").write_text(
        "import os, sys, torch, torch.distributed as dist\n"
        "address = sys.argv[sys.argv.index('--dist_init_method') + 1]\n"
        "assert sys.argv[sys.argv.index('--dist_launcher') + 1] == 'slurm'\n"
        "rank, nodes = int(os.environ['SLURM_PROCID']), int(os.environ['SLURM_NNODES'])\n"
        "dist.init_process_group('gloo', init_method=address, rank=rank, world_size=nodes)\n"
        "total = torch.tensor([rank + 1.0])\n"
        "dist.all_reduce(total)\n"
        "print(f\"{os.environ['SLURMD_NODENAME']} of {nodes}: {total.item()}\", flush=True)\n"
        # The file store is only released in order when everybody leaves together.
        "dist.barrier(); dist.destroy_process_group()\n"
    )
    job_command = f"{shlex.quote(str(UTILS / 'slurm.pl'))} --mem 500M"
    launcher = [PYTHON, "-m", "espnet2.bin.launch", "--cmd", job_command, "--log", "train.log"]
    launcher += ["--ngpu", "0", "--num_nodes", "2", "--init_file_prefix", "dist_init_", "--", PYTHON, "meet.py"]
    env = {**cluster, "PATH": f"{Path(PYTHON).parent}{os.pathsep}{cluster['PATH']}", "GLOO_SOCKET_IFNAME": "lo"}
    answer = subprocess.run(launcher, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    text = (tmp_path / "train.log").read_text()
    assert "node1 of 2: 3.0" in text and "node2 of 2: 3.0" in text


def test_without_slurm(tmp_path):
    answer = slurm("x.log", "true", cwd=tmp_path, env={"PATH": str(Path(PYTHON).parent)})
    assert answer.returncode == 2
    assert "there is no sbatch on this machine; --cmd_backend local" in answer.stderr
