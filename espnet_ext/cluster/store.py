"""A clustering on disk: ``utt2cluster``, ``centroids.npy``, ``transform.npz`` and, last, ``cluster.json``."""

import json
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from espnet_ext.cluster.methods import NOISE, Clustering
from espnet_ext.cluster.transform import Transform
from espnet_ext.datadir import write_scp
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write

FILES = ("utt2cluster", "centroids.npy", "transform.npz")
REPORT = "cluster.json"


def finished(folder: Path, settings: dict) -> dict | None:
    """The report of a finished clustering with these settings in ``folder``, else None."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(report, dict) or report.get("settings") != settings:
        return None
    return report if all((folder / name).is_file() for name in FILES) else None


def save(folder: Path, utterances: list[str], found: Clustering, transform: Transform, settings: dict, facts: dict):
    """Write a clustering; returns the report. The report comes last, so what a killed process left is no clustering."""
    (folder / REPORT).unlink(missing_ok=True)
    write_labels(folder, utterances, found.labels)
    with atomic_write(folder / "centroids.npy", "wb") as file:
        np.save(file, found.centroids)
    arrays = {"mean": transform.mean, "projection": transform.projection, "length_norm": transform.length_norm}
    arrays |= {"fine": found.fine, "fine_labels": found.fine_labels, "metric": found.metric}
    with atomic_write(folder / "transform.npz", "wb") as file:
        np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    report = describe(found) | facts | {"settings": settings}
    with atomic_write(folder / REPORT) as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
        file.write("\n")
    return report


def write_labels(folder: Path, utterances: list[str], labels: np.ndarray) -> None:
    """Write ``utt2cluster``; utterances in no cluster are left out."""
    pairs = zip(utterances, labels.tolist(), strict=True)
    write_scp(folder / "utt2cluster", {utt: label for utt, label in pairs if label != NOISE})


def describe(found: Clustering) -> dict:
    """The facts of a clustering for its report."""
    sizes = np.bincount(found.labels[found.labels != NOISE], minlength=len(found.centroids))
    return {
        "num_utterances": len(found.labels),
        "num_clusters": len(sizes),
        "in_no_cluster": int((found.labels == NOISE).sum()),
        "smallest": int(sizes.min()),
        "median": float(np.median(sizes)),
        "largest": int(sizes.max()),
        "inertia": found.inertia,
        "history": found.history,
        "sizes": " ".join(map(str, sizes)),
    }


def load(folder: str | Path) -> tuple[Clustering, Transform]:
    """Read a clustering back for new utterances; ``labels`` are empty. ``UserError`` where it is missing or broken."""
    folder = Path(folder)
    try:
        if not (folder / REPORT).is_file():
            raise FileNotFoundError(f"there is no {REPORT}")
        centroids = np.load(folder / "centroids.npy", allow_pickle=False)
        with np.load(folder / "transform.npz", allow_pickle=False) as file:
            arrays = dict(file)
        transform = Transform(arrays["mean"], arrays.get("projection"), bool(arrays["length_norm"]))
        metric, fine, fine_labels = str(arrays["metric"]), arrays.get("fine"), arrays.get("fine_labels")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{folder}: no finished clustering ({error}); make it with python -m espnet_ext.bin.cluster"
        ) from None
    empty = np.empty(0, dtype=np.int64)
    return Clustering(empty, centroids, metric, fine=fine, fine_labels=fine_labels), transform
