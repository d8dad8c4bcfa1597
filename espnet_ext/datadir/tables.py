"""Kaldi's text tables: one ``key value`` per line, UTF-8, sorted by key in C order."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write

# Only these two separate a key from its value: str.split() would also cut at a no-break space inside a Unicode path.
BLANKS = " \t"
_BLANK_RUN = re.compile(r"[ \t]+")
_NOT_IN_KEY = re.compile(r"[ \t\r\n]")
_NOT_IN_VALUE = re.compile(r"[\r\n]")


def fix_command(path: str | os.PathLike) -> str:
    """Return the command that mends the data directory in which the table ``path`` lies."""
    return f"python -m espnet_ext.bin.fix_data_dir {shlex.quote(str(Path(path).parent))}"


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
    key, _, value = line.partition(" ")
    if "\t" in line or value[:1] == " ":  # rare, and slower: a tab, or several blanks
        parts = _BLANK_RUN.split(line, maxsplit=1)
        key, value = parts[0], parts[1] if len(parts) > 1 else ""
    return key, value.rstrip(BLANKS)


class Row(NamedTuple):
    """One line of a table; ``problem`` says what is wrong with it, or is empty."""

    number: int
    key: str
    value: str
    problem: str


def read_rows(path: str | os.PathLike, allow_empty: bool = False) -> Iterator[Row]:
    """Yield the lines of a table, broken ones too; only a missing, empty or non-UTF-8 file raises ``UserError``."""
    for number, line in read_lines(path):
        problem = ""
        if line.endswith("\r"):
            problem, line = "ends with a Windows line end (CRLF)", line.rstrip("\r")
        elif line.startswith("\ufeff"):
            problem = "starts with a byte order mark"
        key, value = split_key(line.lstrip("\ufeff"))
        if not key:
            problem = "is empty or starts with a blank, so it has no key"
            key, value = split_key(line.strip(BLANKS))
        elif not value and not allow_empty:
            problem = problem or f"key {key!r} has no value"
        yield Row(number, key, value, problem)


def read_scp(path: str | os.PathLike, allow_empty: bool = False) -> dict[str, str]:
    """Read a table into ``{key: value}`` in the order of the file.

    Raises ``UserError`` with file, line and key for a missing or empty file, text that is not UTF-8, Windows line
    ends, a line without key or (unless ``allow_empty``) without value, and a key that occurs twice.
    """
    table: dict[str, str] = {}
    for row in read_rows(path, allow_empty):
        problem = row.problem or (f"key {row.key!r} occurs a second time" if row.key in table else "")
        if problem:
            raise UserError(f"{path} line {row.number}: {problem}; mend it: {fix_command(path)}")
        table[row.key] = row.value
    return table


def write_scp(path: str | os.PathLike, table: Mapping[str, object]) -> None:
    """Write ``{key: value}`` as a table, sorted by key in C order; whole or not at all."""
    with atomic_write(path) as file:
        file.writelines(table_lines(path, table))


def write_broken(folder: str | os.PathLike, reasons: Mapping[str, str]) -> None:
    """List in ``folder/broken`` which utterances were left out and why; no such file where none was."""
    path = Path(folder) / "broken"
    path.unlink(missing_ok=True)
    if reasons:
        write_scp(path, reasons)


def table_lines(path: str | os.PathLike, table: Mapping[str, object]) -> Iterator[str]:
    """Yield the sorted lines of a table; a key or value that would break the format raises ``UserError``."""
    # Sorting str by code point is sorting UTF-8 by byte, which is what `LC_ALL=C sort` does.
    for key in sorted(table):
        value = str(table[key])
        if not key or _NOT_IN_KEY.search(key):
            raise UserError(f"{path}: {key!r} cannot be a key: it is empty or holds a blank or a line end")
        if _NOT_IN_VALUE.search(value):
            raise UserError(f"{path}: the value of {key!r} holds a line end: {value!r}")
        yield f"{key} {value}\n" if value else f"{key}\n"
