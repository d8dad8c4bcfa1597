"""Run the benchmarks and print one table: ``python benchmarks/run.py [NAME …]`` (all of them without a name)."""

import argparse
import importlib.util
import os
import platform
import sys
import traceback
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # `from common import Row, measure` in every benchmark
from common import Row  # noqa: E402


def names() -> list[str]:
    """The benchmarks there are: every file here but this one and the shared helpers."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("run", "common"))


def load(name: str) -> list[Row]:
    """Run one benchmark."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


def short(value: float) -> str:
    """Three significant digits are what such a measurement carries."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(row: Row) -> list[str]:
    """The columns of one row."""
    peer = "" if row.peer is None else f"{short(row.peer)} {row.unit}"
    ratio = "" if row.ratio is None else f"{short(row.ratio)}x"
    return [row.question, f"{short(row.ours)} {row.unit}", peer, ratio, row.note]


def table(rows: list[Row]) -> str:
    """A Markdown table that also reads well on a terminal."""
    lines = [["question", "ours", "peer", "peer / ours", "note"], *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    texts = [f"| {' | '.join(line)} |" for line in padded]
    texts.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(texts)


def main() -> int:
    """Run, print, and give 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(names())}")
    chosen = parser.parse_args().names or names()
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        parser.error(f"no benchmark named {unknown[0]}; there are: {', '.join(names())}")
    rows, failed = [], []
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            rows += load(name)
        except Exception:  # one broken benchmark must not hide the others
            traceback.print_exc()
            failed.append(name)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n\n{table(rows)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
