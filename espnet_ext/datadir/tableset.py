"""All tables of one data directory together: what each is keyed by, and cutting them to some utterances."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from espnet_ext.datadir.tables import read_scp
from espnet_ext.errors import UserError

UTTERANCE, SPEAKER, RECORDING, TRIALS = "utterance", "speaker", "recording", "trials"

_BY_UTTERANCE = ("text", "segments", "captions", "feats.scp", "vad.scp", "video.scp")
_BY_SPEAKER = ("cmvn.scp",)

Tables = dict[str, dict[str, str]]


def kind_of(name: str, has_segments: bool) -> str | None:
    """Return what the table ``name`` is keyed by, or None for a file that is no table.

    ``utt2*``, ``text``, ``segments``, ``captions`` and ``*.scp`` are keyed by utterance, ``spk2*`` and ``cmvn.scp`` by
    speaker, ``reco2*`` by recording; ``wav.scp`` by recording where there are ``segments``, else by utterance.
    """
    if name.startswith(".") or name.endswith("~"):
        return None
    if name == "wav.scp":
        return RECORDING if has_segments else UTTERANCE
    if name.startswith("reco2"):
        return RECORDING
    if name.startswith("spk2") or name in _BY_SPEAKER:
        return SPEAKER
    if name == "trials" or name.startswith(("trials_", "trials.")):
        return TRIALS
    if name.startswith("utt2") or name in _BY_UTTERANCE or name.endswith(".scp"):
        return UTTERANCE
    return None


def table_names(path: str | os.PathLike) -> dict[str, str]:
    """Return ``{name: kind}`` of the tables in a data directory, sorted by name."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such data directory; run the stage that makes it")
    has_segments = (path / "segments").is_file()
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    kinds = ((name, kind_of(name, has_segments)) for name in names)
    return {name: kind for name, kind in kinds if kind}


def read_tables(path: str | os.PathLike) -> Tables:
    """Read every table but trial lists and ``spk2utt`` (made from ``utt2spk``); ``wav.scp``, ``utt2spk`` must exist."""
    names = [name for name, kind in table_names(path).items() if kind != TRIALS and name != "spk2utt"]
    return {name: read_scp(Path(path) / name) for name in sorted({*names, "utt2spk", "wav.scp"})}


def restrict(tables: Mapping[str, Mapping[str, str]], utterances: Collection[str]) -> Tables:
    """Cut every table to ``utterances``, to their speakers and to their recordings; an emptied table is left out."""
    utterances = set(utterances)
    segments = tables.get("segments")
    keep = {
        UTTERANCE: utterances,
        SPEAKER: {tables["utt2spk"][utt] for utt in utterances},
        RECORDING: {segments[utt].split()[0] for utt in utterances} if segments is not None else utterances,
    }
    cut = {
        name: {key: value for key, value in table.items() if key in keep[kind_of(name, segments is not None)]}
        for name, table in tables.items()
    }
    return {name: table for name, table in cut.items() if table}
