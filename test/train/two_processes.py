"""A training of two processes on the CPU, as ESPnet's launcher starts them under Slurm or torchrun."""

import subprocess
import sys
from collections.abc import Sequence

from espnet2.train.distributed_utils import free_port

# gloo's threads abort an interpreter, now and then, that ends before them.
SCRIPT = """
import pathlib, sys
from espnet_ext.bin.train import main
code = main(sys.argv[1:])
threads = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
assert "pt_gloo_runloop" not in threads, threads
sys.exit(code)
"""


def train_by_two(options: Sequence[str]) -> list[str]:
    """Train with ``options`` of ``train`` over gloo; return what each process wrote to stderr."""
    together = ["--multiprocessing_distributed", "false", "--dist_backend", "gloo", "--dist_world_size", "2"]
    together += ["--dist_init_method", f"tcp://127.0.0.1:{free_port()}"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *options, *together, "--dist_rank", str(rank)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return errors
