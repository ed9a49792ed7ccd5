"""Probes that are fitted, not trained by epochs: logistic regression to convergence, and nearest neighbours."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError
from fgmae_bench.records import note
from fgmae_bench.scores import cross_entropy

MAX_ITERATIONS = 3000
FOLDS = 5
Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Logits (N, C) of the evaluation sets by part, the penalty that was chosen (None for kNN), and notes."""

    logits: dict[str, NDArray[np.float32]]
    penalty: float | None
    parameters: dict[str, NDArray[np.float64]]
    notes: tuple[dict[str, str], ...] = ()


def fit_logistic(
    train: tuple[Matrix, Labels], parts: dict[str, tuple[Matrix, Labels]], classes: int, penalties: tuple[float, ...], seed: int
) -> Fitted:
    """Multinomial logistic regression by L-BFGS on standardised features: mean loss + penalty/2 |w|^2.

    The penalty is chosen by loss on `val` where there is one, else by stratified cross-validation inside the training split.
    """
    mean, deviation = train[0].mean(0, dtype=np.float64), train[0].std(0, dtype=np.float64) + 1e-12
    features = ((train[0] - mean) / deviation).astype(np.float32)
    scaled = {part: ((x - mean) / deviation).astype(np.float32) for part, (x, _) in parts.items()}
    if len(penalties) == 1:
        chosen, how = penalties[0], "given"
    elif "val" in parts:
        losses = [cross_entropy(_logistic(features, train[1], p).decision(scaled["val"], classes), parts["val"][1]) for p in penalties]
        chosen, how = penalties[int(np.argmin(losses))], "by loss on val"
    else:
        chosen, how = _cross_validated(features, train[1], penalties, classes, seed), f"by {FOLDS}-fold cross-validation inside train"
    model = _logistic(features, train[1], chosen)
    notes = [note("penalty_chosen", f"L2 penalty {chosen:.3g} chosen {how} from {len(penalties)}")]
    if len(penalties) > 1 and chosen in (min(penalties), max(penalties)):
        notes.append(note("penalty_at_edge", f"the chosen L2 penalty {chosen:.3g} is at the edge of the candidates"))
    if not model.converged:
        notes.append(note("not_converged", f"logistic regression stopped at {MAX_ITERATIONS} iterations"))
    logits = {part: model.decision(x, classes).astype(np.float32) for part, x in scaled.items()}
    parameters = {"weight": model.weight, "bias": model.bias, "mean": mean, "deviation": deviation}
    return Fitted(logits=logits, penalty=chosen, parameters=parameters, notes=tuple(notes))


def fit_knn(train: tuple[Matrix, Labels], parts: dict[str, tuple[Matrix, Labels]], classes: int, k: int) -> Fitted:
    """k nearest training samples by cosine; logits are shares of votes, so ties go to the first class, as in scikit-learn."""
    reference = _unit(train[0])
    logits = {}
    for part, (x, _) in parts.items():
        votes = np.zeros((len(x), classes), np.float32)
        for start in range(0, len(x), 1024):
            similarity = _unit(x[start : start + 1024]) @ reference.T
            nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
            for row, neighbours in enumerate(train[1][nearest], start):
                votes[row] = np.bincount(neighbours, minlength=classes)
        logits[part] = votes / np.float32(k)
    return Fitted(logits=logits, penalty=None, parameters={})


@dataclass(frozen=True, kw_only=True)
class _Logistic:
    weight: NDArray[np.float64]  # (C', D)
    bias: NDArray[np.float64]
    labels: Labels  # (C',) the classes present in training
    converged: bool

    def decision(self, features: Matrix, classes: int) -> NDArray[np.float64]:
        """Logits (N, C); classes absent from training get the lowest finite logit less 30."""
        present = features.astype(np.float64) @ self.weight.T + self.bias
        full = np.repeat(present.min(axis=1, keepdims=True) - 30, classes, axis=1)
        full[:, self.labels] = present
        return full


def _logistic(features: Matrix, labels: Labels, penalty: float) -> _Logistic:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    strength = 1 / (max(penalty, 1e-12) * len(labels))
    if len(np.unique(labels)) == 2:
        strength *= 2  # scikit-learn's binary form penalises the difference of the two logits, twice their own squares
    model = LogisticRegression(C=strength, solver="lbfgs", max_iter=MAX_ITERATIONS, tol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(model.classes_) == 2:  # one row of scikit-learn's binary form stands for the difference of two logits
        weight, bias = np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return _Logistic(weight=weight, bias=bias, labels=model.classes_, converged=int(np.max(model.n_iter_)) < MAX_ITERATIONS)


def _cross_validated(features: Matrix, labels: Labels, penalties: tuple[float, ...], classes: int, seed: int) -> float:
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(np.bincount(labels, minlength=classes).min()))
    if folds < 2:
        raise BenchError("a class has one training sample: no cross-validation", "give one --weight_decay, or more samples")
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(features, labels))
    losses = [
        np.mean([cross_entropy(_logistic(features[a], labels[a], p).decision(features[b], classes), labels[b]) for a, b in splits])
        for p in penalties
    ]
    return penalties[int(np.argmin(losses))]


def _unit(x: Matrix) -> Matrix:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
