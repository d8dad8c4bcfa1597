"""What every benchmark shares: one row per question, wall time, and the peak memory of a fresh process.

A benchmark is a file ``benchmarks/<name>.py`` with ``main() -> list[Row]``; ``benchmarks/run.py`` prints one table.
Ours and the peer are measured in the same run on the same machine, and both do the same work on the same input.

    def ours(num_scores: int) -> float: ...     # top level, so that a fresh process can call it
    def peer(num_scores: int) -> float: ...

    def main():
        a = measure(f"{__file__}:ours", num_scores=1_000_000)
        b = measure(f"{__file__}:peer", num_scores=1_000_000)
        return [Row("EER of 1,000,000 scores", a.seconds, b.seconds),
                Row("EER of 1,000,000 scores, peak memory", a.peak_mb, b.peak_mb, unit="MB")]
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Runs `function` of a file or module in a fresh process. VmHWM is read by the process itself: ru_maxrss as the parent
# sees it would start at the parent's own size, because Linux carries it over exec.
_CHILD = """
import importlib, importlib.util, json, os, sys, time
target, name, arguments, answer = sys.argv[1:]
def memory_mb(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024
if target.endswith(".py"):
    sys.path.insert(0, os.path.dirname(target))
    spec = importlib.util.spec_from_file_location("benchmark_child", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
else:
    module = importlib.import_module(target)
before_mb = memory_mb("VmRSS")
start = time.perf_counter()
result = getattr(module, name)(**json.loads(arguments))
seconds = time.perf_counter() - start
record = {"seconds": seconds, "peak_mb": memory_mb("VmHWM"), "before_mb": before_mb, "result": result}
with open(int(answer), "w") as file:
    json.dump(record, file)
"""


@dataclass
class Row:
    """One line of the table: costs in ``unit``, less is better; a ``peer`` of None has nothing to compare with."""

    question: str
    ours: float
    peer: float | None = None
    unit: str = "s"  # s, ms or MB
    note: str = ""  # what a reader has to know, for example a limit that the peer needs

    @property
    def ratio(self) -> float | None:
        """How many times more the peer needs; above 1 ours is the cheaper one."""
        return None if self.peer is None else self.peer / self.ours


@dataclass
class Measured:
    """What one call cost in its fresh process."""

    seconds: float  # wall time of the call alone, imports of its file excluded
    peak_mb: float  # largest resident size of the whole process, MiB
    before_mb: float  # resident size after the imports and before the call, MiB
    result: Any  # what the function returned (it has to fit in JSON)


def measure(target: str, python: str = sys.executable, **arguments: Any) -> Measured:
    """Call ``file.py:function`` or ``module:function`` with JSON-able arguments in a fresh process and measure it."""
    where, _, name = target.rpartition(":")
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [python, "-c", _CHILD, where, name, json.dumps(arguments), str(writer)], pass_fds=[writer], stdout=sys.stderr
    )
    os.close(writer)
    with open(reader) as file:
        answer = file.read()
    if child.wait() != 0 or not answer:
        raise RuntimeError(f"the benchmark {target} failed with exit code {child.returncode}")
    return Measured(**json.loads(answer))


def best_time(function: Callable[[], Any], repeats: int = 3) -> float:
    """Least wall time of ``repeats`` calls in this process, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
