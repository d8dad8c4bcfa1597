"""How a user's mistake ends: one line that says what, where and how to mend it, and exit code 2."""

import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence

# Why a path cannot be made, written or read that somebody has given: they can mend it.
_PATH_ERRORS = {
    errno.EEXIST: "a file is in the way of this folder",
    errno.ENOTDIR: "a file is in the way of this folder",
    errno.EISDIR: "a folder is in the way of this file",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the disk is read-only",
    errno.ENAMETOOLONG: "the name is too long",
}


class UserError(Exception):
    """A mistake of the user. The message is one line: what is wrong, where, and how to mend it."""


def check_choices(where: str, *options: tuple[str, object, Sequence]) -> None:
    """Raise ``UserError`` for the first ``(name, value, allowed values)`` whose value is not allowed."""
    for name, value, allowed in options:
        if value not in allowed:
            raise UserError(f"{where}: {name} must be {', '.join(str(one) for one in allowed if one)}; got {value}")


def plain_os_error(error: OSError) -> str | None:
    """Return one line for what a user can mend: a full disk, or a path that cannot be used; None for anything else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        again = "free some space and give the same command again, finished parts are kept"
        return f"no space left on the disk{where}; {again}"
    if error.errno in _PATH_ERRORS and error.filename is not None:
        return f"{error.filename}: {_PATH_ERRORS[error.errno]}; give another path, or mend that"
    return None


def cli(main: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
    """Wrap ``main(argv=None)`` so that mistakes are one line and exit code 2, without a traceback.

    They are: a ``UserError``, a full disk, a path with a file in its way, too long a name, or no permission.

    PyTorch's threads (libgomp's) are told, before anything loads them, to sleep sooner where there is no work: its
    300,000 turns of waiting take the processor from whoever has work. ``GOMP_SPINCOUNT`` set by the user stays.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        command = main.__module__.rpartition(".")[2]
        if command == "__main__":
            command = os.path.splitext(os.path.basename(sys.argv[0]))[0]
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
        try:
            return main(argv) or 0
        except UserError as error:
            print(f"{command}: error: {error}", file=sys.stderr)
        except BrokenPipeError:
            # The reader went away (`… | head`): not an error of ours, and nothing more can be printed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            message = plain_os_error(error)
            if message is None:
                raise
            print(f"{command}: error: {message}", file=sys.stderr)
        except KeyboardInterrupt:
            print(f"{command}: interrupted; the same command goes on from what is finished", file=sys.stderr)
            return 130
        return 2

    return wrapped
