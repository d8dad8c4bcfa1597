"""What every task of ours shares, so that a new one says only what is its own."""

import argparse
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.tasks.abs_task import AbsTask, scheduler_classes
from espnet2.train.distributed_utils import get_rank
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_ext.files import only_writer
from espnet_ext.tasks.config import accepted_keys, check_keys, parse_args
from espnet_ext.train.plain import plain
from espnet_ext.train.schedule import EpochSchedule
from espnet_ext.train.settings import kept_settings
from espnet_ext.train.trainer import Trainer

# One more value of --scheduler.
scheduler_classes["epochs"] = EpochSchedule


class Task(AbsTask):
    """An ``AbsTask`` with our trainer and defaults that run; a subclass names its model and its data.

    ``model_class`` is built from ``model_conf`` (or ``build_model`` is overridden); ``data_names`` and
    ``optional_names`` are the names in ``--train_data_path_and_name_and_type``, which reach the model's ``forward``
    as ``name`` and, where it varies, ``name_lengths``.
    """

    model_class: ClassVar[type | None] = None
    data_names: ClassVar[tuple[str, ...]] = ()
    optional_names: ClassVar[tuple[str, ...]] = ()
    trainer = Trainer

    @classmethod
    def get_parser(cls):
        parser = super().get_parser()
        # ESPnet's defaults end in errors without more options (folded) or after the first epoch (attention plots).
        parser.set_defaults(batch_type="unsorted", num_att_plot=0, resume=True, use_matplotlib=False)
        parser.set_defaults(**cls.defaults())
        return parser

    @classmethod
    def defaults(cls) -> dict:
        """Return the options whose defaults differ for this task."""
        return {"optim": "adam", "optim_conf": {"lr": 1e-3}}

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--model_conf", action=NestedDictAction, default={}, help="Arguments of the model")

    @classmethod
    def main(cls, args: argparse.Namespace | None = None, cmd: Sequence[str] | None = None) -> None:
        """ESPnet's entry; ``complete`` sees the parsed options first."""
        if args is None:
            args = parse_args(cls, cmd)
        if not args.print_config:
            cls.complete(args)
        super().main(args=args)

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """One process of a training; where ESPnet starts several, each says its error itself, in one line."""
        try:
            with cls._own_folder(args), _ended_group(args):
                super().main_worker(args)
        except Exception as error:
            message = plain(error) if args.multiprocessing_distributed else None
            if message is None:
                raise
            print(f"train: error: {message}", file=sys.stderr, flush=True)
            sys.exit(2)

    @classmethod
    @contextmanager
    def _own_folder(cls, args: argparse.Namespace) -> Iterator[None]:
        """Let the first process hold ``output_dir`` and look at what was trained there before."""
        rank = get_rank(args.dist_rank, args.dist_launcher) if args.distributed else 0
        if args.dry_run or rank:
            yield
            return
        with only_writer(args.output_dir), kept_settings(args, [choices.name for choices in cls.class_choices_list]):
            yield

    @classmethod
    def complete(cls, args: argparse.Namespace) -> None:
        """Fill in what follows from the options and the data, and check it (``UserError``)."""
        if cls.model_class is not None:
            check_keys(args.model_conf, accepted_keys(cls.model_class), "model_conf")
        for part in ("train", "valid"):
            data = getattr(args, f"{part}_data_path_and_name_and_type")
            # `unsorted` needs the keys alone, but ESPnet insists on a shape file for them.
            if data and not getattr(args, f"{part}_shape_file"):
                setattr(args, f"{part}_shape_file", [data[0][0]])

    @classmethod
    def build_model(cls, args: argparse.Namespace):
        return cls.model_class(**args.model_conf)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool):
        return None

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool):
        return pad_arrays

    @classmethod
    def build_epochs(cls, args: argparse.Namespace, distributed_option, mode: str, sampler) -> SequenceIterFactory:
        """Return the data of ``mode`` (train, valid) in the batches that ``sampler`` makes for each epoch."""
        options = cls.build_iter_options(args, distributed_option, mode)
        logging.info(f"[{mode}] {sampler}")
        return SequenceIterFactory(
            dataset=cls.build_dataset(args, options),
            batches=sampler,
            seed=args.seed,
            num_iters_per_epoch=options.num_iters_per_epoch,
            shuffle=mode == "train",
            num_workers=args.num_workers,
            collate_fn=options.collate_fn,
            pin_memory=args.ngpu > 0,
        )

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        return cls.data_names

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        return cls.optional_names


@contextmanager
def _ended_group(args: argparse.Namespace) -> Iterator[None]:
    """End the process group and its threads; ESPnet leaves them to the interpreter's end, which gloo may abort."""
    if args.distributed:
        # Defaults of its functions are the group of the moment it is imported, which DDP does: they would keep it.
        importlib.import_module("torch.distributed.nn.functional")
    yield
    # Not after an error: the other processes may still wait for this one.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def share(distributed_option) -> tuple[int, int]:
    """Return this process's part of every batch: (rank, world size)."""
    if not distributed_option.distributed:
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def pad_arrays(items: Sequence[tuple[str, dict[str, np.ndarray]]]) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Stack ``(key, {name: array (length, …)})`` into ``name`` (batch, longest, …) and ``name_lengths`` (batch,).

    Where every array has the same length there is no padding, and no ``name_lengths`` either.
    """
    batch: dict[str, torch.Tensor] = {}
    for name in items[0][1]:
        arrays = [torch.as_tensor(data[name]) for _, data in items]
        if len({len(array) for array in arrays}) == 1:
            batch[name] = torch.stack(arrays)
        else:
            batch[name] = torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True)
            batch[f"{name}_lengths"] = torch.tensor([len(array) for array in arrays])
    return [key for key, _ in items], batch
