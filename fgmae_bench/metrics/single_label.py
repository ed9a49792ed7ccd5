"""Single-label scores of a whole split, from its confusion matrix or its logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.statistics import Confusion, by_class
from fgmae_bench.metrics.table import SINGLE, scores


def confusion_matrix(targets: NDArray[Any], predictions: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Counts (K, K), rows = reference, columns = prediction. Raises ValueError on labels outside [0, K)."""
    targets, predictions = np.asarray(targets, np.int64), np.asarray(predictions, np.int64)
    if targets.shape != predictions.shape:
        raise ValueError(f"{targets.shape} targets and {predictions.shape} predictions")
    for labels in (targets, predictions):
        if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
            raise ValueError(f"label outside [0, {num_classes})")
    return np.bincount(targets * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, num_classes)


def cross_entropy(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Mean of -log softmax(logits)[target] in float64, NaN for an empty split."""
    if len(targets) == 0:
        return float("nan")
    z = np.asarray(logits, np.float64)
    # the largest exponential is 1: no overflow, the same softmax
    z = z - z.max(axis=1, keepdims=True)
    return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), targets]).mean())


def single_label(confusion: NDArray[Any]) -> dict[str, float | None]:
    """The metrics of a confusion matrix (K, K); all are None for an empty one."""
    return scores(SINGLE, _statistics(confusion))


def legacy_single_label(logits: NDArray[Any], targets: NDArray[Any], batch_size: int) -> dict[str, float]:
    """What the reference code prints: `oa` and `aa` averaged over batches by their size, `loss` averaged over batches.

    Macro accuracy of a batch divides by all K classes and counts a class without samples in the batch as 0, as
    torchmetrics did before 1.0. Batches are taken in the order given. Source: engine_finetune_EU.py of zhu-xlab/FGMAE.
    """
    count, k = logits.shape
    batch = np.arange(count) // batch_size
    hit = logits.argmax(1) == targets
    # counts per batch and class (B, K), all batches at once
    reference, hits = np.zeros((batch[-1] + 1, k)), np.zeros((batch[-1] + 1, k))
    np.add.at(reference, (batch, targets), 1)
    np.add.at(hits, (batch[hit], targets[hit]), 1)
    sizes = reference.sum(axis=1)
    # over all K classes, absent ones as 0: what made the published AA fall with the batch
    macro = np.divide(hits, reference, out=np.zeros_like(hits), where=reference > 0).sum(axis=1) / k
    losses = [cross_entropy(logits[batch == b], targets[batch == b]) for b in range(len(sizes))]
    return {"loss": float(np.mean(losses)), "oa": float(hit.mean()), "aa": float((macro * sizes).sum() / count)}


def per_class(confusion: NDArray[Any], classes: tuple[str, ...]) -> dict[str, dict[str, float | int | None]]:
    """Accuracy (recall), precision, F1 and support of each class; undefined is None."""
    s = _statistics(confusion)
    return by_class(classes, s.reference[0], {"accuracy": s.recall[0], "precision": s.precision[0], "f1": s.f1[0]})


def classes_scored(confusion: NDArray[Any], classes: tuple[str, ...]) -> list[str]:
    """Names of the classes that have reference samples."""
    return [name for name, count in zip(classes, np.asarray(confusion).sum(axis=1), strict=True) if count > 0]


def oa_aa_bound(reference: NDArray[Any]) -> float:
    """Largest possible |OA - AA| for reference counts per class: half of sum |p_k - 1/K| over the K classes present.

    OA - AA = sum_k (p_k - 1/K) a_k with each class accuracy a_k in [0, 1], and the coefficients add up to 0.
    """
    counts = np.asarray(reference, np.float64)
    shares = counts[counts > 0] / counts.sum()
    return float(np.abs(shares - 1 / len(shares)).sum() / 2)


def _statistics(confusion: NDArray[Any]) -> Confusion:
    return Confusion(np.asarray(confusion, np.float64)[None])
