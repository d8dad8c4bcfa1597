"""Writing files so that a killed or failed process leaves nothing that looks finished."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", sync: bool = True) -> Iterator[IO[Any]]:
    """Open a file for writing that appears under ``path`` only when the block ends without an exception.

    The content goes to a hidden file ``.<name>.<random>.tmp`` in the same folder (made if missing), reaches the disk
    (``sync``), and is moved into place; an exception, a full disk included, leaves the old ``path`` as it was.
    ``mode`` is ``w`` (UTF-8, Unix line ends) or ``wb``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:200]}.", suffix=".tmp", dir=path.parent)
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


def _umask() -> int:
    """Return the umask of this process; there is no call that only reads it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
