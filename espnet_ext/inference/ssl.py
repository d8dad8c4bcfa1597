"""A trained HuBERT for use elsewhere: its encoder, or the whole pre-training with its heads."""

import argparse
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.zoo.tensors import load_tensors


def load_pretraining(exp: str | Path, model_file: str = "valid.loss_m.best.pth"):
    """Return the model of an experiment folder of task ``ssl`` (evaluation mode), and its ``encoder_conf``.

    Weights are read as tensors only. Errors: ``UserError`` for a folder that is none, or of another task.
    """
    import yaml

    from espnet_ext.tasks.registry import get_task

    exp = Path(exp)
    if not (exp / "config.yaml").is_file():
        raise UserError(f"{exp}: no config.yaml; give the folder of a training of task ssl")
    config = yaml.safe_load((exp / "config.yaml").read_text(encoding="utf-8"))
    if config.get("encoder") != "hubert" or not config.get("num_units"):
        raise UserError(f"{exp}/config.yaml: no training of task ssl (encoder: {config.get('encoder')!r})")
    model = get_task("ssl").build_model(argparse.Namespace(**config))
    try:
        model.load_state_dict(load_tensors(exp / model_file))
    except RuntimeError as error:
        raise UserError(
            f"{exp / model_file}: the weights do not fit config.yaml ({str(error).splitlines()[1].strip()})"
        ) from None
    return model.eval(), config["encoder_conf"] or {}
