"""Writing files so that a killed or failed process leaves nothing that looks finished."""

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from espnet_ext.errors import UserError

# Process numbers mean something on one machine only, and folders are shared.
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", sync: bool = True) -> Iterator[IO[Any]]:
    """Open a file for writing that appears under ``path`` only when the block ends without an exception.

    The content goes to a hidden file ``.<name>.<writer>.<random>.tmp`` in the same folder (made if missing), reaches
    the disk (``sync``), and is moved into place; an exception, a full disk included, leaves the old ``path`` as it was.
    What a killed process left of the same file is removed, unless ``sync`` is False: that is for folders that get very
    many files, which their writer looks through once.
    ``mode`` is ``w`` (UTF-8, Unix line ends) or ``wb``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{path.name[:180]}.{_HOST}-"
    if sync:
        _remove_leftovers(path.parent, mark)
    handle, temporary = tempfile.mkstemp(prefix=f"{mark}{os.getpid()}.", suffix=".tmp", dir=path.parent)
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with open(handle, mode, **text) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        # mkstemp gives 0600; a table in a data directory is as readable as any other new file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        # A write error carries no name by itself, and "no space left" should say where.
        if error.filename is None or error.filename == temporary:
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _remove_leftovers(folder: Path, mark: str) -> None:
    """Remove the unfinished files that begin with ``mark`` whose process on this machine is gone."""
    for name in os.listdir(folder):
        process = name[len(mark) :].partition(".")[0]
        if name.startswith(mark) and name.endswith(".tmp") and process.isdecimal() and not _is_alive(int(process)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(folder / name)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike, name: str = ".lock") -> Iterator[None]:
    """Hold ``folder`` (made if missing) for this process, so that the same command given twice cannot mix its files.

    The lock is the system's, on the file ``name``: a process that ends, even by kill -9, leaves nothing in the way.
    Raises ``UserError`` that names the other process. Where the file system knows no locks, nothing is held.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = _locked(folder, folder / name)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
        file.close()


def _locked(folder: Path, path: Path) -> IO[bytes]:
    while True:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            # A record lock, not flock: processes that are forked from this one do not keep it when this one is killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file
            other = os.pread(file.fileno(), 200, 0).decode(errors="replace") or "unknown"
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise UserError(
                f"{folder}: another process ({other}) is writing there; wait until it has ended, or end it"
            ) from None
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                with contextlib.suppress(OSError):  # a full disk: the lock holds without the name
                    file.truncate(0)
                    file.write(f"{os.getpid()} on {socket.gethostname()}".encode())
                return file
        except FileNotFoundError:
            pass
        # The one before us removed its file after we had opened it.
        file.close()


def _umask() -> int:
    """Return the umask of this process; there is no call that only reads it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
