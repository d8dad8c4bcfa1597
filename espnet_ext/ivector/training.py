"""Training the total variability matrix: statistics to disk once, EM over them, the training set's own i-vectors."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from espnet_ext.datadir import DataDir, write_broken
from espnet_ext.errors import UserError
from espnet_ext.ivector.extractor import Accumulator, TotalVariability, maximise, objective
from espnet_ext.ivector.features import FeatureConfig
from espnet_ext.ivector.frames import fingerprint, lengths_s, pack_table, read_features, unpack_table
from espnet_ext.ivector.gmm import Aligner
from espnet_ext.ivector.rounds import Arrays, before, finish_chunks, load, plan_chunks, share_of
from espnet_ext.ivector.statistics import statistics
from espnet_ext.ivector.ubm import gmm_of
from espnet_ext.options import spread_device

log = logging.getLogger(__name__)

CHUNK_S = 1800.0  # audio whose statistics are kept in one file …
CHUNK_BYTES = 1 << 28  # … unless they take more than this
FILE = "ivector.npz"


@dataclass(frozen=True)
class ExtractorConfig:
    """How the extractor is trained."""

    dim: int = 100  # R
    iterations: int = 10  # of EM
    num_selected: int = 0  # components evaluated per frame; 0: all
    min_posterior: float = 0.025  # smaller responsibilities are dropped
    posterior_scale: float = 0.1  # the statistics are multiplied by this: neighbouring frames are not independent
    max_utterances: int = 100_000  # only the longest so many; 0: all
    start_scale: float = 0.1  # deviation of T's random start, in deviations of the features
    update_covariances: bool = True
    minimum_divergence: bool = True
    variance_floor: float = 1e-4  # of the features' variance over the corpus
    seed: int = 0

    def __post_init__(self):
        if self.dim < 1 or self.iterations < 1 or min(self.num_selected, self.max_utterances) < 0:
            raise UserError("--dim and --iterations must be at least 1, numbers of utterances and Gaussians at least 0")
        if self.posterior_scale <= 0 or not 0 <= self.min_posterior < 1 or self.start_scale <= 0:
            raise UserError("--posterior_scale must be above 0, --min_posterior at least 0 and below 1")


@dataclass(frozen=True)
class ExtractorJob:
    """Everything that decides the extractor, and the steps that make it; see ``rounds``."""

    data: DataDir
    ubm: Path  # the file ubm.npz
    out: Path
    config: ExtractorConfig = ExtractorConfig()
    device: str = "cpu"
    skip_broken: bool = False
    result: str = FILE

    @cached_property
    def key(self) -> str:
        return fingerprint(self.data, asdict(self.config), hashlib.sha256(self.ubm.read_bytes()).hexdigest())

    @property
    def steps(self) -> list[str]:
        return ["statistics", "start", *(f"em.{n}" for n in range(1, self.config.iterations + 1)), "vectors"]

    def share(self, step: str, shard: tuple[int, int], work: Path) -> Arrays:
        """Read the audio, or gather what an EM iteration needs over this job's part of the statistics."""
        if step == "statistics":
            return self._align(shard, work)
        if step == "start":
            return {}
        model = self._model(before(self, step, work), spread_device(self.device, shard))
        if step == "vectors":
            return self._moments(model, shard, work)
        total = Accumulator.empty(model)
        for n, f in self._statistics(model, shard, work):
            total.accumulate(model, n, f)
        return {name: value.cpu().numpy() for name, value in vars(total).items()}

    def join(self, step: str, shares: Iterable[Arrays], work: Path) -> Arrays:
        """Finish the step."""
        if step == "statistics":
            return self._join_statistics(shares)
        if step == "start":
            return self._start()
        state = before(self, step, work)
        if step == "vectors":
            return state | self._centre(shares)
        model = self._model(state)
        total = Accumulator.empty(model)
        for part in shares:
            total.add(Accumulator(**{name: torch.from_numpy(value) for name, value in part.items()}))
        second = self.config.posterior_scale * torch.from_numpy(load(work / "statistics.npz")["second"])
        value = objective(model, total, second) / float(total.n.sum())
        floor = self.config.variance_floor * _variance(state)
        model, floored = maximise(
            model, total, second, floor, self.config.update_covariances, self.config.minimum_divergence
        )
        log.info("%s: objective %.6f per frame before it; %d covariances floored", step, value, floored)
        return state | {
            "means": model.means.numpy(),
            "covariances": model.covariances.numpy(),
            "t": model.t.numpy(),
            "objectives": np.append(state["objectives"], value),
        }

    def _align(self, shard: tuple[int, int], work: Path) -> Arrays:
        """The statistics of this job's utterances to ``chunks/``, and their second-order sum."""
        ubm = load(self.ubm)
        features = FeatureConfig.from_json(str(ubm["features"]))
        gmm = gmm_of(ubm).full().to(spread_device(self.device, shard))
        aligner = Aligner(gmm, self.config.num_selected, self.config.min_posterior)
        lengths = lengths_s(self.data, features.rate_hz, self.config.max_utterances)
        at_most = max(1, CHUNK_BYTES // (4 * aligner.gmm.means.numel()))

        def make(utterances: list[str]) -> Arrays:
            lost: dict[str, str] = {}
            second = torch.zeros_like(aligner.gmm.products(aligner.gmm.means))
            found = [x for _, x in read_features(self.data, utterances, features, self.skip_broken, lost)]
            n, f = statistics(aligner, found, second)
            return {
                "n": n.float().cpu().numpy(),
                "f": f.float().cpu().numpy(),
                "second": second.cpu().numpy(),
                "broken": pack_table(lost),
            }

        total, utterances, broken = 0.0, 0, {}
        for chunk in finish_chunks(plan_chunks(lengths, shard, work / "chunks", CHUNK_S, at_most), make):
            total, utterances = total + chunk["second"], utterances + len(chunk["n"])
            broken |= unpack_table(chunk["broken"])
        return {"second": np.asarray(total), "utterances": np.array(utterances), "broken": pack_table(broken)}

    def _join_statistics(self, shares: Iterable[Arrays]) -> Arrays:
        second, utterances, broken = 0.0, 0, {}
        for part in shares:
            second, utterances = second + part["second"], utterances + int(part["utterances"])
            broken |= unpack_table(part["broken"])
        write_broken(self.out, broken)
        if utterances < 2:
            raise UserError(
                f"{self.data.path}: {utterances} usable utterance(s); what varies between utterances cannot be learned "
                "from fewer than two"
            )
        if utterances <= self.config.dim:
            log.warning("%d utterances cannot fill %d dimensions; take fewer (--dim)", utterances, self.config.dim)
        return {"second": second}

    def _start(self) -> Arrays:
        """T with random entries, the rest as it is in the mixture."""
        ubm = load(self.ubm)
        gmm = gmm_of(ubm).full()
        deviation = gmm.covariances.diagonal(dim1=1, dim2=2).sqrt().numpy()
        noise = np.random.default_rng(self.config.seed).normal(size=(*deviation.shape, self.config.dim))
        config = asdict(self.config)
        return {
            "weights": gmm.weights.numpy(),
            "ubm_means": gmm.means.numpy(),
            "ubm_covariances": gmm.covariances.numpy(),
            "means": gmm.means.numpy(),
            "covariances": gmm.covariances.numpy(),
            "t": self.config.start_scale * deviation[:, :, None] * noise,
            "objectives": np.zeros(0),
            "features": ubm["features"],
            "config": np.array(json.dumps(config)),
        }

    def _model(self, state: Arrays, device: str = "cpu") -> TotalVariability:
        return TotalVariability(*(torch.from_numpy(state[k]) for k in ("means", "covariances", "t"))).to(device)

    def _statistics(
        self, model: TotalVariability, shard: tuple[int, int], work: Path
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Scaled n (U, C) and f (U, C, F) of this job, chunk by chunk."""
        for path in share_of(work / "chunks", shard):
            chunk = load(path)
            if len(chunk["n"]):
                n, f = (torch.from_numpy(chunk[name]).to(model.t.device) for name in ("n", "f"))
                yield self.config.posterior_scale * n.double(), self.config.posterior_scale * f.double()

    def _moments(self, model: TotalVariability, shard: tuple[int, int], work: Path) -> Arrays:
        """Sums of the training set's i-vectors and of their products: what post-processing subtracts and whitens."""
        first = torch.zeros(model.dim, dtype=torch.float64, device=model.t.device)
        second, count = first.new_zeros(model.dim, model.dim), 0
        for n, f in self._statistics(model, shard, work):
            size = model.batches(n)
            for n_part, f_part in zip(n.split(size), f.split(size), strict=True):
                w = model.posterior(n_part, model.centre(n_part, f_part)).w
                first, second, count = first + w.sum(0), second + w.T @ w, count + len(w)
        return {"first": first.cpu().numpy(), "second": second.cpu().numpy(), "count": np.array(count)}

    def _centre(self, shares: Iterable[Arrays]) -> Arrays:
        first, second, count = 0.0, 0.0, 0
        for part in shares:
            first, second, count = first + part["first"], second + part["second"], count + int(part["count"])
        mean = first / count
        return {"vector_mean": mean, "vector_covariance": second / count - np.outer(mean, mean)}


def _variance(state: Arrays) -> torch.Tensor:
    """The variance (F,) of the features, from the mixture's moments."""
    weights, means, covariances = (torch.from_numpy(state[k]) for k in ("weights", "ubm_means", "ubm_covariances"))
    mean = weights @ means
    return weights @ (covariances.diagonal(dim1=1, dim2=2) + means.square()) - mean.square()
