"""Sufficient statistics of B sets at once, a split or its resamples; NaN is what is undefined."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Confusion:
    """Confusion matrices (B, K, C), rows = reference, columns = prediction; all properties are (B, K), `total` is (B,).

    C is K, or K + 1 where the last column counts what was predicted as a class that the reference does not have.
    """

    counts: Values

    @cached_property
    def hits(self) -> Values:
        """Samples or pixels of each class that are predicted right."""
        return np.einsum("bkk->bk", self.counts[:, :, : self.counts.shape[1]])

    @cached_property
    def reference(self) -> Values:
        """Samples or pixels of each class."""
        return self.counts.sum(2)

    @cached_property
    def predicted(self) -> Values:
        """Samples or pixels predicted as each class."""
        return self.counts.sum(1)[:, : self.counts.shape[1]]

    @cached_property
    def total(self) -> Values:
        """All samples or pixels."""
        return self.counts.sum((1, 2))

    @cached_property
    def recall(self) -> Values:
        """Accuracy of each class."""
        return ratio(self.hits, self.reference)

    @cached_property
    def precision(self) -> Values:
        """Share of what is predicted as each class that is right."""
        return ratio(self.hits, self.predicted)

    @cached_property
    def f1(self) -> Values:
        """F1 of the classes with reference: 0 where such a class is never predicted."""
        return f1(self)

    @cached_property
    def iou(self) -> Values:
        """Hits / (reference + predicted - hits)."""
        return ratio(self.hits, self.reference + self.predicted - self.hits)


@dataclass(frozen=True, kw_only=True)
class Tags:
    """Multi-label decisions: `hits`, `predicted` and `reference` count labels, (B, C); `ap` (B, C) is the average
    precision of each class, `ap_together` (B,) that of all decisions as one class.
    """

    hits: Values
    predicted: Values
    reference: Values
    ap: Values
    ap_together: Values

    @cached_property
    def f1(self) -> Values:
        """F1 of the classes with positives (B, C)."""
        return f1(self)


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """Sums (B,) over samples or pixels with a target: their number, of errors (prediction - target), absolute and
    squared errors, of targets and of squared targets, the targets taken from one common origin. `rank_correlation` (B,)
    is Spearman's.
    """

    count: Values
    error: Values
    absolute: Values
    squared: Values
    target: Values
    target_squared: Values
    rank_correlation: Values

    @cached_property
    def scatter(self) -> Values:
        """Sum of squared deviations of the targets from their mean (B,); 0 where rounding leaves less."""
        return np.maximum(self.target_squared - ratio(self.target**2, self.count), 0.0)


Statistics = Confusion | Tags | Residuals


def f1(s: Confusion | Tags) -> Values:
    """2 hits / (reference + predicted) of the classes with reference (B, K)."""
    return np.where(s.reference > 0, ratio(2 * s.hits, s.reference + s.predicted), np.nan)


def area_under_precision(positive: NDArray[Any], every: NDArray[Any]) -> Values:
    """Average precision (B,) from the positives and all samples per score level (B, L), the highest score first.

    Sum over levels of (recall step) x precision, as scikit-learn's `average_precision_score`; NaN without positives.
    """
    hits, seen = np.cumsum(positive, 1, dtype=np.float64), np.cumsum(every, 1, dtype=np.float64)
    positives = hits[:, -1].copy()
    hits *= positive  # the product of counts is exact, so that a term is rounded once
    return ratio(np.divide(hits, seen, out=hits, where=seen > 0).sum(1), positives)


def ratio(a: Values, b: Values) -> Values:
    """a / b, NaN where b is not positive."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def mean_known(values: Values) -> Values:
    """Mean (B,) over the defined values of each row (B, K), NaN where there is none."""
    known = np.isfinite(values)
    if len(values) == 1:  # zeros between the values would change the last bit of numpy's pairwise sum
        values, known = values[:, known[0]], known[:, known[0]]
    return ratio(np.where(known, values, 0.0).sum(1), known.sum(1).astype(np.float64))


def finite(value: float) -> float | None:
    """The value, or None where it is undefined: records hold neither NaN nor infinity."""
    return value if np.isfinite(value) else None


def by_class(
    classes: tuple[str, ...], support: NDArray[Any], columns: dict[str, Values]
) -> dict[str, dict[str, float | int | None]]:
    """The columns (K,) as one row a class, undefined values as None, with the class's support at the end."""
    return {
        name: {**{title: finite(float(column[k])) for title, column in columns.items()}, "support": int(support[k])}
        for k, name in enumerate(classes)
    }
