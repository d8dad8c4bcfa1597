"""Mending a data directory: sorted tables, one line per key, the same utterances in all of them."""

import os
import shutil
from pathlib import Path

from espnet_ext.datadir.directory import spk2utt_of
from espnet_ext.datadir.tables import read_rows, table_lines
from espnet_ext.datadir.tableset import (
    RECORDING,
    SPEAKER,
    TRIALS,
    UTTERANCE,
    Tables,
    kind_of,
    restrict,
    table_names,
)
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write

_MAX_SHOWN = 10


def fix(path: str | os.PathLike) -> list[str]:
    """Mend the tables of a data directory and return one line for each thing that was done.

    Sorts in C order; removes repeated identical lines, lines without key or value, Windows line ends and byte order
    marks; keeps the utterances, recordings and speakers that every table has; makes ``spk2utt`` from ``utt2spk``. What
    is changed is copied to ``.backup`` first. Trial lists are left alone: dropping a trial changes an evaluation.
    Raises ``UserError``, and changes nothing, where a person has to choose (a key with two values) or nothing is left.
    """
    path = Path(path)
    names = table_names(path)
    report: list[str] = []
    tables = {
        name: _read(path / name, report)
        for name, kind in names.items()
        if kind != TRIALS and (name != "spk2utt" or "utt2spk" not in names)
    }
    if "utt2spk" not in tables:
        if "spk2utt" not in tables:
            raise UserError(f"{path}: neither utt2spk nor spk2utt exists; run the stage that writes them")
        tables["utt2spk"] = {utt: spk for spk, utts in tables.pop("spk2utt").items() for utt in utts.split()}
        report.append("utt2spk: made from spk2utt")
    fixed = restrict(tables, _common(path, tables, report))
    spk2utt = {speaker: " ".join(utts) for speaker, utts in spk2utt_of(fixed["utt2spk"]).items()}
    for name, table in {**fixed, "spk2utt": spk2utt}.items():
        new = "".join(table_lines(path / name, table)).encode()
        old = (path / name).read_bytes() if (path / name).is_file() else None
        if old != new:
            if old is not None:
                (path / ".backup").mkdir(exist_ok=True)
                shutil.copy2(path / name, path / ".backup" / name)
            with atomic_write(path / name, "wb") as file:
                file.write(new)
            report.append(f"{name}: {'written' if old is None else 'mended, the old one is in .backup'}")
    return report


def _read(path: Path, report: list[str]) -> dict[str, str]:
    table: dict[str, str] = {}
    number_of: dict[str, int] = {}
    broken, repeated = 0, 0
    for row in read_rows(path):
        if not row.key or not row.value:
            broken += 1
        elif row.key not in table:
            table[row.key], number_of[row.key] = row.value, row.number
        elif table[row.key] == row.value:
            repeated += 1
        else:
            raise UserError(
                f"{path} lines {number_of[row.key]} and {row.number}: key {row.key!r} has two values, "
                f"{table[row.key]!r} and {row.value!r}; delete the wrong line"
            )
    if broken:
        report.append(f"{path.name}: dropped {broken} lines without key or value")
    if repeated:
        report.append(f"{path.name}: dropped {repeated} repeated lines")
    return table


def _common(path: Path, tables: Tables, report: list[str]) -> set[str]:
    """Return the utterances that every table has, with their recordings and speakers; note what is dropped, and why."""
    segments = tables.get("segments")
    kinds = {name: kind_of(name, segments is not None) for name in tables}
    everything = {key for name, kind in kinds.items() if kind == UTTERANCE for key in tables[name]}
    left = set(everything)
    # Utterances first: what follows looks up the speaker and the recording of those that are left.
    for name in sorted(tables, key=lambda name: (kinds[name] != UTTERANCE, name != "wav.scp", name)):
        if kinds[name] == UTTERANCE:
            lost = {utt for utt in left if utt not in tables[name]}
        elif kinds[name] == SPEAKER:
            lost = {utt for utt in left if tables["utt2spk"][utt] not in tables[name]}
        else:
            lost = {utt for utt in left if kinds[name] == RECORDING and segments[utt].split()[0] not in tables[name]}
        if lost:
            left -= lost
            shown = " ".join(sorted(lost)[:_MAX_SHOWN]) + (" …" if len(lost) > _MAX_SHOWN else "")
            report.append(f"dropped {len(lost)} of {len(everything)} utterances that are not in {name}: {shown}")
    if not left:
        sizes = ", ".join(f"{name} {len(table)}" for name, table in sorted(tables.items()))
        raise UserError(f"{path}: no utterance is in every table ({sizes}); compare their ids; nothing was changed")
    return left
