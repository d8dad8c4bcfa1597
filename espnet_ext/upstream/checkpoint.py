"""Encoders in single files: torchaudio state dicts, and the checkpoints of fairseq, s3prl and WavLM's authors.

All become a torchaudio encoder: a configuration for ``TorchaudioFrontend`` and its state dict. fairseq is not needed,
and nothing in a file is executed: classes that a checkpoint names (fairseq's dictionaries, omegaconf's nodes) are
replaced by inert bags, and any other is refused.
"""

import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from espnet_ext.errors import UserError
from espnet_ext.upstream.fairseq import fairseq_config, fairseq_state
from espnet_ext.upstream.torchaudio import bundle_like

# Where the classes live that fairseq's checkpoints are known to name; each name becomes a Bag.
_INERT = ("fairseq.", "omegaconf.", "argparse.Namespace", "typing.", "collections.", "numpy.", "_codecs.encode")
_INERT_BUILTINS = ("dict", "list", "tuple", "set", "int", "float", "str", "bool")


class Bag(dict):
    """Takes the place of any class of a checkpoint: keeps what was put into it, and does nothing."""

    def __init__(self, *args, **kwargs):
        pass


def _empty_dict(*args) -> dict:
    """Takes the place of a defaultdict, which is filled item by item."""
    return {}


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the configuration and the state dict of a torchaudio encoder.

    path: a torchaudio state dict, with its configuration beside it (``model.json`` for ``model.pt``) unless its shapes
    are those of a published model; or a checkpoint of fairseq, s3prl (converted) or WavLM, whose configuration is
    inside. Errors: ``UserError`` for anything else, and for files that would run code.
    """
    content = load_safely(path)
    for weights in ("model_weight", "model"):
        if isinstance(content.get(weights), Mapping) and any("self_attn" in name for name in content[weights]):
            return fairseq_config(plain(content), path), fairseq_state(content[weights], path)
    state = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content)
    state = {re.sub(r"^(model\.)?(wav2vec2\.)?", "", name): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if name.startswith(("feature_extractor.", "encoder."))}
    if "encoder.feature_projection.projection.weight" not in state:
        raise UserError(
            f"{path}: is no encoder that is known here; give a torchaudio state dict, a checkpoint of fairseq, s3prl "
            "or WavLM, or a folder (Hugging Face's, or one of our experiments)"
        )
    beside = path.with_suffix(".json")
    config = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else bundle_like(state)
    if config is None:
        raise UserError(
            f"{path}: its sizes are of no published model; write the arguments of its torchaudio factory, model_type "
            f"(wav2vec2 or wavlm) and normalize (true or false) to {beside}"
        )
    return config, state


def plain(value: Any) -> Any:
    """Return a checkpoint's settings as plain dicts and lists: bags of omegaconf's and argparse's are unpacked."""
    if isinstance(value, Bag):
        inside = vars(value)
        for key in ("_content", "_val"):
            if key in inside:
                return plain(inside[key])
        return {**plain(dict(value)), **{key: plain(item) for key, item in inside.items()}}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not isinstance(item, torch.Tensor)}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def load_safely(path: Path) -> dict:
    """Return what a file holds: tensors and settings; classes that are known to be harmless become ``Bag``.

    Errors: ``UserError`` for a file that is damaged, or names anything else, which might run on loading.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: is no whole safetensors file ({error}); copy or download it again") from None
    allowed: dict[str, Callable] = {}
    while True:
        try:
            with (
                warnings.catch_warnings(),
                torch.serialization.safe_globals([(by, name) for name, by in allowed.items()]),
            ):
                warnings.simplefilter("ignore")  # remarks on the pickle protocol
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
            break
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            name = found and (found[1] if "." in found[1] else f"builtins.{found[1]}")  # as torch's message has them
            if name is None or name in allowed:
                raise UserError(f"{path}: refused, it is damaged or no file of tensors; download it again") from None
            if not _is_inert(name):
                raise UserError(
                    f"{path}: refused, it names {name}, which would run on loading; an encoder's checkpoint has to "
                    "hold tensors and settings only"
                ) from None
            allowed[name] = _empty_dict if name == "collections.defaultdict" else Bag
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: is no whole checkpoint (truncated?); copy or download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not the tensors of an encoder by their names")
    return content


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _is_inert(name: str) -> bool:
    module, _, kind = name.rpartition(".")
    return name.startswith(_INERT) or (module in ("builtins", "__builtin__") and kind in _INERT_BUILTINS)
