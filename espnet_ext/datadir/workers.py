"""Work in several processes that end with their parent, even when that is killed."""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from espnet_ext.errors import UserError


def default_nj() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _log_settings() -> dict[str, Any]:
    """How this process logs, as ``logging.basicConfig`` takes it; empty where nothing is set up."""
    root = logging.getLogger()
    formatter = next((handler.formatter for handler in root.handlers if handler.formatter), None)
    return {"level": root.level, "format": formatter._fmt, "datefmt": formatter.datefmt} if formatter else {}


def _begin(parent: int, threads: int, log_settings: dict[str, Any]) -> None:
    """Make this worker log as its parent does, share the processors, and end when the parent is gone.

    A pool's workers would wait for work forever, and each would take all processors for its products of matrices: two
    workers of two threads on two processors took three times as long as two of one.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read when the work imports torch, after this
    if log_settings:
        logging.basicConfig(**log_settings)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(work: Callable[[Any], Any], chunks: Sequence[Any], nj: int) -> Iterator[Any]:
    """Yield ``work(chunk)`` of every chunk as it is finished, in ``nj`` processes (in this one where that is enough).

    An exception of a worker is raised here and stops the others; a worker that was killed raises ``UserError``.
    """
    nj = min(nj, len(chunks))
    if nj <= 1:
        yield from map(work, chunks)
        return
    # Fresh processes: forking one that has threads (torch, tqdm) may deadlock.
    context = multiprocessing.get_context("spawn")
    start = os.getpid(), max(1, default_nj() // nj), _log_settings()
    pool = ProcessPoolExecutor(nj, context, initializer=_begin, initargs=start)
    try:
        yield from _collect(pool, work, chunks, nj)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely for want of memory; give the same command again with a smaller "
            "--nj, finished parts are kept"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(pool: ProcessPoolExecutor, work: Callable, chunks: Iterable, nj: int) -> Iterator[Any]:
    """Keep two chunks per process waiting, so that a million chunks are not a million futures."""
    left, running = iter(chunks), set()
    while True:
        while len(running) < 2 * nj and (chunk := next(left, None)) is not None:
            running.add(pool.submit(work, chunk))
        if not running:
            return
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            yield future.result()
