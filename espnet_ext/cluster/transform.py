"""What embeddings go through before they are clustered: mean off, PCA-whitening, length 1; learned without labels."""

from dataclasses import dataclass

import numpy as np

from espnet_ext.errors import UserError


@dataclass
class Transform:
    """``z = length_norm((e - mean) projection)``; ``projection`` (E, P) is None where nothing is whitened."""

    mean: np.ndarray
    projection: np.ndarray | None = None
    length_norm: bool = True

    @classmethod
    def fit(
        cls, vectors: np.ndarray, center: bool = True, whiten: int = 0, length_norm: bool = True, where: str = "whiten"
    ) -> "Transform":
        """Learn the mean and the ``whiten`` strongest principal directions (0: none) of ``vectors (N, E)``, N > whiten.

        After whitening every direction has variance 1 over ``vectors``; without ``center`` the variance is that around
        0. Directions without variance cannot be brought to 1: ``UserError``.
        """
        dim = vectors.shape[1]
        mean = vectors.mean(0, dtype=np.float64) if center else np.zeros(dim)
        if whiten == 0:
            return cls(mean.astype(np.float32), None, length_norm)
        if not 0 < whiten <= dim:
            raise UserError(f"{where}: {whiten} directions of {dim}-d embeddings; ask for 1 to {dim}, or 0 for none")
        second = np.zeros((dim, dim))
        for first in range(0, len(vectors), 65_536):
            part = vectors[first : first + 65_536] - mean
            second += part.T @ part
        variance, directions = np.linalg.eigh(second / len(vectors))
        variance, directions = variance[::-1][:whiten], directions[:, ::-1][:, :whiten]
        flat = variance <= 1e-9 * variance[0]
        if len(vectors) <= whiten or flat.any():
            raise UserError(
                f"{where}: {len(vectors)} embeddings vary in {int((~flat).sum())} directions, {whiten} were asked for; "
                "whiten fewer"
            )
        return cls(mean.astype(np.float32), (directions / np.sqrt(variance)).astype(np.float32), length_norm)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Transform ``(N, E)`` into float32 ``(N, P)``; a vector that lies on the mean has no direction: zeros."""
        out = vectors - self.mean
        if self.projection is not None:
            out = out @ self.projection
        if self.length_norm:
            norms = np.linalg.norm(out, axis=1, keepdims=True)
            out /= np.where(norms > 0, norms, 1)
        return out.astype(np.float32, copy=False)
