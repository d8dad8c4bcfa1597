"""Kaldi data directories: read, write, check, fix, cut, and the format stage."""

from espnet_ext.datadir.directory import DataDir, Segment
from espnet_ext.datadir.tables import read_scp, write_broken, write_scp
from espnet_ext.datadir.trials import Trials, read_trials, write_trials
from espnet_ext.files import atomic_write

__all__ = [
    "DataDir",
    "Segment",
    "Trials",
    "atomic_write",
    "read_scp",
    "read_trials",
    "write_broken",
    "write_scp",
    "write_trials",
]
