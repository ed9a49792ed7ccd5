"""What single-label and multi-label tasks do differently: loss, scores, and the metric that selects an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fgmae_bench.metrics import multi_label, single_label
from fgmae_bench.metrics.intervals import Units, multi_label_units, regression_units, single_label_units
from fgmae_bench.metrics.regression import regression
from fgmae_bench.metrics.statistics import finite
from fgmae_bench.metrics.table import MULTI, REGRESSION, SINGLE, selection

Metrics = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """`loss_and_grad` maps logits (B, G, C) and targets to (mean loss (G,), its gradient (B, G, C)).

    The rest takes logits (N, C); `units` are what the intervals of the scores are drawn from.
    """

    selection: str
    loss_and_grad: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    evaluate: Callable[[NDArray[Any], NDArray[Any]], Metrics]
    per_class: Callable[[NDArray[Any], NDArray[Any], tuple[str, ...]], Metrics]
    classes_scored: Callable[[NDArray[Any], tuple[str, ...]], list[str]]
    confusion: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.int64] | None]
    legacy: Callable[[NDArray[Any], NDArray[Any], int], Metrics]
    units: Callable[[NDArray[Any], NDArray[Any], list[str] | None], Units]


def _softmax_loss_and_grad(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy: targets (B,) are class numbers."""
    batch, heads, _ = logits.shape
    log_p = logits.log_softmax(-1)
    index = targets.view(-1, 1, 1).expand(batch, heads, 1)
    loss = -log_p.gather(-1, index).mean(dim=0)[:, 0]
    return loss, log_p.exp_().scatter_add_(-1, index, torch.full_like(index, -1, dtype=logits.dtype)) / batch


def _logistic_loss_and_grad(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy with logits, mean over samples and classes: targets (B, C) are multi-hot."""
    y = targets.to(logits.dtype)[:, None]
    loss = torch.nn.functional.softplus(logits) - logits * y
    return loss.mean(dim=(0, 2)), (logits.sigmoid() - y) / (logits.shape[0] * logits.shape[2])


def _squared_loss_and_grad(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error: targets (B, 1), standardised as the heads' outputs are."""
    error = predictions - targets.to(predictions.dtype)[:, None]
    return error.square().mean(dim=(0, 2)), 2 * error / (error.shape[0] * error.shape[2])


def _confusion(logits: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.int64]:
    return single_label.confusion_matrix(targets, np.nan_to_num(logits, nan=-np.inf).argmax(1), logits.shape[1])


def _evaluate_single(logits: NDArray[Any], targets: NDArray[Any]) -> Metrics:
    confusion = _confusion(logits, targets)
    metrics = {"loss": finite(single_label.cross_entropy(logits, targets)), **single_label.single_label(confusion)}
    assert_bound(metrics, confusion)
    return metrics


def assert_bound(metrics: Metrics, confusion: NDArray[Any]) -> None:
    """OA and AA of one confusion matrix cannot be further apart than its class shares allow."""
    if metrics["oa"] is not None:
        bound = single_label.oa_aa_bound(confusion.sum(axis=1))
        assert abs(metrics["oa"] - metrics["aa"]) <= bound + 1e-9, "OA and AA contradict each other"


def _evaluate_multi(logits: NDArray[Any], targets: NDArray[Any]) -> Metrics:
    loss = finite(multi_label.binary_cross_entropy(logits, targets))
    return {"loss": loss, **multi_label.multi_label(np.nan_to_num(logits, nan=-np.inf), targets)}


TASKS: dict[str, Task] = {
    SINGLE: Task(
        selection=selection(SINGLE),
        loss_and_grad=_softmax_loss_and_grad,
        evaluate=_evaluate_single,
        per_class=lambda logits, targets, classes: single_label.per_class(_confusion(logits, targets), classes),
        classes_scored=lambda targets, classes: single_label.classes_scored(
            np.diag(np.bincount(targets, minlength=len(classes))), classes
        ),
        confusion=_confusion,
        legacy=single_label.legacy_single_label,
        units=single_label_units,
    ),
    MULTI: Task(
        selection=selection(MULTI),
        loss_and_grad=_logistic_loss_and_grad,
        evaluate=_evaluate_multi,
        per_class=multi_label.per_class,
        classes_scored=multi_label.classes_scored,
        confusion=lambda logits, targets: None,
        legacy=multi_label.legacy_multi_label,
        units=multi_label_units,
    ),
    REGRESSION: Task(
        selection=selection(REGRESSION),
        loss_and_grad=_squared_loss_and_grad,
        evaluate=lambda predictions, targets: dict(regression(predictions, targets)),
        per_class=lambda predictions, targets, classes: {},
        classes_scored=lambda targets, classes: [],
        confusion=lambda predictions, targets: None,
        legacy=lambda predictions, targets, batch_size: {},
        units=regression_units,
    ),
}


@dataclass(frozen=True)
class Scale:
    """How targets are standardised for a head: (target - shift) / scale; classes are left as they are."""

    shift: float = 0.0
    scale: float = 1.0
    plain: bool = True

    @classmethod
    def of(cls, task: str, targets: NDArray[Any]) -> Scale:
        """Mean and deviation of the training targets of a regression."""
        if task != REGRESSION:
            return cls()
        return cls(float(targets.mean()), float(targets.std()) or 1.0, plain=False)

    def down(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Targets as a head learns them, float32."""
        return targets if self.plain else ((targets - self.shift) / self.scale).astype(np.float32)

    def up(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """A head's outputs in the unit of the target."""
        return outputs if self.plain else (outputs * np.float64(self.scale) + self.shift).astype(np.float32)


@dataclass(kw_only=True)
class Outcome:
    """One head. `final` is the last epoch on the evaluation split; `logits` (N, C) are the test split's."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    final: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    targets: NDArray[np.int64] | NDArray[np.uint8] | None = None  # of the test split, (N,) or multi-hot (N, C)
    logits: NDArray[np.float32] | None = None
    legacy: dict[str, Any] | None = None
    legacy_curve: list[dict[str, Any]] = field(default_factory=list)
    fitted: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # parameters of a probe without epochs
    notes: list[dict[str, str]] = field(default_factory=list)
    selection: dict[str, Any] | None = None  # what was chosen among candidates, on what: the record's `selection`
    retrieval: dict[str, float | None] | None = None  # of texts and images: the record's `metrics.retrieval`
    val_logits: NDArray[np.float32] | None = None  # (N, C) of the val split, where there is one
    diverged: bool = False


LEGACY_EVERY = 10  # the reference evaluates every tenth epoch and the last


def rank(metrics: dict[str, Any] | None, selection: str) -> tuple[float, float]:
    """What the best epoch is chosen by: the task's metric, then the loss."""
    if metrics is None or metrics[selection] is None:
        return (-math.inf, -math.inf)
    return (metrics[selection], -metrics["loss"] if metrics["loss"] is not None else -math.inf)


def seen_by_reference(epoch: int, epochs: int) -> bool:
    """True for the epochs that the reference evaluates."""
    return epoch % LEGACY_EVERY == 0 or epoch + 1 == epochs


def legacy_of(outcome: Outcome, targets: NDArray[Any], batch_size: int, task: Task) -> dict[str, Any]:
    """What per-batch averaging would have printed of the test split, and the best of the reference's evaluations.

    Without a val split these were of the test split, as in the reference; with one, that maximum is left out.
    """
    assert outcome.logits is not None
    values: dict[str, Any] = dict(task.legacy(outcome.logits, targets, batch_size))
    for name in [name for name in values if name != "loss"] if outcome.best is None else []:
        seen = [entry[name] for entry in outcome.legacy_curve if entry.get(name) is not None]
        values[f"{name}_max"] = max(seen, default=None)
    return {"batch_size": batch_size, **{k: finite(v) if isinstance(v, float) else v for k, v in values.items()}}
