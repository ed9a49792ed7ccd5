"""Regression on frozen features, fitted at once: ridge in closed form, and the mean of nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.recipes import ProbeRecipe
from fgmae_bench.errors import BenchError, note
from fgmae_bench.probe.fitted import Fitted, Labels, Matrix, unit

FOLDS = 5
CHUNK = 8192  # rows that are in float64 at a time
Parts = dict[str, tuple[Matrix, Labels]]


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


def fit_ridge(train: tuple[Matrix, Labels], parts: Parts, recipe: ProbeRecipe) -> Fitted:
    """Predictions of ridge regression; the penalty is chosen by squared error on `val` where there is one, else by
    cross-validation inside the training split.
    """
    penalties = recipe.penalties
    if len(penalties) == 1:
        chosen, how = penalties[0], "given"
    elif "val" in parts:
        model = Ridge(*train)
        errors = [_mse(model.predict(parts["val"][0], p), parts["val"][1]) for p in penalties]
        chosen, how = penalties[int(np.argmin(errors))], "by squared error on val"
    else:
        folds = list(_folds(len(train[1]), recipe.seed))
        errors_of = np.zeros(len(penalties))
        for kept, held in folds:
            model = Ridge(train[0][kept], train[1][kept])
            errors_of += [_mse(model.predict(train[0][held], p), train[1][held]) for p in penalties]
        chosen, how = penalties[int(np.argmin(errors_of))], f"by {len(folds)}-fold cross-validation inside train"
    notes = [note("penalty_chosen", f"L2 penalty {chosen:.3g} chosen {how} from {len(penalties)}")]
    if len(penalties) > 1 and chosen in (min(penalties), max(penalties)):
        notes.append(note("penalty_at_edge", f"the chosen L2 penalty {chosen:.3g} is at the edge of the candidates"))
    model = Ridge(*train)
    parameters = {
        "weight": model.weights(chosen)[None],
        "mean": model.mean,
        "deviation": model.deviation,
        "shift": np.array([model.shift]),
        "scale": np.array([model.scale]),
    }
    predictions = {part: model.predict(x, chosen) for part, (x, _) in parts.items()}
    return Fitted(logits=predictions, penalty=chosen, parameters=parameters, notes=tuple(notes))


def fit_knn_mean(train: tuple[Matrix, Labels], parts: Parts, recipe: ProbeRecipe) -> Fitted:
    """The mean target of the k nearest training samples by cosine, as predictions (N, 1)."""
    reference, y = unit(train[0]), np.asarray(train[1], np.float64).reshape(-1)
    predictions = {}
    for part, (x, _) in parts.items():
        found = np.zeros((len(x), 1), np.float32)
        for start in range(0, len(x), 1024):
            similarity = unit(x[start : start + 1024]) @ reference.T
            nearest = np.argpartition(-similarity, recipe.knn_k - 1, axis=1)[:, : recipe.knn_k]
            found[start : start + len(nearest), 0] = y[nearest].mean(axis=1)
        predictions[part] = found
    return Fitted(logits=predictions, penalty=None, parameters={})


def _folds(count: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import KFold

    if count < 2:
        raise BenchError("one training sample: no cross-validation", "give one --weight_decay, or more samples")
    yield from KFold(min(FOLDS, count), shuffle=True, random_state=seed % 2**32).split(np.zeros((count, 1)))


def _mse(predictions: NDArray[np.float32], targets: Labels) -> float:
    return float(np.square(predictions.astype(np.float64) - targets).mean())
