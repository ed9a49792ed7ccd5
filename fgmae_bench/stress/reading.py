"""How outputs of a test split are read, whatever the task: scores, units of intervals, changed decisions, chance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.run import Run
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.index import Rows
from fgmae_bench.metrics.intervals import Units, segmentation_units
from fgmae_bench.metrics.segmentation import IGNORE, segmentation, total
from fgmae_bench.metrics.table import REGRESSION, SEGMENTATION, SINGLE, selection
from fgmae_bench.metrics.tolerance import chance_of, chance_of_pixels, flip_rate
from fgmae_bench.records import Record
from fgmae_bench.runs.tasks import TASKS
from fgmae_bench.system.distributed import World
from fgmae_bench.views.classification import View

Outputs = NDArray[Any]  # (N, W), a row a test sample: logits, or counts of pixels
Groups = list[str] | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """`clean` are the outputs without any stress; the functions take outputs of one view of the same samples.

    `before` gives what clean data scores on what the view left to be scored: pixels that it made invalid are left out
    on both sides. `flips` is the share of decisions that changed, None where there are none.
    """

    metric: str
    chance: float
    clean: Outputs
    guess: Outputs | None  # those of the largest class everywhere; None where chance is an order, or a mean
    evaluate: Callable[[Outputs], dict[str, Any]]
    units: Callable[[Outputs], Units]
    before: Callable[[Outputs], Outputs]
    flips: Callable[[Outputs], float | None]
    part: Callable[[Rows, Groups], Reading]  # of some of the samples, in groups of their own where these are given


def of_samples(task: str, clean: Outputs, targets: NDArray[Any], groups: Groups) -> Reading:
    """The reading of logits (N, C), or of predictions (N, 1) of a regression, by the `targets` of the samples."""
    kind = TASKS[task]
    chance = {kind.selection: 0.0} if task == REGRESSION else chance_of(task, targets, clean.shape[1])
    return Reading(
        metric=kind.selection,
        chance=chance[kind.selection],
        clean=clean,
        guess=_largest(targets, clean.shape) if task == SINGLE else None,
        evaluate=lambda logits: kind.evaluate(logits, targets),
        units=lambda logits: kind.units(logits, targets, groups),
        before=lambda logits: clean,
        flips=lambda logits: None if task == REGRESSION else flip_rate(task, clean, logits),
        part=lambda rows, own: of_samples(task, clean[rows], targets[rows], own or _some(groups, rows)),
    )


def _some(groups: Groups, rows: Rows) -> Groups:
    return None if groups is None else [groups[row] for row in rows]


def _largest(targets: NDArray[Any], shape: tuple[int, ...]) -> Outputs:
    """Logits (N, C) of the class that most samples have."""
    logits = np.zeros(shape, np.float32)
    logits[:, np.bincount(targets, minlength=shape[1]).argmax()] = 1
    return logits


def pixel_row(mask: NDArray[Any], confusion: NDArray[Any], clean: NDArray[Any], changed: int) -> NDArray[np.int64]:
    """The row (2 K C + 2,) of one image: confusion matrices of stressed and of clean data on the same pixels, how many
    of these changed their class, and their number.
    """
    return np.concatenate([confusion.ravel(), clean.ravel(), [changed, int((mask != IGNORE).sum())]]).astype(np.int64)


def of_pixels(clean: Outputs, classes: int, columns: int, groups: Groups) -> Reading:
    """The reading of `pixel_row`s (N, 2 K C + 2) of a segmentation, of matrices (K, C)."""
    cells = classes * columns

    def stressed(rows: Outputs) -> NDArray[np.int64]:
        return rows[:, :cells].reshape(-1, classes, columns)

    def same_pixels(rows: Outputs) -> Outputs:
        return np.concatenate([rows[:, cells : 2 * cells], rows[:, cells:]], axis=1)

    metric = selection(SEGMENTATION)
    reference = stressed(clean).sum(2)  # (N, K) pixels of each class
    constant = np.zeros((len(clean), classes, columns), clean.dtype)
    constant[:, :, reference.sum(0).argmax()] = reference
    guess = np.concatenate([constant.reshape(len(clean), cells), clean[:, cells:]], axis=1)
    return Reading(
        metric=metric,
        chance=chance_of_pixels(total(stressed(clean)).sum(1))[metric],
        clean=clean,
        guess=guess,
        evaluate=lambda rows: dict(segmentation(stressed(rows))),
        units=lambda rows: segmentation_units(stressed(rows), groups),
        before=same_pixels,
        flips=lambda rows: float(rows[:, -2].sum() / rows[:, -1].sum()) if rows[:, -1].sum() else math.nan,
        part=lambda rows, own: of_pixels(clean[rows], classes, columns, own or _some(groups, rows)),
    )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`outputs` gives those of the test split under a view; `record` is that of the run as it was fitted."""

    record: Record
    run: Run
    dataset: Dataset
    view: View
    world: World
    folder: Path  # the run's own
    outputs: Callable[[View], Outputs]
    reading: Reading
    rows: Rows  # of the index, those of the test split in the order of the outputs
    notes: tuple[dict[str, str], ...] = ()


def kept(dataset: Dataset) -> Dataset:
    """The dataset whose images stay decoded, as far as there is room: every view reads them again."""
    return dataclasses.replace(dataset, samples=dataclasses.replace(dataset.samples, keeps=True))
