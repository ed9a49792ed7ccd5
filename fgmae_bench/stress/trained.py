"""Trained checkpoints under stress, as subjects: fine-tuned classifiers, segmentation, and baselines of maps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.segmentation import IGNORE, eval_columns, image_confusion
from fgmae_bench.records import Record
from fgmae_bench.stress.reading import Outputs, Subject, kept, of_pixels, of_samples, pixel_row
from fgmae_bench.train.classification import ClassificationJob
from fgmae_bench.train.fitted import Fitting, rule_of
from fgmae_bench.train.job import Prepared
from fgmae_bench.train.run import load_tested
from fgmae_bench.train.segmentation import SegmentationJob
from fgmae_bench.views.classification import View

Map = NDArray[np.int64]  # (H, W) class numbers


def trained(prepared: Prepared, record: Record) -> Subject:
    """The subject of a trained run, with the model of its folder, or of the checkpoint that `--resume` names, that its
    test scores are of. Raises BenchError for a checkpoint of another run.
    """
    load_tested(prepared)
    job, dataset = prepared.job, prepared.dataset
    job.model.eval()
    if isinstance(job, ClassificationJob | SegmentationJob):
        job = dataclasses.replace(job, dataset=kept(dataset))
    shared: dict[str, Any] = {
        "record": record,
        "run": prepared.run,
        "dataset": dataset,
        "world": prepared.world,
        "folder": prepared.place[0],
        "rows": dataset.parts.test,
    }
    groups = dataset.groups("test")
    if isinstance(job, ClassificationJob):
        scored, classifier = job.evaluate("test"), job
        return Subject(
            **shared,
            view=job.view,
            outputs=lambda view: dataclasses.replace(classifier, view=view).evaluate("test").outputs,
            reading=of_samples(dataset.card.task, scored.outputs, scored.targets, groups),
        )
    assert isinstance(job, SegmentationJob)
    segmenter, counts = job, Counts(classes=len(job.eval_labels.classes), other=job.columns is not None)
    clean = outputs_of(job, counts, job.view)
    return Subject(
        **shared,
        view=job.view,
        outputs=lambda view: outputs_of(segmenter, counts, view),
        reading=of_pixels(clean, counts.classes, counts.columns, groups),
    )


def ruled(fitting: Fitting, record: Record) -> Subject:
    """The subject of a baseline that is fitted at once, such as a threshold: fitted again, it is the same."""
    rule, (train, evaluated), dataset = rule_of(fitting), fitting.maps, fitting.dataset
    classes, rows = evaluated.scheme.classes, dataset.parts.test
    columns = eval_columns(train.scheme.classes, classes)
    counts = Counts(classes=len(classes), other=columns is not None)

    def outputs(view: View) -> Outputs:
        stressed = dataclasses.replace(fitting, setup=dataclasses.replace(fitting.setup, view=view))
        table = np.zeros((len(rows), counts.width), np.int64)
        for place, (row, (_, image, mask)) in enumerate(zip(rows, stressed.pairs(rows, evaluated), strict=True)):
            predicted = rule.predict(image)
            table[place] = counts.row(int(row), predicted if columns is None else columns[predicted], mask)
        return table

    return Subject(
        record=record,
        run=fitting.run,
        dataset=dataset,
        view=fitting.setup.view,
        world=fitting.world,
        folder=fitting.place[0],
        outputs=outputs,
        reading=of_pixels(outputs(fitting.setup.view), len(classes), counts.columns, dataset.groups("test")),
        rows=rows,
    )


@dataclasses.dataclass(kw_only=True)
class Counts:
    """Counts predicted maps against those of clean data, which are kept. `other`: predictions may be of a class K that
    the scheme of evaluation does not have.
    """

    classes: int
    other: bool
    clean: dict[int, Map] = dataclasses.field(default_factory=dict)  # by row; those that are counted first

    @property
    def columns(self) -> int:
        """Columns of the confusion matrices."""
        return self.classes + self.other

    @property
    def width(self) -> int:
        """Numbers a row."""
        return 2 * self.classes * self.columns + 2

    def row(self, row: int, predicted: Map, mask: NDArray[np.uint8]) -> NDArray[np.int64]:
        """`pixel_row` of an image."""
        before = self.clean.setdefault(row, predicted.astype(np.uint8)).astype(np.int64)
        columns = np.arange(self.columns) if self.other else None
        now, then = (image_confusion(mask, each, self.classes, columns) for each in (predicted, before))
        return pixel_row(mask, now, then, int(((predicted != before) & (mask != IGNORE)).sum()))


def outputs_of(job: SegmentationJob, counts: Counts, view: View) -> Outputs:
    """`pixel_row` (N, W) of each test image under a view; the first call is of clean data."""
    parts = []
    for rows, count, found in job.under(view).predictions("test"):
        table = np.zeros((len(rows), counts.width), np.int64)
        for place, (row, (predicted, mask)) in enumerate(zip(rows, found, strict=True)):
            table[place] = counts.row(int(row), predicted, mask)
        parts.append(job.world.interleaved(table, count))
    return np.concatenate(parts)
