"""Reading audio: float32 in [-1, 1], mono, at the rate that was asked for; what is broken is said by file."""

import io
import math
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from espnet_ext.audio.header import declared_frames
from espnet_ext.errors import UserError

PathLike = str | os.PathLike

# Frames decoded at a time; bounds the memory of a long file.
_BLOCK_FRAMES = 1 << 20
_QUALITY = "HQ"
# A segment may end this much after its recording: Kaldi's extract-segments has the same --max-overshoot of 0.5 s.
MAX_OVERSHOOT_S = 0.5
# Input on either side of a section that the resampling filter may look at; soxr HQ needs about 10 ms at 8 kHz.
_MARGIN_S = 0.05
# A float file beyond this peak holds integers written as floats, not audio in [-1, 1].
_MAX_PEAK = 8.0


class AudioError(UserError):
    """A file that is missing, not audio, truncated, empty, or holds NaN or infinity; the message names the file."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header says: frames per channel, rate, channels, container (``WAV``), coding (``PCM_16``)."""

    num_samples: int
    rate_hz: int
    channels: int
    container: str
    coding: str

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.rate_hz


def audio_info(path: PathLike, allow_commands: bool = False) -> AudioInfo:
    """Return the facts in the header of ``path``; no samples are read.

    A WAV or AIFF file that is shorter than its header says raises ``AudioError``; a FLAC file shows that only when it
    is read. A command (entry ending in ``|``) has to be run, and is refused unless ``allow_commands``.
    """
    with open_audio(path, allow_commands) as sound:
        return _info(sound)


def _info(sound) -> AudioInfo:
    return AudioInfo(sound.frames, sound.samplerate, sound.channels, sound.format, sound.subtype)


def open_audio(path: PathLike, allow_commands: bool = False):
    """Open ``path`` and return a ``soundfile.SoundFile`` with at least one frame; ``AudioError`` where it cannot be."""
    import soundfile

    name = os.fspath(path)
    source: str | IO[bytes] = name
    if name.rstrip().endswith("|"):
        if not allow_commands:
            raise AudioError(
                f"{name!r} is a command, and commands are not run unless you ask for it (--allow_commands true); "
                "it is safer to put paths into wav.scp"
            )
        source = _run_command(name)
    elif not os.path.isfile(name):
        kind = "is a directory" if os.path.isdir(name) else "does not exist"
        hint = "" if os.path.isabs(name) else f" (relative to {os.getcwd()})"
        raise AudioError(f"{name}: the audio file {kind}{hint}")
    elif os.path.getsize(name) == 0:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    try:
        sound = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        if isinstance(source, str) and not os.access(source, os.R_OK):
            raise AudioError(f"{name}: no permission to read the file") from None
        raise AudioError(f"{name}: not audio that can be read, or its header is damaged ({_reason(error)})") from None
    expected = declared_frames(source) if isinstance(source, str) else None
    if expected is not None and expected > sound.frames:
        sound.close()
        raise AudioError(f"{name}: truncated, {sound.frames} of {expected} samples are there; get the file again")
    if sound.frames == 0:
        sound.close()
        raise AudioError(f"{name}: zero length, the file holds no samples")
    return sound


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", str(error))
    return text.strip().rstrip(".")


def _run_command(entry: str) -> IO[bytes]:
    """Run a Kaldi wav.scp command (``sph2pipe … |``) in bash and return its output."""
    command = entry.rstrip()[:-1]
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise AudioError(f"{entry!r}: the command failed with code {done.returncode}: {said[-1] if said else ''}")
    return io.BytesIO(done.stdout)


def check_section(info: AudioInfo, name: PathLike, start_s: float | None, end_s: float | None) -> tuple[float, float]:
    """Return ``(start_s, end_s)`` inside the file; an end up to 0.5 s late is cut, and -1 is the end, as in Kaldi."""
    start = 0.0 if start_s is None else start_s
    end = info.duration_s if end_s is None or end_s == -1 else end_s
    if not 0 <= start < end:
        raise AudioError(f"{os.fspath(name)}: a section has to start before it ends, not {start:g} s to {end:g} s")
    if start >= info.duration_s or end > info.duration_s + MAX_OVERSHOOT_S:
        raise AudioError(f"{os.fspath(name)}: {start:g} s to {end:g} s is outside the file ({info.duration_s:.3f} s)")
    return start, min(end, info.duration_s)


def section_length(info: AudioInfo, rate_hz: int, start_s: float, end_s: float) -> int:
    """Return how many samples at ``rate_hz`` a section has that ``check_section`` let pass."""
    whole = resampled_length(info.num_samples, info.rate_hz, rate_hz)
    return min(whole, round(end_s * rate_hz)) - round(start_s * rate_hz)


def stream_audio(sound, name: PathLike, rate_hz: int, start_s: float, end_s: float) -> Iterator[np.ndarray]:
    """Yield the section ``start_s`` to ``end_s`` of an open file as mono float32 blocks at ``rate_hz``.

    Memory is bounded by one block of 65 s at 16 kHz. A section is the same samples as that slice of the whole file: it
    is read with 50 ms on either side, from a frame that falls exactly on an output sample.
    """
    info = _info(sound)
    skip = round(start_s * rate_hz)
    wanted = section_length(info, rate_hz, start_s, end_s)
    common = math.gcd(rate_hz, info.rate_hz)
    step_in, step_out = info.rate_hz // common, rate_hz // common
    margin = math.ceil(_MARGIN_S * info.rate_hz / step_in) if rate_hz != info.rate_hz else 0
    first = max(0, skip // step_out - margin)
    last = -(-(skip + wanted) // step_out) + margin
    skip -= first * step_out
    start, stop = first * step_in, min(info.num_samples, last * step_in)
    yield from _fit(_resampled(read_blocks(sound, name, start, stop), info.rate_hz, rate_hz), skip, wanted)


def read_blocks(sound, name: PathLike, start: int, stop: int) -> Iterator[np.ndarray]:
    """Yield the frames ``start`` to ``stop`` of an open file as mono float32 blocks at its own rate."""
    import soundfile

    done = start
    try:
        sound.seek(start)
        while done < stop:
            block = sound.read(min(_BLOCK_FRAMES, stop - done), dtype="float32", always_2d=True)
            if len(block) == 0:
                raise AudioError(f"{os.fspath(name)}: truncated, {done} of {sound.frames} samples can be read")
            done += len(block)
            block = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
            _check_samples(block, name)
            yield block
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{os.fspath(name)}: truncated or damaged, reading failed between sample {done} and "
            f"{min(done + _BLOCK_FRAMES, stop)} of {sound.frames} ({_reason(error)})"
        ) from None


def _check_samples(block: np.ndarray, name: PathLike) -> None:
    peak = np.abs(block).max()
    if not np.isfinite(peak):
        raise AudioError(f"{os.fspath(name)}: holds NaN or infinite samples")
    if peak > _MAX_PEAK:
        raise AudioError(f"{os.fspath(name)}: samples up to {peak:g} are not audio in [-1, 1]; divide them by 32768?")


def _resampled(blocks: Iterable[np.ndarray], in_hz: int, out_hz: int) -> Iterator[np.ndarray]:
    import soxr

    if in_hz == out_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(in_hz, out_hz, 1, dtype="float32", quality=_QUALITY)
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _fit(blocks: Iterable[np.ndarray], skip: int, wanted: int) -> Iterator[np.ndarray]:
    """Drop ``skip`` samples, then yield exactly ``wanted``."""
    tail = np.zeros(1, dtype=np.float32)
    for block in blocks:
        cut = block[skip : skip + wanted]
        skip = max(0, skip - len(block))
        wanted -= len(cut)
        if len(cut):
            tail = cut[-1:]
            yield cut
    # soxr rounds half a sample either way, and lengths have to be known beforehand.
    if wanted > 0:
        yield np.repeat(tail, wanted)


def read_audio(
    path: PathLike,
    rate_hz: int | None = 16000,
    start_s: float | None = None,
    end_s: float | None = None,
    allow_commands: bool = False,
) -> np.ndarray:
    """Read a file, or its section from ``start_s`` to ``end_s``, as mono at ``rate_hz`` (None: the file's own rate).

    Returns float32 ``(samples,)`` in [-1, 1]: the mean of the channels, resampled by soxr (HQ). Any format that
    libsndfile reads. A section equals the same slice of the whole file, and only it (and 50 ms around it) is read.
    Raises ``AudioError`` for a file that is missing, not audio, truncated, empty, or holds NaN or infinity.
    """
    with open_audio(path, allow_commands) as sound:
        info = _info(sound)
        rate_hz = rate_hz or info.rate_hz
        start_s, end_s = check_section(info, path, start_s, end_s)
        wav = np.empty(section_length(info, rate_hz, start_s, end_s), dtype=np.float32)
        done = 0
        for block in stream_audio(sound, path, rate_hz, start_s, end_s):
            wav[done : done + len(block)] = block
            done += len(block)
    return wav


def resampled_length(num_samples: int, in_hz: int, out_hz: int) -> int:
    """Return how many samples resampling makes of ``num_samples``: the same duration, half a sample rounded up."""
    return (2 * num_samples * out_hz + in_hz) // (2 * in_hz)


def resample(wav: np.ndarray, in_hz: int, out_hz: int) -> np.ndarray:
    """Resample float32 ``(samples,)`` from ``in_hz`` to ``out_hz`` by soxr, quality HQ, to ``resampled_length``."""
    blocks = list(_fit(_resampled([wav], in_hz, out_hz), 0, resampled_length(len(wav), in_hz, out_hz)))
    return np.concatenate(blocks) if len(blocks) != 1 else blocks[0]


def is_silent(wav: np.ndarray, threshold_db: float = -80.0) -> bool:
    """Tell whether the RMS of ``wav`` is below ``threshold_db`` of full scale; all zeros and no samples are."""
    if wav.size == 0:
        return True
    return float(np.mean(np.square(wav, dtype=np.float64))) < 10 ** (threshold_db / 10)
