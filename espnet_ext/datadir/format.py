"""The format stage: check every utterance, and write those that are not yet mono at the right rate as FLAC."""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.audio.io import AudioError, AudioInfo, AudioWriter, check_section, open_audio, stream_audio
from espnet_ext.datadir import workers
from espnet_ext.datadir.directory import DataDir
from espnet_ext.datadir.journal import Done, Journal, file_identity
from espnet_ext.datadir.operations import carry_trials, replace_tables
from espnet_ext.datadir.tables import write_broken
from espnet_ext.datadir.tableset import RECORDING, kind_of, read_tables, restrict
from espnet_ext.datadir.validate import validate
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write, only_writer

# Below this a whole utterance is silent: 16-bit audio has its last bit at -90 dBFS.
SILENCE_DB = -80.0
# Utterances that a worker does at once: lost when it is killed, so not many.
_CHUNK = 4
_AS_IT_IS = ("WAV", "WAVEX", "FLAC")


class BrokenUtterances(UserError):
    """Utterances that cannot be used; ``broken`` is ``{utterance: reason}``."""

    def __init__(self, message: str, broken: dict[str, str]):
        super().__init__(message)
        self.broken = broken


@dataclass(frozen=True, slots=True)
class Job:
    """One utterance to look at: ``wav.scp`` entry, section in seconds or None, and below what a new file would go."""

    utt: str
    source: str
    start_s: float | None
    end_s: float | None
    rate_hz: int
    out: str
    allow_commands: bool

    @property
    def target(self) -> str:
        """Where the utterance is written: 256 folders by hash, whatever characters the id has."""
        digest = hashlib.sha256(self.utt.encode()).hexdigest()
        name = self.utt.replace("%", "%25").replace("/", "%2F")
        if len(name.encode()) > 200 or name.startswith("."):
            name = digest
        return os.path.join(self.out, "audio", digest[:2], f"{name}.flac")


@dataclass
class Report:
    """What the format stage did: utterances kept, written, finished by an earlier run, and why some were dropped."""

    kept: int
    written: int
    resumed: int
    too_short: int
    broken: dict[str, str]
    dropped_trials: int


def format_data(
    source: str | os.PathLike,
    path: str | os.PathLike,
    rate_hz: int = 16000,
    nj: int | None = None,
    skip_broken: bool = False,
    min_duration_s: float = 0.0,
    allow_commands: bool = False,
    progress: bool = True,
) -> Report:
    """Make a data directory whose every utterance is a whole, sound, mono file at ``rate_hz``.

    Every file is read to its end. One that is mono WAV or FLAC at ``rate_hz`` already is referred to where it is;
    others, and ``segments``, are written as 16-bit FLAC under ``path/audio``. Writes ``wav.scp``, ``utt2spk``,
    ``spk2utt``, ``utt2num_samples`` and carries ``text``, trial lists and every other table by utterance or speaker.
    Utterances shorter than ``min_duration_s`` are dropped. Broken ones (missing, truncated, silent, NaN, …) are listed
    in ``path/broken`` and raise ``BrokenUtterances``, or are dropped with ``skip_broken``. ``wav.scp`` is written last;
    a killed run goes on where it stopped and gives the same result. Memory does not grow with the length of a file.
    """
    source, path = Path(source), Path(path)
    if path.exists() and path.samefile(source):
        raise UserError(f"{path}: --in and --out are the same directory")
    # Files and commands are looked at below, utterance by utterance.
    validate(source, text=False, spk_sort=False, non_print=True, files=False, allow_commands=True)
    data = DataDir(source, allow_commands)
    jobs = [Job(u, *data.source(u), rate_hz, str(path), allow_commands) for u in data.utterances]

    with only_writer(path):
        return _format(source, path, jobs, nj or workers.default_nj(), progress, (rate_hz, min_duration_s, skip_broken))


def _format(source: Path, path: Path, jobs: Sequence[Job], nj: int, progress: bool, options: tuple) -> Report:
    (path / "wav.scp").unlink(missing_ok=True)
    _remove_leftovers(path)
    journal = Journal(path / ".format" / "done.jsonl")
    before = journal.read()
    done = {job.utt: before[job.utt] for job in jobs if job.utt in before and _matches(before[job.utt], job)}
    resumed = len(done)
    journal.rewrite(done.values())
    todo = [job for job in jobs if job.utt not in done]
    try:
        for entries in _run(todo, nj, resumed, progress):
            journal.append(entries)
            done.update({entry.utt: entry for entry in entries})
    finally:
        journal.close()
    journal.rewrite(done.values())
    return _finish(source, path, done, resumed, *options)


def _run(todo: Sequence[Job], nj: int, resumed: int, progress: bool):
    from tqdm import tqdm

    # Neighbours in a recording go to the same worker, so that it is read from the cache.
    todo = sorted(todo, key=lambda job: (job.source, job.start_s or 0.0, job.utt))
    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    pace_s = 0.5 if sys.stderr.isatty() else 10
    with tqdm(total=len(todo) + resumed, initial=resumed, unit="utt", mininterval=pace_s, disable=not progress) as bar:
        for entries in workers.run(_work, chunks, nj):
            bar.update(len(entries))
            yield entries


def _finish(source, path, done, resumed, rate_hz, min_duration_s, skip_broken) -> Report:
    broken = {utt: entry.broken for utt, entry in sorted(done.items()) if entry.broken}
    kept = {utt: entry for utt, entry in sorted(done.items()) if not entry.broken}
    short = {utt for utt, entry in kept.items() if entry.num_samples < min_duration_s * rate_hz}
    kept = {utt: entry for utt, entry in kept.items() if utt not in short}
    write_broken(path, broken)
    if broken and not skip_broken:
        raise BrokenUtterances(
            f"{source}: {len(broken)} of {len(done)} utterances are broken, listed in {path / 'broken'}; mend them or "
            "drop them with --skip_broken true, and give the command again: it looks only at these",
            broken,
        )
    if not kept:
        raise UserError(f"{source}: no utterance is left ({len(broken)} broken, {len(short)} too short)")
    tables = read_tables(source)
    cut = restrict(tables, kept)
    # A recording is an utterance from here on, so what belongs to recordings has no place any more.
    for name in [name for name in cut if name == "segments" or kind_of(name, "segments" in tables) == RECORDING]:
        del cut[name]
    cut["wav.scp"] = {utt: entry.path for utt, entry in kept.items()}
    cut["utt2num_samples"] = {utt: str(entry.num_samples) for utt, entry in kept.items()}
    dropped_trials = carry_trials(source, path, kept)
    replace_tables(path, cut)
    written = sum(entry.written_bytes >= 0 for entry in kept.values())
    return Report(len(kept), written, resumed, len(short), broken, dropped_trials)


def _remove_leftovers(path: Path) -> None:
    """Remove the half-written files of a killed run."""
    for folder in (path, path / ".format", path / "audio"):
        pattern = "*/.*.tmp" if folder.name == "audio" else ".*.tmp"
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)


def _matches(done: Done, job: Job) -> bool:
    asked = (job.source, job.start_s, job.end_s, job.rate_hz)
    return (done.source, done.start_s, done.end_s, done.rate_hz) == asked and done.still_holds()


def _work(jobs: Sequence[Job]) -> list[Done]:
    return [_format_one(job) for job in jobs]


def _format_one(job: Job) -> Done:
    about = (job.utt, job.source, job.start_s, job.end_s, job.rate_hz, *file_identity(job.source))
    try:
        with open_audio(job.source, job.allow_commands) as sound:
            info = AudioInfo(sound.frames, sound.samplerate, sound.channels, sound.format, sound.subtype)
            section = check_section(info, job.source, job.start_s, job.end_s)
            blocks = stream_audio(sound, job.source, job.rate_hz, *section)
            if _is_right(info, job):
                return Done(*about, path=job.source, num_samples=_check(blocks, job))
            with atomic_write(job.target, "wb", sync=False) as file, AudioWriter(file, job.target, job.rate_hz) as out:
                num_samples = _check(blocks, job, out)
    except AudioError as error:
        return Done(*about, broken=str(error))
    return Done(*about, path=job.target, written_bytes=os.path.getsize(job.target), num_samples=num_samples)


def _is_right(info: AudioInfo, job: Job) -> bool:
    whole = job.start_s is None and not job.source.endswith("|")
    return whole and info.rate_hz == job.rate_hz and info.channels == 1 and info.container in _AS_IT_IS


def _check(blocks, job: Job, out: AudioWriter | None = None) -> int:
    """Read the utterance to its end, write it where asked, and return its samples; silence raises ``AudioError``."""
    num_samples, energy = 0, 0.0
    for block in blocks:
        num_samples += len(block)
        energy += float(np.dot(block, block))
        if out is not None:
            out.write(block)
    if energy <= num_samples * 10 ** (SILENCE_DB / 10):
        raise AudioError(f"{job.source}: silent, below {SILENCE_DB:g} dBFS from beginning to end")
    return num_samples
