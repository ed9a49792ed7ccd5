"""What single-label and multi-label probing do differently: the loss, the scores, and the metric that selects an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fgmae_bench import scores, scores_multilabel
from fgmae_bench.intervals import Units, multi_label_units, single_label_units

Metrics = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """`error` maps logits (B, G, C) and targets to (mean loss (G,), its gradient (B, G, C)); the rest takes logits (N, C).

    `units` are what the intervals of the scores are drawn from.
    """

    selection: str
    error: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    evaluate: Callable[[NDArray[Any], NDArray[Any]], Metrics]
    per_class: Callable[[NDArray[Any], NDArray[Any], tuple[str, ...]], Metrics]
    classes_scored: Callable[[NDArray[Any], tuple[str, ...]], list[str]]
    confusion: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.int64] | None]
    legacy: Callable[[NDArray[Any], NDArray[Any], int], Metrics]
    units: Callable[[NDArray[Any], NDArray[Any], list[str] | None], Units]


def _softmax_error(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy: targets (B,) are class numbers."""
    batch, heads, _ = logits.shape
    log_p = logits.log_softmax(-1)
    index = targets.view(-1, 1, 1).expand(batch, heads, 1)
    loss = -log_p.gather(-1, index).mean(dim=0)[:, 0]
    return loss, log_p.exp_().scatter_add_(-1, index, torch.full_like(index, -1, dtype=logits.dtype)) / batch


def _logistic_error(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy with logits, mean over samples and classes: targets (B, C) are multi-hot."""
    y = targets.to(logits.dtype)[:, None]
    loss = torch.nn.functional.softplus(logits) - logits * y
    return loss.mean(dim=(0, 2)), (logits.sigmoid() - y) / (logits.shape[0] * logits.shape[2])


def _confusion(logits: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.int64]:
    return scores.confusion_matrix(targets, np.nan_to_num(logits, nan=-np.inf).argmax(1), logits.shape[1])


def _evaluate_single(logits: NDArray[Any], targets: NDArray[Any]) -> Metrics:
    confusion = _confusion(logits, targets)
    metrics = {"loss": scores.finite(scores.cross_entropy(logits, targets)), **scores.single_label(confusion)}
    assert_bound(metrics, confusion)
    return metrics


def assert_bound(metrics: Metrics, confusion: NDArray[Any]) -> None:
    """OA and AA of one confusion matrix cannot be further apart than its class shares allow."""
    if metrics["oa"] is not None:
        bound = scores.oa_aa_bound(confusion.sum(axis=1))
        assert abs(metrics["oa"] - metrics["aa"]) <= bound + 1e-9, "OA and AA contradict each other"


def _evaluate_multi(logits: NDArray[Any], targets: NDArray[Any]) -> Metrics:
    loss = scores.finite(scores_multilabel.binary_cross_entropy(logits, targets))
    return {"loss": loss, **scores_multilabel.multi_label(np.nan_to_num(logits, nan=-np.inf), targets)}


TASKS: dict[str, Task] = {
    "single_label": Task(
        selection="oa",
        error=_softmax_error,
        evaluate=_evaluate_single,
        per_class=lambda logits, targets, classes: scores.per_class(_confusion(logits, targets), classes),
        classes_scored=lambda targets, classes: scores.classes_scored(np.diag(np.bincount(targets, minlength=len(classes))), classes),
        confusion=_confusion,
        legacy=scores.legacy_single_label,
        units=single_label_units,
    ),
    "multi_label": Task(
        selection="map_micro",
        error=_logistic_error,
        evaluate=_evaluate_multi,
        per_class=scores_multilabel.per_class,
        classes_scored=scores_multilabel.classes_scored,
        confusion=lambda logits, targets: None,
        legacy=scores_multilabel.legacy_multi_label,
        units=multi_label_units,
    ),
}
