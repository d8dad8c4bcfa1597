"""A trained HuBERT for use elsewhere: its encoder, or the whole pre-training with its heads."""

import argparse
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.hugging_face import read_folder
from espnet_ext.zoo.tensors import load_tensors
from espnet_ext.zoo.yaml_file import load_yaml


def load_pretraining(exp: str | Path, model_file: str = "valid.loss_m.best.pth"):
    """Return the model of an experiment folder of task ``ssl`` (evaluation mode), and its ``encoder_conf``.

    Weights are read as tensors only. Errors: ``UserError`` for a folder that is none, or of another task.
    """
    from espnet_ext.tasks.registry import get_task

    exp = Path(exp)
    if not (exp / "config.yaml").is_file():
        raise UserError(f"{exp}: no config.yaml; give the folder of a training of task ssl")
    config = load_yaml(exp / "config.yaml")
    if config.get("encoder") != "hubert" or not config.get("num_units"):
        raise UserError(f"{exp}/config.yaml: no training of task ssl (encoder: {config.get('encoder')!r})")
    model = get_task("ssl").build_model(argparse.Namespace(**config))
    try:
        model.load_state_dict(load_tensors(exp / model_file))
    except RuntimeError as error:
        raise UserError(
            f"{exp / model_file}: the weights do not fit config.yaml ({str(error).splitlines()[1].strip()})"
        ) from None
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{exp / model_file}: {name} holds NaN or infinity, the training diverged; give an earlier one"
            )
    return model.eval(), config["encoder_conf"] or {}


def own_encoder(spec: str) -> HubertEncoder | None:
    """Return the encoder that ``spec`` names if our code can run it, in evaluation mode and frozen, else None.

    spec: weights in the folder of a training of task ``ssl``, or a folder with a HuBERT (``hf:`` may stand before it).
    The same numbers as transformers', without its import; see ``read_folder``.
    """
    path = Path(spec.removeprefix("hf:")).expanduser()
    if path.suffix != ".pth":
        return read_folder(path)
    config = path.parent / "config.yaml"
    if not path.is_file() or not config.is_file() or load_yaml(config).get("preprocessor") != "units":
        return None
    return load_pretraining(path.parent, path.name)[0].encoder.requires_grad_(False)
