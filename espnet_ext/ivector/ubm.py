"""Training the universal background model: frames from disk, EM with diagonal, then with full covariances."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from espnet_ext.datadir import DataDir, write_broken
from espnet_ext.errors import UserError
from espnet_ext.ivector.features import FeatureConfig
from espnet_ext.ivector.frames import fingerprint, lengths_s, pack_table, read_features, unpack_table
from espnet_ext.ivector.gmm import Aligner, Gmm, Statistics, maximise
from espnet_ext.ivector.rounds import Arrays, before, finish_chunks, load, plan_chunks, share_of
from espnet_ext.options import spread_device

log = logging.getLogger(__name__)

CHUNK_S = 1800.0  # audio whose frames are kept in one file; what a killed job loses at most
FILE = "ubm.npz"


@dataclass(frozen=True)
class UbmConfig:
    """How the mixture is trained; defaults after Kaldi's egs/voxceleb/v1 and the sizes of a small corpus."""

    num_gaussians: int = 128  # C
    init_iterations: int = 20  # EM iterations on the frames in memory, from random frames
    diagonal_iterations: int = 4  # EM iterations with diagonal covariances on all frames
    full_iterations: int = 4  # EM iterations with full covariances
    num_selected: int = 0  # components evaluated per frame in the full stage; 0: all
    max_frames: int = 10_000_000  # every n-th frame is taken so that there are no more
    init_frames: int = 500_000  # frames in memory for the start
    variance_floor: float = 1e-4  # of the features' variance over the corpus
    seed: int = 0

    def __post_init__(self):
        positive = (self.num_gaussians, self.max_frames, self.init_frames)
        if min(positive) < 1 or min(self.init_iterations, self.diagonal_iterations, self.full_iterations) < 0:
            raise UserError("Gaussians and frames must be at least 1, iterations at least 0")
        if self.num_selected < 0 or not 0 < self.variance_floor < 1:
            raise UserError("--num_selected must not be negative, --variance_floor lies between 0 and 1")


@dataclass(frozen=True)
class UbmJob:
    """Everything that decides the mixture, and the steps that make it; see ``rounds``."""

    data: DataDir
    out: Path
    config: UbmConfig = UbmConfig()
    features: FeatureConfig = field(default_factory=FeatureConfig)
    device: str = "cpu"
    skip_broken: bool = False
    result: str = FILE

    @cached_property
    def key(self) -> str:
        return fingerprint(self.data, asdict(self.config), self.features.to_json())

    @property
    def steps(self) -> list[str]:
        diagonal = [f"diagonal.{number}" for number in range(1, self.config.diagonal_iterations + 1)]
        return ["frames", "start", *diagonal, *(f"full.{n}" for n in range(1, self.config.full_iterations + 1))]

    def share(self, step: str, shard: tuple[int, int], work: Path) -> Arrays:
        """Read the frames, or gather the statistics of an EM iteration over this job's part of them."""
        if step == "frames":
            return self._read(shard, work)
        if step == "start":
            return {}
        device = spread_device(self.device, shard)
        gmm = gmm_of(before(self, step, work)).to(device)
        aligner = Aligner(gmm, self.config.num_selected)
        total = Statistics.of(aligner, gmm.means[:0])
        for path in share_of(work / "chunks", shard):
            total.add(Statistics.of(aligner, torch.from_numpy(load(path)["x"]).to(gmm.means)))
        arrays = {name: value.cpu().numpy() for name, value in vars(total).items() if isinstance(value, torch.Tensor)}
        return arrays | {"log_likelihood": np.array(total.log_likelihood), "frames": np.array(total.frames)}

    def join(self, step: str, shares: Iterable[Arrays], work: Path) -> Arrays:
        """Finish the step."""
        if step == "frames":
            return self._join_frames(shares)
        frames = load(work / "frames.npz")
        floor = torch.from_numpy(self.config.variance_floor * frames["variance"])
        if step == "start":
            gmm = start(self._in_memory(work, int(frames["count"])), self.config, floor)
            return self._state(gmm, [])
        state = before(self, step, work)
        parts = list(shares)
        total = Statistics(*(torch.from_numpy(sum(part[name] for part in parts)) for name in ("n", "f", "s")))
        likelihood = sum(float(part["log_likelihood"]) for part in parts) / sum(int(part["frames"]) for part in parts)
        old = gmm_of(state)
        gmm, kept, floored = maximise(old, total, floor, step.startswith("full"))
        log.info(
            "%s: log likelihood %.6f per frame before it; %d components of too few frames kept theirs, %d floored",
            step, likelihood, kept, floored,
        )  # fmt: skip
        if step == f"diagonal.{self.config.diagonal_iterations}" and self.config.full_iterations:
            gmm = gmm.full()
        return self._state(gmm, [*state["log_likelihoods"].tolist(), likelihood])

    def _state(self, gmm: Gmm, log_likelihoods: list[float]) -> Arrays:
        settings = {"config": json.dumps(asdict(self.config)), "features": self.features.to_json()}
        return {
            "weights": gmm.weights.cpu().numpy(),
            "means": gmm.means.cpu().numpy(),
            "covariances": gmm.covariances.cpu().numpy(),
            "log_likelihoods": np.array(log_likelihoods),
            **{name: np.array(text) for name, text in settings.items()},
        }

    def _read(self, shard: tuple[int, int], work: Path) -> Arrays:
        """Every n-th frame of this job's utterances to ``chunks/``, and the sums that give mean and variance."""
        lengths = lengths_s(self.data, self.features.rate_hz)
        step = max(1, -(-int(100 * sum(lengths.values())) // self.config.max_frames))
        sums = np.zeros((2, self.features.dim))
        count, broken = 0, {}

        def make(utterances: list[str]) -> Arrays:
            lost: dict[str, str] = {}
            found = list(read_features(self.data, utterances, self.features, self.skip_broken, lost))
            kept = [x[::step] for _, x in found]
            return {
                "x": np.concatenate(kept) if kept else np.zeros((0, self.features.dim), np.float32),
                "utterances": np.array([utt for utt, _ in found], dtype=np.str_),
                "lengths": np.array([len(x) for x in kept], dtype=np.int64),
                "broken": pack_table(lost),
            }

        for chunk in finish_chunks(plan_chunks(lengths, shard, work / "chunks", CHUNK_S, 100_000), make):
            x = chunk["x"].astype(np.float64)
            sums += np.stack((x.sum(0), (x**2).sum(0)))
            count += len(x)
            broken |= unpack_table(chunk["broken"])
        return {"sums": sums, "count": np.array(count), "broken": pack_table(broken)}

    def _join_frames(self, shares: Iterable[Arrays]) -> Arrays:
        sums, count, broken = np.zeros((2, self.features.dim)), 0, {}
        for part in shares:
            sums, count, broken = (
                sums + part["sums"],
                count + int(part["count"]),
                broken | unpack_table(part["broken"]),
            )
        write_broken(self.out, broken)
        if count < self.config.num_gaussians:
            raise UserError(
                f"{self.data.path}: {count} voiced frames are too few for {self.config.num_gaussians} Gaussians; take "
                "fewer (--num_gaussians) or more data"
            )
        mean = sums[0] / count
        variance = sums[1] / count - mean**2
        if not (variance > 1e-10 * (1 + mean**2)).all():
            raise UserError(
                f"{self.data.path}: feature {int(variance.argmin())} of {len(variance)} is constant over the corpus: "
                "every covariance is singular; look at the audio (silence, one repeated frame?)"
            )
        log.info("%d frames of %d features", count, len(mean))
        return {"count": np.array(count), "mean": mean, "variance": variance}

    def _in_memory(self, work: Path, count: int) -> torch.Tensor:
        """Every n-th frame of every utterance, in the order of their ids, so that jobs and chunks change nothing."""
        step = -(-count // self.config.init_frames)
        parts: dict[str, np.ndarray] = {}
        for path in share_of(work / "chunks", (1, 1)):
            chunk = load(path)
            ends = np.cumsum(chunk["lengths"])
            for utt, x in zip(chunk["utterances"].tolist(), np.split(chunk["x"], ends[:-1]), strict=True):
                parts[utt] = x[::step].copy()
        return torch.from_numpy(np.concatenate([parts[utt] for utt in sorted(parts)])).to(self.device)


def gmm_of(state: Arrays) -> Gmm:
    """The mixture in the arrays of a step or of ``ubm.npz``, float64 on the CPU."""
    return Gmm(*(torch.from_numpy(state[name]) for name in ("weights", "means", "covariances")))


def start(x: torch.Tensor, config: UbmConfig, floor: torch.Tensor) -> Gmm:
    """A diagonal mixture by EM from random frames of x (T, F), float64; the matrices of the full stage if that is next.

    Until the last five iterations a component with fewer than F + 1 frames is put beside the heaviest one, which it
    shares from then on.
    """
    if len(x) < config.num_gaussians:
        raise UserError(
            f"{len(x)} frames in memory are too few to start {config.num_gaussians} Gaussians; raise --init_frames"
        )
    x, floor = x.double(), floor.to(x.device)
    rng = np.random.default_rng(config.seed)
    chosen = torch.from_numpy(np.sort(rng.choice(len(x), config.num_gaussians, replace=False))).to(x.device)
    weights = x.new_full((config.num_gaussians,), 1 / config.num_gaussians)
    gmm = Gmm(weights, x[chosen], x.var(0, correction=0).maximum(floor).expand(config.num_gaussians, -1).clone())
    for iteration in range(config.init_iterations):
        total = Statistics.of(Aligner(gmm), x)
        gmm, _, _ = maximise(gmm, total, floor, full=False)
        if iteration < config.init_iterations - 5:
            gmm = split_heaviest(gmm, total.n, rng)
        log.info(
            "start: log likelihood %.6f per frame before iteration %d", total.log_likelihood / len(x), iteration + 1
        )
    if config.full_iterations and not config.diagonal_iterations:
        return gmm.full()
    return gmm


def split_heaviest(gmm: Gmm, n: torch.Tensor, rng: np.random.Generator) -> Gmm:
    """Put every component with fewer than F + 1 of the frames n (C,) beside the heaviest there is at that moment."""
    weights, means, covariances = gmm.weights.clone(), gmm.means.clone(), gmm.covariances.clone()
    for poor in (n < means.size(1) + 1).nonzero()[:, 0].tolist():
        rich = int(weights.argmax())
        if rich == poor:
            continue
        apart = 0.2 * covariances[rich].sqrt() * torch.from_numpy(rng.normal(size=means.size(1))).to(means)
        means[poor], means[rich] = means[rich] - apart, means[rich] + apart
        covariances[poor] = covariances[rich]
        weights[rich] += weights[poor].clone()
        weights[poor] = weights[rich] = weights[rich] / 2
    return Gmm(weights, means, covariances)
