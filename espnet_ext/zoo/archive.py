"""Unpacking a zip that somebody else made: nothing outside its folder, nothing executable, nothing without end."""

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from espnet_ext.errors import UserError

#: A package may unpack to this many bytes; the largest published speaker models (WavLM-Large inside) need about 2e9.
MAX_BYTES = 20 * 10**9
#: Real weights shrink by a few per cent and text by 10 to 20 times; a zip bomb by 1,000 times.
MAX_RATIO = 200
MAX_FILES = 10_000
#: What a package consists of. Anything else (scripts, pickles, archives inside) has no business in one.
SUFFIXES = (
    *(".pth", ".pt", ".npz", ".npy", ".ark", ".scp", ".onnx", ".model", ".vocab"),
    *(".yaml", ".yml", ".json", ".md", ".txt", ".csv", ".tsv", ".log", ".png", ".svg"),
)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def safe_name(name: str, where: str) -> str:
    """Give ``name`` back where it is a relative path that stays inside its folder, else refuse with one line."""
    path = PurePosixPath(name)
    windows = "\\" in name or "\0" in name or name[1:2] == ":"
    if not path.parts or path.is_absolute() or ".." in path.parts or windows or name.startswith("~"):
        raise UserError(f"{where}: refused, the path {name!r} leads out of the package")
    return str(path)


def check_zip(path: str | Path, max_bytes: int = MAX_BYTES) -> list[zipfile.ZipInfo]:
    """Entries of a zip (folders left out), after every rule below has been checked on its table of contents.

    Refused with one line (``UserError``): a file that is no zip; absolute or ``..`` paths; symbolic links and device
    files; two entries of one name; encrypted entries; kinds of files that a model package does not have; more than
    ``MAX_FILES`` files or ``max_bytes`` bytes; an entry that shrank more than ``MAX_RATIO`` times.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise UserError(f"{path}: is no whole zip file ({error}); copy or download it again") from error
    if len(entries) > MAX_FILES:
        raise UserError(f"{path}: refused, holds {len(entries)} files, more than {MAX_FILES}")
    seen = set()
    for entry in entries:
        name = safe_name(entry.filename, str(path))
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise UserError(f"{path}: refused, {name!r} is a link or a special file")
        if name in seen:
            raise UserError(f"{path}: refused, {name!r} is there twice")
        seen.add(name)
        if entry.flag_bits & 1:
            raise UserError(f"{path}: refused, {name!r} is encrypted")
        if PurePosixPath(name).suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}: refused, {name!r} is no kind of file that belongs in a model package")
        if entry.file_size > 1_000_000 and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            raise UserError(f"{path}: refused, {name!r} shrank {MAX_RATIO} times and more, as a zip bomb does")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise UserError(f"{path}: refused, unpacks to {total / 1e9:.1f} GB, more than {max_bytes / 1e9:.1f} GB")
    return entries


def unpack(path: str | Path, folder: str | Path, max_bytes: int = MAX_BYTES) -> Path:
    """Unpack a checked zip into ``folder``, which appears whole or not at all; an existing folder is taken as it is.

    The table of contents may lie, so an entry that is larger than it says is cut off there and the package refused.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    entries = check_zip(path, max_bytes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name[:16]}.", dir=folder.parent))
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in entries:
                _extract(archive, entry, beside / safe_name(entry.filename, str(path)), path)
        try:
            os.rename(beside, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, path: str | Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    try:
        with archive.open(entry) as source, open(target, "xb") as out:
            while piece := source.read(1 << 20):
                left -= len(piece)
                if left < 0:
                    raise UserError(f"{path}: refused, {entry.filename!r} is larger than it says")
                out.write(piece)
    except (zipfile.BadZipFile, zlib.error, EOFError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"{path}: {entry.filename!r} is damaged ({error}); copy or download it again") from error
