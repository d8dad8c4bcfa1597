"""How much units know of phones: purity and PNMI (arXiv 2106.07447, section IV.D) of units in a data directory."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from espnet_ext.datadir import DataDir
from espnet_ext.datadir.alignment import Interval, read_intervals
from espnet_ext.errors import UserError
from espnet_ext.metrics.clustering import unit_quality
from espnet_ext.metrics.report import Result, markdown_table, write_results_json, write_results_md
from espnet_ext.ssl.geometry import RATE_HZ
from espnet_ext.ssl.units import UnitFolder, read_units

log = logging.getLogger(__name__)
COLUMNS = ("phone_purity", "cluster_purity", "pnmi")


def phones_at(intervals: Sequence[Interval], times_s: np.ndarray) -> np.ndarray:
    """Return the place in ``intervals`` of the phone that sounds at each time, -1 where none does."""
    starts = np.array([interval.start_s for interval in intervals])
    ends = np.array([interval.end_s for interval in intervals])
    places = np.searchsorted(starts, times_s, side="right") - 1
    inside = (places >= 0) & (times_s < ends[places])
    return np.where(inside, places, -1)


def folder_quality(folder: UnitFolder, data: DataDir) -> dict[str, dict[str, float]]:
    """Return ``{stream: {"phone_purity": …, "cluster_purity": …, "pnmi": …, …}}`` over all frames that have a phone.

    The phone of a frame is the one at the middle of the samples that it sees; ``sil`` is a phone as any other. Needs
    ``utt2phones`` in ``data``.
    """
    if not data.has("utt2phones"):
        raise UserError(f"{data.path}/utt2phones is missing: phones with times (label:start:end) of every utterance")
    aligned = read_intervals(data.path / "utt2phones")
    phones, units, without = [], [], []
    for utt, place in folder.places().items():
        if utt not in aligned:
            without.append(utt)
            continue
        ids = read_units(place)
        at = phones_at(aligned[utt], (np.arange(len(ids)) * folder.hop + folder.field / 2) / RATE_HZ)
        phones += [aligned[utt][number].label for number in at[at >= 0]]
        units.append(ids[at >= 0])
    if not phones:
        raise UserError(f"{folder.scp}: no utterance of it is in {data.path}/utt2phones")
    if without:
        log.warning("%s: %d utterances (%s, …) have no phones in %s/utt2phones; they are left out", folder.scp,
                    len(without), without[0], data.path)  # fmt: skip
    columns = np.concatenate(units)
    return {stream.name: unit_quality(columns[:, place], phones) for place, stream in enumerate(folder.streams)}


def write_report(out: Path, rows: Mapping[str, tuple[UnitFolder, dict]], data: DataDir, info: Mapping) -> str:
    """Write ``RESULTS.md`` and ``results.json`` into ``out``; return the table. rows: name -> (folder, its quality)."""
    table, results = [], []
    for name, (folder, quality) in rows.items():
        for stream in folder.streams:
            facts = quality[stream.name]
            table.append(
                [
                    f"{name}: {stream.name}",
                    f"{facts['num_units_used']} of {stream.num_units}",
                    f"{folder.rate_hz:g}",
                    f"{facts['num_frames']:,}",
                    *[f"{facts[column]:.4f}" for column in COLUMNS],
                    f"{facts['unit_entropy_nats'] / math.log(stream.num_units):.3f}",
                ]
            )
            where = {"set": data.path.name, "system": name, "stream": stream.name}
            results += [Result(metric, value, where=where) for metric, value in facts.items()]
    header = ["units", "used", "Hz", "frames", "phone purity", "cluster purity", "PNMI", "entropy / ln K"]
    text = markdown_table(header, table)
    heading = f"{data.path.name}: phone entropy {facts['phone_entropy_nats']:.3f} nats"
    write_results_md(out / "RESULTS.md", "Units against phones", [(heading, text)], info)
    write_results_json(out / "results.json", results, info)
    return f"{heading}\n\n{text}"
