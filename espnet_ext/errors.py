"""How a user's mistake ends: one line that says what, where and how to mend it, and exit code 2."""

import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence


class UserError(Exception):
    """A mistake of the user. The message is one line: what is wrong, where, and how to mend it."""


def check_choices(where: str, *options: tuple[str, object, Sequence]) -> None:
    """Raise ``UserError`` for the first ``(name, value, allowed values)`` whose value is not allowed."""
    for name, value, allowed in options:
        if value not in allowed:
            raise UserError(f"{where}: {name} must be {', '.join(str(one) for one in allowed if one)}; got {value}")


def cli(main: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
    """Wrap ``main(argv=None)`` so that a ``UserError`` or a full disk prints one line and gives exit code 2."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        command = main.__module__.rpartition(".")[2]
        if command == "__main__":
            command = os.path.splitext(os.path.basename(sys.argv[0]))[0]
        try:
            return main(argv) or 0
        except UserError as error:
            print(f"{command}: error: {error}", file=sys.stderr)
        except BrokenPipeError:
            # The reader went away (`… | head`): not an error of ours, and nothing more can be printed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            where = f" while writing {error.filename}" if error.filename else ""
            print(
                f"{command}: error: no space left on the disk{where}; free some space and give the same command again, "
                "finished parts are kept",
                file=sys.stderr,
            )
        except KeyboardInterrupt:
            print(f"{command}: interrupted; the same command goes on from what is finished", file=sys.stderr)
            return 130
        return 2

    return wrapped
