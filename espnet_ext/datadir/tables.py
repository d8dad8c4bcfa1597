"""Kaldi's text tables: one ``key value`` per line, UTF-8, sorted by key in C order."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write

# Only these two separate a key from its value: str.split() would also cut at a no-break space inside a Unicode path.
BLANKS = " \t"
_FIRST_BLANK = re.compile(r"[ \t]+")


def fix_command(path: str | os.PathLike) -> str:
    """Return the command that mends the data directory in which the table ``path`` lies."""
    return f"python -m espnet_ext.bin.fix_data_dir {_quoted(Path(path).parent)}"


def _quoted(path: Path) -> str:
    text = str(path)
    return f"'{text}'" if " " in text else text


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a UTF-8 text file; only a newline ends a line."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: the file does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a directory where a table was expected") from None
    if not data:
        raise UserError(f"{path}: the file is empty; run the stage that writes it again")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); convert it: iconv -f latin1 -t utf-8"
        ) from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    yield from enumerate(lines, 1)


def split_key(line: str) -> tuple[str, str]:
    """Split ``key value`` at the first blank; the value keeps its inner blanks and is empty where there is none."""
    parts = _FIRST_BLANK.split(line, maxsplit=1)
    return parts[0], parts[1].rstrip(BLANKS) if len(parts) > 1 else ""


def read_scp(path: str | os.PathLike, allow_empty: bool = False) -> dict[str, str]:
    """Read a table into ``{key: value}`` in the order of the file.

    Raises ``UserError`` with file, line and key for a missing or empty file, text that is not UTF-8, Windows line
    ends, a line without key or (unless ``allow_empty``) without value, and a key that occurs twice.
    """
    table: dict[str, str] = {}
    for number, line in read_lines(path):
        key, value = split_key(line)
        problem = None
        if line.endswith("\r"):
            problem = "Windows line end (CRLF)"
        elif not key:
            problem = "starts with a blank, or is empty, so it has no key"
        elif not value and not allow_empty:
            problem = f"key {key!r} has no value"
        elif key in table:
            problem = f"key {key!r} occurs twice"
        if problem:
            raise UserError(f"{path} line {number}: {problem}; mend it: {fix_command(path)}")
        table[key] = value
    return table


def write_scp(path: str | os.PathLike, table: Mapping[str, object]) -> None:
    """Write ``{key: value}`` as a table, sorted by key in C order; whole or not at all."""
    with atomic_write(path) as file:
        file.writelines(table_lines(path, table))


def table_lines(path: str | os.PathLike, table: Mapping[str, object]) -> Iterator[str]:
    """Yield the sorted lines of a table; a key or value that would break the format raises ``UserError``."""
    # Sorting str by code point is sorting UTF-8 by byte, which is what `LC_ALL=C sort` does.
    for key in sorted(table):
        value = str(table[key])
        if not key or _FIRST_BLANK.search(key) or "\n" in key or "\r" in key:
            raise UserError(f"{path}: {key!r} cannot be a key: it is empty or holds a blank or a line end")
        if "\n" in value or "\r" in value:
            raise UserError(f"{path}: the value of {key!r} holds a line end: {value!r}")
        yield f"{key} {value}\n" if value else f"{key}\n"
