"""Calibration: an affine map from one or more scores to a natural-log likelihood ratio, fitted on development trials.

The map is logistic regression with the prior taken out, as in Brümmer et al., "Fusion of heterogeneous speaker
recognition systems in the STBU submission for the NIST SRE 2006", 2007, section IV: ``llr = weights . features + bias``
minimises the prior-weighted cross-entropy

    p mean_tgt log(1 + exp(-(llr + logit p))) + (1 - p) mean_non log(1 + exp(llr + logit p)) + l2 / 2 |w|^2

where ``w`` are the weights of standardised features (the bias is not penalised), so that separable trials, whose
weights would grow for ever, and features on different scales are both harmless.
"""

from collections.abc import Sequence

import numpy as np

from espnet_ext.errors import UserError


class Calibration:
    """An affine map to LLR; make it with ``Calibration.fit`` or ``Calibration.from_dict``.

    ``weights`` ``(K,)`` and ``bias`` apply to raw features; ``names`` are those of the features; ``p_target`` is the
    prior it was fitted for (the LLR itself does not contain it).
    """

    def __init__(self, weights: Sequence[float], bias: float, names: Sequence[str], p_target: float):
        self.weights = np.asarray(weights, dtype=np.float64)
        self.bias = float(bias)
        self.names = list(names)
        self.p_target = float(p_target)

    @classmethod
    def fit(
        cls, features, labels, p_target: float = 0.05, l2: float = 1e-4, names: Sequence[str] | None = None
    ) -> "Calibration":
        """Fit by Newton's method; the objective is convex, so the result depends on nothing but the trials.

        Args:
            features: ``(N, K)`` or ``(N,)`` finite real numbers.
            labels: ``(N,)`` of 0 and 1.
            p_target: prior at which the cross-entropy is weighted, 0 < p_target < 1.
            l2: strength of the penalty on the weights of standardised features.
            names: names of the K features, default ``score`` for one and ``feature0 ...`` for more.

        Raises:
            UserError: no target or no non-target trial, features that are not finite, a prior out of range.
        """
        features, is_target = _checked(features, labels)
        if not 0 < p_target < 1:
            raise UserError(f"the prior of a target trial must lie between 0 and 1, got {p_target}")
        mean, deviation = features.mean(0), features.std(0)
        # A feature that never changes says nothing: its weight ends at 0.
        deviation[deviation < 1e-12 * np.maximum(np.abs(mean), 1)] = np.inf
        design = np.concatenate([(features - mean) / deviation, np.ones((len(features), 1))], axis=1)
        trial_weights = np.where(is_target, p_target / is_target.sum(), (1 - p_target) / (~is_target).sum())
        solution = _newton(design, is_target, trial_weights, np.log(p_target / (1 - p_target)), l2)
        weights = solution[:-1] / deviation
        if names is None:
            names = ["score"] if len(weights) == 1 else [f"feature{k}" for k in range(len(weights))]
        return cls(weights, solution[-1] - weights @ mean, names, p_target)

    def llr(self, features) -> np.ndarray:
        """Natural-log likelihood ratios ``(N,)`` of ``(N, K)`` features, or of ``(N,)`` scores when K is 1."""
        features = np.asarray(features, dtype=np.float64)
        features = features[:, None] if features.ndim == 1 else features
        if features.shape[1] != len(self.weights):
            raise UserError(
                f"the calibration takes {len(self.weights)} features ({', '.join(self.names)}), got {features.shape[1]}"
            )
        return features @ self.weights + self.bias

    def to_dict(self) -> dict:
        """Plain numbers and strings for JSON or YAML; ``from_dict`` gives the same calibration back, bit for bit."""
        return {
            "features": self.names,
            "weights": self.weights.tolist(),
            "bias": self.bias,
            "p_target": self.p_target,
        }

    @classmethod
    def from_dict(cls, values: dict) -> "Calibration":
        """Rebuild what ``to_dict`` gave; ``UserError`` if a key is missing or a number is not finite."""
        try:
            made = cls(values["weights"], values["bias"], values["features"], values["p_target"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"not a calibration, 'features', 'weights', 'bias', 'p_target' are needed: {error}"
            ) from None
        if not np.isfinite([*made.weights, made.bias]).all() or len(made.names) != len(made.weights):
            raise UserError("not a calibration: weights and bias must be finite, with one name per weight")
        return made


def _checked(features, labels) -> tuple[np.ndarray, np.ndarray]:
    """Features as float64 ``(N, K)`` and labels as bool ``(N,)``."""
    features = np.asarray(features, dtype=np.float64)
    features = features[:, None] if features.ndim == 1 else features
    is_target = np.asarray(labels).astype(bool)
    if features.ndim != 2 or len(features) != len(is_target):
        raise UserError(
            f"one row of features per label is needed, got features {features.shape} and labels {is_target.shape}"
        )
    if not is_target.any() or is_target.all():
        raise UserError("calibration needs both target and non-target development trials")
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise UserError(f"feature {column + 1} of development trial {row + 1} is not a finite number")
    return features, is_target


def _newton(
    design: np.ndarray, is_target: np.ndarray, trial_weights: np.ndarray, logit: float, l2: float
) -> np.ndarray:
    """Minimise the weighted cross-entropy with an L2 penalty on all but the last column, ``(K+1,)``."""
    sign = np.where(is_target, 1.0, -1.0)
    penalty = np.full(design.shape[1], l2)
    penalty[-1] = 0.0

    def objective(theta: np.ndarray) -> float:
        return trial_weights @ np.logaddexp(0, -sign * (design @ theta + logit)) + 0.5 * penalty @ theta**2

    theta = np.zeros(design.shape[1])
    value = objective(theta)
    for _ in range(100):
        margin = sign * (design @ theta + logit)
        wrong = np.exp(-np.logaddexp(0, margin))  # probability given to the other class
        gradient = -design.T @ (trial_weights * sign * wrong) + penalty * theta
        curvature = trial_weights * wrong * (1 - wrong)
        # The ridge on the bias keeps the system solvable when every trial is already sure.
        hessian = (design * curvature[:, None]).T @ design + np.diag(penalty + 1e-12)
        step = np.linalg.solve(hessian, gradient)
        decrease = gradient @ step
        if decrease < 1e-14:
            break
        size = 1.0
        while (trial := objective(theta - size * step)) > value - 1e-4 * size * decrease and size > 1e-10:
            size /= 2
        theta, value = theta - size * step, trial
    return theta
