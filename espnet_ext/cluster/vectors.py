"""What every clustering starts from: checked float32 vectors, blocks of bounded memory, products of known rounding."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from espnet_ext.errors import UserError, check_choices

BLOCK_ELEMENTS = 4_000_000  # distances held at once: 16 MB of float32
ROWS_AT_ONCE = 65_536  # rows that are summed, or converted, in one go
METRICS = ("cosine", "euclidean")


def to_vectors(
    x: torch.Tensor | np.ndarray, metric: str, device: str | torch.device | None = None, what: str = "clustering"
) -> torch.Tensor:
    """The rows of ``x (N, D)`` as float32 on ``device`` (default: where they are); of length 1 where metric is cosine.

    Raises:
        UserError: no rows, NaN or infinite values, a row of zeros under the cosine metric.
    """
    check_choices(what, ("metric", metric, METRICS))
    if isinstance(x, np.ndarray) and not (x.flags.writeable and x.flags.c_contiguous):
        x = np.array(x, dtype=np.float32, order="C")  # a memory map, a view: torch takes neither
    data = torch.as_tensor(x)
    if data.ndim != 2 or 0 in data.shape:
        raise UserError(f"{what}: vectors of shape (N, D) are needed, got {tuple(data.shape)}")
    data = data.detach().to(device or data.device, torch.float32)
    if not bool(torch.isfinite(data.sum(1)).all()):
        row = int((~torch.isfinite(data).all(1)).long().argmax())
        raise UserError(f"{what}: vector {row} has NaN or infinite values, or values too large; make it again")
    if metric == "cosine":
        norms = data.norm(dim=1, keepdim=True)
        if bool((norms == 0).any()):
            row = int((norms[:, 0] == 0).long().argmax())
            raise UserError(
                f"{what}: vector {row} is zero and has no direction; leave it out or use --metric euclidean"
            )
        data = data / norms
    return data


def as_unit(centres: torch.Tensor, metric: str) -> torch.Tensor:
    """The centroids, of length 1 where the metric is cosine."""
    return torch.nn.functional.normalize(centres, dim=1) if metric == "cosine" else centres


def sums_of(vectors: torch.Tensor, labels: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums ``(k, D)`` and counts ``(k,)`` of the vectors of every label, in float64, the same at every call."""
    sums = torch.zeros(k, vectors.shape[1], dtype=torch.float64, device=vectors.device)
    with deterministic() if vectors.is_cuda else contextlib.nullcontext():
        for part, label in zip(vectors.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True):
            sums.index_add_(0, label, part.double())
    return sums, torch.bincount(labels, minlength=k).double()


def rounding_bound(dim: int) -> float:
    """How far a float32 ``|a|^2 + |b|^2 - 2 a . b`` of ``dim`` terms can be from the truth, per ``(|a| + |b|)^2``."""
    return (dim + 4) * 2.0**-24


def exact_float32() -> contextlib.AbstractContextManager[None]:
    """Products of float32 matrices in float32, whatever TF32 or bfloat16 somebody allowed for training."""
    return _precision("highest")


def low_precision() -> contextlib.AbstractContextManager[None]:
    """Products of float32 matrices in bfloat16 (a CPU with AMX) or TF32 (a GPU), where the machine is faster so."""
    return _precision("medium")


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Sums on a GPU in one order, so that the same call gives the same bits."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warn)
