"""Opening a pretrained encoder by one string, wherever it comes from."""

import os
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.upstream.frontend import UpstreamFrontend

HELP = (
    "hf:ID_OR_FOLDER, s3prl:NAME, s3prl:NAME:CHECKPOINT, torchaudio:PIPELINE (such as HUBERT_BASE), or a path: a "
    "Hugging Face folder"
)


def load_upstream(spec: str, **options) -> UpstreamFrontend:
    """Return the encoder that ``spec`` names, frozen unless ``freeze=False``.

    It has ``hidden_states(wav (batch, samples), lengths (batch,)) -> (layers, batch, frames, size), frames (batch,)``,
    ``num_layers``, ``output_size()``, ``samples_for(num_frames)`` and ``ignores_padding``; layers are counted as
    ``layers.py`` says. ``options`` are those of the frontend: freeze, layer, normalize_layers, normalize.

    Errors: ``UserError`` for an encoder that is missing, unknown, damaged, or would run code on loading.
    """
    kind, _, rest = spec.partition(":")
    if kind == "hf" and rest:
        return _huggingface(rest, options)
    if kind == "torchaudio" and rest:
        from espnet_ext.upstream.torchaudio import TorchaudioFrontend

        return TorchaudioFrontend(pipeline=rest, **options)
    if kind == "s3prl" and rest:
        from espnet_ext.upstream.s3prl import open_s3prl

        return open_s3prl(rest, **options)
    path = Path(os.path.expanduser(spec))
    if (path / "config.json").is_file():
        return _huggingface(str(path), options)
    if path.is_file() and path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        return _checkpoint(path, options)
    raise UserError(f"{spec}: no such encoder; give {HELP}")


def _huggingface(model: str, options: dict) -> UpstreamFrontend:
    from espnet_ext.upstream.huggingface import HuggingFaceFrontend

    return HuggingFaceFrontend(model=model, **options)


def _checkpoint(path: Path, options: dict) -> UpstreamFrontend:
    from espnet_ext.upstream.checkpoint import read_checkpoint
    from espnet_ext.upstream.torchaudio import TorchaudioFrontend

    config, state = read_checkpoint(path)
    frontend = TorchaudioFrontend(config=config, **options)
    fill(frontend.upstream, state, str(path))
    return frontend


def fill(module: torch.nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Give ``module`` its weights; every one has to find its place, else ``UserError``."""
    try:
        missing, unknown = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{where}: the weights do not fit the configuration: {reason}") from None
    words = [
        f"{len(names)} {what} ({names[0]}, …)" for names, what in ((missing, "missing"), (unknown, "unknown")) if names
    ]
    if words:
        raise UserError(f"{where}: the weights do not fit the configuration: {', '.join(words)}")
