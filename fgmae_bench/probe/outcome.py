"""What fitting one head gives: its curve, scores, predictions and parameters, before they become a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench import scores

SELECTION = "oa"  # the metric that picks an epoch on val


@dataclass(kw_only=True)
class Outcome:
    """One head. `final` is the last epoch on the evaluation split; `logits` (N, C) are the test split's."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    final: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    confusion: NDArray[np.int64] | None = None
    logits: NDArray[np.float32] | None = None
    legacy: dict[str, Any] | None = None
    legacy_curve: list[dict[str, Any]] = field(default_factory=list)
    fitted: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # parameters of a probe without epochs
    notes: list[dict[str, str]] = field(default_factory=list)
    diverged: bool = False


def evaluate_logits(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """(`loss`, `oa`, `aa`, `kappa`, `f1_macro`; confusion matrix) of logits (N, C) over a whole split."""
    confusion = scores.confusion_matrix(targets, np.nan_to_num(logits, nan=-np.inf).argmax(1), logits.shape[1])
    metrics = {"loss": scores.finite(scores.cross_entropy(logits, targets)), **scores.single_label(confusion)}
    assert_bound(metrics, confusion)
    return metrics, confusion


def assert_bound(metrics: dict[str, Any], confusion: NDArray[np.int64]) -> None:
    """OA and AA of one confusion matrix cannot be further apart than its class shares allow."""
    if metrics["oa"] is not None:
        bound = scores.oa_aa_bound(confusion.sum(axis=1))
        assert abs(metrics["oa"] - metrics["aa"]) <= bound + 1e-9, "OA and AA contradict each other"
