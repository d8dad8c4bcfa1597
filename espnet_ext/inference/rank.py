"""RankMe-t per layer of a list of checkpoints over fixed lists of utterances, each checkpoint measured once."""

import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.inference.checkpoints import Checkpoint
from espnet_ext.metrics.rank import EPS, RankAccumulator, davies_bouldin, inertia
from espnet_ext.train.rank import layer_ranks, pooled_layers
from espnet_ext.train.rank_list import RankList
from espnet_ext.upstream.layers import check_layer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankSettings:
    """How ranks are measured; everything here changes the numbers but ``batch_s``.

    pool: ``sum`` or ``mean`` over time. layers: which ones, None for all. frames: the effective rank of all frames too
    (costs more). num_clusters: of k-means for inertia and Davies–Bouldin, 0: none (they keep N x K numbers per layer).
    """

    pool: str = "sum"
    eps: float = EPS
    layers: tuple[int, ...] | None = None
    frames: bool = False
    num_clusters: int = 0
    seed: int = 0
    batch_s: float = 30.0


def measure_ranks(encoder: torch.nn.Module, utterances: RankList, settings: RankSettings, device: str) -> list[dict]:
    """Return a row per layer: rankme_t, share, mean_cosine, unit_std, and what ``settings`` ask for besides."""
    start = time.perf_counter()
    chosen = list(range(encoder.num_layers))
    if settings.layers is not None:
        for layer in settings.layers:
            check_layer(layer, encoder.num_layers, "--layers")
        chosen = sorted({layer % encoder.num_layers for layer in settings.layers})
    utterances.min_samples = encoder.samples_for(1)
    of_frames: dict[int, RankAccumulator] = {}
    stored: list[list[np.ndarray]] = [[] for _ in chosen]

    def encode(wav, lengths):
        states, frames = encoder.hidden_states(wav, lengths)
        for layer in chosen if settings.frames else ():
            accumulator = of_frames.setdefault(
                layer, RankAccumulator(states[layer].size(-1), f"frames of layer {layer}")
            )
            valid = torch.arange(states[layer].size(1), device=frames.device)[None] < frames[:, None]
            accumulator.add(states[layer][valid].cpu().numpy())
        return states, frames

    def kept(batches):
        for utts, vectors in batches:
            if settings.num_clusters:
                for rows, vector in zip(stored, vectors, strict=True):
                    rows.append(vector.astype(np.float32))
            yield utts, vectors

    batches = utterances.batches(settings.batch_s)
    ranks = layer_ranks(kept(pooled_layers(encode, batches, device, settings.pool, chosen)), settings.eps)
    rows = []
    for layer, rank, vectors in zip(chosen, ranks, stored, strict=True):
        row = {"layer": layer, "rankme_t": rank.rankme} | {
            key: value for key, value in asdict(rank).items() if key not in ("rankme", "num_vectors")
        }
        if settings.frames:
            row["frames_rank"] = of_frames[layer].rank(settings.eps).rankme
        if settings.num_clusters:
            row |= _clusters(np.concatenate(vectors), settings, device)
        rows.append(row)
    wall_s = round(time.perf_counter() - start, 2)
    return [row | {"num_utterances": len(utterances), "wall_time_s": wall_s} for row in rows]


def _clusters(vectors: np.ndarray, settings: RankSettings, device: str) -> dict[str, float]:
    from espnet_ext.cluster.kmeans import kmeans

    count = min(settings.num_clusters, len(vectors))
    found = kmeans(vectors, count, metric="euclidean", seed=settings.seed, device=device)
    centroids, labels = (np.asarray(torch.as_tensor(x).cpu()) for x in (found.centroids, found.labels))
    return {"inertia": inertia(vectors, centroids, labels), "davies_bouldin": davies_bouldin(vectors, labels)}


def rank_rows(
    checkpoints: Sequence[Checkpoint], lists: Sequence[RankList], settings: RankSettings, device: str, out: Path
) -> list[dict]:
    """Measure every checkpoint on every list; rows with checkpoint, step, list and what ``measure_ranks`` gives."""
    rows = []
    for number, checkpoint in enumerate(checkpoints, start=1):
        opened = Opener(checkpoint, device, settings.seed)
        for one in lists:
            log.info(
                "%s (%d of %d) on %s: %d utterances", checkpoint.name, number, len(checkpoints), one.name, len(one)
            )
            facts = [asdict(settings) | {"batch_s": None}, one.stamp, device]
            measure = functools.partial(_open_and_measure, opened, one, settings, device)
            found = remembered(out / "checkpoints", checkpoint, facts, measure)
            where = {"checkpoint": checkpoint.name, "step": checkpoint.step, "list": one.name}
            rows += [where | row for row in found]
        check_same_shape(rows)
    return rows


def _open_and_measure(opened: "Opener", utterances: RankList, settings: RankSettings, device: str) -> list[dict]:
    return measure_ranks(opened(), utterances, settings, device)


class Opener:
    """Opens a checkpoint when it is first needed: one whose numbers are all remembered never is."""

    def __init__(self, checkpoint: Checkpoint, device: str, seed: int):
        self.checkpoint, self.device, self.seed = checkpoint, device, seed
        self._encoder: torch.nn.Module | None = None

    def __call__(self) -> torch.nn.Module:
        if self._encoder is None:
            self._encoder = self.checkpoint.open(self.device, self.seed)
        return self._encoder


def remembered(folder: Path, checkpoint: Checkpoint, facts: list, measure: Callable[[], list[dict]]) -> list[dict]:
    """Return ``measure()``, or what it gave before for the same weights and ``facts``: a killed command goes on."""
    key = hashlib.sha256(json.dumps([checkpoint.identity(), facts], sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{key}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        rows = measure()
    with atomic_write(path) as file:
        json.dump(rows, file)
    return rows


def check_same_shape(rows: Sequence[dict]) -> None:
    """Raise ``UserError`` where checkpoints differ in layers or sizes: their ranks do not compare."""
    shapes: dict[str, list] = {}
    for row in rows:
        if row["list"] == rows[0]["list"]:
            shapes.setdefault(row["checkpoint"], []).append((row["layer"], row["size"]))
    (first, shape), *others = shapes.items()
    for name, other in others:
        if other != shape:
            raise UserError(
                f"{name} has {len(other)} layer(s) of {other[-1][1]}, {first} {len(shape)} of {shape[-1][1]}: ranks of "
                "other sizes do not compare; give them in separate runs"
            )
