"""Writing audio: 16 bits, mono, and an error that says why a write failed."""

import contextlib
import errno
import os
from typing import IO

import numpy as np

from espnet_ext.audio.reader import AudioError, PathLike
from espnet_ext.files import atomic_write


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
        pcm = np.clip(np.rint(wav * 32768.0), -32768, 32767).astype(np.int16)
        try:
            self._sound.write(pcm)
        except AssertionError:  # soundfile's answer to a write that failed; _check says why it did
            self._check()
            raise
        self.num_samples += len(wav)
        self._check()

    def _check(self) -> None:
        if self._file.error is not None:
            raise OSError(self._file.error.errno or errno.EIO, os.strerror(self._file.error.errno), self.name)

    def close(self) -> None:
        try:
            self._sound.close()
        finally:
            self._check()

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, kind, *_rest) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(RuntimeError):  # what ended the block is the error to tell
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
