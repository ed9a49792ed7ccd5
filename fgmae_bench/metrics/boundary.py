"""Boundary scores of segmentation: do predicted and reference outlines agree within one or two pixels.

The F1 of boundaries of Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?"
(BMVC 2013), with counts summed over all images before the ratio.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.segmentation import IGNORE
from fgmae_bench.metrics.statistics import finite

TOLERANCES = (1, 2)  # pixels, Euclidean from centre to centre
COUNTS = 4  # near, all of the prediction's boundary pixels; near, all of the reference's


def boundary_counts(
    reference: NDArray[Any], predicted: NDArray[Any], num_classes: int, columns: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Counts (K, tolerances, 4) of one image's boundary pixels, see COUNTS; arguments as of `image_confusion`.

    A boundary pixel of a class has one of its four neighbours in another class. Neighbours without a label and the
    edge of the image make no boundary, in the reference as in the prediction.
    """
    reference = np.asarray(reference)
    kept = reference != IGNORE
    chosen = np.asarray(predicted, np.int64)
    chosen = chosen if columns is None else columns[chosen]
    real, said = (_outlines(labels.astype(np.int64), kept, num_classes) for labels in (reference, chosen))
    found = np.zeros((num_classes, len(TOLERANCES), COUNTS), np.int64)
    for place, tolerance in enumerate(TOLERANCES):
        for at, (outline, other) in ((0, (said, real)), (2, (real, said))):
            found[:, place, at] = (outline & _near(other, tolerance)).sum((1, 2))
            found[:, place, at + 1] = outline.sum((1, 2))
    return found


def boundary_f1(counts: NDArray[Any]) -> NDArray[np.float64]:
    """F1 (K, tolerances) of boundaries from counts (N, K, tolerances, 4): the harmonic mean of precision and recall.

    NaN where neither side has a boundary of the class, 0 where only one has.
    """
    hits, predicted, found, reference = np.moveaxis(np.asarray(counts, np.float64).sum(0), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = hits / predicted, found / reference
        values = np.nan_to_num(2 * precision * recall / (precision + recall))
    return np.where(predicted + reference > 0, values, np.nan)


def boundary_columns(counts: NDArray[Any], classes: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """`boundary_f1_1` and `boundary_f1_2` of each class, None where undefined."""
    values = boundary_f1(counts)
    return {
        name: {f"boundary_f1_{pixels}": finite(float(values[k, t])) for t, pixels in enumerate(TOLERANCES)}
        for k, name in enumerate(classes)
    }


def _outlines(labels: NDArray[np.int64], kept: NDArray[np.bool_], num_classes: int) -> NDArray[np.bool_]:
    """Boundary pixels (K, H, W) of labels (H, W) among the pixels that are kept."""
    edge = np.zeros(labels.shape, bool)
    across = (labels[:, 1:] != labels[:, :-1]) & kept[:, 1:] & kept[:, :-1]
    down = (labels[1:] != labels[:-1]) & kept[1:] & kept[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge & (labels == np.arange(num_classes)[:, None, None])


def _near(outlines: NDArray[np.bool_], tolerance: int) -> NDArray[np.bool_]:
    """Pixels (K, H, W) within so many pixels of an outline."""
    height, width = outlines.shape[1:]
    wide = np.pad(outlines, ((0, 0), (tolerance, tolerance), (tolerance, tolerance)))
    near = np.zeros_like(outlines)
    for down in range(2 * tolerance + 1):
        for across in range(2 * tolerance + 1):
            if (down - tolerance) ** 2 + (across - tolerance) ** 2 <= tolerance**2:
                near |= wide[:, down : down + height, across : across + width]
    return near
