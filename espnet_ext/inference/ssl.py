"""A trained HuBERT without its heads, for use elsewhere."""

from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.zoo.tensors import load_tensors


def load_encoder(exp: str | Path, model_file: str = "valid.loss_m.best.pth"):
    """Return the encoder of an experiment folder of task ``ssl`` (evaluation mode), and its ``encoder_conf``.

    Weights are read as tensors only. Errors: ``UserError`` for a folder that is none, or of another task.
    """
    import yaml

    from espnet_ext.ssl.encoder import HubertEncoder

    exp = Path(exp)
    if not (exp / "config.yaml").is_file():
        raise UserError(f"{exp}: no config.yaml; give the folder of a training of task ssl")
    config = yaml.safe_load((exp / "config.yaml").read_text(encoding="utf-8"))
    if config.get("encoder") != "hubert":
        raise UserError(f"{exp}/config.yaml: encoder is {config.get('encoder')!r}, not hubert: no training of task ssl")
    conf = config["encoder_conf"] or {}
    state = load_tensors(exp / model_file)
    own = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    encoder = HubertEncoder(**conf)
    try:
        encoder.load_state_dict(own)
    except RuntimeError as error:
        raise UserError(
            f"{exp / model_file}: the weights do not fit config.yaml ({str(error).splitlines()[1].strip()})"
        ) from None
    return encoder.eval(), conf
