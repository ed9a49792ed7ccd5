"""Choosing among candidates on labels that were held out, and what a choice among k of them is worth."""

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


def chance_of_best(n: int, k: int) -> NDArray[np.float64]:
    """Weights (n,) of the values in rising order: the chance that each is the best of k drawn of n without replacement.

    C(i - 1, k - 1) / C(n, k) of the i-th (Tang et al. 2020). Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"the best of {k} of {n}")
    return np.array([math.comb(i, k - 1) / math.comb(n, k) for i in range(n)])


def expected_max(values: Sequence[float], k: int) -> float:
    """Mean of the best of k values drawn without replacement from those of a search, unbiased (Tang et al. 2020)."""
    return float(np.sort(np.asarray(values, np.float64)) @ chance_of_best(len(values), k))


def expected_max_with_replacement(values: Sequence[float], k: int) -> float:
    """The same with replacement, biased low: sum of v_(i) [(i/n)^k - ((i-1)/n)^k] (Dodge et al. 2019)."""
    share = (np.arange(len(values) + 1) / len(values)) ** k
    return float(np.sort(np.asarray(values, np.float64)) @ np.diff(share))


def expected_test(val: Sequence[float], test: Sequence[float], k: int) -> float:
    """Mean test score of the run that is best on val among k drawn without replacement; ties on val go to the first."""
    order = np.lexsort((-np.arange(len(val)), np.asarray(val, np.float64)))  # of equal ones the first stands last
    return float(np.asarray(test, np.float64)[order] @ chance_of_best(len(val), k))


def best_on_val(val: Sequence[float | None]) -> int | None:
    """Which is the highest, the first of equal ones; None where one is undefined."""
    if not val or any(value is None for value in val):
        return None
    return int(np.argmax(np.asarray(val, np.float64)))
