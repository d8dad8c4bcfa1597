"""A real Slurm of two nodes on the loopback of this machine, for as long as a test needs it.

Everything (configuration, state, sockets, key) lies in a folder of its own, the ports are free ones, and nothing of an
installed Slurm is touched: the commands find this cluster by SLURM_CONF. Needs root, munged, slurmctld and slurmd.
"""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "sinfo")

CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=2
GresTypes=gpu
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000 Gres=gpu:1\n"


def why_not() -> str:
    """Why such a cluster cannot be started here; empty where it can."""
    missing = [name for name in DAEMONS if find(name) is None]
    if missing:
        return f"Slurm is not installed ({missing[0]} is missing): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd and munged are started as root"
    return ""


def find(name: str) -> str | None:
    """A daemon's path; /usr/sbin is not on everybody's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with_parent() -> None:
    """In the daemon: end when the test process ends, even by kill -9."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def start(command: list[str], log: Path, **where) -> subprocess.Popen:
    """Start a daemon in the foreground, as a child of ours."""
    with open(log, "w") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=end_with_parent, **where
        )


def wait_for(what: str, ready, folder: Path, timeout_s: float = 30) -> None:
    """Poll until ``ready()`` is true."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{log}:\n{log.read_text()[-1500:]}" for log in folder.glob("*.log"))
            raise TimeoutError(f"{what} did not come up in {timeout_s} s\n{logs}")
        time.sleep(0.1)


@contextmanager
def slurm_cluster(nodes: int = 2):
    """Start the cluster, give the environment in which sbatch and the rest find it, and stop all its daemons."""
    folder = Path(tempfile.mkdtemp(prefix="slurm_cluster_"))
    folder.chmod(0o755)  # munged runs as another user and has to pass
    daemons = []
    try:
        munge = folder / "munge"
        munge.mkdir()
        (munge / "key").write_bytes(os.urandom(128))
        user = "munge" if "munge" in (entry.pw_name for entry in pwd.getpwall()) else "root"
        for path in (munge, munge / "key"):
            shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
        (munge / "key").chmod(0o600)
        (munge / "log").touch()
        shutil.chown(munge / "log", user)
        files = {"key": "key-file", "socket": "socket", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}
        options = [f"--{option}={munge / name}" for name, option in files.items()]
        daemons.append(
            start(
                [find("munged"), "--foreground", "--force", "--num-threads=2", *options],
                folder / "munged.log",
                user=user,
                group=pwd.getpwnam(user).pw_gid,
                extra_groups=[],
            )
        )
        host = socket.gethostname().partition(".")[0]
        config = CONFIG.format(folder=folder, host=host, controller_port=free_port())
        names = [f"node{index + 1}" for index in range(nodes)]
        config += "".join(NODE.format(name=name, host=host, port=free_port()) for name in names)
        config += f"PartitionName=main Nodes={','.join(names)} Default=YES MaxTime=INFINITE State=UP\n"
        (folder / "slurm.conf").write_text(config)
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")  # a GPU to ask for
        env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        wait_for("munged", (munge / "socket").exists, folder)
        daemons.append(start([find("slurmctld"), "-D", "-c"], folder / "slurmctld.out.log", env=env))
        for name in names:
            daemons.append(start([find("slurmd"), "-D", "-N", name], folder / f"{name}.out.log", env=env))

        def idle() -> bool:
            answer = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], env=env, capture_output=True, text=True)
            return answer.stdout.split() == ["idle"] * nodes

        wait_for("Slurm", idle, folder)
        yield env
        subprocess.run(["scancel", "--user=root"], env=env, capture_output=True)
        wait_for("an empty queue", lambda: not queue(env), folder, timeout_s=15)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def queue(env: dict[str, str]) -> list[str]:
    """The jobs that are not finished, one line each."""
    return subprocess.run(["squeue", "-h"], env=env, capture_output=True, text=True).stdout.splitlines()
