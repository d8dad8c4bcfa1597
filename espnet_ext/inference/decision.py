"""From two embeddings to a score, a log-likelihood ratio and a yes or no."""

import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.metrics.calibration import Calibration
from espnet_ext.spk.scoring import unit_crops
from espnet_ext.zoo.package import Package

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verification:
    """What can be said about two recordings."""

    score: float  # cosine of the two embeddings (less their mean, where the package brings one), in [-1, 1]
    llr: float | None  # natural-log likelihood ratio "one speaker" : "two"; None where there is no calibration
    threshold: float | None  # the yes begins here: of `llr` where there is one, else of `score`
    same_speaker: bool | None  # None where neither the package nor the caller gives a threshold


@dataclass(frozen=True)
class Decision:
    """How a packaged model decides: the mean embedding that is taken off, a calibration of the cosine, a threshold.

    ``threshold`` applies to the log-likelihood ratio, or to the score where there is no calibration.
    """

    mean: np.ndarray | None = None  # (E,)
    calibration: Calibration | None = None
    threshold: float | None = None

    @classmethod
    def of(cls, package: Package) -> "Decision":
        """Read what ``Backend.save`` wrote: ``calibration.json`` and ``embedding_mean.npy``; both may be missing.

        A calibration of multi-crop distances is left alone with a warning: it says nothing about a cosine.
        """
        mean = read_array(package.files["embedding_mean"]) if "embedding_mean" in package.files else None
        if "calibration" not in package.files:
            return cls(mean)
        path = package.files["calibration"]
        table = read_table(path)
        if table.get("score", "cosine") != "cosine":
            log.warning("%s is a calibration of %s scores, which two whole files do not have", path, table["score"])
            return cls(mean)
        try:
            calibration = Calibration.from_dict(table)
        except UserError as error:
            raise UserError(f"{path}: {error}; score and pack the model again") from None
        threshold = table.get("threshold", 0.0)
        if not isinstance(threshold, (int, float)) or not math.isfinite(threshold) or len(calibration.weights) != 1:
            raise UserError(f"{path}: one weight and a finite threshold are needed; score and pack the model again")
        return cls(mean, calibration, float(threshold))

    def with_threshold(self, threshold: float | None) -> "Decision":
        """The same with a threshold of the caller's own (None: unchanged)."""
        return self if threshold is None else replace(self, threshold=threshold)

    def scores(self, embeddings: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Cosine of every embedding (N, E) with every one of the gallery (M, E), mean taken off: (N, M)."""
        return unit_crops(embeddings, self.mean) @ unit_crops(gallery, self.mean).T

    def llr(self, score: float) -> float | None:
        """Natural-log likelihood ratio of a score, None without calibration."""
        return None if self.calibration is None else float(self.calibration.llr(np.array([score]))[0])

    def verify(self, vector_a: np.ndarray, vector_b: np.ndarray) -> Verification:
        """Compare two embeddings (E,)."""
        return self.decide(float(self.scores(vector_a[None], vector_b[None])[0, 0]))

    def decide(self, score: float) -> Verification:
        """Say what a score means."""
        llr = self.llr(score)
        compared = score if llr is None else llr
        same = None if self.threshold is None else bool(compared >= self.threshold)
        return Verification(score, llr, self.threshold, same)


def read_array(path: Path) -> np.ndarray:
    """Read a ``.npy`` of numbers; objects, which could run code, are refused."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: refused, is no plain array of numbers ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise UserError(f"{path}: refused, expected an array of finite floats")
    return array


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}); score and pack the model again") from error
    if not isinstance(table, dict):
        raise UserError(f"{path}: holds no JSON object; score and pack the model again")
    return table
