"""What is counted of each test image besides its confusion matrix: outlines, and pixels outside permanent water."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.labels import Codes
from fgmae_bench.metrics.boundary import COUNTS, TOLERANCES, boundary_columns, boundary_counts
from fgmae_bench.metrics.segmentation import IGNORE, image_confusion, per_class, total


@dataclass(frozen=True, kw_only=True)
class Details:
    """Counts of images by row: `columns` as of `image_confusion`, `classes` of the evaluation scheme."""

    dataset: Dataset
    classes: tuple[str, ...]
    columns: NDArray[np.int64] | None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what is counted: boundaries always, `outside` where the card says what is permanent."""
        k = len(self.classes)
        found: dict[str, tuple[int, ...]] = {"boundary": (k, len(TOLERANCES), COUNTS)}
        if self.dataset.card.permanent_water is not None:
            found["outside"] = (k, k + (self.columns is not None))
        return found

    @property
    def width(self) -> int:
        """Numbers an image."""
        return int(sum(np.prod(shape) for shape in self.shapes.values()))

    def row(self, row: int, mask: NDArray[np.uint8], predicted: NDArray[Any]) -> NDArray[np.int64]:
        """The numbers of one image: its mask (H, W), 255 where nothing is scored, and predicted class numbers."""
        counts = [boundary_counts(mask, predicted, len(self.classes), self.columns)]
        stated = self.dataset.card.permanent_water
        if stated is not None:
            permanent = is_permanent(self.dataset.samples.take_codes(row, stated.source), stated.codes)
            outside = np.where(permanent, np.uint8(IGNORE), mask)
            counts.append(image_confusion(outside, predicted, len(self.classes), self.columns))
        return np.concatenate([each.ravel() for each in counts])

    def arrays(self, table: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
        """Arrays (N, …) by name of rows (N, width)."""
        found, at = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            found[name] = table[:, at : at + size].astype(np.int64).reshape(-1, *shape)
            at += size
        return found


def is_permanent(codes: Codes, chosen: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where (H, W) a label map has one of the codes of permanent water."""
    found: NDArray[np.bool_] = np.isin(codes.values, chosen)
    return found


def detailed(confusions: NDArray[Any], arrays: dict[str, NDArray[Any]], classes: tuple[str, ...]) -> dict[str, Any]:
    """`per_class` of the record: scores of confusion matrices (N, K, C), with what else was counted.

    `iou_outside_permanent`, `omission_outside_permanent` and `commission_outside_permanent` leave out the pixels of
    permanent water: of a flood map they are those of the flood alone.
    """
    found: dict[str, dict[str, Any]] = {
        name: dict(each) for name, each in per_class(total(confusions), classes).items()
    }
    more = [boundary_columns(arrays["boundary"], classes)] if "boundary" in arrays else []
    if "outside" in arrays:
        outside = per_class(total(arrays["outside"]), classes)
        kept = ("iou", "omission", "commission")
        more.append({name: {f"{key}_outside_permanent": each[key] for key in kept} for name, each in outside.items()})
    for extra in more:
        for name, values in extra.items():
            found[name] |= values
    return found
