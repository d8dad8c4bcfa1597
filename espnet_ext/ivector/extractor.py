"""The total variability model M_u = m + T w_u, w_u ~ N(0, I): posteriors of w, EM with minimum divergence.

Equations: Dehak et al., "Front-End Factor Analysis for Speaker Verification", IEEE TASLP 19 (2011), and Kenny's "Joint
Factor Analysis" report (CRIM-06/08-13) for the minimum divergence step. U utterances, C Gaussians, F features, R
factors.
"""

from dataclasses import dataclass

import torch

from espnet_ext.errors import UserError
from espnet_ext.ivector.gmm import floor_full, unpack

#: Bytes of the (utterances, R, R) matrices that are worked on together.
BATCH_BYTES = 1 << 28


@dataclass
class Posterior:
    """Of each utterance: mean ``w`` (U, R) of its factors, Cholesky factor (U, R, R) of their precision L, b (U, R)."""

    w: torch.Tensor
    cholesky: torch.Tensor
    b: torch.Tensor

    @property
    def objective(self) -> torch.Tensor:
        """1/2 b'w - 1/2 log|L| (U,): what the factors add to the utterance's log likelihood."""
        return 0.5 * (self.b * self.w).sum(1) - self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1)

    @property
    def covariance(self) -> torch.Tensor:
        """L^-1 (U, R, R)."""
        return torch.cholesky_inverse(self.cholesky)


class TotalVariability:
    """means (C, F), covariances (C, F, F) and t (C, F, R), float64 on one device."""

    def __init__(self, means: torch.Tensor, covariances: torch.Tensor, t: torch.Tensor):
        self.means, self.covariances, self.t = means, covariances, t
        self._tables: dict[torch.dtype, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def dim(self) -> int:
        """Number of factors, R."""
        return self.t.size(2)

    def to(self, device: str | torch.device) -> "TotalVariability":
        """The same model elsewhere."""
        return TotalVariability(self.means.to(device), self.covariances.to(device), self.t.to(device))

    def tables(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """S_c^-1 T_c as (C F, R), and the upper triangles of T_c' S_c^-1 T_c as (C, R (R + 1) / 2), kept once made."""
        if dtype not in self._tables:
            projection = torch.cholesky_solve(self.t, torch.linalg.cholesky(self.covariances))
            rows, columns = torch.triu_indices(self.dim, self.dim, device=self.t.device)
            gram = torch.empty(len(self.t), len(rows), dtype=dtype, device=self.t.device)
            for part in torch.arange(len(self.t), device=self.t.device).split(64):
                gram[part] = (self.t[part].mT @ projection[part])[:, rows, columns].to(dtype)
            self._tables[dtype] = projection.flatten(0, 1).to(dtype), gram
        return self._tables[dtype]

    def centre(self, n: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """f - n m (U, C, F) of counts n (U, C) and sums f (U, C, F), which need the dtype wanted."""
        return f - n[:, :, None] * self.means.to(f.dtype)

    def posterior(self, n: torch.Tensor, centred: torch.Tensor) -> Posterior:
        """L = I + sum_c n_c T_c' S_c^-1 T_c, b = sum_c T_c' S_c^-1 f_c, w = L^-1 b of n (U, C) and centred f (U, C, F).

        The two large products are computed in the dtype of n (extraction: float32, training: float64); the system is
        solved in float64.
        """
        projection, gram = self.tables(n.dtype)
        precision = unpack((n @ gram).double(), self.dim)
        precision.diagonal(dim1=1, dim2=2).add_(1.0)
        b = (centred.flatten(1) @ projection).double()
        cholesky = torch.linalg.cholesky(precision)
        return Posterior(torch.cholesky_solve(b[:, :, None], cholesky)[:, :, 0], cholesky, b)

    def batches(self, n: torch.Tensor) -> int:
        """How many utterances to give ``posterior`` at a time."""
        return max(1, BATCH_BYTES // (8 * max(self.dim**2, self.means.numel())))


@dataclass
class Accumulator:
    """The E-step's sums over utterances, float64.

    a (C, R (R + 1) / 2): sum_u n_uc E_u, packed; b (C, F, R): sum_u f_uc w_u'; h (R,): sum_u w_u; g (R (R + 1) / 2):
    sum_u E_u; n (C,), f (C, F): sums of the statistics, not centred; objective: sum_u (1/2 b'w - 1/2 log|L|).
    """

    a: torch.Tensor
    b: torch.Tensor
    h: torch.Tensor
    g: torch.Tensor
    n: torch.Tensor
    f: torch.Tensor
    objective: torch.Tensor
    utterances: torch.Tensor

    @classmethod
    def empty(cls, model: TotalVariability) -> "Accumulator":
        """Sums over no utterance."""
        components, dim, rank = model.t.shape
        packed = rank * (rank + 1) // 2
        shapes = ((components, packed), (components, dim, rank), (rank,), (packed,), (components,), (components, dim))
        return cls(*(torch.zeros(s, dtype=torch.float64, device=model.t.device) for s in (*shapes, (), ())))

    def accumulate(self, model: TotalVariability, n: torch.Tensor, f: torch.Tensor) -> None:
        """Count utterances with statistics n (U, C) and f (U, C, F), of any dtype on the model's device."""
        rows, columns = torch.triu_indices(model.dim, model.dim, device=n.device)
        size = model.batches(n)
        for n_part, f_part in zip(n.split(size), f.split(size), strict=True):
            n_part, f_part = n_part.double(), f_part.double()
            centred = model.centre(n_part, f_part)
            posterior = model.posterior(n_part, centred)
            second = posterior.covariance + posterior.w[:, :, None] * posterior.w[:, None, :]
            second = second[:, rows, columns]
            self.a += n_part.T @ second
            self.b += (centred.flatten(1).T @ posterior.w).view_as(self.b)
            self.h += posterior.w.sum(0)
            self.g += second.sum(0)
            self.n += n_part.sum(0)
            self.f += f_part.sum(0)
            self.objective += posterior.objective.sum()
            self.utterances += len(n_part)

    def add(self, other: "Accumulator") -> None:
        """Count the other's utterances too."""
        for name, value in vars(other).items():
            getattr(self, name).add_(value)


def scatter(model: TotalVariability, total: Accumulator, s: torch.Tensor) -> torch.Tensor:
    """sum_u of the second-order statistics about the means (C, F, F), from s, those about zero, packed or not."""
    s = unpack(s, model.means.size(1)) if s.dim() == 2 else s
    cross = total.f[:, :, None] * model.means[:, None, :]
    return s - cross - cross.mT + total.n[:, None, None] * model.means[:, :, None] * model.means[:, None, :]


def objective(model: TotalVariability, total: Accumulator, s: torch.Tensor) -> float:
    """What EM raises: sum_u (1/2 b'w - 1/2 log|L|) - 1/2 sum_c (n_c log|S_c| + tr(S_c^-1 scatter_c))."""
    factor = torch.linalg.cholesky(model.covariances)
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    inside = torch.cholesky_solve(scatter(model, total, s), factor).diagonal(dim1=1, dim2=2).sum()
    return float(total.objective - 0.5 * ((total.n * log_det).sum() + inside))


def maximise(
    model: TotalVariability,
    total: Accumulator,
    s: torch.Tensor,
    floor: torch.Tensor,
    update_covariances: bool = True,
    minimum_divergence: bool = True,
) -> tuple[TotalVariability, int]:
    """The M-step: T_c = b_c a_c^-1, S_c = (scatter_c - T_c b_c') / n_c, then minimum divergence.

    Minimum divergence: h = mean w, G = mean E - h h' = Q Q', m_c <- m_c + T_c h, T_c <- T_c Q, so that the factors have
    mean 0 and covariance I again. A component with fewer than F + 1 frames keeps its T and covariance; ``floor`` (F,)
    is the least variance in any direction. Returns the model and how many covariances were floored.
    """
    rank, dim = model.dim, model.means.size(1)
    t, enough = model.t.clone(), total.n >= dim + 1
    for part in enough.nonzero()[:, 0].split(64):
        a = unpack(total.a[part], rank)
        a.diagonal(dim1=1, dim2=2).mul_(1 + 1e-10)  # a few dozen utterances span less than R directions
        factor, failed = torch.linalg.cholesky_ex(a)
        if failed.any():
            raise UserError(
                f"the accumulator of Gaussian {int(part[failed.nonzero()[0]])} is singular: too little data for "
                f"{rank} dimensions; take fewer (--dim)"
            )
        t[part] = torch.cholesky_solve(total.b[part].mT, factor).mT
    covariances, floored = model.covariances, torch.zeros(1)
    if update_covariances:
        new = scatter(model, total, s) - t @ total.b.mT
        new = 0.5 * (new + new.mT) / total.n.clamp(min=1.0)[:, None, None]
        covariances, floored = floor_full(torch.where(enough[:, None, None], new, covariances), floor)
    means = model.means
    if minimum_divergence:
        h = total.h / total.utterances
        g = unpack(total.g, rank) / total.utterances - h[:, None] * h
        means = means + t @ h
        t = t @ torch.linalg.cholesky(g)
    return TotalVariability(means, covariances, t), int(floored.sum())
