"""How many frames the header of an uncompressed file promises: libsndfile silently takes what is there."""

import struct
from typing import BinaryIO

# Sizes that ffmpeg, sox, sph2pipe and others write into a pipe, where they cannot go back: the size is unknown.
_UNKNOWN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)


def declared_frames(path: str) -> int | None:
    """Return the frames that the header of a WAV, RF64, AIFF or SPHERE file promises, or None where it does not say.

    Layouts: Microsoft RIFF / EBU Tech 3306 (RF64) / Apple AIFF-C / NIST SPHERE (1,024 bytes of text).
    """
    with open(path, "rb") as file:
        magic, kind = struct.unpack("<4s4x4s", file.read(12).ljust(12, b"\0"))
        try:
            if magic in (b"RIFF", b"RIFX", b"RF64") and kind == b"WAVE":
                return _wave_frames(file, ">" if magic == b"RIFX" else "<")
            if magic == b"FORM" and kind in (b"AIFF", b"AIFC"):
                return _aiff_frames(file)
            if magic == b"NIST":
                return _sphere_frames(file)
        except struct.error:
            pass  # cut inside a chunk of the header: libsndfile will say what it thinks of the file
    return None


def _chunks(file: BinaryIO, order: str):
    """Yield (name, size) with the file standing at the start of each chunk's content."""
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack(f"{order}4sI", head)
        start = file.tell()
        yield name, size
        file.seek(start + size + size % 2)


def _wave_frames(file: BinaryIO, order: str) -> int | None:
    frame_bytes, long_size = 0, None
    for name, size in _chunks(file, order):
        if name == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16))[0]
        elif name == b"fmt ":
            coding, _channels, _rate, _bytes_s, frame_bytes = struct.unpack(f"{order}HHIIH", file.read(14))
            # PCM, float, A-law, mu-law, extensible: a frame has a fixed number of bytes; ADPCM and others do not.
            if coding not in (1, 3, 6, 7, 0xFFFE):
                return None
        elif name == b"data":
            size = long_size if size == 0xFFFFFFFF and long_size is not None else size
            return size // frame_bytes if frame_bytes and size not in _UNKNOWN_SIZES else None
    return None


def _aiff_frames(file: BinaryIO) -> int | None:
    for name, _size in _chunks(file, ">"):
        if name == b"COMM":
            return struct.unpack(">2xI", file.read(6))[0]
    return None


def _sphere_frames(file: BinaryIO) -> int | None:
    file.seek(0)
    for line in file.read(1024).splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0] == b"sample_count" and fields[2].isdigit():
            return int(fields[2])
    return None
