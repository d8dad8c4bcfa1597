"""A small gallery of voices: who is enrolled, and which of them, if any, speaks in a recording."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.inference.decision import Decision, read_table
from espnet_ext.inference.spk import SpeakerEmbedder
from espnet_ext.spk.scoring import unit_crops


@dataclass
class Person:
    """One voice: the mean of its recordings' embeddings, each less the packaged mean and at length 1."""

    vector: np.ndarray  # (E,) float64
    recordings: int


@dataclass(frozen=True)
class Candidate:
    """One person of the gallery against a recording."""

    name: str
    score: float  # cosine, in [-1, 1]
    llr: float | None  # natural-log likelihood ratio, None without calibration


@dataclass(frozen=True)
class Identification:
    """Who speaks: the best candidate's ``name`` where it reaches the threshold, else None (or without a threshold)."""

    name: str | None
    threshold: float | None
    ranking: list[Candidate]  # best first; equal scores in the order of the names


@dataclass
class Gallery:
    """People by name, tied to the model whose embeddings they are: ``model`` is a checksum of its weights and mean."""

    model: str
    decision: Decision
    people: dict[str, Person] = field(default_factory=dict)

    @classmethod
    def of(cls, embedder: SpeakerEmbedder) -> "Gallery":
        """An empty gallery for a model."""
        digest = hashlib.sha256(embedder.package.sha256.encode())
        if embedder.decision.mean is not None:  # scoring the model again may change it
            digest.update(np.asarray(embedder.decision.mean, dtype=np.float32).tobytes())
        return cls(digest.hexdigest(), embedder.decision)

    @classmethod
    def read(cls, path: Path, embedder: SpeakerEmbedder) -> "Gallery":
        """Read what ``write`` wrote; ``UserError`` for a damaged file or one made with another model."""
        gallery = cls.of(embedder)
        if not path.is_file():
            raise UserError(f"{path}: no such gallery; make it with `espnet_ext enroll`")
        table = read_table(path)
        if table.get("model") != gallery.model:
            raise UserError(f"{path}: was made with another model; enroll again with this one, or name that one")
        try:
            for name, person in table["people"].items():
                vector = np.array(person["vector"], dtype=np.float64)
                if vector.ndim != 1 or not np.isfinite(vector).all():
                    raise ValueError(name)
                gallery.people[name] = Person(vector, int(person["recordings"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: damaged at {error}; enroll again") from error
        return gallery

    def write(self, path: Path) -> None:
        """Write JSON, people sorted by name, whole or not at all; the same gallery gives the same bytes."""
        people = {
            name: {"recordings": person.recordings, "vector": person.vector.tolist()}
            for name, person in sorted(self.people.items())
        }
        with atomic_write(path) as file:
            json.dump({"model": self.model, "people": people}, file, ensure_ascii=False, indent=0)
            file.write("\n")

    def enroll(self, name: str, embeddings: np.ndarray) -> Person:
        """Add recordings (N, E) of a person; every recording of a person counts the same, whenever it was added."""
        units = self._units(embeddings)
        old = self.people.get(name)
        if old is not None and len(old.vector) != units.shape[1]:
            raise UserError(f"{name}: enrolled with {len(old.vector)} dimensions, now there are {units.shape[1]}")
        count = len(units) + (old.recordings if old else 0)
        total = units.sum(axis=0) + (old.vector * old.recordings if old else 0.0)
        self.people[name] = Person(total / count, count)
        return self.people[name]

    def identify(self, embedding: np.ndarray) -> Identification:
        """Compare one recording (E,) with everybody."""
        if not self.people:
            raise UserError("the gallery is empty; add people with `espnet_ext enroll`")
        names = sorted(self.people)
        centres = unit_crops(np.stack([self.people[name].vector for name in names]))
        scores = centres @ self._units(embedding[None])[0]
        order = np.argsort(-scores, kind="stable").tolist()
        ranking = [Candidate(names[i], float(scores[i]), self.decision.llr(float(scores[i]))) for i in order]
        same = self.decision.decide(ranking[0].score).same_speaker
        return Identification(ranking[0].name if same else None, self.decision.threshold, ranking)

    def _units(self, embeddings: np.ndarray) -> np.ndarray:
        return unit_crops(np.asarray(embeddings, dtype=np.float64), self.decision.mean)
