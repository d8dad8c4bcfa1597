"""What a ``score`` stage leaves behind, for any task: a table on the screen, ``RESULTS.md`` and ``results.json``."""

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from espnet_ext.files import atomic_write


@dataclass
class Result:
    """One measured number.

    ``where`` says of what (for example ``{"set": "test", "condition": "all", "system": "raw"}``); ``ci`` is the 95 %
    confidence interval, None if there is none; ``count`` is how many items it was measured on.
    """

    metric: str
    value: float
    ci: tuple[float, float] | None = None
    unit: str = ""
    count: int | None = None
    where: dict[str, str] = field(default_factory=dict)


def run_info(seed: int | None = None, config: str | os.PathLike | None = None, **extra) -> dict:
    """Everything needed to get the same number again: command, commit, config, seed, versions, hardware, time."""
    packages = {}
    for name in ("espnet", "torch", "numpy"):
        # Metadata only: importing torch for its version would cost seconds.
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": git_commit(),
        "config": None if config is None else str(config),
        "seed": seed,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "packages": packages,
        "hardware": hardware(),
    } | extra


def git_commit() -> str:
    """The commit of this source tree, with ``+`` if it was changed since; ``unknown`` outside a git checkout."""
    folder = Path(__file__).resolve().parent
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")


def hardware() -> str:
    """CPU model, number of usable cores, memory, and GPUs where the driver lists them."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [cpu, f"{cores} cores"]
    if hasattr(os, "sysconf"):
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    for gpu in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        parts += [line.split(":", 1)[1].strip() for line in gpu.read_text().splitlines() if line.startswith("Model:")]
    return ", ".join(parts)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up on a screen: the first to the left, the others to the right."""
    cells = [list(columns), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    lines = [
        "| "
        + " | ".join(f"{c:<{w}}" if k == 0 else f"{c:>{w}}" for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) if k == 0 else "-" * (w + 1) + ":" for k, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def write_results_json(path: str | os.PathLike, results: Sequence[Result], info: Mapping) -> None:
    """Write ``{"run": info, "results": [...]}``; NaN becomes null, so that any JSON reader takes it."""

    def plain(value):
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    with atomic_write(path) as file:
        json.dump(plain({"run": dict(info), "results": [asdict(result) for result in results]}), file, indent=1)
        file.write("\n")


def write_results_md(path: str | os.PathLike, title: str, sections: Sequence[tuple[str, str]], info: Mapping) -> None:
    """Write a report: ``sections`` are (heading, Markdown text); what ``run_info`` said comes last."""
    lines = [f"# {title}", ""]
    for heading, text in sections:
        lines += [f"## {heading}", "", text.rstrip(), ""] if heading else [text.rstrip(), ""]
    lines += ["## How this was measured", ""]
    for key, value in info.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {item}" for name, item in value.items())
        if value is not None:
            lines.append(
                f"- {key.replace('_', ' ')}: `{value}`" if key == "command" else f"- {key.replace('_', ' ')}: {value}"
            )
    with atomic_write(path) as file:
        file.write("\n".join(lines) + "\n")
