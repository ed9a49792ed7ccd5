"""Segmentation scores of confusion matrices: one matrix an image, summed exactly, averaged over classes once.

A matrix is (K, K), rows = reference, columns = prediction, or (K, K + 1) where the last column counts pixels that were
given a class which the evaluation scheme does not have: they can only be wrong. A stack (N, K, C) stands for its sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.significance import t_quantile
from fgmae_bench.metrics.statistics import Confusion, by_class, finite, ratio
from fgmae_bench.metrics.table import SEGMENTATION, names, scores

MOST_GROUPS, MOST_UNITS = 100, 5_000  # that a record lists, and that are left out one by one
LEAST_UNITS = 5  # for an interval
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

    `omission` and `commission` are the shares of the class that is missed, and of its prediction that is wrong;
    `area_bias` is predicted area / reference - 1. IoU is undefined only for a class that is neither in the reference
    nor predicted.
    """
    s = _statistics(confusion)
    columns = {
        "iou": s.iou[0],
        "accuracy": s.recall[0],
        "precision": s.precision[0],
        "omission": 1 - s.recall[0],
        "commission": 1 - s.precision[0],
        "area_bias": ratio(s.predicted, s.reference)[0] - 1,
    }
    return by_class(classes, s.reference[0], columns)


def per_group(confusions: NDArray[Any], classes: tuple[str, ...], groups: list[str] | None) -> dict[str, Any]:
    """IoU of each class, and labelled pixels, of each group of images (N, K, C), such as the event of a flood; empty
    where groups are not known, or more than MOST_GROUPS.
    """
    names, place = np.unique(np.array(groups or [], dtype=str), return_inverse=True)
    if not 0 < len(names) <= MOST_GROUPS:
        return {}
    sums = np.zeros((len(names), *confusions.shape[1:]))
    np.add.at(sums, place.reshape(-1), confusions)
    s = Confusion(sums)
    return {
        str(name): {
            "iou": {label: finite(float(s.iou[n, k])) for k, label in enumerate(classes)},
            "pixels": int(s.total[n]),
        }
        for n, name in enumerate(names)
    }


def class_intervals(
    confusions: NDArray[Any], classes: tuple[str, ...], groups: list[str] | None, level: float = 0.95
) -> dict[str, list[float] | None]:
    """Intervals of each class's IoU over groups, or images where groups are not known; None where undefined.

    The standard error is the jackknife's that leaves out each unit, with Student's t of as many degrees of freedom,
    less one; bounds are kept in [0, 1]. A class that some unit alone holds, or fewer than five units have none.
    """
    units = np.arange(len(confusions)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    count = int(units.max(initial=-1)) + 1
    if count < LEAST_UNITS or count > MOST_UNITS:
        return dict.fromkeys(classes)
    sums = np.zeros((count, *confusions.shape[1:]))
    np.add.at(sums, units, confusions)
    whole = Confusion(sums.sum(0, keepdims=True)).iou[0]  # (K,)
    without = Confusion(sums.sum(0, keepdims=True) - sums).iou  # (G, K)
    spread = np.square(without - without.mean(0)).sum(0)
    half = t_quantile(level, count - 1) * np.sqrt((count - 1) / count * spread)
    bounds = np.clip(np.stack([whole - half, whole + half], axis=1), 0, 1)
    return {
        name: bounds[k].tolist() if np.isfinite(bounds[k]).all() and half[k] > 0 else None
        for k, name in enumerate(classes)
    }


def joined_scores(
    confusion: NDArray[Any], classes: tuple[str, ...], schemes: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> dict[str, dict[str, Any]]:
    """Metrics and `per_class` by name of schemes (class -> classes that it joins) of a matrix (K, C) or a stack's sum.

    Pixels of a reference class that a scheme does not name are left out, as they are in its own runs; predictions of
    one are a class that the scheme does not have.
    """
    counts, found = total(confusion), {}
    for name, joined in schemes.items():
        places = [[classes.index(label) for label in labels] for labels in joined.values()]
        rows = np.stack([counts[place].sum(axis=0) for place in places])  # (J, C)
        named = np.stack([rows[:, place].sum(axis=1) for place in places], axis=1)  # (J, J)
        matrix = np.concatenate([named, (rows.sum(axis=1) - named.sum(axis=1))[:, None]], axis=1)
        found[name] = {**segmentation(matrix), "per_class": per_class(matrix, tuple(joined))}
    return found


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
