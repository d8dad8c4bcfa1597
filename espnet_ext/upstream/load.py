"""Opening a pretrained encoder by one string, wherever it comes from."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.zoo.package import Package, resolve
from espnet_ext.zoo.tensors import load_tensors

_HELP = (
    "hf:ID_OR_FOLDER, s3prl:NAME, s3prl:NAME:CHECKPOINT, torchaudio:PIPELINE (such as HUBERT_BASE), or a path: a "
    "Hugging Face folder, a checkpoint of torchaudio, fairseq, s3prl or WavLM, an experiment folder or package of ours"
)


def load_upstream(
    spec: str, other_task: Callable[[Package], torch.nn.Module] | None = None, **options
) -> torch.nn.Module:
    """Return the encoder that ``spec`` names, frozen unless ``freeze=False``.

    It has ``hidden_states(wav (batch, samples), lengths (batch,)) -> (layers, batch, frames, size), frames (batch,)``,
    ``layers`` (the same in a list), ``num_layers``, ``output_size()``, ``samples_for(num_frames)`` and
    ``ignores_padding``; layers are counted as ``layers.py`` says. ``options`` are those of the frontend: freeze, layer,
    normalize_layers, normalize. ``other_task`` makes an encoder of a trained model of ours that is none by itself
    (``inference.speaker_frames`` has one for speaker models).

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
    if path.name in ("model.safetensors", "pytorch_model.bin") and path.is_file():
        path = path.parent  # Hugging Face's names for the weights of a folder
    if (path / "config.json").is_file():
        return _huggingface(str(path), options)
    if (path / "config.yaml").is_file() or (path / "meta.yaml").is_file() or path.suffix == ".zip":
        return _ours(resolve(path), other_task, options)
    if path.is_file() and (path.parent / "config.yaml").is_file():
        return _ours(resolve(path), other_task, options)
    if path.is_file():
        return _checkpoint(path, options)
    raise no_such_encoder(spec)


def no_such_encoder(spec: str, more: str = "") -> UserError:
    """The error for a ``spec`` that names nothing; more: what else could stand there, before what all of them may."""
    return UserError(f"{spec}: no such encoder; give {more}{_HELP}")


def _huggingface(model: str, options: dict) -> torch.nn.Module:
    from espnet_ext.upstream.huggingface import HuggingFaceFrontend

    return HuggingFaceFrontend(model=model, **options)


def _ours(package: Package, other_task: Callable[[Package], torch.nn.Module] | None, options: dict) -> torch.nn.Module:
    """An encoder that task ``ssl`` has trained: its configuration and weights have the names of a HubertModel."""
    config = package.config
    if config.get("preprocessor") != "units" or config.get("encoder") != "hubert":
        if other_task is None:
            raise UserError(f"{package.name}: is no encoder of task ssl, so it has no layers to give")
        return other_task(package)
    from espnet_ext.upstream.huggingface import HuggingFaceFrontend

    sizes = {key: value for key, value in (config.get("encoder_conf") or {}).items() if key != "feature_grad_mult"}
    frontend = HuggingFaceFrontend(config={"model_type": "hubert", **sizes}, **{"normalize": False, **options})
    state = load_tensors(package.weights)
    prefix = "encoder."
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    fill(frontend.upstream, state, package.name)
    return frontend


def _checkpoint(path: Path, options: dict) -> torch.nn.Module:
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
