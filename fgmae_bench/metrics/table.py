"""Every metric once: its function, the tasks that it belongs to, its words. Records, intervals, the records' schema,
columns, headings, axes and selection follow from this table.

A function takes the statistics of B sets and returns B values, NaN where undefined: B = 1 is a split's score, B = 1000
are the resamples of its interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fgmae_bench.metrics.statistics import Confusion, Residuals, Statistics, Tags, Values, finite, mean_known, ratio

SINGLE, MULTI, SEGMENTATION, REGRESSION = "single_label", "multi_label", "segmentation", "regression"
FRACTION = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`value` maps statistics to (B,), None for a loss, which no statistics hold; `selects` names the task whose best
    epoch it chooses.
    """

    value: Callable[[Any], Values] | None
    tasks: tuple[str, ...]
    title: str  # heading of its column
    hint: str = ""  # sentence that explains the heading
    axis: str = ""  # label of a figure's axis, by default the title
    selects: str | None = None
    bounds: tuple[float, float] | None = FRACTION  # of the value; None: unbounded
    macro: bool = False  # a mean over classes, in which a rare one weighs as much as a frequent one
    ranked: bool = False  # from the order of the scores

    @property
    def interval(self) -> bool:
        """Whether it can be resampled, and so has an interval."""
        return self.value is not None

    @property
    def axis_label(self) -> str:
        """The label of a figure's axis, with the unit."""
        return self.axis or (f"{self.title} (fraction)" if self.bounds == FRACTION else self.title)


def overall_accuracy(s: Confusion) -> Values:
    """Share of samples or pixels that are right."""
    return ratio(s.hits.sum(1), s.total)


def average_accuracy(s: Confusion) -> Values:
    """Mean accuracy of the classes with reference."""
    return mean_known(s.recall)


def kappa(s: Confusion) -> Values:
    """Cohen 1960; undefined where the agreement by chance is 1."""
    chance = ratio((s.reference * s.predicted).sum(1), s.total**2)
    return ratio(overall_accuracy(s) - chance, 1 - chance)


def f1_macro(s: Confusion | Tags) -> Values:
    """Mean F1 of the classes with reference."""
    return mean_known(s.f1)


def f1_micro(s: Tags) -> Values:
    """F1 of all decisions together; undefined without positives."""
    reference = s.reference.sum(1)
    return np.where(reference > 0, ratio(2 * s.hits.sum(1), s.predicted.sum(1) + reference), np.nan)


def map_macro(s: Tags) -> Values:
    """Mean average precision of the classes with positives."""
    return mean_known(s.ap)


def map_micro(s: Tags) -> Values:
    """Average precision of all decisions together."""
    return s.ap_together


def miou(s: Confusion) -> Values:
    """Mean IoU of the classes with reference pixels."""
    return mean_known(np.where(s.reference > 0, s.iou, np.nan))


def miou_union(s: Confusion) -> Values:
    """Mean IoU of the classes with reference or predicted pixels."""
    return mean_known(s.iou)


def miou_all(s: Confusion) -> Values:
    """Sum of IoU over all K classes, absent ones as 0, divided by K."""
    return np.where(s.total > 0, np.nan_to_num(s.iou).mean(1), np.nan)


def fwiou(s: Confusion) -> Values:
    """IoU weighted by the share of reference pixels (Garcia-Garcia et al. 2017, arXiv 1704.06857)."""
    return ratio((s.reference * np.nan_to_num(s.iou)).sum(1), s.total)


def rmse(s: Residuals) -> Values:
    """Root of the mean squared error, in the target's unit."""
    return np.sqrt(ratio(s.squared, s.count))


def mae(s: Residuals) -> Values:
    """Mean absolute error, in the target's unit."""
    return ratio(s.absolute, s.count)


def bias(s: Residuals) -> Values:
    """Mean of prediction - target, in the target's unit."""
    return ratio(s.error, s.count)


def r_squared(s: Residuals) -> Values:
    """1 - squared error / scatter of the targets around their own mean: below 0 where the mean would be better."""
    return 1 - ratio(s.squared, s.scatter)


def rank_correlation(s: Residuals) -> Values:
    """Spearman's rank correlation of predictions and targets, ties at their mean rank."""
    return s.rank_correlation


METRICS: dict[str, Metric] = {
    "miou": Metric(
        value=miou,
        tasks=(SEGMENTATION,),
        macro=True,
        title="mIoU",
        hint="Intersection over union, mean over the classes with reference pixels",
        axis="mean IoU over classes with reference (fraction)",
        selects=SEGMENTATION,
    ),
    "miou_union": Metric(
        value=miou_union,
        tasks=(SEGMENTATION,),
        macro=True,
        title="mIoU union",
        hint="mIoU that also counts classes that are only predicted",
        axis="mean IoU over classes with reference or prediction (fraction)",
    ),
    "miou_all": Metric(
        value=miou_all,
        tasks=(SEGMENTATION,),
        macro=True,
        title="mIoU all",
        hint="mIoU over all classes, present or not",
        axis="mean IoU over all classes (fraction)",
    ),
    "oa": Metric(
        value=overall_accuracy,
        tasks=(SINGLE, SEGMENTATION),
        title="OA",
        hint="Overall accuracy: share of the test samples that are classified right",
        axis="overall accuracy (fraction)",
        selects=SINGLE,
    ),
    "aa": Metric(
        value=average_accuracy,
        tasks=(SINGLE, SEGMENTATION),
        macro=True,
        title="AA",
        hint="Average accuracy: mean over classes of the share classified right",
        axis="average accuracy over classes (fraction)",
    ),
    "kappa": Metric(
        value=kappa,
        tasks=(SINGLE,),
        title="kappa",
        hint="Cohen's kappa: agreement beyond chance, 1 = perfect",
        axis="Cohen's kappa (1 = perfect)",
        bounds=(-1.0, 1.0),
    ),
    "map_micro": Metric(
        value=map_micro,
        tasks=(MULTI,),
        ranked=True,
        title="mAP micro",
        hint="Average precision over all labels together",
        axis="average precision, all labels together (fraction)",
        selects=MULTI,
    ),
    "map_macro": Metric(
        value=map_macro,
        tasks=(MULTI,),
        ranked=True,
        macro=True,
        title="mAP macro",
        hint="Average precision, mean over classes",
        axis="average precision, mean over classes (fraction)",
    ),
    "f1_micro": Metric(
        value=f1_micro,
        tasks=(MULTI,),
        title="F1 micro",
        hint="F1 over all labels together",
        axis="F1, all labels together (fraction)",
    ),
    "f1_macro": Metric(
        value=f1_macro,
        tasks=(SINGLE, MULTI),
        macro=True,
        title="F1 macro",
        hint="F1, mean over classes",
        axis="F1, mean over classes (fraction)",
    ),
    "fwiou": Metric(
        value=fwiou,
        tasks=(SEGMENTATION,),
        title="fwIoU",
        hint="Intersection over union, weighted by class frequency",
        axis="IoU weighted by class frequency (fraction)",
    ),
    "rmse": Metric(
        value=rmse,
        tasks=(REGRESSION,),
        title="RMSE",
        hint="Root of the mean squared error, in the unit of the target",
        axis="root mean squared error (unit of the target)",
        bounds=None,
    ),
    "mae": Metric(
        value=mae,
        tasks=(REGRESSION,),
        title="MAE",
        hint="Mean absolute error, in the unit of the target",
        axis="mean absolute error (unit of the target)",
        bounds=None,
    ),
    "bias": Metric(
        value=bias,
        tasks=(REGRESSION,),
        title="bias",
        hint="Mean of prediction - target, in the unit of the target",
        axis="mean of prediction - target (unit of the target)",
        bounds=None,
    ),
    "r2": Metric(
        value=r_squared,
        tasks=(REGRESSION,),
        title="R²",
        hint="Share of the targets' variance that is explained; 0 is what their mean would reach",
        axis="R² (1 = perfect)",
        selects=REGRESSION,
        bounds=None,
    ),
    "rank_correlation": Metric(
        value=rank_correlation,
        tasks=(REGRESSION,),
        title="Spearman",
        hint="Spearman's rank correlation of predictions and targets",
        axis="Spearman's rank correlation",
        bounds=(-1.0, 1.0),
    ),
    "loss": Metric(
        value=None,
        tasks=(SINGLE, MULTI, SEGMENTATION, REGRESSION),
        title="loss",
        hint="Cross-entropy on the test split, in nats; of a regression the mean squared error",
        axis="cross-entropy loss (nats), or mean squared error",
        bounds=None,
    ),
}


def names(task: str) -> tuple[str, ...]:
    """The metrics of a task that follow from its statistics."""
    return tuple(name for name, metric in METRICS.items() if metric.value and task in metric.tasks)


def measure(task: str, statistics: Statistics) -> dict[str, Values]:
    """All metrics of a task: name -> (B,), NaN where undefined."""
    return {name: metric.value(statistics) for name, metric in METRICS.items() if metric.value and task in metric.tasks}


def scores(task: str, statistics: Statistics) -> dict[str, float | None]:
    """All metrics of one set (B = 1), None where undefined."""
    return {name: finite(float(value[0])) for name, value in measure(task, statistics).items()}


def selection(task: str) -> str:
    """The metric by which the best epoch is chosen."""
    return next(name for name, metric in METRICS.items() if metric.selects == task)
