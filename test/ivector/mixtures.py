"""Mixtures and total variability models with known parameters, and data drawn from them."""

import numpy as np
import torch

from espnet_ext.ivector.extractor import TotalVariability
from espnet_ext.ivector.gmm import Gmm


def random_gmm(components: int, dim: int, seed: int = 0, spread: float = 4.0) -> Gmm:
    """A full-covariance mixture, float64."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(components, dim, dim)) / np.sqrt(dim)
    covariances = root @ root.transpose(0, 2, 1) + 0.3 * np.eye(dim)
    weights, means = rng.dirichlet(np.full(components, 5.0)), spread * rng.normal(size=(components, dim))
    return Gmm(*map(torch.from_numpy, (weights, means, covariances)))


def draw(gmm: Gmm, frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, F) float64 and the component that each is of (T,)."""
    rng = np.random.default_rng(seed)
    component = rng.choice(len(gmm), frames, p=gmm.weights.numpy())
    factor = np.linalg.cholesky(gmm.covariances.numpy())
    noise = rng.normal(size=(frames, gmm.means.size(1)))
    return gmm.means.numpy()[component] + np.einsum("tij,tj->ti", factor[component], noise), component


def random_model(components: int, dim: int, rank: int, seed: int = 0, size: float = 0.7) -> TotalVariability:
    """A total variability model, float64."""
    gmm = random_gmm(components, dim, seed)
    t = size * np.random.default_rng(seed + 1).normal(size=(components, dim, rank))
    return TotalVariability(gmm.means, gmm.covariances, torch.from_numpy(t))


def draw_statistics(model: TotalVariability, utterances: int, frames: int, seed: int = 0):
    """Utterances of ``frames`` each, with known alignments: w (U, R), n (U, C), f (U, C, F), s (C, F, F), float64."""
    rng = np.random.default_rng(seed)
    components, dim, rank = model.t.shape
    w = rng.normal(size=(utterances, rank))
    means = model.means.numpy() + np.einsum("cfr,ur->ucf", model.t.numpy(), w)
    factor = np.linalg.cholesky(model.covariances.numpy())
    component = rng.integers(components, size=(utterances, frames))
    noise = rng.normal(size=(utterances, frames, dim))
    x = np.take_along_axis(means, component[:, :, None], 1) + np.einsum("utij,utj->uti", factor[component], noise)
    one = np.eye(components)[component]
    n, f = one.sum(1), np.einsum("utc,utf->ucf", one, x)
    return (
        tuple(map(torch.from_numpy, (w, n, f, np.einsum("utc,utf,utg->cfg", one, x, x, optimize=True)))),
        x,
        component,
    )
