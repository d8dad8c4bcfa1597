"""Reading a weights file without running code that may hide in it."""

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_ext.errors import UserError

if TYPE_CHECKING:
    import torch


def load_tensors(path: str | Path, device: str = "cpu") -> "dict[str, torch.Tensor]":
    """Read a state dict: names of parameters and buffers to tensors on ``device``.

    ``torch.load(weights_only=True)`` builds tensors and plain containers and refuses every other pickle instruction, so
    a hostile file cannot run anything (ESPnet 202511 reads its models with ``weights_only=False``). A whole training
    checkpoint (``checkpoint.pth``: model, optimiser, …) gives its model.

    Errors: ``UserError`` for a file that is missing, truncated, no weights file, or wants to run code.
    """
    import torch

    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file; name the .pth file that training wrote")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the pickle protocol of a file that is about to be refused
            state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):  # torch names the function or class that the file wanted called
            reason = "it holds Python objects that would run code on loading; a package has to hold tensors only"
        else:
            reason = "it is damaged (truncated?), or holds other things than tensors; copy or download it again"
        raise UserError(f"{path}: refused, {reason}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: is no whole weights file (truncated?); copy or download it again") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict) and "optimizers" in state:
        state = state["model"]
    if isinstance(state, dict) and isinstance(state.get("module"), dict):
        state = state["module"]  # DeepSpeed writes the model one level deeper
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state dict (names to tensors); name the .pth file that training wrote")
    return state
