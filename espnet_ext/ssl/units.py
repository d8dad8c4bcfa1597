"""Folders of units: ``units.scp`` points into arks of uint16 (frames, streams), ``units.json`` says what they are."""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.datadir.tables import read_scp
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.ssl.geometry import RATE_HZ
from espnet_ext.ssl.quantizer import Quantizer, Stream

TABLE, DESCRIPTION = "units.scp", "units.json"


def write_units(file, units: np.ndarray) -> None:
    """Write units (frames, streams) at the end of an ark as kaldiio's numpy entry, so that kaldiio reads it."""
    content = io.BytesIO()
    np.save(content, units, allow_pickle=False)
    size = content.tell()
    file.write(b"NPY" + np.uint8(4).tobytes() + np.uint32(size).tobytes())
    file.write(content.getvalue())


def read_units(place: str) -> np.ndarray:
    """Return units (frames, streams) uint16 of one entry ``ark:offset`` of ``units.scp``."""
    import kaldiio

    if place.strip().endswith("|"):  # kaldiio would run it
        raise UserError(f"{place}: commands are not run for units; write them to a file")
    try:
        units = kaldiio.load_mat(place)
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, AssertionError) as error:
        why = " ".join(str(error).split())[:200] or "the file is too short"
        raise UserError(f"{place}: no units there ({why}); make them again: make_units") from None
    if not isinstance(units, np.ndarray) or units.ndim != 2 or units.dtype.kind not in "ui":
        raise UserError(f"{place}: not an array of units (frames, streams)")
    return units


@dataclass(frozen=True)
class UnitFolder:
    """What ``units.json`` says: the streams in ``units.scp``, samples per label, and which centroids they come from."""

    path: Path
    streams: tuple[Stream, ...]
    hop: int
    field: int
    quantizer: str

    @property
    def rate_hz(self) -> float:
        """Labels per second."""
        return RATE_HZ / self.hop

    @property
    def scp(self) -> Path:
        return self.path / TABLE

    def places(self) -> dict[str, str]:
        """Return ``{utterance: ark:offset}``."""
        return read_scp(self.scp)

    def labels(self, num_samples: int) -> int:
        """Return how many labels an utterance of that many samples should have."""
        return max(0, 1 + (num_samples - self.field) // self.hop)

    @classmethod
    def read(cls, path: str | os.PathLike) -> "UnitFolder":
        """Read a folder that ``make_units`` wrote, ``UserError`` where it is none or not finished."""
        path = Path(path)
        begun = [(path / name).exists() for name in (TABLE, DESCRIPTION, "parts")]
        if any(begun) and not all(begun[:2]):
            raise UserError(f"{path}: its make_units has not finished; give that command again")
        try:
            content = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
            streams = tuple(Stream(**stream) for stream in content["streams"])
            return cls(path, streams, content["hop"], content["field"], content["quantizer"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no units that make_units made ({error})") from None


def write_description(path: Path, quantizer: Quantizer) -> None:
    """Write ``units.json`` of units that ``quantizer`` made, when they are whole."""
    content = {
        "streams": [vars(stream) for stream in quantizer.streams],
        "hop": quantizer.hop,
        "field": quantizer.field,
        "quantizer": quantizer.identity,
        "features": quantizer.features,
    }
    with atomic_write(path / DESCRIPTION) as file:
        file.write(json.dumps(content, indent=2) + "\n")
