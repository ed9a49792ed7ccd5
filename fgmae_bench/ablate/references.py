"""What labels alone allow: scores of a perfect and of a constant predictor, from how often codes occur and occur
together.

- The perfect predictor knows the training side's labels of the images that are scored: it gives each pixel the class
  that training would have taught for it there, wrong maps included. Where training has no class for a pixel it says
  what the constant predictor says.
- The constant predictor gives every pixel the most frequent class of the training split.

Pixels are counted as the label files hold them; those without backscatter, which a run leaves out, are counted too.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.ablate.sides import Cell, Side
from fgmae_bench.config.cards import Card
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.dfc.ready import CODES, label_histograms
from fgmae_bench.data.index import Index
from fgmae_bench.metrics.segmentation import IGNORE, eval_columns, segmentation

Counts = NDArray[np.int64]
Scores = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Scores without a model. `perfect` is None where the scored images have no labels of the training source."""

    perfect: Scores | None
    constant: Scores
    constant_class: str


class LabelCounts:
    """Pixels of each code in parts of a dataset, and of pairs of codes in its test images; read when first needed."""

    def __init__(self, dataset: Dataset, cache: Path, workers: int = 4, step: Callable[[int], object] = lambda _: None):
        self.dataset, self.cache, self.workers, self.step = dataset, cache, workers, step
        self._pairs: dict[tuple[str, str], Counts] = {}

    def missing(self, source: str, part: str) -> bool:
        """Whether an image of a part has no labels of a source."""
        maps = self.dataset.index.maps
        return maps is None or not all(maps.has(int(row), source) for row in getattr(self.dataset.parts, part))

    def codes(self, source: str, part: str) -> Counts:
        """Pixels (256,) of each code in a part."""
        counts = label_histograms(self.dataset.index, source, self.cache, self.workers)
        return counts[getattr(self.dataset.parts, part)].sum(axis=0, dtype=np.int64)

    def pairs(self, first: str, second: str) -> Counts:
        """Pixels (256, 256) of the test images by their code of the first source and of the second."""
        if (first, second) not in self._pairs:
            alike = first == second
            found = (
                np.diag(self.codes(first, "test"))
                if alike
                else joint_histogram(
                    self.dataset.index, self.dataset.parts.test, first, second, self.workers, self.step
                )
            )
            self._pairs[first, second] = found
        return self._pairs[first, second]


def joint_histogram(
    index: Index,
    rows: NDArray[np.int64],
    first: str,
    second: str,
    workers: int,
    step: Callable[[int], object] = lambda _: None,
) -> Counts:
    """Pixels (256, 256) of some images by their code of two sources."""

    def count(row: int) -> Counts:
        one, other = (index.codes(row, source).values.ravel().astype(np.int64) for source in (first, second))
        step(1)
        return np.bincount(one * CODES + other, minlength=CODES * CODES)

    total = np.zeros(CODES * CODES, np.int64)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for counts in pool.map(count, map(int, rows)):
            total += counts
    return total.reshape(CODES, CODES)


def reference(card: Card, cell: Cell, counts: LabelCounts) -> Reference:
    """What a perfect and a constant predictor reach in a cell that can be run."""
    train, evaluated = cell.train, cell.evaluated
    most = most_frequent(class_counts(card, train, counts.codes(train.source, "train")))
    perfect = None
    if not counts.missing(train.source, "test"):
        perfect = segmentation(confusion(card, cell, counts.pairs(train.source, evaluated.source), most))
    always = np.zeros((CODES, CODES), np.int64)
    always[IGNORE] = counts.codes(
        evaluated.source, "test"
    )  # pixels that training has no class for: the predictor's constant
    return Reference(
        perfect=perfect,
        constant=segmentation(confusion(card, cell, always, most)),
        constant_class=train.map(card).scheme.classes[most],
    )


def class_counts(card: Card, side: Side, codes: Counts) -> Counts:
    """Pixels (K,) of each class of a side from pixels (256,) of each code."""
    table, totals = side.table(card), np.zeros(len(side.map(card).scheme.classes), np.int64)
    kept = table != IGNORE
    np.add.at(totals, table[kept], codes[kept])
    return totals


def most_frequent(classes: Counts) -> int:
    """The most frequent class, the first of equals."""
    return int(classes.argmax())


def confusion(card: Card, cell: Cell, together: Counts, fill: int) -> Counts:
    """Confusion matrix (K, K) or (K, K + 1) of predicting the training side's class of each pixel, `fill` where it has
    none.

    `together` (256, 256) holds pixels by the training source's code and the evaluation source's.
    """
    train, evaluated = cell.train.map(card).scheme.classes, cell.evaluated.map(card).scheme.classes
    columns, count = eval_columns(train, evaluated), len(evaluated)
    known, wanted = cell.train.table(card), cell.evaluated.table(card)
    # Codes that training has no class for are predicted as the most frequent class.
    said = np.where(known == IGNORE, fill, known).astype(np.int64)
    said = said if columns is None else columns[said]
    kept = wanted != IGNORE
    matrix = np.zeros((count, count + (columns is not None)), np.int64)
    np.add.at(matrix, (wanted[kept][None, :].astype(np.int64), said[:, None]), together[:, kept])
    return matrix
