"""Checking a data directory: every problem with its file, line and key, and the command that mends it."""

import os
from collections.abc import Mapping
from pathlib import Path

from espnet_ext.datadir.tables import Row, fix_command, read_rows
from espnet_ext.datadir.tableset import RECORDING, SPEAKER, TRIALS, UTTERANCE, table_names
from espnet_ext.datadir.trials import read_trials
from espnet_ext.errors import UserError

Rows = dict[str, Row]


def validate(path: str | os.PathLike, **options: bool) -> None:
    """Raise ``UserError`` with the first of ``find_problems`` and how many more there are."""
    problems = find_problems(path, **options)
    if problems:
        more = f" (and {len(problems) - 1} more: python -m espnet_ext.bin.validate_data_dir {path})"
        raise UserError(problems[0] + (more if len(problems) > 1 else ""))


def find_problems(
    path: str | os.PathLike,
    text: bool = True,
    wav: bool = True,
    spk_sort: bool = True,
    non_print: bool = False,
    files: bool = True,
    allow_commands: bool = False,
) -> list[str]:
    """Return every problem of a data directory, one line each; none means it can be used.

    ``text`` and ``wav``: the file has to exist. ``spk_sort``: sorting by utterance has to sort by speaker too, as Kaldi
    demands. ``non_print``: let characters that cannot be printed pass in ``text``. ``files``: the audio files have to
    exist. ``allow_commands``: ``wav.scp`` entries may be commands.
    """
    path = Path(path)
    names = table_names(path)
    required = ["utt2spk", "spk2utt"] + ["text"] * text + ["wav.scp"] * wav
    problems = [_missing(path, name) for name in required if name not in names]
    tables: dict[str, Rows] = {}
    for name, kind in names.items():
        if kind != TRIALS:
            tables[name] = _read(path / name, problems)
    _check_values(path, tables, problems)
    if "utt2spk" in tables:
        _check_speakers(path, tables, spk_sort, problems)
    _check_keys(path, tables, names, problems)
    if "text" in tables and not non_print:
        _check_printable(path / "text", tables["text"], problems)
    if "wav.scp" in tables and files:
        _check_audio(path / "wav.scp", tables["wav.scp"], allow_commands, problems)
    utterances = tables.get("segments") or tables.get("wav.scp") or tables.get("utt2spk") or {}
    for name in [name for name, kind in names.items() if kind == TRIALS]:
        try:
            read_trials(path / name).check(utterances, path / name, str(path))
        except UserError as error:
            problems.append(str(error))
    return problems


def find_warnings(path: str | os.PathLike) -> list[str]:
    """Return what is allowed, but matters to speaker verification: speakers with a single utterance."""
    count: dict[str, list[str]] = {}
    for row in read_rows(Path(path) / "utt2spk"):
        count.setdefault(row.value, []).append(row.key)
    single = [(speaker, utts[0]) for speaker, utts in count.items() if len(utts) == 1]
    if not single or len(single) == len(count):
        # All of them: a set without known speakers, where utterance and speaker are the same on purpose.
        return []
    speaker, utt = single[0]
    return [
        f"{Path(path) / 'utt2spk'}: {len(single)} of {len(count)} speakers have a single utterance "
        f"(first: {speaker!r}, {utt!r}); they give no target trials"
    ]


def _missing(path: Path, name: str) -> str:
    if name == "spk2utt":
        return f"{path / name}: the file does not exist; make it: {fix_command(path / name)}"
    hint = {"text": " or pass --no-text", "wav.scp": " or pass --no-wav"}.get(name, "")
    return f"{path / name}: the file does not exist; run the stage that writes it{hint}"


def _read(path: Path, problems: list[str]) -> Rows:
    """Read a table; note broken lines, keys that occur twice, and the first line that is out of order."""
    rows: Rows = {}
    previous, sorted_so_far = "", True
    try:
        for row in read_rows(path):
            if row.problem:
                problems.append(f"{path} line {row.number}: {row.problem}; mend it: {fix_command(path)}")
            if not row.key:
                continue
            if row.key in rows:
                first = rows[row.key]
                same = "the same" if first.value == row.value else "another"
                problems.append(
                    f"{path} line {row.number}: key {row.key!r} was on line {first.number} with {same} value; "
                    + (f"mend it: {fix_command(path)}" if same == "the same" else "delete the wrong line")
                )
                continue
            if sorted_so_far and row.key < previous:
                problems.append(
                    f"{path} line {row.number}: key {row.key!r} is not in C order after {previous!r}; "
                    f"mend it: {fix_command(path)}"
                )
                sorted_so_far = False
            previous = row.key
            rows[row.key] = row
    except UserError as error:
        problems.append(str(error))
    return rows


def _check_values(path: Path, tables: Mapping[str, Rows], problems: list[str]) -> None:
    for name, valid, needs in (
        ("utt2spk", lambda value: len(value.split()) == 1, "one speaker"),
        ("segments", _is_segment, "'recording start_s end_s' with 0 <= start < end (or end -1)"),
        ("utt2num_samples", lambda value: value.isdecimal() and int(value) > 0, "a whole number above 0"),
    ):
        for row in tables.get(name, {}).values():
            if row.value and not valid(row.value):
                problems.append(f"{path / name} line {row.number}: key {row.key!r} needs {needs}, not {row.value!r}")


def _is_segment(value: str) -> bool:
    try:
        _recording, start, end = value.split()
        return 0 <= float(start) < float(end) or (float(end) == -1 and float(start) >= 0)
    except ValueError:
        return False


def _check_speakers(path: Path, tables: Mapping[str, Rows], spk_sort: bool, problems: list[str]) -> None:
    """Compare ``utt2spk`` with ``spk2utt``, and the order of speakers with that of utterances."""
    utt2spk = tables["utt2spk"]
    previous = None
    for utt in sorted(utt2spk) if spk_sort else ():
        row = utt2spk[utt]
        if previous is not None and row.value < previous.value:
            problems.append(
                f"{path / 'utt2spk'} line {row.number}: in utterance order, speaker {row.value!r} of {utt!r} follows "
                f"{previous.value!r}; make the speaker the start of the utterance id, or pass --no-spk-sort"
            )
            break
        previous = row
    if "spk2utt" not in tables:
        return
    file = path / "spk2utt"
    said = {(utt, row.key): row for row in tables["spk2utt"].values() for utt in row.value.split()}
    true = {(row.key, row.value): row for row in utt2spk.values()}
    extra, lacking = [pair for pair in said if pair not in true], [pair for pair in true if pair not in said]
    for pairs, where, message in (
        (extra, said, f"{file} line {{}}: {{!r}} belongs to {{!r}} here, but not in utt2spk"),
        (lacking, true, f"{path / 'utt2spk'} line {{}}: {{!r}} belongs to {{!r}} here, but not in spk2utt"),
    ):
        if pairs:
            said_by = message.format(where[pairs[0]].number, *pairs[0])
            problems.append(f"{said_by} ({len(pairs)} such pairs); mend it: {fix_command(file)}")


def _check_keys(path: Path, tables: Mapping[str, Rows], names: Mapping[str, str], problems: list[str]) -> None:
    """Compare the keys of all tables: utterances with utt2spk, recordings with wav.scp, speakers with utt2spk."""
    if "utt2spk" in tables:
        for name, rows in tables.items():
            if names[name] == UTTERANCE and name != "utt2spk":
                _compare(path, name, rows, "utt2spk", tables["utt2spk"], problems)
        speakers: Rows = {}
        for row in tables["utt2spk"].values():
            speakers.setdefault(row.value, row)
        for name, rows in tables.items():
            if names[name] == SPEAKER and name != "spk2utt":
                _compare(path, name, rows, "utt2spk", speakers, problems)
    if "segments" in tables and "wav.scp" in tables:
        recordings: Rows = {}
        for row in tables["segments"].values():
            recordings.setdefault((row.value.split() or [""])[0], row)
        for name, rows in tables.items():
            if names[name] == RECORDING:
                _compare(path, name, rows, "segments", recordings, problems)


def _compare(path: Path, name: str, rows: Rows, other: str, others: Rows, problems: list[str]) -> None:
    if not rows or not others:
        return  # an empty or unreadable file has been reported as such
    for here, there, keys, lines in (
        (name, other, [key for key in rows if key not in others], rows),
        (other, name, [key for key in others if key not in rows], others),
    ):
        if keys:
            problems.append(
                f"{path / here} line {lines[keys[0]].number}: {keys[0]!r} is not in {there} ({len(keys)} such keys); "
                f"mend it: {fix_command(path / here)}"
            )


def _check_printable(file: Path, rows: Rows, problems: list[str]) -> None:
    for row in rows.values():
        odd = next((c for c in row.value if not c.isprintable() and c != "\t"), None)
        if odd is not None:
            problems.append(
                f"{file} line {row.number}: {row.key!r} holds the unprintable character U+{ord(odd):04X}; "
                "remove it, or pass --non-print"
            )
            return


def _check_audio(file: Path, rows: Rows, allow_commands: bool, problems: list[str]) -> None:
    """Note the first command and the first file that does not exist, each with how many there are."""
    commands = [row for row in rows.values() if row.value.endswith("|")]
    absent = [
        row for row in rows.values() if row.value and not row.value.endswith("|") and not os.path.isfile(row.value)
    ]
    if commands and not allow_commands:
        row = commands[0]
        problems.append(
            f"{file} line {row.number}: {row.key!r} is a command ({len(commands)} of them): {row.value!r}; "
            "write the audio to files, or pass --allow_commands true if you trust the file"
        )
    if absent:
        row = absent[0]
        hint = "" if os.path.isabs(row.value) else f" from {os.getcwd()}, where relative paths start"
        problems.append(
            f"{file} line {row.number}: {row.key!r}: there is no file {row.value!r}{hint} ({len(absent)} missing); "
            "correct the path, or remove the lines and run: " + fix_command(file)
        )
