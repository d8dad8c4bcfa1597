"""Task ``ssl``: HuBERT pre-training (arXiv 2106.07447) on any streams of units (arXiv 2409.10788)."""

import argparse

from espnet2.utils.types import str2bool, str_or_none

from espnet_ext.ssl.model import HubertPretraining
from espnet_ext.tasks.base import Task, share
from espnet_ext.tasks.choices import LazyChoices
from espnet_ext.tasks.ssl_data import MAX_FOLDERS, complete_data, folders_of, lengths_of
from espnet_ext.train.length_sampler import LengthSampler

encoder_choices = LazyChoices("encoder", {"hubert": "espnet_ext.ssl.encoder:HubertEncoder"}, default="hubert")
preprocessor_choices = LazyChoices(
    "preprocessor", {"units": "espnet_ext.ssl.preprocess:UnitPreprocessor"}, default="units"
)


class SslTask(Task):
    """Masked prediction of units: data directories and folders of units in, an encoder out.

    ESPnet's ``hubert`` takes one stream, as text; its batches repeat from epoch to epoch, and its loss is a sum.
    """

    num_optimizers = 1
    class_choices_list = [encoder_choices, preprocessor_choices]
    model_class = None
    data_names = ("speech", "units0")
    optional_names = tuple(f"units{place}" for place in range(1, MAX_FOLDERS))

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        super().add_task_arguments(parser)
        group = parser.add_argument_group("SSL task")
        group.add_argument("--train_dir", type=str_or_none, default=None, help="Data directory to train on")
        group.add_argument("--dev_dir", type=str_or_none, default=None, help="Data directory to validate on")
        group.add_argument("--train_units", nargs="+", default=[], help="Folders of units (make_units) of train_dir")
        group.add_argument("--dev_units", nargs="+", default=[], help="The same of dev_dir, by the same centroids")
        group.add_argument("--min_s", type=float, default=0.5, help="Shorter utterances are left out, seconds")
        group.add_argument(
            "--drop_padding",
            type=str2bool,
            default=False,
            help="Cut the utterances of a training batch to its shortest at a random place, instead of padding them",
        )
        group.add_argument("--num_units", type=int, nargs="+", default=[], help="Filled in from train_units")
        group.add_argument("--stream_names", nargs="+", default=[], help="Filled in from train_units")
        group.add_argument("--quantizers", nargs="+", default=[], help="Which centroids; filled in from train_units")
        for choices in cls.class_choices_list:
            choices.add_arguments(group)

    @classmethod
    def defaults(cls) -> dict:
        return {
            "optim": "adamw",  # ESPnet's adam adds the decay to the gradient, which outweighs it; fairseq's does not
            "optim_conf": {"lr": 5e-4, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.01},
            "best_model_criterion": [["valid", "loss_m", "min"]],
            "val_scheduler_criterion": ["valid", "loss_m"],
            "keep_nbest_models": [1],
            "grad_clip": 10.0,
            "iterator_type": "task",
            "batch_bins": 1_400_000,
        }

    @classmethod
    def complete(cls, args: argparse.Namespace) -> None:
        complete_data(cls, args)
        super().complete(args)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool):
        preprocessor = preprocessor_choices.get_class(args.preprocessor)
        geometry = encoder_geometry(args)
        return preprocessor(folders_of(args, train), geometry, train, **args.preprocessor_conf)

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool):
        from espnet_ext.ssl.preprocess import UnitCollator

        return UnitCollator(encoder_geometry(args), drop_padding=train and args.drop_padding)

    @classmethod
    def build_iter_factory(cls, args, distributed_option, mode: str, kwargs: dict | None = None):
        if mode not in ("train", "valid") or args.iterator_type != "task":
            return super().build_iter_factory(args, distributed_option, mode, kwargs)
        train = mode == "train"
        sampler = LengthSampler(
            lengths_of(args, train), args.batch_bins, shuffle=train, seed=args.seed, share=share(distributed_option)
        )
        return cls.build_epochs(args, distributed_option, mode, sampler)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> HubertPretraining:
        encoder = encoder_choices.get_class(args.encoder)(**args.encoder_conf)
        return HubertPretraining(encoder, args.num_units, args.stream_names or None, **args.model_conf)


def encoder_geometry(args: argparse.Namespace):
    """Return kernels and strides of the encoder that ``args`` describe."""
    from espnet_ext.ssl.geometry import Geometry

    default = Geometry()
    conf = args.encoder_conf
    return Geometry.of(conf.get("conv_kernel", default.kernels), conf.get("conv_stride", default.strides))
