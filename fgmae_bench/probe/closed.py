"""Probes that are fitted, not trained by epochs: logistic regression to convergence, and nearest neighbours."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError, note
from fgmae_bench.metrics.multi_label import binary_cross_entropy
from fgmae_bench.metrics.single_label import cross_entropy
from fgmae_bench.probe.resolve import Materials
from fgmae_bench.runs.tasks import Outcome, Task

MAX_ITERATIONS = 3000
FOLDS = 5
NO_VOTE = 1e-6  # share that stands for none, so that its logit is finite
Matrix = NDArray[np.float32]
Labels = NDArray[Any]  # (N,) class numbers, or multi-hot (N, C)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Logits (N, C) of the evaluation sets by part, the penalty that was chosen (None for kNN), and notes."""

    logits: dict[str, NDArray[np.float32]]
    penalty: float | None
    parameters: dict[str, NDArray[np.float64]]
    notes: tuple[dict[str, str], ...] = ()


def fit_closed(run: Run, materials: Materials, classes: int, task: Task) -> Outcome:
    """Outcome of logistic regression or nearest neighbours, as the recipe says, on the banks of features."""
    start = time.perf_counter()
    bank = materials.train_banks[0]
    train = (np.asarray(bank.features[materials.train]), materials.labels[materials.train])
    parts = {
        part: (np.asarray(held.features[rows]), materials.labels[rows])
        for part, (held, rows) in materials.evaluation.items()
    }
    if run.recipe.probe == "lbfgs":
        fitted = fit_logistic(train, parts, classes, run.recipe.penalties, run.recipe.seed)
    elif run.recipe.probe == "inference":
        fitted = own_head(materials, {part: features for part, (features, _) in parts.items()})
    else:
        fitted = fit_knn(train, parts, classes, run.recipe.knn_k)
    outcome = Outcome(logits=fitted.logits["test"], notes=list(fitted.notes), fitted=fitted.parameters)
    outcome.targets = parts["test"][1]
    outcome.test = task.evaluate(fitted.logits["test"], outcome.targets)
    watched = "val" if "val" in parts else "test"
    outcome.final = task.evaluate(fitted.logits[watched], parts[watched][1])
    seconds = time.perf_counter() - start
    outcome.history.append(
        {
            "epoch": 0,
            "lr": None,
            "train_loss": None,
            "val": dict(outcome.final),
            "seconds": seconds,
            "images_per_second": len(train[1]) / seconds,
        }
    )
    return outcome


def own_head(materials: Materials, parts: dict[str, Matrix]) -> Fitted:
    """Logits of the classifier that the checkpoint holds: nothing is trained.

    Raises BenchError where it holds none, or one of other features or another number of classes.
    """
    backbone, names = materials.extractor.backbone, materials.extractor.dataset.card.classes
    head = backbone.head
    if head is None:
        raise BenchError(
            f"the weights {backbone.weights.source} hold no linear head, or several", "give a checkpoint that holds one"
        )
    if tuple(head.weight.shape) != (len(names), backbone.feature_dim):
        outputs, inputs, dim = *head.weight.shape, backbone.feature_dim
        raise BenchError(
            f"{head.name} maps {inputs} features to {outputs} classes, here are {dim} and {len(names)}",
            "give a checkpoint of this dataset's classes, or the --pool of its head",
        )
    order = np.arange(len(names))
    if backbone.head_order == "alphabetical":
        order = np.argsort(np.argsort(np.array(names)))
    weight, bias = head.weight.double().numpy()[order], head.bias.double().numpy()[order]
    parameters = {
        "weight": weight,
        "bias": bias,
        "mean": np.zeros(weight.shape[1]),
        "deviation": np.ones(weight.shape[1]),
    }
    logits = {part: logistic_logits(parameters, features) for part, features in parts.items()}
    text = f"{head.name} of the checkpoint classified, its outputs in {backbone.head_order or 'the card'}'s order"
    text = text.replace("alphabetical's", "alphabetical")
    return Fitted(logits=logits, penalty=None, parameters=parameters, notes=(note("own_head", text),))


def fit_logistic(
    train: tuple[Matrix, Labels],
    parts: dict[str, tuple[Matrix, Labels]],
    classes: int,
    penalties: tuple[float, ...],
    seed: int,
) -> Fitted:
    """Logistic regression by L-BFGS on standardised features, mean loss + penalty/2 |w|^2: multinomial, or one a class
    for multi-hot.

    The penalty is chosen by loss on `val` where there is one, else by cross-validation inside the training split.
    """
    # statistics of train alone, applied to every part
    mean, deviation = train[0].mean(0, dtype=np.float64), train[0].std(0, dtype=np.float64) + 1e-12
    features = ((train[0] - mean) / deviation).astype(np.float32)
    scaled = {part: ((x - mean) / deviation).astype(np.float32) for part, (x, _) in parts.items()}
    # The penalty is chosen on val, else inside train: never on test.
    if len(penalties) == 1:
        chosen, how = penalties[0], "given"
    elif "val" in parts:
        losses = [
            _loss(_logistic(features, train[1], p, classes).decision(scaled["val"]), parts["val"][1]) for p in penalties
        ]
        chosen, how = penalties[int(np.argmin(losses))], "by loss on val"
    else:
        chosen, how = (
            _cross_validated(features, train[1], penalties, classes, seed),
            f"by {FOLDS}-fold cross-validation inside train",
        )
    model = _logistic(features, train[1], chosen, classes)
    notes = [note("penalty_chosen", f"L2 penalty {chosen:.3g} chosen {how} from {len(penalties)}")]
    if len(penalties) > 1 and chosen in (min(penalties), max(penalties)):
        notes.append(note("penalty_at_edge", f"the chosen L2 penalty {chosen:.3g} is at the edge of the candidates"))
    if not model.converged:
        notes.append(note("not_converged", f"logistic regression stopped at {MAX_ITERATIONS} iterations"))
    logits = {part: model.decision(x).astype(np.float32) for part, x in scaled.items()}
    parameters = {"weight": model.weight, "bias": model.bias, "mean": mean, "deviation": deviation}
    return Fitted(logits=logits, penalty=chosen, parameters=parameters, notes=tuple(notes))


def fit_knn(train: tuple[Matrix, Labels], parts: dict[str, tuple[Matrix, Labels]], classes: int, k: int) -> Fitted:
    """k nearest training samples by cosine.

    Single label: logits are logarithms of the shares of votes, whose softmax are the shares; ties go to the first
    class, as in scikit-learn. Multi-hot: the logit of the share of neighbours that carry a class.
    """
    reference = _unit(train[0])
    carried = (
        np.eye(classes, dtype=np.float32)[train[1]] if train[1].ndim == 1 else train[1].astype(np.float32)
    )  # (N, C)
    logits = {}
    for part, (x, _) in parts.items():
        shares = np.zeros((len(x), classes), np.float32)
        for start in range(0, len(x), 1024):
            similarity = _unit(x[start : start + 1024]) @ reference.T
            # Ties in similarity fall as argpartition puts them; ties in votes go to the first class.
            nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
            shares[start : start + len(nearest)] = carried[nearest].sum(axis=1) / np.float32(k)
        # Single label: softmax of the logarithms gives the shares back. Multi-hot: each class has its own logit.
        p = np.clip(shares, NO_VOTE, 1 - NO_VOTE)
        logits[part] = np.log(np.maximum(shares, NO_VOTE)) if train[1].ndim == 1 else np.log(p / (1 - p))
    return Fitted(logits=logits, penalty=None, parameters={})


def logistic_logits(parameters: dict[str, NDArray[np.float64]], features: Matrix) -> NDArray[np.float32]:
    """Logits (N, C) of features (N, D) by the `parameters` that a fitted logistic regression keeps."""
    scaled = ((features - parameters["mean"]) / parameters["deviation"]).astype(np.float32)
    model = _Logistic(weight=parameters["weight"], bias=parameters["bias"], converged=True)
    return model.decision(scaled).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class _Logistic:
    weight: NDArray[np.float64]  # (C, D)
    bias: NDArray[np.float64]  # (C,); -inf for a class that training does not hold
    converged: bool

    def decision(self, features: Matrix) -> NDArray[np.float64]:
        """Logits (N, C); classes absent from training get the sample's lowest logit less 30."""
        logits = features.astype(np.float64) @ self.weight.T + np.where(np.isfinite(self.bias), self.bias, 0)
        absent = ~np.isfinite(self.bias)
        if absent.any():
            logits[:, absent] = logits[:, ~absent].min(axis=1, keepdims=True) - 30
        return logits


def _logistic(features: Matrix, labels: Labels, penalty: float, classes: int) -> _Logistic:
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -np.inf)
    if labels.ndim == 1:
        # scikit-learn sums the loss where we take its mean, and inverts the penalty
        strength = 1 / (max(penalty, 1e-12) * len(labels))
        present = np.unique(labels)
        # scikit-learn's binary form penalises the difference of the two logits, twice their own squares
        w, b, converged = _fitted(features, labels, strength * (2 if len(present) == 2 else 1))
        if len(present) == 2:
            w, b = np.vstack([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
        weight[present], bias[present] = w, b
        return _Logistic(weight=weight, bias=bias, converged=converged)
    converged = True
    for k in range(classes):
        held = int(labels[:, k].sum())
        if 0 < held < len(labels):
            w, b, done = _fitted(features, labels[:, k], 1 / (max(penalty, 1e-12) * len(labels)))
            weight[k], bias[k], converged = w[0], b[0], converged and done
        # every sample has it: nothing to fit, and certain
        elif held:
            bias[k] = 30.0
    return _Logistic(weight=weight, bias=bias, converged=converged)


def _fitted(features: Matrix, labels: Labels, strength: float) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """scikit-learn's (weights, biases, whether it converged) at C = `strength`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, solver="lbfgs", max_iter=MAX_ITERATIONS, tol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    converged = int(np.max(model.n_iter_)) < MAX_ITERATIONS
    return np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64), converged


def _cross_validated(features: Matrix, labels: Labels, penalties: tuple[float, ...], classes: int, seed: int) -> float:
    from sklearn.model_selection import KFold, StratifiedKFold

    folds = FOLDS if labels.ndim == 2 else min(FOLDS, int(np.bincount(labels, minlength=classes).min()))
    if folds < 2:
        raise BenchError(
            "a class has one training sample: no cross-validation", "give one --weight_decay, or more samples"
        )
    kind = KFold if labels.ndim == 2 else StratifiedKFold
    splits = list(kind(folds, shuffle=True, random_state=seed % 2**32).split(features, labels))
    losses = [
        np.mean(
            [_loss(_logistic(features[a], labels[a], p, classes).decision(features[b]), labels[b]) for a, b in splits]
        )
        for p in penalties
    ]
    return penalties[int(np.argmin(losses))]


def _loss(logits: NDArray[np.float64], labels: Labels) -> float:
    return cross_entropy(logits, labels) if labels.ndim == 1 else binary_cross_entropy(logits, labels)


def _unit(x: Matrix) -> Matrix:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
