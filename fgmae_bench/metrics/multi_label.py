"""Multi-label scores of a whole split, from its logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.statistics import Tags, area_under_precision, by_class, finite
from fgmae_bench.metrics.table import MULTI, scores

THRESHOLD = 0.0  # of a logit, where its probability is .5


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Logistic function of logits in float64, without overflow."""
    z = np.asarray(logits, np.float64)
    # the exponent is never positive, so nothing overflows
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def average_precision(p: NDArray[Any], positive: NDArray[Any]) -> float:
    """Area under the precision-recall steps of scores (N,), ties taken together; NaN without positives."""
    if not np.any(positive):
        return float("nan")
    order = np.argsort(-p, kind="stable")
    ordered, hits = p[order], np.cumsum(positive[order] != 0)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # the last of each run of equal scores
    steps, sizes = np.diff(hits[last], prepend=0), np.diff(last, prepend=-1)
    return float(area_under_precision(steps[None], sizes[None])[0])


def binary_cross_entropy(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Mean over samples and classes of the logistic loss, in float64; NaN for an empty split."""
    if len(targets) == 0:
        return float("nan")
    z, y = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    # log(1 + e^z) - z y, written so that no exponent is positive
    return float((np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).mean())


def multi_label(logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float | None]:
    """The metrics of logits (N, C) against multi-hot targets (N, C): AP ranks by logits, F1 is taken at logit 0.

    Probabilities would rank worse: beyond a logit of 37 they are all 1 and so tie. Macro averages run over the classes
    that have positives; without any, everything is None.
    """
    return scores(MULTI, _statistics(np.asarray(logits, np.float64), THRESHOLD, targets, together=True))


def per_class(
    logits: NDArray[Any], targets: NDArray[Any], classes: tuple[str, ...]
) -> dict[str, dict[str, float | int | None]]:
    """AP, F1 and support of each class; undefined is None."""
    s = _statistics(np.asarray(logits, np.float64), THRESHOLD, targets, together=False)
    return by_class(classes, s.reference[0], {"ap": s.ap[0], "f1": s.f1[0]})


def classes_scored(targets: NDArray[Any], classes: tuple[str, ...]) -> list[str]:
    """Names of the classes that have positives."""
    return [name for name, present in zip(classes, (np.asarray(targets) != 0).any(axis=0), strict=True) if present]


def legacy_multi_label(logits: NDArray[Any], targets: NDArray[Any], batch_size: int) -> dict[str, float | None]:
    """What averaging over batches prints: each metric of each batch, weighted by its size. AP ranks by probabilities.

    Classes without positives in a batch are left out of its macro AP, which is what inflated the published numbers, and
    count 0 in its macro F1, as in torchmetrics.
    """
    totals: dict[str, float] = {}
    weights: dict[str, int] = {}
    for start in range(0, len(targets), batch_size):
        z, y = logits[start : start + batch_size], targets[start : start + batch_size]
        ranked = scores(MULTI, _statistics(probabilities(z), 0.5, y, together=True))
        values = {"loss": binary_cross_entropy(z, y), **ranked}
        # the mean over present classes, times their share: absent ones count 0
        if values["f1_macro"] is not None:
            values["f1_macro"] *= float((np.asarray(y) != 0).any(axis=0).mean())
        for name, value in values.items():
            if value is not None and np.isfinite(value):
                totals[name] = totals.get(name, 0.0) + value * len(y)
                weights[name] = weights.get(name, 0) + len(y)
    return {name: finite(total / weights[name]) for name, total in totals.items()}


def _statistics(p: NDArray[np.float64], threshold: float, targets: NDArray[Any], *, together: bool) -> Tags:
    """The statistics of the scores of one split, B = 1; AP of all decisions only where it is wanted: it sorts N x C."""
    y = np.asarray(targets) != 0
    predicted = p >= threshold
    hits, chosen, reference = ((predicted & y).sum(0), predicted.sum(0), y.sum(0))
    return Tags(
        hits=hits[None].astype(np.float64),
        predicted=chosen[None].astype(np.float64),
        reference=reference[None].astype(np.float64),
        ap=np.array([[average_precision(p[:, k], y[:, k]) for k in range(y.shape[1])]]),
        ap_together=np.array([average_precision(p.ravel(), y.ravel()) if together else np.nan]),
    )
