"""The benchmarks' ruler: memory and time of a fresh process, and the table."""

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
spec = importlib.util.spec_from_file_location("benchmarks_run", FOLDER / "run.py")
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
common = sys.modules["common"]


def test_memory_and_time_are_those_of_the_call(tmp_path):
    child = tmp_path / "child.py"
    child.write_text("import time\ndef work(mb, s):\n    data = b'x' * (mb << 20); time.sleep(s); return len(data)\n")
    ballast = b"x" * (200 << 20)  # what this process holds must not count
    measured = common.measure(f"{child}:work", mb=50, s=0.2)
    assert measured.result == 50 << 20 and len(ballast)
    assert abs(measured.peak_mb - measured.before_mb - 50) < 5  # the kernel counts pages in lots
    assert measured.peak_mb < 120
    assert 0.2 < measured.seconds < 2


def test_table():
    rows = [common.Row("a question", 0.5, 2.0), common.Row("another", 12345.0, unit="MB", note="a note")]
    lines = run.table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["a question", "0.5 s", "2 s", "4x", ""]
    assert "12,345 MB" in lines[3] and "a note" in lines[3]
