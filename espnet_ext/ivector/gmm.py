"""Gaussian mixtures in torch, diagonal and full covariance: likelihoods, responsibilities and EM, all in batches."""

import math
from dataclasses import dataclass

import torch

from espnet_ext.errors import UserError

#: Frames whose responsibilities are computed together. On a CPU a few MB that are used again and again: with 8192
#: frames a third of the time went into fetching fresh memory. A GPU wants to be filled.
CPU_BLOCK, GPU_BLOCK = 1024, 16384
#: A component never loses its weight altogether: its logarithm has to stay finite.
MIN_WEIGHT = 1e-8


class Gmm:
    """A mixture of C Gaussians over F features: weights (C,), means (C, F), covariances (C, F) or (C, F, F).

    All of one dtype and device. Errors: ``UserError`` that numbers the component whose covariance is not positive.
    """

    def __init__(self, weights: torch.Tensor, means: torch.Tensor, covariances: torch.Tensor):
        self.weights, self.means, self.covariances = weights, means, covariances
        dim = means.size(1)
        if self.is_full:
            factor, failed = torch.linalg.cholesky_ex(covariances)
            if failed.any():
                _raise_singular(int(failed.nonzero()[0]))
            precision = torch.cholesky_inverse(factor)
            log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
            linear = (precision @ means[:, :, None])[:, :, 0]
            # x'Px is one product with the upper triangle, what lies off the diagonal counted twice.
            self._rows, self._columns = torch.triu_indices(dim, dim, device=means.device)
            twice = torch.where(self._rows == self._columns, 0.5, 1.0).to(means.dtype)
            self._quadratic = -(precision[:, self._rows, self._columns] * twice)
        else:
            if not (covariances > 0).all():
                _raise_singular(int((covariances <= 0).any(1).nonzero()[0]))
            linear = means / covariances
            log_det = covariances.log().sum(1)
            self._quadratic = -0.5 / covariances
        self._linear = linear
        self._constant = weights.log() - 0.5 * (dim * math.log(2 * math.pi) + log_det + (linear * means).sum(1))

    @property
    def is_full(self) -> bool:
        """Whether the covariances are matrices."""
        return self.covariances.dim() == 3

    def __len__(self) -> int:
        return len(self.weights)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "Gmm":
        """The same mixture elsewhere."""
        return Gmm(*(t.to(device=device, dtype=dtype) for t in (self.weights, self.means, self.covariances)))

    def diagonal(self) -> "Gmm":
        """The same mixture without the correlations of its features."""
        return (
            Gmm(self.weights, self.means, self.covariances.diagonal(dim1=1, dim2=2).clone()) if self.is_full else self
        )

    def full(self) -> "Gmm":
        """The same mixture with matrices as covariances."""
        return self if self.is_full else Gmm(self.weights, self.means, torch.diag_embed(self.covariances))

    def products(self, x: torch.Tensor) -> torch.Tensor:
        """The second-order terms of frames x (T, F): the upper triangle of x x' (T, F (F + 1) / 2), or the squares."""
        if not self.is_full:
            return x.square()
        # Whole rows of the transpose: picking columns by their numbers, or slices of them, takes several times as long.
        x = x.T.contiguous()
        packed, first = x.new_empty(len(self._rows), x.size(1)), 0
        for row in range(len(x)):
            torch.mul(x[row:], x[row], out=packed[first : first + len(x) - row])
            first += len(x) - row
        return packed.T

    def log_joint(self, x: torch.Tensor) -> torch.Tensor:
        """Return log(weight_c N(x_t; m_c, S_c)) (T, C) of frames x (T, F)."""
        return torch.addmm(torch.addmm(self._constant, x, self._linear.T), self.products(x), self._quadratic.T)


def _raise_singular(component: int) -> None:
    raise UserError(
        f"Gaussian {component} has a singular covariance: features that are constant or linearly dependent; take fewer "
        "Gaussians (--num_gaussians) or more data, or look at the features"
    )


class Aligner:
    """Responsibilities of a mixture: gamma_tc = w_c N(x_t; m_c, S_c) / sum_j w_j N(x_t; m_j, S_j).

    num_selected: only so many components are evaluated per frame, the likeliest of the mixture's diagonal (Kaldi's
    ``gmm-gselect``); 0 evaluates all, which is quicker up to a few hundred. min_posterior: smaller responsibilities
    become 0 and the others are scaled up to sum 1; the largest always stays (Kaldi's ``--min-post``).
    """

    def __init__(self, gmm: Gmm, num_selected: int = 0, min_posterior: float = 0.0):
        self.gmm, self.min_posterior = gmm, min_posterior
        self.num_selected = num_selected if gmm.is_full and num_selected < len(gmm) else 0
        if self.num_selected:
            self._diagonal = gmm.diagonal()
            factor = torch.linalg.cholesky(gmm.covariances)
            eye = torch.eye(gmm.means.size(1), dtype=factor.dtype, device=factor.device)
            self._whiten = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
            half_log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
            self._constant = gmm.weights.log() - half_log_det - 0.5 * gmm.means.size(1) * math.log(2 * math.pi)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return gamma (T, C) and the log likelihoods (T,) of frames x (T, F), over the selected components."""
        log_joint = self._selected(x) if self.num_selected else self.gmm.log_joint(x)
        most = log_joint.amax(1, keepdim=True)
        # A CPU needs fifty times as long where the result is too small for a normal float: what is below e^-60 is 0.
        gamma = torch.nn.functional.threshold_(log_joint.sub_(most).clamp_(min=-60).exp_(), 1e-26, 0.0)
        total = gamma.sum(1, keepdim=True)
        gamma /= total
        if self.min_posterior:
            gamma *= gamma >= total.reciprocal().clamp(max=self.min_posterior)  # the largest is 1 / total
            gamma /= gamma.sum(1, keepdim=True)
        return gamma, (most + total.log())[:, 0]

    def _selected(self, x: torch.Tensor) -> torch.Tensor:
        """``log_joint`` (T, C) of the selected components, minus infinity for the others."""
        best = self._diagonal.log_joint(x).topk(self.num_selected, dim=1).indices
        component, order = best.flatten().sort(stable=True)
        frame = order // self.num_selected
        log_joint = x.new_full((len(x), len(self.gmm)), -math.inf)
        counts = torch.bincount(component, minlength=len(self.gmm)).tolist()
        for c, rows in enumerate(frame.split(counts)):
            if len(rows):
                distance = ((x[rows] - self.gmm.means[c]) @ self._whiten[c].T).square().sum(1)
                log_joint[rows, c] = self._constant[c] - 0.5 * distance
        return log_joint


@dataclass
class Statistics:
    """What EM needs of any number of frames: n (C,), f (C, F), s (C, F) or packed (C, F (F + 1) / 2), all float64."""

    n: torch.Tensor
    f: torch.Tensor
    s: torch.Tensor
    log_likelihood: float = 0.0
    frames: int = 0

    @classmethod
    def of(cls, aligner: Aligner, x: torch.Tensor) -> "Statistics":
        """Statistics of frames x (T, F), of the mixture's dtype and device, block by block."""
        gmm = aligner.gmm
        zero = torch.zeros_like(gmm.means, dtype=torch.float64)
        total = cls(zero[:, 0].clone(), zero, torch.zeros_like(gmm._quadratic, dtype=torch.float64))
        for block in x.split(CPU_BLOCK if x.device.type == "cpu" else GPU_BLOCK):
            gamma, log_likelihood = aligner(block)
            total.n += gamma.sum(0)
            total.f += gamma.T @ block
            total.s += second_order(gamma, gmm, block)
            total.log_likelihood += float(log_likelihood.sum(dtype=torch.float64))
            total.frames += len(block)
        return total

    def add(self, other: "Statistics") -> "Statistics":
        """Count the other's frames too."""
        for name in ("n", "f", "s", "log_likelihood", "frames"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


def second_order(gamma: torch.Tensor, gmm: Gmm, x: torch.Tensor) -> torch.Tensor:
    """Return sum_t gamma_tc x_t x_t' as ``gmm.products`` packs it, (C, products), of frames x (T, F).

    One product where gamma (T, C) is dense; where it is mostly zero, component by component over its own frames.
    """
    if not gmm.is_full or 8 * int(torch.count_nonzero(gamma)) > gamma.numel():
        return gamma.T @ gmm.products(x)
    component, frame = gamma.T.nonzero(as_tuple=True)
    counts = torch.bincount(component, minlength=len(gmm)).tolist()
    total = x.new_zeros(len(gmm), x.size(1), x.size(1))
    for c, rows in enumerate(frame.split(counts)):
        if len(rows):
            own = x[rows]
            total[c] = (own * gamma[rows, c, None]).T @ own
    return total[:, gmm._rows, gmm._columns]


def unpack(packed: torch.Tensor, dim: int) -> torch.Tensor:
    """Turn upper triangles (…, dim (dim + 1) / 2) into symmetric matrices (…, dim, dim)."""
    rows, columns = torch.triu_indices(dim, dim, device=packed.device)
    full = packed.new_zeros(*packed.shape[:-1], dim, dim)
    full[..., rows, columns] = packed
    full[..., columns, rows] = packed
    return full


def maximise(gmm: Gmm, statistics: Statistics, floor: torch.Tensor, full: bool) -> tuple[Gmm, int, int]:
    """The M-step: w_c = n_c / sum n, m_c = f_c / n_c, S_c = s_c / n_c - m_c m_c'; its diagonal unless ``full``.

    A component with fewer than F + 1 frames keeps its mean and covariance. ``floor`` (F,): no variance in any direction
    falls below it (the direction measured in units of the features' floors). Returns the mixture, in float64, the
    number of components that kept theirs, and the number that were floored.
    """
    n, dim = statistics.n, gmm.means.size(1)
    enough = n >= dim + 1
    count = n.clamp(min=1.0)[:, None]
    means = torch.where(enough[:, None], statistics.f / count, gmm.means.double())
    if full:
        covariances = unpack(statistics.s, dim) / count[:, :, None] - means[:, :, None] * means[:, None, :]
        old = gmm.covariances.double() if gmm.is_full else torch.diag_embed(gmm.covariances.double())
        covariances, floored = floor_full(torch.where(enough[:, None, None], covariances, old), floor)
    else:
        covariances = torch.where(enough[:, None], statistics.s / count - means.square(), gmm.covariances.double())
        floored = (covariances < floor).any(1)
        covariances = covariances.maximum(floor)
    weights = (n / n.sum()).clamp(min=MIN_WEIGHT)
    return Gmm(weights / weights.sum(), means, covariances), int((~enough).sum()), int(floored.sum())


def floor_full(covariances: torch.Tensor, floor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Raise the variances of (C, F, F) below ``floor`` (F,) in any direction; which matrices needed it (C,), bool."""
    scale = floor.sqrt()
    scaled = covariances / (scale[:, None] * scale)
    values, vectors = torch.linalg.eigh(0.5 * (scaled + scaled.mT))
    floored = values[:, 0] < 1
    raised = (vectors * values.clamp(min=1.0)[:, None, :]) @ vectors.mT * (scale[:, None] * scale)
    return torch.where(floored[:, None, None], 0.5 * (raised + raised.mT), covariances), floored
