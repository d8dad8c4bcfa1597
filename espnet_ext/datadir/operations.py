"""Data directories from data directories: subset, split, combine, copy."""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from espnet_ext.datadir.directory import DataDir, spk2utt_of
from espnet_ext.datadir.tables import read_scp
from espnet_ext.datadir.tableset import (
    RECORDING,
    SPEAKER,
    TRIALS,
    UTTERANCE,
    Tables,
    kind_of,
    read_tables,
    restrict,
    table_names,
)
from espnet_ext.datadir.trials import Trials, read_trials, write_trials
from espnet_ext.datadir.validate import validate
from espnet_ext.errors import UserError

Path_ = str | os.PathLike


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Return names in an order that depends only on the names and the seed, whatever the Python version."""
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed} {name}".encode()).digest(), name))


def _load(source: Path_) -> Tables:
    """Read the tables of a directory that has no problem; audio files are not looked for."""
    validate(source, text=False, spk_sort=False, non_print=True, files=False, allow_commands=True)
    return read_tables(source)


def write_part(source: Path_, path: Path_, tables: Tables, utterances: Collection[str]) -> DataDir:
    """Write the tables cut to ``utterances``, and the trials of ``source`` between two of them, as a new directory."""
    utterances = set(utterances)
    if not utterances:
        raise UserError(f"{path}: no utterance of {source} is left for it")
    _check_apart(path, [source])
    replace_tables(path, restrict(tables, utterances), trials=True)
    carry_trials(source, path, utterances)
    return DataDir(path)


def replace_tables(path: Path_, tables: Mapping[str, Mapping[str, str]], trials: bool = False) -> None:
    """Write ``tables`` as the whole content of a data directory: tables of an earlier use do not stay beside them.

    Trial lists stay unless ``trials``. ``wav.scp`` goes first and comes last, so that a killed run leaves none.
    """
    path = Path(path)
    if path.is_dir():
        old = [name for name, kind in table_names(path).items() if name not in tables and (trials or kind != TRIALS)]
        for name in ["wav.scp", *old]:
            (path / name).unlink(missing_ok=True)
    DataDir.write(path, tables)


def _check_apart(path: Path_, sources: Iterable[Path_]) -> None:
    if any(Path(path).exists() and Path(path).samefile(source) for source in sources):
        raise UserError(f"{path}: the destination is also a source")


def carry_trials(source: Path_, path: Path_, utterances: Collection[str]) -> int:
    """Write the trial lists of ``source`` that have both utterances in ``utterances``; return how many were dropped."""
    dropped = 0
    for name in (name for name, kind in table_names(source).items() if kind == TRIALS):
        trials = read_trials(Path(source) / name)
        pairs = zip(trials.enroll, trials.test, strict=True)
        keep = [i for i, (enroll, test) in enumerate(pairs) if enroll in utterances and test in utterances]
        dropped += len(trials) - len(keep)
        if keep:
            kept = Trials([trials.enroll[i] for i in keep], [trials.test[i] for i in keep], trials.labels[keep])
            write_trials(Path(path) / name, kept)
    return dropped


def subset(
    source: Path_,
    path: Path_,
    num: int | None = None,
    how: str = "random",
    utterances: Collection[str] | None = None,
    speakers: Collection[str] | None = None,
    seed: int = 0,
) -> DataDir:
    """Write the part of a data directory that is asked for; an id that is not there raises ``UserError``.

    ``utterances`` or ``speakers``: exactly these. Else ``num`` utterances, by ``how``: ``random`` (by ``seed``),
    ``first``, ``last``, ``shortest``; ``per_spk``: ``num`` random ones of each speaker (all, where he has fewer);
    ``speakers``: whole random speakers until there are at least ``num`` utterances (Kaldi's meaning).
    """
    tables = _load(source)
    utt2spk = tables["utt2spk"]
    if utterances is None and speakers is None and (num is None or num < 1):
        raise UserError(f"{path}: say how many utterances (at least 1), or give a list of utterances or speakers")
    if utterances is not None:
        chosen = set(utterances)
        _check_known(chosen, utt2spk, "utterance", source)
    elif speakers is not None:
        _check_known(speakers, set(utt2spk.values()), "speaker", source)
        chosen = {utt for utt, speaker in utt2spk.items() if speaker in set(speakers)}
    else:
        chosen = set(_choose(source, utt2spk, num, how, seed))
    return write_part(source, path, tables, chosen)


def _check_known(asked: Collection[str], known: Collection[str], what: str, source: Path_) -> None:
    unknown = sorted(set(asked).difference(known))
    if unknown:
        raise UserError(f"{source}: {what} {unknown[0]!r} of the list is not there ({len(unknown)} such)")


def _choose(source: Path_, utt2spk: dict[str, str], num: int, how: str, seed: int) -> list[str]:
    if how == "per_spk":
        return [utt for utts in spk2utt_of(utt2spk).values() for utt in shuffled(utts, seed)[:num]]
    if num > len(utt2spk):
        raise UserError(f"{source}: has {len(utt2spk)} utterances, fewer than the {num} asked for")
    if how == "speakers":
        spk2utt, chosen = spk2utt_of(utt2spk), []
        for speaker in shuffled(spk2utt, seed):
            if len(chosen) >= num:
                break
            chosen += spk2utt[speaker]
        return chosen
    if how == "shortest":
        data = DataDir(source)
        return sorted(utt2spk, key=lambda utt: (data.num_samples(utt), utt))[:num]
    orders = {"random": lambda: shuffled(utt2spk, seed), "first": lambda: sorted(utt2spk)}
    orders["last"] = lambda: sorted(utt2spk, reverse=True)
    return orders[how]()[:num]


def split(source: Path_, num: int, per_utt: bool = False) -> list[Path]:
    """Cut a data directory into ``num`` parts of nearly equal size and return their paths, as Kaldi names them.

    ``<source>/split<num>/1 … num`` holds whole speakers each, ``<source>/split<num>utt/…`` with ``per_utt`` cuts
    through speakers. Parts left by an earlier split into the same folder are removed.
    """
    tables = _load(source)
    spk2utt = spk2utt_of(tables["utt2spk"])
    units = [[utt] for utt in sorted(tables["utt2spk"])] if per_utt else list(spk2utt.values())
    if not 1 <= num <= len(units):
        what = "utterances" if per_utt else "speakers (--per-utt cuts through speakers)"
        raise UserError(f"{source}: cannot be split into {num} parts, it has {len(units)} {what}")
    folder = Path(source) / f"split{num}{'utt' if per_utt else ''}"
    shutil.rmtree(folder, ignore_errors=True)
    parts = [folder / str(i) for i in range(1, num + 1)]
    for part, chosen in zip(parts, _deal(units, num), strict=True):
        write_part(source, part, tables, [utt for unit in chosen for utt in unit])
    return parts


def _deal(units: Sequence[Sequence[str]], num: int) -> list[list[Sequence[str]]]:
    """Cut a list of groups into ``num`` runs, none empty, with nearly the same number of members each."""
    parts: list[list[Sequence[str]]] = []
    start, left = 0, sum(map(len, units))
    for remaining in range(num, 0, -1):
        stop, size = start + 1, len(units[start])
        # Go on while that brings the part nearer to its share, and a group is left for every part to come.
        while stop < len(units) - remaining + 1 and abs(size + len(units[stop]) - left / remaining) <= abs(
            size - left / remaining
        ):
            size += len(units[stop])
            stop += 1
        stop = len(units) if remaining == 1 else stop
        parts.append(list(units[start:stop]))
        start, left = stop, left - size
    return parts


def combine(path: Path_, sources: Sequence[Path_]) -> list[str]:
    """Write one data directory with everything of ``sources`` and return a line for each table that was left out.

    A table has to be in every source to be carried; where only some have ``segments``, whole recordings become segments
    of the others. A key that two sources give different values raises ``UserError``. Trial lists are not combined.
    """
    _check_apart(path, sources)
    sets = [_load(source) for source in sources]
    if any("segments" in tables for tables in sets):
        for tables in sets:
            tables.setdefault("segments", {utt: f"{utt} 0 -1" for utt in tables["wav.scp"]})
    everywhere = set.intersection(*(set(tables) for tables in sets))
    left_out = sorted(set().union(*sets) - everywhere)
    combined: Tables = {}
    for name in sorted(everywhere):
        combined[name] = {}
        origin: dict[str, Path_] = {}
        for source, tables in zip(sources, sets, strict=True):
            for key, value in tables[name].items():
                if combined[name].setdefault(key, value) != value:
                    raise UserError(
                        f"{name}: key {key!r} is {combined[name][key]!r} in {origin[key]} and {value!r} in {source}; "
                        "give one a prefix: python -m espnet_ext.bin.copy_data_dir --utt-prefix … --spk-prefix …"
                    )
                origin.setdefault(key, source)
    replace_tables(path, combined, trials=True)
    return [f"{name}: left out, not every source has it" for name in left_out]


def copy(source: Path_, path: Path_, utt_prefix: str = "", spk_prefix: str = "") -> DataDir:
    """Copy a data directory, with a prefix to all utterance or speaker ids, in trial lists too.

    Recording ids change with the utterances where there are no ``segments``, and stay where there are (as in Kaldi).
    """
    tables = _load(source)
    prefix = {UTTERANCE: utt_prefix, SPEAKER: spk_prefix, RECORDING: ""}
    kinds = {name: kind_of(name, "segments" in tables) for name in tables}
    copied = {name: {prefix[kinds[name]] + key: value for key, value in tables[name].items()} for name in tables}
    copied["utt2spk"] = {utt: spk_prefix + speaker for utt, speaker in copied["utt2spk"].items()}
    _check_apart(path, [source])
    replace_tables(path, copied, trials=True)
    for name in (name for name, kind in table_names(source).items() if kind == TRIALS):
        trials = read_trials(Path(source) / name)
        trials.enroll = [utt_prefix + utt for utt in trials.enroll]
        trials.test = [utt_prefix + utt for utt in trials.test]
        write_trials(Path(path) / name, trials)
    return DataDir(path)


def split_speakers(
    source: Path_, train: Path_, dev: Path_, num_dev_speakers: int, seed: int = 0, trials: bool = True
) -> None:
    """Cut a data directory in two with no speaker in common: ``dev`` with ``num_dev_speakers``, the rest ``train``.

    Dev speakers are drawn by ``seed``; for ``trials`` from those with at least two utterances, which target trials
    need, and two or more of them. Raises ``UserError`` where fewer speakers would be left on either side (without
    trials: none).
    """
    tables = _load(source)
    spk2utt = spk2utt_of(tables["utt2spk"])
    least = 2 if trials else 1
    eligible = [speaker for speaker, utts in spk2utt.items() if len(utts) >= least]
    if num_dev_speakers < least:
        why = "make no non-target trials" if trials else "are no dev set"
        raise UserError(f"{source}: {num_dev_speakers} dev speakers {why}; ask for at least {least}")
    if num_dev_speakers > len(eligible) or len(spk2utt) - num_dev_speakers < least:
        most = min(len(eligible), len(spk2utt) - least)
        few = f" {len(eligible)} have the two utterances that dev needs;" if trials else ""
        raise UserError(
            f"{source}: {num_dev_speakers} dev speakers would leave {max(0, len(spk2utt) - num_dev_speakers)} of "
            f"{len(spk2utt)} for training;{few} "
            + (f"ask for at most {most}" if most >= least else "this set is too small to be split")
        )
    chosen = set(shuffled(eligible, seed)[:num_dev_speakers])
    for path, inside in ((train, False), (dev, True)):
        utterances = [utt for utt, speaker in tables["utt2spk"].items() if (speaker in chosen) == inside]
        write_part(source, path, tables, utterances)


def read_ids(path: Path_) -> list[str]:
    """Return the first column of a file: a list of utterances or speakers, or any table."""
    return list(read_scp(path, allow_empty=True))
