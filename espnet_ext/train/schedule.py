"""Learning rate and margin over a training, with lengths in epochs.

ESPnet's schedules count steps. A cosine of 71,280 steps restarts in the middle of a training whose epochs are not
the length its author had; here the number of iterations per epoch is given by the task, which knows it.
"""

import math
from dataclasses import dataclass

import torch
from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler

from espnet_ext.errors import UserError

SHAPES = ("cosine", "linear", "exponential", "constant")


class EpochSchedule(torch.optim.lr_scheduler.LRScheduler, AbsBatchStepScheduler):
    """Linear warm-up, then a fall from the optimiser's learning rate to ``min_lr``.

    Args:
        optimizer: its ``lr`` is the highest rate.
        shape: ``cosine``, ``linear`` (fairseq's polynomial decay), ``exponential`` or ``constant``.
        warmup_epochs: the rate rises linearly from ``min_lr`` over that long (0.5 is half an epoch).
        min_lr: the rate at the end.
        cycle_epochs: length of a cycle, warm-up not counted; None (default) is all that is left, no restart.
        cycle_decay: each cycle's highest rate is this times the one before.
        num_epochs, iters_per_epoch: filled in by the task from ``max_epoch`` and the data (steps of the optimiser).
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        shape: str = "cosine",
        warmup_epochs: float = 0.0,
        min_lr: float = 0.0,
        cycle_epochs: float | None = None,
        cycle_decay: float = 1.0,
        num_epochs: float | None = None,
        iters_per_epoch: int | None = None,
        last_epoch: int = -1,
    ):
        if shape not in SHAPES:
            raise UserError(f"scheduler_conf: shape {shape!r} is not one of {', '.join(SHAPES)}")
        if not iters_per_epoch or not num_epochs:
            raise UserError("scheduler_conf: iterations per epoch are not known here; set iters_per_epoch, num_epochs")
        if not 0 <= warmup_epochs < num_epochs:
            raise UserError(f"scheduler_conf: warmup_epochs {warmup_epochs} is not less than the {num_epochs} epochs")
        if shape == "exponential" and min_lr <= 0:
            raise UserError("scheduler_conf: an exponential schedule needs min_lr above 0")
        self.shape, self.min_lr, self.cycle_decay = shape, min_lr, cycle_decay
        self.warmup_steps = round(warmup_epochs * iters_per_epoch)
        self.total_steps = max(1, round(num_epochs * iters_per_epoch))
        rest = self.total_steps - self.warmup_steps
        self.cycle_steps = max(1, round(cycle_epochs * iters_per_epoch) if cycle_epochs else rest)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the learning rate of each parameter group after ``last_epoch`` steps."""
        return [self.lr_at(self.last_epoch, base) for base in self.base_lrs]

    def lr_at(self, step: int, base: float) -> float:
        """Return the learning rate at a step of the optimiser for a highest rate of ``base``."""
        if step < self.warmup_steps:
            return self.min_lr + (base - self.min_lr) * (step + 1) / self.warmup_steps
        cycle, place = divmod(step - self.warmup_steps, self.cycle_steps)
        if step >= self.total_steps:
            cycle, place = divmod(self.total_steps - self.warmup_steps - 1, self.cycle_steps)
        high = max(self.min_lr, base * self.cycle_decay**cycle)
        done = place / max(1, self.cycle_steps - 1)
        if self.shape == "constant":
            return high
        if self.shape == "exponential":
            return high * (self.min_lr / high) ** done
        left = 1 - done if self.shape == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.min_lr + (high - self.min_lr) * left

    def state_dict(self) -> dict:
        """Return the step alone: lengths follow the configuration, so that a training can be prolonged on resume."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict) -> None:
        self.last_epoch = state_dict["last_epoch"]
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = self.get_lr()


@dataclass(frozen=True)
class MarginSchedule:
    """The margin of an angular loss: ``initial`` before ``start_epoch``, then rising to ``final`` at ``end_epoch``.

    Exponential (WeSpeaker): initial + (final - initial) (1 - e^{(t/T) ln 1e-3}) over the T epochs between, ``final``
    afterwards; ``linear`` rises evenly. Epochs are counted from 0 at the first iteration.
    """

    final: float
    initial: float = 0.0
    start_epoch: float = 20.0
    end_epoch: float = 40.0
    shape: str = "exponential"

    def __post_init__(self):
        if self.shape not in ("exponential", "linear"):
            raise UserError(f"margin_conf: shape {self.shape!r} is not one of exponential, linear")
        if not 0 <= self.start_epoch <= self.end_epoch:
            raise UserError(f"margin_conf: start_epoch {self.start_epoch} must come before end_epoch {self.end_epoch}")

    def __call__(self, epoch: float) -> float:
        """Return the margin (radians) after ``epoch`` epochs, fractions included."""
        if epoch < self.start_epoch:
            return self.initial
        if epoch >= self.end_epoch:
            return self.final
        done = (epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)
        if self.shape == "exponential":
            done = 1 - math.exp(done * math.log(1e-3))
        return self.initial + (self.final - self.initial) * done
