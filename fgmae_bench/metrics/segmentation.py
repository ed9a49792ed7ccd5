"""Segmentation scores of confusion matrices: one matrix an image, summed exactly, averaged over classes once.

A matrix is (K, K), rows = reference, columns = prediction, or (K, K + 1) where the last column counts pixels that were
given a class which the evaluation scheme does not have: they can only be wrong. A stack (N, K, C) stands for its sum.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.statistics import Confusion, by_class
from fgmae_bench.metrics.table import SEGMENTATION, names, scores

IGNORE = 255  # label of pixels that are neither learnt nor scored
METRICS = names(SEGMENTATION)


def eval_columns(train_classes: tuple[str, ...], eval_classes: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Column (K_train,) of the confusion matrix for each class that is predicted; None where both schemes are the same.

    Classes are matched by name; one that the evaluation scheme does not have gets column K_eval. Raises BenchError on a
    name that stands twice in a scheme, and where the schemes share no class.
    """
    # a name that stands twice would be matched to its last place without a word
    for classes in (train_classes, eval_classes):
        twice = [name for name, count in Counter(classes).items() if count > 1]
        if twice:
            raise BenchError(f"class '{twice[0]}' stands twice in a label scheme", "give each class a name of its own")
    if train_classes == eval_classes:
        return None
    if not set(train_classes) & set(eval_classes):
        shown = f"{', '.join(train_classes)} and {', '.join(eval_classes)}"
        raise BenchError(
            f"the schemes of training and evaluation share no class ({shown})", "choose schemes with common class names"
        )
    places = {name: k for k, name in enumerate(eval_classes)}
    return np.array([places.get(name, len(eval_classes)) for name in train_classes], np.int64)


def image_confusion(
    reference: NDArray[Any], predicted: NDArray[Any], num_classes: int, columns: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Counts of one image's pixels: (K, K), or (K, K + 1) with the `columns` of `eval_columns`.

    Pixels of reference 255 are left out; `predicted` holds class numbers of the training scheme. Raises ValueError on
    shapes that differ and labels outside their scheme.
    """
    reference, predicted = np.asarray(reference), np.asarray(predicted)
    if reference.shape != predicted.shape:
        raise ValueError(f"reference {reference.shape} and prediction {predicted.shape}")
    kept = reference != IGNORE
    rows, chosen = reference[kept].astype(np.int64), predicted[kept].astype(np.int64)
    _require_inside("reference", rows, num_classes)
    _require_inside("predicted", chosen, num_classes if columns is None else len(columns))
    width = num_classes
    if columns is not None:
        chosen, width = columns[chosen], num_classes + 1
    # a pixel is the cell (reference, prediction) of the matrix
    return np.bincount(rows * width + chosen, minlength=num_classes * width).reshape(num_classes, width)


def total(confusions: NDArray[Any]) -> NDArray[np.int64]:
    """The sum (K, C) of a stack (N, K, C), in whole numbers; a single matrix passes through."""
    counts = np.asarray(confusions, np.int64)
    return counts if counts.ndim == 2 else counts.sum(axis=0, dtype=np.int64)


def segmentation(confusion: NDArray[Any]) -> dict[str, float | None]:
    """The metrics of a matrix (K, C) or of the sum of a stack (N, K, C); None where nothing can be averaged."""
    return scores(SEGMENTATION, _statistics(confusion))


def per_class(confusion: NDArray[Any], classes: tuple[str, ...]) -> dict[str, dict[str, float | int | None]]:
    """IoU, accuracy (recall), precision and support in pixels of each class; undefined is None.

    IoU is undefined only for a class that is neither in the reference nor predicted.
    """
    s = _statistics(confusion)
    return by_class(classes, s.reference[0], {"iou": s.iou[0], "accuracy": s.recall[0], "precision": s.precision[0]})


def classes_scored(confusion: NDArray[Any], classes: tuple[str, ...]) -> list[str]:
    """Names of the classes that have reference pixels."""
    return [name for name, count in zip(classes, total(confusion).sum(axis=1), strict=True) if count > 0]


def legacy_segmentation(confusions: NDArray[Any], batch_size: int) -> dict[str, float | None]:
    """What averaging over batches prints: `oa`, `aa` and `miou` of each batch of (N, K, C), weighted by its size.

    Macro averages divide by all K classes and count a class that is absent from the batch as 0. A batch without a
    reference pixel is left out.
    """
    matrices = np.asarray(confusions, np.int64)
    sums, weight = np.zeros(3), 0
    for start in range(0, len(matrices), batch_size):
        batch = matrices[start : start + batch_size]
        s = _statistics(batch)
        if s.total[0] == 0:
            continue
        # classes that the batch lacks are 0 over 0, and count 0 here
        oa, accuracy, iou = s.hits.sum() / s.total[0], np.nan_to_num(s.recall).mean(), np.nan_to_num(s.iou).mean()
        sums += len(batch) * np.array([oa, accuracy, iou])
        weight += len(batch)
    return {
        name: float(value / weight) if weight else None for name, value in zip(("oa", "aa", "miou"), sums, strict=True)
    }


def _require_inside(what: str, labels: NDArray[np.int64], count: int) -> None:
    if labels.size and (labels.min() < 0 or labels.max() >= count):
        raise ValueError(f"{what} label outside [0, {count})")


def _statistics(confusion: NDArray[Any]) -> Confusion:
    """The statistics of one matrix or of a stack's sum, B = 1; exact below 2^53 pixels."""
    return Confusion(total(confusion)[None].astype(np.float64))
