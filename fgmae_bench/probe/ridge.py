"""Regression on frozen features, fitted at once: ridge in closed form, and the mean of nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.recipes import PENALTIES, ProbeRecipe
from fgmae_bench.errors import BenchError, note
from fgmae_bench.probe.fitted import Fitted, Labels, Matrix, Part, unit
from fgmae_bench.probe.penalty import FOLDS, Losses, Pair, by_group, choose, group_numbers, group_words

CHUNK = 8192  # rows that are in float64 at a time
Parts = dict[str, Part]


class Ridge:
    """Ridge regression of standardised targets on standardised features: mean squared error / 2 + penalty / 2 |w|^2.

    One eigendecomposition of the features' correlation (D, D) gives the weights for every penalty.
    """

    def __init__(self, features: Matrix, targets: Labels):
        y = np.asarray(targets, np.float64).reshape(-1)
        n = len(y)
        self.mean = features.mean(0, dtype=np.float64)
        self.deviation = features.std(0, dtype=np.float64) + 1e-12
        self.shift, self.scale = float(y.mean()), float(y.std()) or 1.0
        gram, cross = np.zeros((features.shape[1],) * 2), np.zeros(features.shape[1])
        for start in range(0, n, CHUNK):
            x = self._standard(features[start : start + CHUNK])
            gram += x.T @ x / n
            cross += x.T @ ((y[start : start + CHUNK] - self.shift) / self.scale) / n
        values, self.vectors = np.linalg.eigh(gram)
        self.values, self.cross = np.maximum(values, 0.0), self.vectors.T @ cross

    def weights(self, penalty: float) -> NDArray[np.float64]:
        """Weights (D,) of standardised features for standardised targets."""
        found: NDArray[np.float64] = self.vectors @ (self.cross / (self.values + max(penalty, 1e-12)))
        return found

    def predict(self, features: Matrix, penalty: float) -> NDArray[np.float32]:
        """Predictions (N, 1) in the unit of the target."""
        w = self.weights(penalty)
        parts = [self._standard(features[i : i + CHUNK]) @ w for i in range(0, len(features), CHUNK)]
        found = np.concatenate(parts or [np.zeros(0)]) * self.scale + self.shift
        return found[:, None].astype(np.float32)

    def _standard(self, features: Matrix) -> NDArray[np.float64]:
        return (features - self.mean) / self.deviation


def predictions_of(parameters: dict[str, NDArray[np.float64]], features: Matrix) -> NDArray[np.float32]:
    """Predictions (N, 1) of features (N, D) by the `parameters` that a fitted ridge regression keeps."""
    scaled = (features - parameters["mean"]) / parameters["deviation"]
    found = scaled @ parameters["weight"][0] * parameters["scale"][0] + parameters["shift"][0]
    return found[:, None].astype(np.float32)


def fit_ridge(train: Part, parts: Parts, recipe: ProbeRecipe) -> Fitted:
    """Predictions of ridge regression; the penalty is chosen as that of logistic regression is, by squared error: on
    `val` where there is one, else by cross-validation inside the training split, over whole groups where they are
    known.
    """
    penalties, choice, notes = recipe.penalties, None, list[dict[str, str]]()
    chosen, how = penalties[0], "given"
    if len(penalties) > 1:
        folds, units, on, notes = _judges(train, parts.get("val"), recipe.seed)
        judge = _judge(folds, float(np.var(train.labels)) or 1.0)
        choice = choose(judge, units, penalties, on, open_ended=penalties == PENALTIES["ridge"])
        chosen, how = choice.penalty, f"chosen {choice.how}"
    notes.insert(0, note("penalty_chosen", f"L2 penalty {chosen:.3g} {how}"))
    if choice is not None and choice.edge:
        notes.append(note("penalty_at_edge", f"the chosen L2 penalty {chosen:.3g} is at the edge of the candidates"))
    model = Ridge(train.features, train.labels)
    parameters = {
        "weight": model.weights(chosen)[None],
        "mean": model.mean,
        "deviation": model.deviation,
        "shift": np.array([model.shift]),
        "scale": np.array([model.scale]),
    }
    predictions = {part: model.predict(held.features, chosen) for part, held in parts.items()}
    return Fitted(
        logits=predictions,
        penalty=chosen,
        parameters=parameters,
        notes=tuple(notes),
        selection=None if choice is None else choice.selection,
    )


Judging = tuple[Part, Part]  # samples to fit, samples that judge


def _judges(train: Part, val: Part | None, seed: int) -> tuple[list[Judging], NDArray[Any], str, list[dict[str, str]]]:
    """(folds, units of their judging samples, in words, notes): val, else folds of train."""
    if val is not None:
        return [(train, val)], val.units, "val", []
    units, count = group_numbers(train.groups)
    if units is None or count < 2:
        pairs = _by_sample(len(train.labels), seed)
        words, notes = f"{len(pairs)}-fold cross-validation inside train", list[dict[str, str]]()
        held = np.concatenate([np.full(len(pair[1]), i) for i, pair in enumerate(pairs)])
    else:
        pairs = by_group(train.labels, units, count, seed)
        words, notes = group_words(len(pairs), count)
        held = np.concatenate([units[pair[1]] for pair in pairs])
    folds = [tuple(Part(train.features[rows], train.labels[rows]) for rows in pair) for pair in pairs]
    return [(fold[0], fold[1]) for fold in folds], held, words, notes


def _judge(folds: Sequence[Judging], variance: float) -> Callable[[float], Losses]:
    """Penalty -> squared errors of all judging samples, in units of the targets' variance."""
    fitted = [(Ridge(fit.features, fit.labels), held) for fit, held in folds]

    def judge(penalty: float) -> Losses:
        errors = [np.square(model.predict(held.features, penalty) - held.labels)[:, 0] for model, held in fitted]
        losses = np.concatenate(errors) / variance
        return losses, np.ones(len(losses))

    return judge


def fit_knn_mean(train: Part, parts: Parts, recipe: ProbeRecipe) -> Fitted:
    """The mean target of the k nearest training samples by cosine, as predictions (N, 1)."""
    reference, y = unit(train.features), np.asarray(train.labels, np.float64).reshape(-1)
    predictions = {}
    for part, x in ((part, held.features) for part, held in parts.items()):
        found = np.zeros((len(x), 1), np.float32)
        for start in range(0, len(x), 1024):
            similarity = unit(x[start : start + 1024]) @ reference.T
            nearest = np.argpartition(-similarity, recipe.knn_k - 1, axis=1)[:, : recipe.knn_k]
            found[start : start + len(nearest), 0] = y[nearest].mean(axis=1)
        predictions[part] = found
    return Fitted(logits=predictions, penalty=None, parameters={})


def _by_sample(count: int, seed: int) -> list[Pair]:
    from sklearn.model_selection import KFold

    if count < 2:
        raise BenchError("one training sample: no cross-validation", "give one --weight_decay, or more samples")
    return list(KFold(min(FOLDS, count), shuffle=True, random_state=seed % 2**32).split(np.zeros((count, 1))))
