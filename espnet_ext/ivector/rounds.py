"""EM in steps: every job does its share of a step, whoever comes last joins the shares, and a killed run goes on.

A step's shares are sums over utterances, kept in files until the step is finished; its result is a file too. A call for
job 2 of 8 does this job's share of the first unfinished step and ends, so that a recipe runs all jobs (here, or on a
cluster), as often as there are steps; jobs that have nothing to do end at once. A call for 1 of 1 does all steps.
"""

import contextlib
import functools
import logging
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from espnet_ext.datadir import workers
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write, only_writer

log = logging.getLogger(__name__)

FAILED = "failed"

Arrays = dict[str, np.ndarray]


class Job(Protocol):
    """What is trained. It has to be picklable, and its methods must not depend on how the utterances are shared out."""

    out: Path
    result: str  # name of the file in ``out`` that the last step's arrays go to
    key: str  # changes whenever the result would
    steps: list[str]

    def share(self, step: str, shard: tuple[int, int], work: Path) -> Arrays: ...

    def join(self, step: str, shares: Iterable[Arrays], work: Path) -> Arrays: ...


def run(job: Job, shard: tuple[int, int] = (1, 1), nj: int = 1) -> Path | None:
    """Do what is to be done for job ``shard`` (counted from 1, of how many), or all steps with ``nj`` processes here.

    Returns the result's path once it is there. Files: ``out/work/<key>/<step>.npz`` and, while a step is unfinished,
    ``<step>.<i>of<n>.share.npz``; the folder is removed when the result is written. Other settings start afresh.
    """
    result = job.out / job.result
    if is_finished(job):
        log.info("%s is finished; nothing to do", result)
        return result
    result.unlink(missing_ok=True)  # a model of other settings must not pass for this one's
    work = job.out / "work" / job.key
    work.mkdir(parents=True, exist_ok=True)
    if shard[1] > 1:
        with only_writer(job.out, f".{shard[0]}of{shard[1]}.lock"):
            step = _unfinished(job, work)[0]
            waiting = _step(job, work, step, shard)
            if waiting:
                log.info("%s: job %d of %d is done, %d others are not", step, *shard, waiting)
    else:
        with only_writer(job.out):
            (work / FAILED).unlink(missing_ok=True)
            tasks = [(step, (number, nj)) for step in _unfinished(job, work) for number in range(1, nj + 1)]
            for _ in workers.run(functools.partial(_task, job, work), tasks, nj):
                pass
    return result if result.is_file() else None


def is_finished(job: Job) -> bool:
    """True where the result was made with these settings from these files."""
    path = job.out / job.result
    return path.is_file() and str(load(path, ("key",))["key"]) == job.key


def _unfinished(job: Job, work: Path) -> list[str]:
    """The steps that are to be done; the last one, which cleans up, always is."""
    return [step for step in job.steps if step == job.steps[-1] or not (work / f"{step}.npz").is_file()]


def _task(job: Job, work: Path, task: tuple[str, tuple[int, int]]) -> None:
    """One share of one step in a process that does several; waits until the step before it is finished."""
    step, shard = task
    number = job.steps.index(step)
    try:
        while number and not (work / f"{job.steps[number - 1]}.npz").is_file():
            if (work / FAILED).exists():
                return
            time.sleep(0.05)
        _step(job, work, step, shard)
    except BaseException:
        (work / FAILED).touch()  # the others must not wait for what never comes
        raise


def _step(job: Job, work: Path, step: str, shard: tuple[int, int]) -> int:
    """This job's share of a step; whoever comes last joins the shares. Returns how many others have not come."""
    if (work / f"{step}.npz").is_file():
        _finish(job, work)
        return 0
    names = [work / f"{step}.{number}of{shard[1]}.share.npz" for number in range(1, shard[1] + 1)]
    if not names[shard[0] - 1].is_file():
        save(names[shard[0] - 1], job.share(step, shard, work))
    waiting = sum(not path.is_file() for path in names)
    if waiting:
        return waiting
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_writer(work, ".join.lock"))
        except UserError:
            return 0  # another job came last at the same moment
        if not (work / f"{step}.npz").is_file():
            save(work / f"{step}.npz", job.join(step, map(load, names), work))
    for path in work.glob(f"{step}.*.share.npz"):
        path.unlink(missing_ok=True)
    if step == job.steps[-1]:
        _finish(job, work)
    return 0


def _finish(job: Job, work: Path) -> None:
    """Move the last step's arrays to their place and clean up."""
    last = work / f"{job.steps[-1]}.npz"
    if last.is_file() and not is_finished(job):
        save(job.out / job.result, load(last) | {"key": np.array(job.key)})
    shutil.rmtree(job.out / "work", ignore_errors=True)


def before(job: Job, step: str, work: Path) -> Arrays:
    """The arrays that the step before this one ended with."""
    return load(work / f"{job.steps[job.steps.index(step) - 1]}.npz")


def save(path: Path, arrays: Arrays) -> None:
    """Write named arrays as one ``.npz``, whole or not at all."""
    with atomic_write(path, "wb") as file:
        np.savez(file, **arrays)


def load(path: Path, names: Iterable[str] | None = None) -> Arrays:
    """Read what ``save`` wrote, or only these names; ``UserError`` where the file is missing or broken.

    Nothing in the file is ever executed.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in (file.files if names is None else names)}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it") from None
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); remove it and give the same command again") from None


@dataclass(frozen=True)
class Chunk:
    """Utterances whose results are kept in one file."""

    path: Path
    utterances: list[str]


def plan_chunks(
    lengths_s: dict[str, float], shard: tuple[int, int], folder: Path, max_s: float, max_utterances: int
) -> list[Chunk]:
    """This job's share of the utterances (every n-th), in their order, in chunks of at most so much audio.

    What a killed run with another number of jobs has left in ``folder`` is removed.
    """
    for path in folder.glob("*of*.npz"):
        if not re.match(rf"\d+of{shard[1]}\.", path.name):
            path.unlink(missing_ok=True)
    chunks: list[Chunk] = []
    seconds = 0.0
    for utt in list(lengths_s)[shard[0] - 1 :: shard[1]]:
        seconds += lengths_s[utt]
        if not chunks or seconds > max_s or len(chunks[-1].utterances) >= max_utterances:
            chunks.append(Chunk(folder / f"{shard[0]}of{shard[1]}.{len(chunks):05d}.npz", []))
            seconds = lengths_s[utt]
        chunks[-1].utterances.append(utt)
    return chunks


def finish_chunks(chunks: list[Chunk], make: Callable[[list[str]], Arrays]) -> Iterable[Arrays]:
    """Make and keep the chunks that are not there yet; yields the arrays of all."""
    for number, chunk in enumerate(chunks, 1):
        if not chunk.path.is_file():
            save(chunk.path, make(chunk.utterances))
            log.info("%s: chunk %d of %d", chunk.path.parent.name, number, len(chunks))
        yield load(chunk.path)


def share_of(folder: Path, shard: tuple[int, int]) -> list[Path]:
    """The files of finished chunks that this job reads in the later steps, whoever made them."""
    return sorted(folder.glob("*of*.npz"))[shard[0] - 1 :: shard[1]]
