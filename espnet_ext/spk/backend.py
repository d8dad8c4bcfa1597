"""From embeddings and trials to scores: mean subtraction, AS-norm, calibration and quality-measure fusion in one place.

What is learned (mean, cohort, calibrations) comes from training and development speakers; the trials to be scored are
passed separately and change nothing.
"""

import json
import os
from pathlib import Path

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.metrics.calibration import Calibration
from espnet_ext.metrics.detection import bayes_threshold, min_cllr
from espnet_ext.spk.embeddings import EmbeddingTable
from espnet_ext.spk.scoring import (
    as_norm,
    cohort_statistics,
    cosine_scores,
    mean_embedding,
    multi_crop_distance,
    quality_measures,
    speaker_means,
    unit_crops,
    unit_utterances,
)


class PreparedUtterances:
    """What every trial needs of its two utterances, computed once: unit vectors, cohort statistics, magnitudes."""

    def __init__(self, backend: "Backend", table: EmbeddingTable, duration_s: np.ndarray | None = None):
        self.distance = backend.distance
        make = unit_crops if backend.distance else unit_utterances
        self.units = make(table.vectors, backend.mean)
        self.magnitude = np.linalg.norm(table.vectors, axis=2).mean(1)
        self.duration_s = duration_s
        self.statistics = None
        if backend.cohort is not None:
            self.statistics = cohort_statistics(self.units, backend.cohort, backend.top_n, backend.distance)

    def raw(self, enroll: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Cosine, or the multi-crop distance, of trials given by row numbers ``(N,)``."""
        return (multi_crop_distance if self.distance else cosine_scores)(self.units, enroll, test)

    def base_scores(self, enroll: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
        """The scores that need no calibration: ``raw``, and ``asnorm`` where there is a cohort."""
        scores = {"raw": self.raw(enroll, test)}
        if self.statistics is not None:
            scores["asnorm"] = as_norm(scores["raw"], enroll, test, self.statistics)
        return scores

    def features(self, scores: np.ndarray, enroll: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
        """The score and the quality measures of every trial, for fusion."""
        cohort_mean = None if self.statistics is None else self.statistics[0]
        return {"score": scores} | quality_measures(enroll, test, self.magnitude, self.duration_s, cohort_mean)


class Backend:
    """A scoring back end.

    Args:
        mean: ``(E,)`` taken off every embedding, of training embeddings; None takes nothing off.
        cohort: ``(S, E)`` unit rows for AS-norm; None switches it off.
        top_n: how many cohort entries are kept for each utterance.
        distance: score by ESPnet's multi-crop distance instead of cosine.
    """

    def __init__(
        self,
        mean: np.ndarray | None = None,
        cohort: np.ndarray | None = None,
        top_n: int = 300,
        distance: bool = False,
    ):
        self.mean, self.cohort, self.top_n, self.distance = mean, cohort, top_n, distance
        self.calibrations: dict[str, Calibration] = {}
        #: Which base score the calibrated column is made from.
        self.default = "raw"

    @classmethod
    def from_training(
        cls,
        table: EmbeddingTable,
        speakers: list[str] | None = None,
        subtract_mean: bool = True,
        top_n: int = 300,
        distance: bool = False,
    ) -> "Backend":
        """Take mean and cohort from training embeddings; ``speakers`` (one per row) makes the cohort speaker means."""
        mean = mean_embedding(table.vectors) if subtract_mean else None
        units = unit_utterances(table.vectors, mean)
        cohort = units if speakers is None else speaker_means(units, speakers)
        return cls(mean, cohort, top_n, distance)

    def prepare(self, table: EmbeddingTable, duration_s: np.ndarray | None = None) -> PreparedUtterances:
        """Compute what is needed of every utterance, once."""
        for name, array in (("mean", self.mean), ("cohort", self.cohort)):
            if array is not None and array.shape[-1] != table.dim:
                raise UserError(
                    f"{table.where}: embeddings of size {table.dim}, but the {name} has {array.shape[-1]}; "
                    "extract both with the same model"
                )
        return PreparedUtterances(self, table, duration_s)

    def fit(self, dev: PreparedUtterances, enroll, test, labels, p_target: float = 0.05, l2: float = 1e-4) -> None:
        """Fit a calibration of every base score, and the fusion with quality measures, on development trials.

        The calibrated column uses AS-norm only where that separates the development trials better (lower min-Cllr):
        a small cohort can make scores worse.
        """
        base = dev.base_scores(enroll, test)
        for name, scores in base.items():
            self.calibrations[name] = Calibration.fit(scores, labels, p_target, l2)
        self.default = min(base, key=lambda name: min_cllr(base[name], labels))
        features = dev.features(base[self.default], enroll, test)
        matrix = np.stack(list(features.values()), axis=1)
        self.calibrations["qmf"] = Calibration.fit(matrix, labels, p_target, l2, list(features))

    def scores(self, prepared: PreparedUtterances, enroll: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
        """All columns for trials ``(N,)``: raw, asnorm (with a cohort), calibrated and qmf (after ``fit``)."""
        columns = prepared.base_scores(enroll, test)
        if self.calibrations:
            base = columns[self.default]
            columns["calibrated"] = self.calibrations[self.default].llr(base)
            features = prepared.features(base, enroll, test)
            columns["qmf"] = self.calibrations["qmf"].llr(np.stack(list(features.values()), axis=1))
        return columns

    def save(self, folder: str | os.PathLike, p_target: float = 0.05) -> None:
        """Write ``calibration.json``, ``embedding_mean.npy`` and ``cohort.npy`` for packing with the model.

        The top level of ``calibration.json`` is the calibration of the raw score, all that two recordings need: its
        ``threshold`` is the Bayes decision at ``p_target`` with equal costs. ``systems`` holds all calibrations.
        """
        folder = Path(folder)
        arrays = {"embedding_mean": self.mean, "cohort": self.cohort}
        for name, array in arrays.items():
            if array is None:
                (folder / f"{name}.npy").unlink(missing_ok=True)  # of an earlier run with other options
            else:
                with atomic_write(folder / f"{name}.npy", "wb") as file:
                    np.save(file, array.astype(np.float32), allow_pickle=False)
        if not self.calibrations:
            (folder / "calibration.json").unlink(missing_ok=True)
            return
        values = self.calibrations["raw"].to_dict()
        values["p_target"] = p_target
        values["threshold"] = bayes_threshold(p_target)
        values["score"] = "distance" if self.distance else "cosine"
        values |= {name: None if array is None else f"{name}.npy" for name, array in arrays.items()}
        values |= {"top_n": self.top_n, "default": self.default}
        values["systems"] = {name: calibration.to_dict() for name, calibration in self.calibrations.items()}
        with atomic_write(folder / "calibration.json") as file:
            json.dump(values, file, indent=1)
            file.write("\n")
