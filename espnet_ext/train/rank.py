"""RankMe-t of an encoder's layers (arXiv 2409.10787) over a fixed list, and the hook that watches it in a training."""

import csv
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.metrics.rank import EPS, POOLS, Rank, RankAccumulator
from espnet_ext.train.rank_list import RankList, read_ids

log = logging.getLogger(__name__)

Batch = tuple[list[str], torch.Tensor, torch.Tensor]
Encode = Callable[[torch.Tensor, torch.Tensor], tuple[Sequence[torch.Tensor], torch.Tensor]]


def pooled(hidden: torch.Tensor, frames: torch.Tensor, pool: str = "sum") -> torch.Tensor:
    """Return (batch, size) float64: sum or mean over the valid frames of hidden (batch, time, size).

    What lies behind the end is left out after the layer: norms and biases make padding non-zero.
    """
    behind = torch.arange(hidden.size(1), device=hidden.device)[None] >= frames[:, None]
    precision = torch.float32 if hidden.device.type == "mps" else torch.float64  # Apple's GPUs know no float64
    total = hidden.masked_fill(behind[..., None], 0.0).sum(dim=1, dtype=precision)
    return total / frames[:, None] if pool == "mean" else total


def pooled_layers(
    encode: Encode,
    batches: Iterable[Batch],
    device: str = "cpu",
    pool: str = "sum",
    layers: Sequence[int] | None = None,
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yield ids and the pooled vectors (batch, size) float64 of every layer (or of ``layers``), batch by batch.

    Errors: ``UserError`` that names the utterance and the layer where an encoder gives NaN or infinity.
    """
    for utts, wav, lengths in batches:
        with torch.no_grad():
            states, frames = encode(wav.to(device), lengths.to(device))
            chosen = range(len(states)) if layers is None else layers
            vectors = [pooled(states[number], frames, pool).cpu().numpy() for number in chosen]
        for number, rows in zip(chosen, vectors, strict=True):
            broken = ~np.isfinite(rows).all(axis=1)
            if broken.any():
                raise UserError(
                    f"layer {number} of utterance {utts[int(broken.argmax())]} holds NaN or infinity: the encoder's "
                    "weights have diverged; take an earlier checkpoint"
                )
        yield utts, vectors


def layer_ranks(pooled_batches: Iterable[tuple[list[str], list[np.ndarray]]], eps: float) -> list[Rank]:
    """Return the rank of every layer of ``pooled_layers``; memory is bounded by 2 K^2 float64 per layer."""
    accumulators: list[RankAccumulator] = []
    for _, vectors in pooled_batches:
        accumulators = accumulators or [RankAccumulator(rows.shape[1], "the layer") for rows in vectors]
        for accumulator, rows in zip(accumulators, vectors, strict=True):
            accumulator.add(rows)
    return [accumulator.rank(eps) for accumulator in accumulators]


def find_encoder(model: torch.nn.Module) -> torch.nn.Module:
    """Return the part of a model that has ``hidden_states(wav, lengths)`` and ``samples_for``."""
    model = getattr(model, "module", model)
    for part in (getattr(model, "encoder", None), getattr(model, "frontend", None), model):
        if hasattr(part, "hidden_states") and hasattr(part, "samples_for"):
            return part
    raise UserError("rank_conf: this model has no encoder with layers to measure the rank of; leave rank_conf out")


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and afterwards back into its modes, and every random state where it was."""
    modes = {module: module.training for module in model.modules()}
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    try:
        with torch.random.fork_rng(devices=sorted(device.index for device in devices)):
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def kept_steps(folder: Path) -> dict[Path, int]:
    """Return the weights that ``RankMonitor`` has kept in a training's folder, and after how many steps."""
    found = {path: path.name.removesuffix("step.pth") for path in folder.glob("*step.pth")}
    steps = {path: int(number) for path, number in found.items() if number.isdigit()}
    return dict(sorted(steps.items(), key=lambda entry: entry[1]))


class RankMonitor:
    """Measures the rank of every layer now and then in a training, without a trace in the training.

    Values go to the log, to TensorBoard as ``rankme_t/layer_<l>``, and to ``rank.csv`` in the training's folder; the
    list of utterances to ``rank_utterances``.

    Args:
        output_dir: of the training.
        data: data directory; task ``ssl`` fills in its dev_dir. utt_list: a file with the utterances to take.
        num_utterances: evenly spread; the value grows with it, so keep it for all trainings that are compared.
        every_epochs, every_steps: when; steps are the optimiser's. 0: never. The first is before the first step.
        keep: save the weights whose rank was measured to ``<step>step.pth``, for a curve or a study afterwards.
        max_s, pool, eps: see ``RankList``, ``rankme_t``, ``rankme``. batch_s: seconds of audio at a time.
    """

    FIELDS = ("step", "epoch", "layer", "rankme_t", "share", "mean_cosine", "unit_std", "num_utterances", "seconds",
              "max_s", "pool", "eps", "list", "wall_time_s")  # fmt: skip

    def __init__(
        self,
        output_dir: str | Path,
        data: str | None = None,
        utt_list: str | None = None,
        num_utterances: int = 1000,
        every_epochs: int = 1,
        every_steps: int = 0,
        keep: bool = False,
        max_s: float = 20.0,
        pool: str = "sum",
        eps: float = EPS,
        batch_s: float = 30.0,
    ):
        if not data:
            raise UserError("rank_conf: data is missing, the data directory whose utterances are measured")
        if pool not in POOLS or every_epochs < 0 or every_steps < 0 or not (max_s > 0 and batch_s > 0 and eps >= 0):
            raise UserError(
                f"rank_conf: pool must be {' or '.join(POOLS)}; every_epochs, every_steps, eps not below 0; max_s and "
                "batch_s above 0"
            )
        self.folder = Path(output_dir)
        ids = None if utt_list is None else read_ids(utt_list)
        self.list = RankList(DataDir(data), str(data), ids, num_utterances, max_s, skip_broken=True)
        self.every_epochs, self.every_steps, self.keep = every_epochs, every_steps, keep
        self.pool, self.eps, self.batch_s, self.max_s = pool, eps, batch_s, max_s
        self._done: set[int] = set()

    def after_step(self, model: torch.nn.Module, step: int, epoch: int, writer=None) -> None:
        """Measure if ``step`` steps are a multiple of ``every_steps``; step 0 is always measured."""
        if step == 0 or (self.every_steps and step % self.every_steps == 0):
            self.measure(model, step, epoch, writer)

    def after_epoch(self, model: torch.nn.Module, step: int, epoch: int, writer=None) -> None:
        """Measure if ``epoch`` is a multiple of ``every_epochs``."""
        if self.every_epochs and epoch % self.every_epochs == 0:
            self.measure(model, step, epoch, writer)

    def measure(self, model: torch.nn.Module, step: int, epoch: int, writer=None) -> list[Rank]:
        """Measure, log and write; returns the rank of every layer. A step that has been measured is left alone."""
        if step in self._done:
            return []
        self._done.add(step)
        start = time.perf_counter()
        model = getattr(model, "module", model)
        encoder = find_encoder(model)
        self.list.min_samples = encoder.samples_for(1)
        device = str(next(encoder.parameters()).device)
        # Utterances of every length would have a compiled encoder compiled again and again.
        with undisturbed(model), torch.compiler.set_stance("force_eager"):
            batches = self.list.batches(self.batch_s)
            ranks = layer_ranks(pooled_layers(encoder.hidden_states, batches, device, self.pool), self.eps)
        wall_s = time.perf_counter() - start
        shown = ", ".join(f"{number}: {rank.rankme:.1f}" for number, rank in enumerate(ranks))
        log.info(
            "step %d: RankMe-t by layer %s (%d utterances, %.1f min, %.1f s)",
            step, shown, len(self.list), self.list.seconds / 60, wall_s,
        )  # fmt: skip
        if writer is not None:
            for number, rank in enumerate(ranks):
                writer.add_scalar(f"rankme_t/layer_{number}", rank.rankme, step)
        self._write(ranks, step, epoch, wall_s)
        if self.keep:
            for path, other in kept_steps(self.folder).items():
                if other > step:  # of a run that was killed, or given anew
                    path.unlink()
            with atomic_write(self.folder / f"{step}step.pth", "wb") as file:
                torch.save({name: value.detach().cpu() for name, value in model.state_dict().items()}, file)
        return ranks

    def _write(self, ranks: list[Rank], step: int, epoch: int, wall_s: float) -> None:
        """Add this step to ``rank.csv``; rows of this step and later ones come from a run that was killed."""
        path = self.folder / "rank.csv"
        rows = []
        if path.is_file() and step:
            with open(path, encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
            if rows and rows[-1]["list"] != self.list.checksum:
                log.warning("%s: earlier steps were measured on another list; their ranks do not compare", path)
        facts = [len(self.list), round(self.list.seconds, 1), self.max_s, self.pool, self.eps, self.list.checksum]
        for number, rank in enumerate(ranks):
            values = [rank.rankme, rank.share, rank.mean_cosine, rank.unit_std]
            row = [step, epoch, number, *(round(value, 6) for value in values), *facts, round(wall_s, 2)]
            rows.append(dict(zip(self.FIELDS, row, strict=True)))
        with atomic_write(path) as file:
            writer = csv.DictWriter(file, self.FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self.list.write(self.folder / "rank_utterances")
