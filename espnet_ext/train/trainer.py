"""ESPnet's trainer with open-set validation, a margin schedule, bf16, torch.compile, progress, and safe checkpoints."""

import argparse
import dataclasses
import logging
from pathlib import Path

import numpy as np
import torch
from espnet2.torch_utils.device_funcs import to_device
from espnet2.train.reporter import to_reported_value
from espnet2.train.trainer import Trainer as EspnetTrainer
from espnet2.train.trainer import TrainerOptions as EspnetTrainerOptions
from espnet2.utils.build_dataclass import build_dataclass
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str2bool

from espnet_ext.datadir.trials import Trials
from espnet_ext.errors import UserError
from espnet_ext.metrics.detection import eer, min_dcf
from espnet_ext.train.checkpoint import (
    STEPS,
    atomic_saves,
    load,
    mend_outputs,
    optimizer_steps,
    remove_leftovers,
    restore,
    restore_optimizer,
)
from espnet_ext.train.progress import Progress
from espnet_ext.train.rank import RankMonitor
from espnet_ext.train.schedule import MarginSchedule
from espnet_ext.train.trials import TrialLoader

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16}


@dataclasses.dataclass
class TrainerOptions(EspnetTrainerOptions):
    """ESPnet's options and ours, see ``Trainer.add_arguments``."""

    autocast: str
    compile: bool
    margin_conf: dict
    progress_interval_s: float
    rank_conf: dict


class Trainer(EspnetTrainer):
    """ESPnet's ``Trainer``; a model with ``embed(speech, lengths)`` can be validated on trials of unseen speakers.

    ESPnet's ``SpkTrainer`` decodes both files of every trial twice, keeps every crop in memory, reports a deviation
    as the mean of the non-targets, and splits ties in its metrics; here each utterance is read and embedded once and
    only its embedding is kept.

    The optimiser's steps are counted where it makes them (ESPnet has iterations only) and noted as ``optim_steps``.
    """

    _rank_monitor: RankMonitor | None = None  # of the first process, with rank_conf
    _steps = 0  # of the optimiser since the training began

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("Trainer of espnet_ext")
        group.add_argument(
            "--autocast",
            default="float32",
            choices=list(AUTOCAST),
            help="bfloat16 runs the forward pass in mixed precision on CPU and GPU, with no loss scaling",
        )
        group.add_argument("--compile", type=str2bool, default=False, help="torch.compile the encoder (or the model)")
        group.add_argument(
            "--margin_conf",
            action=NestedDictAction,
            default={},
            help="Margin schedule: final, initial, start_epoch, end_epoch, shape; empty keeps loss_conf's margin",
        )
        group.add_argument(
            "--progress_interval_s", type=float, default=30.0, help="Seconds between progress lines in a log file"
        )
        group.add_argument(
            "--rank_conf",
            action=NestedDictAction,
            default={},
            help="Watch RankMe-t of every layer: data, num_utterances, every_epochs, every_steps, keep, …",
        )

    @classmethod
    def build_options(cls, args: argparse.Namespace) -> TrainerOptions:
        return build_dataclass(TrainerOptions, args)

    @classmethod
    def run(cls, model, trainer_options, **kwargs) -> None:
        """Train; see ESPnet's ``Trainer.run``. Resumes by itself from ``checkpoint.pth`` with ``--resume true``."""
        dtype = AUTOCAST[trainer_options.autocast]
        if dtype is not None:
            if trainer_options.use_amp:
                raise UserError("--use_amp true and --autocast bfloat16 exclude each other; leave --use_amp out")
            device = "cuda" if trainer_options.ngpu > 0 else "cpu"
            model.forward = torch.autocast(device, dtype=dtype)(model.forward)
        if trainer_options.compile:
            # In place, so that the names in the state dict stay.
            getattr(model, "encoder", model).compile()
        cls._options, cls._steps = trainer_options, 0
        cls._rank_monitor = None
        if kwargs["distributed_option"].dist_rank in (None, 0):
            remove_leftovers(Path(trainer_options.output_dir))
            if trainer_options.rank_conf:
                cls._rank_monitor = RankMonitor(trainer_options.output_dir, **trainer_options.rank_conf)
        logging.getLogger().addFilter(_worth_saying)
        with atomic_saves():
            super().run(model=model, trainer_options=trainer_options, **kwargs)

    @classmethod
    def resume(cls, checkpoint, model, reporter, optimizers, schedulers, scaler, ngpu=0, strict=True) -> None:
        """Continue from ``checkpoint``; a state that does not fit this configuration is one line, not a traceback."""
        path = Path(checkpoint)
        states = load(path, f"cuda:{torch.cuda.current_device()}" if ngpu > 0 else "cpu")
        restore(lambda: model.load_state_dict(states["model"], strict=strict), "model", path)
        reporter.load_state_dict(states["reporter"])
        cls._steps = optimizer_steps(reporter.stats, cls._options.accum_grad).get(reporter.get_epoch(), 0)
        for optimizer, scheduler, state in zip(optimizers, schedulers, states["optimizers"], strict=True):
            restore(lambda o=optimizer, s=state, c=scheduler: restore_optimizer(o, s, c is None), "optimiser", path)
        for scheduler, state in zip(schedulers, states["schedulers"], strict=True):
            if scheduler is not None and state is not None:
                restore(lambda o=scheduler, s=state: o.load_state_dict(s), "scheduler", path)
        if scaler is not None and states["scaler"] is not None:
            scaler.load_state_dict(states["scaler"])
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            mend_outputs(states, reporter, path.parent, cls._options.best_model_criterion)
        logging.info(f"Resumed after epoch {reporter.get_epoch()} from {path}")

    @classmethod
    def train_one_epoch(cls, model, iterator, reporter, options, **kwargs) -> bool:
        """Train for one epoch; returns True where no step had a finite gradient."""
        try:
            iterations = len(iterator)
        except TypeError:
            iterations = None
        epoch = reporter.get_epoch()
        set_margin = _margin_setter(model, options)
        progress = Progress(iterations, epoch, options.max_epoch, options.progress_interval_s)
        rank0 = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        for optimizer in kwargs["optimizers"]:
            # Where accum_grad does not divide the iterations, ESPnet carries the last gradients into the next epoch; a
            # training that is resumed there has none.
            optimizer.zero_grad()

        def monitored(when: str) -> None:
            if cls._rank_monitor is not None:
                getattr(cls._rank_monitor, when)(model, cls._steps, epoch, kwargs.get("summary_writer"))

        def count(*_) -> None:
            cls._steps += 1

        def batches():
            for number, batch in enumerate(iterator):
                if set_margin is not None:
                    set_margin(epoch - 1 + number / (iterations or number + 1))
                monitored("after_step")
                yield batch

        watched = progress.watch(batches(), lambda: _loss_of(reporter)) if rank0 else batches()
        # Not by the iterations: ESPnet makes no step where the gradients' norm is not finite.
        counter = kwargs["optimizers"][0].register_step_post_hook(count)
        try:
            failed = super().train_one_epoch(
                model=model, iterator=_Sized(watched, iterations), reporter=reporter, options=options, **kwargs
            )
        finally:
            counter.remove()
        reporter.stats[STEPS] = [to_reported_value(cls._steps)] * max(1, reporter.count)
        monitored("after_step")
        monitored("after_epoch")
        return failed

    @classmethod
    @torch.no_grad()
    def validate_one_epoch(cls, model, iterator, reporter, options, distributed_option) -> None:
        """Embed the dev utterances and report ``eer`` (%), ``mindcf`` (p_target 0.05), and the scores' statistics.

        With an iterator that has no trials this is ESPnet's validation by the loss.
        """
        if not isinstance(iterator, TrialLoader):
            super().validate_one_epoch(model, iterator, reporter, options, distributed_option)
            return
        model.eval()
        base = model.module if hasattr(model, "module") else model
        # Utterances of every length would have the encoder compiled again and again.
        with torch.compiler.set_stance("force_eager"):
            device = "cuda" if options.ngpu > 0 else "cpu"
            embeddings = embed_all(base, iterator, device, AUTOCAST[options.autocast])
        if distributed_option.distributed:
            shares = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(shares, embeddings)
            embeddings = {utt: vectors for share in shares for utt, vectors in share.items()}
        stats = trial_statistics(embeddings, iterator.trials)
        if iterator.num_speakers is not None:
            stats["n_spk"] = iterator.num_speakers
        reporter.register(stats)
        reporter.next()


def embed_all(model, batches, device: str, dtype: torch.dtype | None = None) -> dict[str, np.ndarray]:
    """Return ``{utterance: float32 (crops, size)}`` with unit rows for ``(utterances, batch)`` pairs."""
    embeddings: dict[str, np.ndarray] = {}
    for utterances, batch in batches:
        batch = to_device(repeat_short(batch, getattr(model, "min_samples", 1)), device)
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None):
            vectors = model.embed(batch["speech"], batch["speech_lengths"])
        vectors = torch.nn.functional.normalize(vectors.float()).cpu().numpy()
        for utt, crops in zip(utterances, np.split(vectors, len(utterances)), strict=True):
            embeddings[utt] = crops
    return embeddings


def repeat_short(batch: dict[str, torch.Tensor], min_samples: int) -> dict[str, torch.Tensor]:
    """Repeat utterances that are shorter than the model can embed until they have ``min_samples``."""
    speech, lengths = batch["speech"], batch["speech_lengths"]
    short = torch.nonzero(lengths < min_samples).flatten().tolist()
    if not short:
        return batch
    speech = torch.nn.functional.pad(speech, (0, max(0, min_samples - speech.shape[1])))
    for row in short:
        times = -(-min_samples // int(lengths[row]))
        speech[row, :min_samples] = speech[row, : lengths[row]].repeat(times)[:min_samples]
    return {"speech": speech, "speech_lengths": lengths.clamp(min=min_samples)}


def trial_statistics(embeddings: dict[str, np.ndarray], trials: Trials) -> dict[str, float]:
    """Score trials by the mean cosine over all pairs of crops; EER in %, minDCF at 0.05 as ESPnet reports them."""
    # The mean over all pairs of crops is the product of the two mean vectors.
    means = np.stack([embeddings[utt].mean(axis=0) for utt in trials.utterances])
    row = {utt: i for i, utt in enumerate(trials.utterances)}
    enroll = np.array([row[utt] for utt in trials.enroll])
    test = np.array([row[utt] for utt in trials.test])
    scores = np.concatenate(
        [
            np.einsum("nd,nd->n", means[enroll[i : i + 100_000]], means[test[i : i + 100_000]])
            for i in range(0, len(trials), 100_000)
        ]
    )
    if not np.isfinite(scores).all():
        logging.warning("The model gives embeddings that are not finite; this epoch counts as chance")
        return {"eer": 50.0, "mindcf": 1.0, "n_trials": len(scores)}
    target, nontarget = scores[trials.labels == 1], scores[trials.labels == 0]
    return {
        "eer": 100 * eer(scores, trials.labels),
        "mindcf": min_dcf(scores, trials.labels, p_target=0.05),
        "n_trials": len(scores),
        "trg_mean": float(target.mean()),
        "trg_std": float(target.std()),
        "nontrg_mean": float(nontarget.mean()),
        "nontrg_std": float(nontarget.std()),
    }


def _worth_saying(record: logging.LogRecord) -> bool:
    """Drop the line per batch normalisation that averaging the best models writes."""
    return not record.getMessage().startswith("Accumulating ")


class _Sized:
    """An iterator with the length that ESPnet asks for to choose its log interval."""

    def __init__(self, iterator, length: int | None):
        self.iterator, self.length = iterator, length

    def __iter__(self):
        return iter(self.iterator)

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("the length is not known")
        return self.length


def _margin_setter(model, options: TrainerOptions):
    if not options.margin_conf:
        return None
    loss = getattr(getattr(model, "module", model), "loss", None)
    if not hasattr(loss, "set_margin"):
        raise UserError("margin_conf: this model's loss has no margin; leave margin_conf out or choose aamsoftmax")
    schedule = MarginSchedule(**options.margin_conf)
    return lambda epoch: loss.set_margin(schedule(epoch))


def _loss_of(reporter) -> str:
    values = reporter.stats.get("loss")
    return f", loss {values[-1].value:.3f}" if values else ""
