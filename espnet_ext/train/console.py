"""What a training says: everything to ``train.log`` in its folder, and to the screen what a person wants to follow."""

import logging
import re
import sys
from pathlib import Path

# A path, not a name: a checkout may be called espnet_ext and hold the environment.
_OURS = Path(__file__).parents[1]
_RESULTS = re.compile(r"(\d+)epoch results: (.*)")
_SHOWN = ("loss", "acc", "accuracy", "eer", "mindcf")


def start(output_dir: str | Path, level: str = "INFO") -> None:
    """Log all of ``level`` to ``output_dir/train.log`` (appended) and a person's share of it to standard error."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    record = logging.FileHandler(folder / "train.log", encoding="utf-8")
    record.setFormatter(logging.Formatter("%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"))
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(ScreenFormatter())
    screen.addFilter(for_screen)
    # ESPnet's basicConfig does nothing where the root logger has handlers already.
    logging.basicConfig(level=level, handlers=[record, screen])


class ScreenFormatter(logging.Formatter):
    """The time and the message; the end of an epoch in short."""

    def format(self, record: logging.LogRecord) -> str:
        results = _RESULTS.match(record.getMessage())
        text = epoch_line(*results.groups()) if results else record.getMessage()
        return f"{self.formatTime(record, '%H:%M:%S')} {text}"


def for_screen(record: logging.LogRecord) -> bool:
    """Let through warnings, our own lines, and the end of an epoch."""
    ours = _OURS in Path(record.pathname).parents
    return ours or record.levelno >= logging.WARNING or _RESULTS.match(record.getMessage()) is not None


def epoch_line(epoch: str, results: str) -> str:
    """Return ``epoch 3: train loss=1.99; valid eer=18.3, mindcf=0.849`` from ESPnet's list of results."""
    parts = []
    for name, values in re.findall(r"\[(\w+)\] ([^\[]*)", results):
        chosen = [pair for pair in values.split(", ") if pair.split("=")[0] in _SHOWN]
        parts.append(f"{name} {', '.join(chosen)}" if chosen else name)
    return f"epoch {epoch}: {'; '.join(parts)}"
