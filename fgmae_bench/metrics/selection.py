"""Choosing among candidates on labels that were held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def one_standard_error(
    penalties: Sequence[float],
    losses: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    units: NDArray[Any],
) -> tuple[float, float, list[float], list[float]]:
    """(the strongest penalty within one standard error of the smallest loss, that of the smallest, means, errors).

    Each penalty has (loss, weight) of every held sample, `units` says which fold or group a sample is of. The mean is
    sum of losses over sum of weights; its squared error is the weighted mean of (unit mean - mean)^2 over U - 1, that
    of glmnet's `cv.glmnet` (Friedman, Hastie & Tibshirani 2010). Ties go to the first penalty. Raises ValueError where
    no sample could be judged.
    """
    _, unit = np.unique(units, return_inverse=True)
    means, errors = [], []
    for loss, weight in losses:
        share, total = np.bincount(unit, weight), np.bincount(unit, loss)
        if not share.sum():
            raise ValueError("no held sample could be judged")
        judged = share > 0
        mean = total.sum() / share.sum()
        apart = (total[judged] / share[judged] - mean) ** 2
        spread = (share[judged] * apart).sum() / share.sum()
        means.append(float(mean))
        errors.append(float(math.sqrt(spread / (judged.sum() - 1))) if judged.sum() > 1 else 0.0)
    best = int(np.argmin(means))
    near = [p for p, mean in zip(penalties, means, strict=True) if mean <= means[best] + errors[best]]
    return max(near), penalties[best], means, errors


def best_on_val(val: Sequence[float | None]) -> int | None:
    """Which is the highest, the first of equal ones; None where one is undefined."""
    if not val or any(value is None for value in val):
        return None
    return int(np.argmax(np.asarray(val, np.float64)))
