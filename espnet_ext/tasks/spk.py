"""Task ``spk`` (arXiv 2401.17230): speaker embeddings, trained by classification, validated on unseen speakers."""

import argparse

import torch
from espnet2.torch_utils.initialize import initialize
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import int_or_none, str2bool, str_or_none

from espnet_ext.errors import UserError
from espnet_ext.spk.model import SpeakerModel
from espnet_ext.spk.parameters import HeadParameters, count_head
from espnet_ext.tasks.base import Task, share
from espnet_ext.tasks.choices import LazyChoices
from espnet_ext.tasks.config import parse_args
from espnet_ext.tasks.spk_data import PRETRAINED, balanced_sampler, complete_data, dev_factory

frontend_choices = LazyChoices(
    "frontend",
    {
        "melspec_torch": "espnet_ext.audio.features:MelFrontend",
        "default": "espnet2.asr.frontend.default:DefaultFrontend",
        "s3prl": "espnet_ext.upstream.s3prl:S3prlFrontend",
        "huggingface": "espnet_ext.upstream.huggingface:HuggingFaceFrontend",
        "fused": "espnet2.asr.frontend.fused:FusedFrontends",
        "asteroid_frontend": "espnet_ext.audio.features:SincFrontend",
        "torchaudio": "espnet_ext.upstream.torchaudio:TorchaudioFrontend",
        "sliding_window": "espnet2.asr.frontend.windowing:SlidingWindow",
    },
    default="melspec_torch",
    optional=True,
)
specaug_choices = LazyChoices("specaug", {"specaug": "espnet2.asr.specaug.specaug:SpecAug"}, optional=True)
normalize_choices = LazyChoices(
    "normalize",
    {
        "global_mvn": "espnet2.layers.global_mvn:GlobalMVN",
        "utterance_mvn": "espnet_ext.audio.features:UtteranceMVN",
    },
    optional=True,
)
encoder_choices = LazyChoices(
    "encoder",
    {
        "ecapa_tdnn": "espnet_ext.spk.encoders:EcapaTdnnEncoder",
        "e_branchformer": "espnet_ext.spk.encoders_branchformer:EBranchformerEncoder",
        "identity": "espnet_ext.spk.encoders:IdentityEncoder",
        "linear": "espnet_ext.spk.heads:LinearEncoder",
        "mfaconformer": "espnet_ext.spk.encoders_conformer:MfaConformerEncoder",
        "rawnet3": "espnet_ext.spk.encoders:RawNet3Encoder",
        "resnet": "espnet_ext.spk.encoders_2d:ResNetEncoder",
        "ska_tdnn": "espnet_ext.spk.encoders_2d:SkaTdnnEncoder",
        "superb_xvector": "espnet_ext.spk.heads:SuperbXvectorEncoder",
        "xvector": "espnet_ext.spk.encoders:XvectorEncoder",
    },
    default="ecapa_tdnn",
)
pooling_choices = LazyChoices(
    "pooling",
    {
        "attn_stat": "espnet_ext.spk.pooling:AttnStatPooling",
        "chn_attn_stat": "espnet_ext.spk.pooling:ChnAttnStatPooling",
        "mean": "espnet_ext.spk.pooling:MeanPooling",
        "stats": "espnet_ext.spk.pooling:StatsPooling",
    },
    default="chn_attn_stat",
)
projector_choices = LazyChoices(
    "projector",
    {
        "linear": "espnet_ext.spk.heads:LinearProjector",
        "rawnet3": "espnet2.spk.projector.rawnet3_projector:RawNet3Projector",
        "ska_tdnn": "espnet2.spk.projector.ska_tdnn_projector:SkaTdnnProjector",
        "superb": "espnet_ext.spk.heads:SuperbProjector",
        "xvector": "espnet2.spk.projector.xvector_projector:XvectorProjector",
    },
    default="rawnet3",
)
preprocessor_choices = LazyChoices(
    "preprocessor",
    {
        "spk": "espnet_ext.spk.preprocess:SpeakerPreprocessor",
        "common": "espnet2.train.preprocessor:CommonPreprocessor",
    },
    default="spk",
)
loss_choices = LazyChoices(
    "loss",
    {
        "aamsoftmax": "espnet_ext.spk.losses:AAMSoftmax",
        "aamsoftmax_sc_topk": "espnet_ext.spk.losses:SubcenterTopkAAMSoftmax",
        "amsoftmax": "espnet_ext.spk.losses:AMSoftmax",
        "softmax": "espnet_ext.spk.losses:Softmax",
    },
    default="aamsoftmax",
)


class SpeakerTask(Task):
    """ESPnet's ``SpeakerTask`` with its keys and choices, data given as directories, and defaults that work.

    What its defaults did: no frontend, learning rate 1.0, the model with the lowest training loss, a crash in the
    attention plots after the first epoch, and a head whose size the user had to know.
    """

    num_optimizers = 1
    class_choices_list = [
        frontend_choices,
        specaug_choices,
        normalize_choices,
        encoder_choices,
        pooling_choices,
        projector_choices,
        preprocessor_choices,
        loss_choices,
    ]
    data_names = ("speech", "spk_labels")

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("Speaker task")
        group.add_argument("--train_dir", type=str_or_none, default=None, help="Data directory to train on")
        group.add_argument(
            "--dev_dir", type=str_or_none, default=None, help="Data directory with unseen speakers and a trial list"
        )
        group.add_argument("--dev_trials", type=str_or_none, default=None, help="Trials; default: trials in dev_dir")
        group.add_argument(
            "--dev_max_s", type=float, default=20.0, help="Longer dev utterances give their middle part, in seconds"
        )
        group.add_argument("--spk2utt", type=str_or_none, default=None, help="Speakers; default: spk2utt in train_dir")
        group.add_argument("--spk_num", type=int_or_none, default=None, help="Classes; default: counted from spk2utt")
        group.add_argument("--sample_rate", type=int_or_none, default=None, help="Rate of the model in Hz (16000)")
        group.add_argument("--target_duration", type=float, default=None, help="Length of a training crop, seconds (3)")
        group.add_argument(
            "--num_eval",
            type=int_or_none,
            default=None,
            help="Crops of target_duration per dev utterance; 0 (default) embeds it whole",
        )
        group.add_argument("--rir_scp", type=str_or_none, default=None, help="wav.scp of room impulse responses")
        group.add_argument("--input_size", type=int_or_none, default=None, help="Feature size where frontend is null")
        group.add_argument("--use_preprocessor", type=str2bool, default=True, help="false: the data are crops already")
        group.add_argument(
            "--init",
            type=lambda name: str_or_none(name.lower()),
            default=None,
            choices=["chainer", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", None],
            help="How the weights are initialised",
        )
        group.add_argument("--model_conf", action=NestedDictAction, default={}, help="Kept for ESPnet's configurations")
        for choices in cls.class_choices_list:
            choices.add_arguments(group)

    @classmethod
    def defaults(cls) -> dict:
        return {
            "optim": "adam",
            "optim_conf": {"lr": 1e-3, "weight_decay": 5e-5},
            "best_model_criterion": [["valid", "eer", "min"]],
            "early_stopping_criterion": ["valid", "eer", "min"],
            "val_scheduler_criterion": ["valid", "eer"],
            "keep_nbest_models": [3],
            "grad_clip": 100.0,
            "iterator_type": "task",
            "batch_size": 128,
        }

    @classmethod
    def complete(cls, args: argparse.Namespace) -> None:
        complete_data(cls, args)
        super().complete(args)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool):
        if not (args.use_preprocessor and train):
            return None
        preprocessor = preprocessor_choices.get_class(args.preprocessor)
        if args.preprocessor == "common":
            return preprocessor(train=train, **args.preprocessor_conf)
        return preprocessor(spk2utt=args.spk2utt, **args.preprocessor_conf)

    @classmethod
    def build_iter_factory(cls, args, distributed_option, mode: str, kwargs: dict | None = None):
        if mode == "valid":
            return dev_factory(args, share(distributed_option))
        if mode == "train" and args.iterator_type in ("task", "category"):
            return cls.build_epochs(args, distributed_option, mode, balanced_sampler(args, share(distributed_option)))
        return super().build_iter_factory(args, distributed_option, mode, kwargs)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> SpeakerModel:
        """Return the model of a configuration, ours or one that ESPnet has published."""
        frontend, input_size = None, getattr(args, "input_size", None)
        if args.frontend is not None:
            frontend = frontend_choices.get_class(args.frontend)(**args.frontend_conf)
            input_size = frontend.output_size()
        elif input_size is None:
            raise UserError("frontend is null, so the data are features: set input_size, or choose a frontend")
        encoder, pooling, projector = build_head(args, input_size)
        loss = loss_choices.get_class(args.loss)(nout=projector.output_size(), nclasses=args.spk_num, **args.loss_conf)
        model = SpeakerModel(
            frontend=frontend,
            specaug=_optional(specaug_choices, args),
            normalize=_optional(normalize_choices, args),
            encoder=encoder,
            pooling=pooling,
            projector=projector,
            loss=loss,
        )
        if getattr(args, "init", None) is not None:
            initialize(model, args.init)
        return model


def build_head(args: argparse.Namespace, input_size: int) -> tuple:
    """Return encoder, pooling and projector of a configuration for ``input_size`` features per frame."""
    encoder = encoder_choices.get_class(args.encoder)(input_size=input_size, **args.encoder_conf)
    pooling = pooling_choices.get_class(args.pooling)(input_size=encoder.output_size(), **args.pooling_conf)
    projector = projector_choices.get_class(args.projector)(input_size=pooling.output_size(), **args.projector_conf)
    return encoder, pooling, projector


def count_config(config: str, input_size: int, num_layers: int) -> HeadParameters:
    """Count the head of a YAML on an encoder of ``num_layers`` layers of ``input_size`` features, which is not built.

    A configuration that chooses one ``layer`` in its ``frontend_conf`` has no layer weights.
    """
    args = parse_args(SpeakerTask, ["--config", config, "--output_dir", "nowhere"])
    mixes = args.frontend in PRETRAINED and args.frontend_conf.get("layer") is None
    with torch.device("meta"):  # sizes only
        return count_head(*build_head(args, input_size), num_layers if mixes else 0)


def _optional(choices: LazyChoices, args: argparse.Namespace):
    chosen = choices.get_class(getattr(args, choices.name, None))
    return None if chosen is None else chosen(**(getattr(args, f"{choices.name}_conf", None) or {}))
