"""The scores of a run once more, from the predictions that it stored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fgmae_bench.metrics import multi_label, segmentation, single_label
from fgmae_bench.metrics.regression import pixel_regression, regression
from fgmae_bench.metrics.statistics import finite
from fgmae_bench.records import Record
from fgmae_bench.report.predictions import Predictions

RELATIVE = 1e-6  # of scores in float64 from logits in float32, computed on another machine


def differences(record: Record, held: Predictions) -> list[str]:
    """What predictions say otherwise than their record, a line each; none of a run that diverged."""
    if record["status"] == "diverged":
        return []
    found = []
    if len(held.ids) != record["dataset"]["n_test"]:
        found.append(f"{len(held.ids)} samples are predicted, {record['dataset']['n_test']} recorded")
    recorded, given = record["metrics"]["test"], _scores(held)
    for name, value in given.items():
        if name in recorded and not _same(value, recorded[name]):
            found.append(f"{name} is {_shown(value)} by the predictions, {_shown(recorded[name])} in the record")
    if not set(given) & set(recorded):
        found.append("none of its scores follows from predictions of this kind")
    matrix = record["metrics"].get("confusion")
    own = _confusion(held)
    if matrix and own is not None and not np.array_equal(own, np.array(matrix)):
        found.append("the confusion matrix is another")
    kept = record["metrics"].get("per_class") or {}
    for name, scores in _per_class(held).items():
        said = kept.get(name, {})
        for score, value in scores.items() if isinstance(said, dict) else ():
            if score in said and not (_is_score(said[score]) and _same(value, said[score])):
                found.append(f"{score} of {name} is another by the predictions")
    return found


def _scores(held: Predictions) -> dict[str, float | None]:
    if held.sums is not None:
        return pixel_regression(held.sums, held.scores)
    if held.targets is None:
        return segmentation.segmentation(segmentation.total(held.scores))
    if held.kind == "regression":
        return regression(held.scores, held.targets)
    if held.kind == "multi_label":
        loss = finite(multi_label.binary_cross_entropy(held.scores, held.targets))
        return {"loss": loss, **multi_label.multi_label(np.nan_to_num(held.scores, nan=-np.inf), held.targets)}
    loss = finite(single_label.cross_entropy(held.scores, held.targets))
    return {"loss": loss, **single_label.single_label(_confusion(held))}


def _per_class(held: Predictions) -> dict[str, dict[str, Any]]:
    confusion = _confusion(held)
    if confusion is None:
        logits = np.nan_to_num(held.scores, nan=-np.inf)
        labels = held.targets if held.kind == "multi_label" else None
        return {} if labels is None else multi_label.per_class(logits, labels, held.classes)
    return (single_label if held.kind == "single_label" else segmentation).per_class(confusion, held.classes)


def _confusion(held: Predictions) -> Any:
    if held.kind == "single_label" and held.targets is not None:
        return single_label.confusion_matrix(held.targets, held.decisions(), held.scores.shape[1])
    return segmentation.total(held.scores) if held.kind == "segmentation" else None


def _is_score(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=RELATIVE)


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6f}"
