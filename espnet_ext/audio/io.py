"""Audio in and out: float32 in [-1, 1], mono, at the rate that was asked for; what is broken is said by file.

This module and ``espnet_ext.files`` are ground: every floor may import them.
"""

import errno
import io
import math
import os
import subprocess
from dataclasses import dataclass
from typing import IO

import numpy as np

from espnet_ext.audio.header import declared_frames
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write

PathLike = str | os.PathLike

# Frames decoded at a time; bounds the memory of a file with many channels or a long one.
BLOCK_FRAMES = 1 << 20
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


def read_blocks(sound, name: PathLike, start: int, stop: int, block_frames: int = BLOCK_FRAMES):
    """Yield mono float32 blocks of frames ``start`` to ``stop`` of an open file."""
    import soundfile

    try:
        sound.seek(start)
        done = start
        while done < stop:
            block = sound.read(min(block_frames, stop - done), dtype="float32", always_2d=True)
            if len(block) == 0:
                raise AudioError(f"{os.fspath(name)}: truncated, {done} of {sound.frames} samples can be read")
            done += len(block)
            block = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
            _check_samples(block, name)
            yield block
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{os.fspath(name)}: truncated or damaged, reading stopped after {done} of {sound.frames} samples "
            f"({_reason(error)})"
        ) from None


def _check_samples(block: np.ndarray, name: PathLike) -> None:
    peak = np.abs(block).max()
    if not np.isfinite(peak):
        raise AudioError(f"{os.fspath(name)}: holds NaN or infinite samples")
    if peak > _MAX_PEAK:
        raise AudioError(f"{os.fspath(name)}: float samples up to {peak:g}, far outside [-1, 1]; divide them by 32768?")


def section_frames(info: AudioInfo, name: PathLike, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """Return the first frame and the frame after the last of a section, in the file's own rate."""
    start_s, end_s = check_section(info, name, start_s, end_s)
    return round(start_s * info.rate_hz), min(info.num_samples, round(end_s * info.rate_hz))


def check_section(info: AudioInfo, name: PathLike, start_s: float | None, end_s: float | None):
    """Return ``(start_s, end_s)`` inside the file; an end up to 0.5 s late is cut, and -1 is the end, as in Kaldi."""
    start = 0.0 if start_s is None else start_s
    end = info.duration_s if end_s is None or end_s == -1 else end_s
    if not 0 <= start < end:
        raise AudioError(f"{os.fspath(name)}: a section has to start before it ends, not {start:g} s to {end:g} s")
    if start >= info.duration_s or end > info.duration_s + MAX_OVERSHOOT_S:
        raise AudioError(f"{os.fspath(name)}: {start:g} s to {end:g} s is outside the file ({info.duration_s:.3f} s)")
    return start, min(end, info.duration_s)


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
        out_hz = rate_hz or info.rate_hz
        start_s, end_s = check_section(info, path, start_s, end_s)
        if out_hz == info.rate_hz:
            start, stop = section_frames(info, path, start_s, end_s)
            return _join(read_blocks(sound, path, start, stop), stop - start)
        common = math.gcd(out_hz, info.rate_hz)
        step_in, step_out = info.rate_hz // common, out_hz // common
        out_start = round(start_s * out_hz)
        out_stop = min(resampled_length(info.num_samples, info.rate_hz, out_hz), round(end_s * out_hz))
        margin = math.ceil(_MARGIN_S * info.rate_hz / step_in)
        # Whole steps, so that an input frame falls exactly on an output sample and the slice lines up.
        first = max(0, out_start // step_out - margin)
        last = -(-out_stop // step_out) + margin
        start, stop = first * step_in, min(info.num_samples, last * step_in)
        wav = resample(_join(read_blocks(sound, path, start, stop), stop - start), info.rate_hz, out_hz)
        return np.ascontiguousarray(wav[out_start - first * step_out : out_stop - first * step_out])


def _join(blocks, frames: int) -> np.ndarray:
    wav, done = np.empty(frames, dtype=np.float32), 0
    for block in blocks:
        wav[done : done + len(block)] = block
        done += len(block)
    return wav


def resampled_length(num_samples: int, in_hz: int, out_hz: int) -> int:
    """Return how many samples resampling makes of ``num_samples``: the same duration, half a sample rounded up."""
    return (2 * num_samples * out_hz + in_hz) // (2 * in_hz)


def resample(wav: np.ndarray, in_hz: int, out_hz: int) -> np.ndarray:
    """Resample float32 ``(samples,)`` from ``in_hz`` to ``out_hz`` by soxr, quality HQ, to ``resampled_length``."""
    import soxr

    if in_hz == out_hz:
        return wav
    return fit_length(soxr.resample(wav, in_hz, out_hz, quality="HQ"), resampled_length(len(wav), in_hz, out_hz))


def fit_length(wav: np.ndarray, num_samples: int) -> np.ndarray:
    """Cut or repeat the last sample: soxr rounds half a sample either way, and lengths have to be known beforehand."""
    if len(wav) >= num_samples:
        return wav[:num_samples]
    return np.pad(wav, (0, num_samples - len(wav)), mode="edge" if len(wav) else "constant")


def is_silent(wav: np.ndarray, threshold_db: float = -80.0) -> bool:
    """Tell whether the RMS of ``wav`` is below ``threshold_db`` of full scale; all zeros and no samples are."""
    if wav.size == 0:
        return True
    return float(np.mean(np.square(wav, dtype=np.float64))) < 10 ** (threshold_db / 10)


class _Checked:
    """A file for libsndfile that remembers why a write failed: libsndfile itself would only say 'System error'."""

    def __init__(self, file: IO[bytes]):
        self._file, self.error = file, None
        self.seek, self.tell, self.read = file.seek, file.tell, file.read

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                return self._file.write(data)
            except OSError as error:
                self.error = error
        return 0


class AudioWriter:
    """Write mono 16-bit audio block by block into an open binary file (see ``atomic_write``); a context manager."""

    def __init__(self, file: IO[bytes], name: PathLike, rate_hz: int, container: str = "FLAC"):
        import soundfile

        self.name, self._file = os.fspath(name), _Checked(file)
        self._sound = soundfile.SoundFile(
            self._file, "w", samplerate=rate_hz, channels=1, format=container, subtype="PCM_16"
        )
        self.num_samples = 0

    def write(self, wav: np.ndarray) -> None:
        """Append float32 ``(samples,)``, clipped to [-1, 1]; the bits of a 16-bit source survive."""
        if not np.isfinite(wav).all():
            raise AudioError(f"{self.name}: NaN or infinite samples cannot be written")
        # libsndfile scales floats by 32767 when writing and 32768 when reading, which is not a round trip.
        self._sound.write(np.clip(np.rint(wav * 32768.0), -32768, 32767).astype(np.int16))
        self.num_samples += len(wav)
        self._check()

    def _check(self) -> None:
        if self._file.error is not None:
            raise OSError(self._file.error.errno or errno.EIO, os.strerror(self._file.error.errno), self.name)

    def close(self) -> None:
        self._sound.close()
        self._check()

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, kind, *_rest) -> None:
        if kind is None:
            self.close()
        else:
            self._sound.close()


def write_audio(path: PathLike, wav: np.ndarray, rate_hz: int) -> None:
    """Write float32 ``(samples,)`` in [-1, 1] as 16-bit ``.flac`` or ``.wav``; whole or not at all."""
    container = os.path.splitext(os.fspath(path))[1].lstrip(".").upper()
    if container not in ("FLAC", "WAV"):
        raise AudioError(f"{os.fspath(path)}: write .flac or .wav, not {container or 'a name without extension'!r}")
    if np.ndim(wav) != 1:
        raise AudioError(f"{os.fspath(path)}: write (samples,), not shape {np.shape(wav)}")
    with atomic_write(path, "wb") as file, AudioWriter(file, path, rate_hz, container) as writer:
        writer.write(np.asarray(wav, dtype=np.float32))
