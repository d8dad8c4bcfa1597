"""Embedding a whole data directory: once per utterance, in shards and chunks, going on where it was killed."""

import functools
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from espnet_ext.datadir import DataDir
from espnet_ext.datadir.tables import read_scp, write_broken, write_scp
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write, only_writer
from espnet_ext.inference.clips import Clip, FileClip

log = logging.getLogger(__name__)

#: A killed job loses at most this much audio: a few seconds of a GPU, a few minutes of one CPU core.
CHUNK_S = 1800.0


class Embedder(Protocol):
    """What is needed of an embedder; ``SpeakerEmbedder``, ``MfccFloor`` and ``UnitLabeler`` have it.

    One that yields other arrays than Kaldi's brings ``write(file, array)``.
    """

    rate_hz: int

    def stream(
        self, clips: Sequence[Clip], num_crops: int, crop_s: float, skip_broken: bool
    ) -> Iterator[tuple[int, np.ndarray | None, UserError | None]]: ...


@dataclass(frozen=True)
class Extraction:
    """What to embed and how; everything here but ``skip_broken`` and ``shard`` decides what the vectors are."""

    data: DataDir
    out: Path
    model_id: str  # changes whenever the vectors would: checksum of weights and config, window length
    num_crops: int = 0
    crop_s: float = 8.0
    shard: tuple[int, int] = (1, 1)  # this job and the number of jobs, counted from 1
    skip_broken: bool = False
    table: str = "embedding.scp"  # what the table of all shards is called

    @functools.cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for the model, the settings, the utterances and their files' versions.

        A file that was written again, a mended one say, changes the key.
        """
        crops = [self.num_crops, self.crop_s] if self.num_crops else None
        digest = hashlib.sha256(json.dumps([self.model_id, crops]).encode())
        self.data.stamp(digest)
        return digest.hexdigest()[:16]

    @property
    def scp(self) -> Path:
        return self.out / self.table


def run(task: Extraction, make_embedder: Callable[[], Embedder], rate_hz: int = 16000) -> Path | None:
    """Embed this job's share; the job that finishes last writes ``task.scp``, whose path it returns (else None).

    Files: ``out/parts/<key>/<job>of<jobs>.<chunk>.ark`` with an scp and a list of broken utterances each; a chunk is
    there when its scp is, so a killed job goes on with the first chunk that has none. ``out/broken`` lists what
    ``skip_broken`` left out. Settings that change the vectors change ``key``, and everything is embedded afresh.

    Errors: ``UserError`` that names the first broken utterance, unless ``skip_broken``.
    """
    parts = task.out / "parts" / task.key
    if task.scp.is_file() and is_finished(task):
        log.info("%s is finished; nothing to do", task.scp)
        return task.scp
    job, jobs = task.shard
    with only_writer(task.out, f".{job}of{jobs}.lock"):
        return _run_shard(task, make_embedder, rate_hz, parts)


def _run_shard(task: Extraction, make_embedder: Callable[[], Embedder], rate_hz: int, parts: Path) -> Path | None:
    # A table of other settings must not pass for this one's while this job works.
    task.scp.unlink(missing_ok=True)
    parts.mkdir(parents=True, exist_ok=True)
    job, jobs = task.shard
    done = parts / f"{job}of{jobs}.done"
    if not done.is_file():
        chunks = plan_chunks(task, rate_hz)
        left = [number for number in range(len(chunks)) if not _chunk(parts, task.shard, number, "scp").is_file()]
        if len(left) < len(chunks):
            log.info("job %d of %d goes on: %d of %d chunks are there", job, jobs, len(chunks) - len(left), len(chunks))
        embedder = make_embedder() if left else None
        progress = Progress(sum(chunk.samples for chunk in (chunks[number] for number in left)), rate_hz, job, jobs)
        for number in left:
            _embed_chunk(task, embedder, chunks[number], parts, number, progress)
        with atomic_write(done) as file:
            file.write(f"{len(chunks)}\n")
    return merge(task, parts)


def is_finished(task: Extraction) -> bool:
    """True where ``task.scp`` was made with these settings from this list of utterances."""
    with open(task.scp, encoding="utf-8") as file:
        first = file.readline()
    return str(task.out / "parts" / task.key) + os.sep in first


@dataclass
class Chunk:
    """Utterances that are written together, and how many samples they are."""

    utterances: list[str]
    samples: int


def plan_chunks(task: Extraction, rate_hz: int) -> list[Chunk]:
    """Share of this job (every n-th utterance), longest first, in chunks of about ``CHUNK_S``; lengths decide alone."""
    job, jobs = task.shard
    lengths = {utt: _num_samples(task.data, utt, rate_hz) for utt in task.data.utterances[job - 1 :: jobs]}
    chunks: list[Chunk] = []
    for utt in sorted(lengths, key=lambda utt: (-lengths[utt], utt)):
        if not chunks or chunks[-1].samples + lengths[utt] > CHUNK_S * rate_hz:
            chunks.append(Chunk([], 0))
        chunks[-1].utterances.append(utt)
        chunks[-1].samples += lengths[utt]
    return chunks


def _num_samples(data: DataDir, utt: str, rate_hz: int) -> int:
    try:
        return data.num_samples(utt, rate_hz)
    except UserError:
        return 0  # what is wrong with it is said when it is read


def _chunk(parts: Path, shard: tuple[int, int], number: int, kind: str) -> Path:
    return parts / f"{shard[0]}of{shard[1]}.{number:05d}.{kind}"


def _embed_chunk(
    task: Extraction, embedder: Embedder, chunk: Chunk, parts: Path, number: int, progress: "Progress"
) -> None:
    """Embed one chunk and write its ark, then its list of broken utterances, then its scp, each whole or not at all."""
    clips, names, broken = [], [], {}
    for utt in chunk.utterances:
        entry, start_s, end_s = task.data.source(utt)
        try:
            clips.append(FileClip(entry, embedder.rate_hz, start_s, end_s, None, task.data.allow_commands))
            names.append(utt)
        except UserError as error:
            broken[utt] = _broken(task, utt, error)
    from kaldiio.matio import write_array

    write = getattr(embedder, "write", write_array)
    ark = _chunk(parts, task.shard, number, "ark")
    places = {}
    with atomic_write(ark, "wb") as file:
        for index, vector, error in embedder.stream(clips, task.num_crops, task.crop_s, skip_broken=True):
            progress.add(clips[index].num_samples)
            if error is not None:
                broken[names[index]] = _broken(task, names[index], error)
                continue
            file.write(f"{names[index]} ".encode())
            places[names[index]] = f"{ark}:{file.tell()}"
            write(file, vector)
    if broken:
        write_scp(_chunk(parts, task.shard, number, "broken"), broken)
    write_scp(_chunk(parts, task.shard, number, "scp"), places)


def _broken(task: Extraction, utt: str, error: UserError) -> str:
    """The reason why an utterance is left out, or the error that ends the run."""
    if not task.skip_broken:
        raise UserError(f"{task.data.path}: utterance {utt}: {error}; leave such out with --skip_broken true")
    log.warning("left out: utterance %s: %s", utt, error)
    return " ".join(str(error).split())


def merge(task: Extraction, parts: Path) -> Path | None:
    """Join the tables of all jobs where all are done; whoever comes last does it, and twice does no harm."""
    jobs = task.shard[1]
    waiting = [job for job in range(1, jobs + 1) if not (parts / f"{job}of{jobs}.done").is_file()]
    if waiting:
        log.info("job %d of %d is done; waiting for job(s) %s", *task.shard, ", ".join(map(str, waiting)))
        return None
    places: dict[str, str] = {}
    broken: dict[str, str] = {}
    for job in range(1, jobs + 1):
        for number in range(int((parts / f"{job}of{jobs}.done").read_text())):
            made = _chunk(parts, (job, jobs), number, "scp")
            if not made.is_file():
                raise UserError(f"{task.out}: another run removed {made.name}; give the same command again, alone")
            if made.stat().st_size:  # empty where all were broken
                places |= read_scp(made)
            if (listed := _chunk(parts, (job, jobs), number, "broken")).is_file():
                broken |= read_scp(listed)
    if not places:
        raise UserError(
            f"{task.data.path}: all {len(broken)} utterances are broken; the first: {next(iter(broken.values()))}"
        )
    write_broken(task.out, broken)
    write_scp(task.scp, places)
    _remove_unused(task, parts)
    log.info("%s: %d utterances%s", task.scp, len(places), f", {len(broken)} broken left out" if broken else "")
    return task.scp


def _remove_unused(task: Extraction, parts: Path) -> None:
    """Remove what other settings, and other numbers of jobs that were killed, have left."""
    for other in parts.parent.iterdir():
        if other != parts:
            shutil.rmtree(other, ignore_errors=True)
    ours = re.compile(rf"\.?\d+of{task.shard[1]}\.")
    for file in [*parts.iterdir(), *task.out.glob(".*of*.lock")]:
        if not ours.match(file.name):
            file.unlink(missing_ok=True)


class Progress:
    """One line about every ten seconds: what is done, how fast, and when it will be over."""

    def __init__(self, samples: int, rate_hz: int, job: int, jobs: int, every_s: float = 10.0):
        self.total_s, self.rate_hz, self.every_s = samples / rate_hz, rate_hz, every_s
        self.name = f"job {job} of {jobs}" if jobs > 1 else "embed"
        self.done_s, self.utterances = 0.0, 0
        self.start = self.told = time.monotonic()

    def add(self, samples: int) -> None:
        """Count one utterance."""
        self.done_s += samples / self.rate_hz
        self.utterances += 1
        now = time.monotonic()
        if now - self.told >= self.every_s:
            self.told = now
            speed = self.done_s / (now - self.start)
            left_s = round((self.total_s - self.done_s) / speed) if speed else 0
            log.info(
                "%s: %d utterances, %.1f of %.1f min of audio, %.0f times real time, %d:%02d:%02d left",
                self.name, self.utterances, self.done_s / 60, self.total_s / 60, speed,
                left_s // 3600, left_s // 60 % 60, left_s % 60,
            )  # fmt: skip
