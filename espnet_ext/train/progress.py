"""How far a training is: a bar on a terminal, a line per interval in a log, both with the time that is left."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator


class Progress:
    """Counts the iterations of a training and says when the epoch and the whole will end.

    Args:
        iterations: per epoch, None where it is not known. max_epoch: the last epoch.
        interval_s: time between two lines where standard error is not a terminal.
    """

    def __init__(self, iterations: int | None, epoch: int, max_epoch: int, interval_s: float = 30.0):
        self.iterations, self.epoch, self.max_epoch, self.interval_s = iterations, epoch, max_epoch, interval_s

    def watch(self, batches: Iterable, describe: Callable[[], str] = str) -> Iterator:
        """Yield ``batches`` and show the progress; ``describe()`` is what to say besides (the loss)."""
        title = f"epoch {self.epoch}/{self.max_epoch}"
        if sys.stderr.isatty():
            from tqdm import tqdm

            with tqdm(total=self.iterations, desc=title, unit="it", dynamic_ncols=True, leave=False) as bar:
                for batch in batches:
                    yield batch
                    bar.update()
                    bar.set_postfix_str(describe(), refresh=False)
            return
        start = said = time.monotonic()
        for number, batch in enumerate(batches, start=1):
            yield batch
            now = time.monotonic()
            if now - said >= self.interval_s:
                said = now
                logging.info(f"{title}: {self.message(number, now - start)}{describe()}")

    def message(self, done: int, elapsed_s: float) -> str:
        """Return ``120/450 iterations, 0.35 s each, epoch ends in 2 min, training in 1 h 10 min``."""
        pace = elapsed_s / done
        text = f"{done}/{self.iterations or '?'} iterations, {pace:.2f} s each"
        if self.iterations:
            left = (self.iterations - done) * pace
            rest = left + (self.max_epoch - self.epoch) * self.iterations * pace
            text += f", epoch ends in {duration(left)}, training in {duration(rest)}"
        return text


def duration(seconds: float) -> str:
    """Return seconds in words: ``40 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    seconds = max(0, round(seconds))
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
