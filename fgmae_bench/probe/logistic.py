"""Logistic regression by L-BFGS to convergence: multinomial, or one a class for multi-hot labels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_ITERATIONS = 3000
TOLERANCE = 1e-5
FINEST = 1e-7  # below which gradients in float32 do not fall
ALWAYS = 30.0  # bias of a class that every training sample carries
Matrix = NDArray[np.float32]
Labels = NDArray[Any]  # (N,) class numbers, or multi-hot (N, C)
Solution = tuple[NDArray[np.float64], NDArray[np.float64]]  # scikit-learn's weights and biases


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A fitted model; `solutions` are scikit-learn's, which another fit may start from."""

    weight: NDArray[np.float64]  # (C, D)
    bias: NDArray[np.float64]  # (C,); -inf for a class that training does not hold
    converged: bool
    solutions: dict[int, Solution]  # by class; -1 where one is of all classes

    def decision(self, features: Matrix) -> NDArray[np.float64]:
        """Logits (N, C); classes absent from training get the sample's lowest logit less 30."""
        logits = features.astype(np.float64) @ self.weight.T + np.where(np.isfinite(self.bias), self.bias, 0)
        absent = ~np.isfinite(self.bias)
        if absent.any():
            logits[:, absent] = logits[:, ~absent].min(axis=1, keepdims=True) - 30
        return logits


def logistic(
    features: Matrix,
    labels: Labels,
    penalty: float,
    classes: int,
    start: Logistic | None = None,
    tolerance: float = TOLERANCE,
) -> Logistic:
    """Mean loss + penalty/2 |w|^2 at its minimum, from `start`, a fit of the same samples, else from 0, until no
    component of the gradient is above `tolerance`, or above a tenth of the penalty: under a weak penalty the minimum is
    far, and a fit that stops on the way to it is one of another penalty.
    """
    tolerance = min(tolerance, max(penalty / 10, FINEST))
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -np.inf)
    held = {} if start is None else start.solutions
    # scikit-learn sums the loss where we take its mean, and inverts the penalty
    strength = 1 / (max(penalty, 1e-12) * len(labels))
    solutions: dict[int, Solution] = {}
    if labels.ndim == 1:
        present = np.unique(labels)
        # scikit-learn's binary form penalises the difference of the two logits, twice their own squares
        w, b, converged = _fitted(features, labels, strength * (2 if len(present) == 2 else 1), held.get(-1), tolerance)
        solutions[-1] = w, b
        if len(present) == 2:
            w, b = np.vstack([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
        weight[present], bias[present] = w, b
        return Logistic(weight=weight, bias=bias, converged=converged, solutions=solutions)
    converged = True
    for k in range(classes):
        carried = int(labels[:, k].sum())
        if 0 < carried < len(labels):
            w, b, done = _fitted(features, labels[:, k], strength, held.get(k), tolerance)
            solutions[k] = w, b
            weight[k], bias[k], converged = w[0], b[0], converged and done
        elif carried:  # every sample has it: nothing to fit, and certain
            bias[k] = ALWAYS
    return Logistic(weight=weight, bias=bias, converged=converged, solutions=solutions)


def _fitted(
    features: Matrix, labels: Labels, strength: float, start: Solution | None, tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """scikit-learn's (weights, biases, whether it converged) at C = `strength`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, solver="lbfgs", max_iter=MAX_ITERATIONS, tol=tolerance, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_ = (part.astype(features.dtype) for part in start)
        model.classes_ = np.unique(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    converged = int(np.max(model.n_iter_)) < MAX_ITERATIONS
    return np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64), converged
