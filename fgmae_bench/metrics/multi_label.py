"""Multi-label metrics as numpy functions of stored scores: average precision and F1 over the whole split, computed
once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.single_label import finite

THRESHOLD = 0.5


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Logistic function of logits in float64, without overflow."""
    z = np.asarray(logits, np.float64)
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def average_precision(scores: NDArray[Any], positive: NDArray[Any]) -> float | None:
    """Area under precision over recall as a step function, ties taken together; None without positives.

    Sum over distinct scores of (recall step) x precision, as scikit-learn's `average_precision_score`.
    """
    positives = int(np.count_nonzero(positive))
    if positives == 0:
        return None
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(positive[order] != 0)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # the last of each run of equal scores
    steps = np.diff(hits[last], prepend=0)
    return float((steps * hits[last] / (last + 1)).sum() / positives)


def binary_cross_entropy(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Mean over samples and classes of the logistic loss, in float64; NaN for an empty split."""
    if len(targets) == 0:
        return float("nan")
    z, y = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    return float((np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).mean())


def multi_label(logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float | None]:
    """`map_micro`, `map_macro`, `f1_micro`, `f1_macro` of logits (N, C) against multi-hot targets (N, C).

    AP on probabilities, F1 at probability .5. Macro averages run over the classes that have positives.
    """
    p, y = probabilities(logits), np.asarray(targets) != 0
    scored = y.any(axis=0)
    if not scored.any():
        return dict.fromkeys(("map_micro", "map_macro", "f1_micro", "f1_macro"))
    predicted = p >= THRESHOLD
    tp, either = (predicted & y).sum(0), predicted.sum(0) + y.sum(0)
    aps = [average_precision(p[:, k], y[:, k]) for k in np.flatnonzero(scored)]
    return {
        "map_micro": average_precision(p.ravel(), y.ravel()),
        "map_macro": float(np.mean([ap for ap in aps if ap is not None])),
        "f1_micro": float(2 * tp.sum() / either.sum()),
        "f1_macro": float((2 * tp[scored] / either[scored]).mean()),
    }


def per_class(
    logits: NDArray[Any], targets: NDArray[Any], classes: tuple[str, ...]
) -> dict[str, dict[str, float | int | None]]:
    """AP, F1 and support of each class; undefined is None."""
    p, y = probabilities(logits), np.asarray(targets) != 0
    result: dict[str, dict[str, float | int | None]] = {}
    for k, name in enumerate(classes):
        predicted, support = p[:, k] >= THRESHOLD, int(y[:, k].sum())
        f1 = float(2 * (predicted & y[:, k]).sum() / (predicted.sum() + support)) if support else None
        result[name] = {"ap": average_precision(p[:, k], y[:, k]), "f1": f1, "support": support}
    return result


def classes_scored(targets: NDArray[Any], classes: tuple[str, ...]) -> list[str]:
    """Names of the classes that have positives."""
    return [name for name, present in zip(classes, (np.asarray(targets) != 0).any(axis=0), strict=True) if present]


def legacy_multi_label(logits: NDArray[Any], targets: NDArray[Any], batch_size: int) -> dict[str, float | None]:
    """What averaging over batches prints: each metric of each batch, weighted by its size.

    Classes without positives in a batch are left out of its macro AP, which is what inflated the published numbers, and
    count 0 in its macro F1, as in torchmetrics.
    """
    totals: dict[str, float] = {}
    weights: dict[str, int] = {}
    for start in range(0, len(targets), batch_size):
        z, y = logits[start : start + batch_size], targets[start : start + batch_size]
        values = {"loss": binary_cross_entropy(z, y), **multi_label(z, y)}
        if values["f1_macro"] is not None:
            values["f1_macro"] *= float((np.asarray(y) != 0).any(axis=0).mean())
        for name, value in values.items():
            if value is not None and np.isfinite(value):
                totals[name] = totals.get(name, 0.0) + value * len(y)
                weights[name] = weights.get(name, 0) + len(y)
    return {name: finite(total / weights[name]) for name, total in totals.items()}
