"""Intervals and paired tests from stored predictions: a bootstrap over tiles or scenes where known, else samples.

All metrics are functions of sums over units (a unit is a group or a sample): confusion matrices, or counts per score
level. A resample is a vector of integer weights, so that all resamples together are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.multi_label import THRESHOLD, multi_label
from fgmae_bench.metrics.significance import NORMAL, t_quantile, t_two_sided
from fgmae_bench.metrics.statistics import Confusion, Tags, area_under_precision
from fgmae_bench.metrics.table import MULTI, SEGMENTATION, SINGLE
from fgmae_bench.metrics.table import measure as measured
from fgmae_bench.system.randomness import generator

REPLICATES = 1000
LEVEL = 0.95
MAX_SAMPLES = 10_000  # more independent samples than this are drawn in bags
BAGS = 2_000  # a standard error from as many bags is good to 1/sqrt(2 BAGS) = 1.6 %
CELLS = 2**20  # counts kept per class of a multi-label split: units x score levels

Metrics = dict[str, NDArray[np.float64]]  # name -> (B,), NaN where undefined


@dataclass(frozen=True, kw_only=True)
class Units:
    """What is drawn: `count` groups or samples, and the metrics of their weighted sums, (B, count) -> name -> (B,)."""

    count: int
    grouped: bool
    measure: Callable[[NDArray[np.float32]], Metrics]


def single_label_units(logits: NDArray[Any], targets: NDArray[Any], groups: Sequence[str] | None = None) -> Units:
    """Units of a single-label split: logits (N, K), targets (N,)."""
    n, k = logits.shape
    unit, count = _unit_numbers(n, groups)
    # a sample is one cell of its unit's confusion matrix
    cells = np.asarray(targets, np.int64) * k + np.argmax(logits, 1)
    sums = np.bincount(unit * k * k + cells, minlength=count * k * k).reshape(count, k * k)
    return Units(count=count, grouped=groups is not None, measure=_of_confusion(sums, k, SINGLE))


def segmentation_units(confusion: NDArray[Any], groups: Sequence[str] | None = None) -> Units:
    """Units of a segmentation split: one confusion matrix an image (N, K, C), columns as in `metrics.segmentation`."""
    n, k, columns = confusion.shape
    unit, count = _unit_numbers(n, groups)
    sums = np.zeros((count, k * columns))
    np.add.at(sums, unit, confusion.reshape(n, k * columns))
    return Units(count=count, grouped=groups is not None, measure=_of_confusion(sums, k, SEGMENTATION))


def multi_label_units(logits: NDArray[Any], targets: NDArray[Any], groups: Sequence[str] | None = None) -> Units:
    """Units of a multi-label split: logits (N, C), multi-hot targets (N, C).

    AP needs the order of the scores: each class keeps counts per unit and score level. There are as many levels as
    distinct scores, or, beyond CELLS counts, quantiles of them; resampled values are then moved by what that changes of
    the split's own.
    """
    p, y = np.asarray(logits, np.float64), np.asarray(targets) != 0
    n, classes = p.shape
    unit, count = _unit_numbers(n, groups)
    levels = [_level_counts(p[:, c], y[:, c], unit, count) for c in range(classes)]
    # micro AP: every decision of a sample belongs to the sample's unit
    levels.append(_level_counts(p.ravel(), y.ravel(), np.repeat(unit, classes), count))
    # hits, predicted, reference side by side: one product gives all three
    flags = np.concatenate([(p >= THRESHOLD) & y, p >= THRESHOLD, y], axis=1).astype(np.float64)
    sums = np.zeros((count, 3 * classes))
    np.add.at(sums, unit, flags)

    def measure(weights: NDArray[np.float32]) -> Metrics:
        # one class at a time: the counts of a thousand resamples of all classes need not be held together
        ap = np.stack([area_under_precision(weights @ positive, weights @ every) for positive, every in levels], axis=1)
        hits, predicted, reference = np.split(weights.astype(np.float64) @ sums, 3, axis=1)
        tags = Tags(hits=hits, predicted=predicted, reference=reference, ap=ap[:, :-1], ap_together=ap[:, -1])
        return measured(MULTI, tags)

    # what quantiles instead of all levels take from the split's own values is given back to every resample
    exact, own = multi_label(logits, targets), measure(np.ones((1, count), np.float32))
    shift = {name: np.nan if value is None else value - float(own[name][0]) for name, value in exact.items()}
    return Units(
        count=count,
        grouped=groups is not None,
        measure=lambda weights: {k: v + shift[k] for k, v in measure(weights).items()},
    )


def replicates(units: Units, count: int = REPLICATES, seed: int = 0) -> Metrics:
    """Metrics of `count` resamples, keyed by seed and number of units: runs on the same units are drawn alike."""
    # how often each unit is drawn, (count, units): one bincount over rows that are set apart by an offset
    draws = generator(seed, "bootstrap", units.count).integers(0, units.count, (count, units.count), dtype=np.int32)
    offset = np.arange(count)[:, None] * units.count
    weights = np.bincount((draws + offset).ravel(), minlength=count * units.count).reshape(count, units.count)
    return units.measure(weights.astype(np.float32))


def point(units: Units) -> dict[str, float]:
    """The metrics of the split itself, NaN where undefined."""
    return {name: float(value[0]) for name, value in units.measure(np.ones((1, units.count), np.float32)).items()}


def percentile_interval(values: NDArray[Any], units: int, level: float = LEVEL) -> tuple[float, float] | None:
    """The expanded percentile interval of bootstrap values; None where fewer than two units, or a value, is undefined.

    The plain percentile interval is too narrow with few units. Quantiles are taken further out, at Phi(-sqrt(G / (G -
    1)) t), t the two-sided quantile of Student's t with G - 1 degrees of freedom: Hesterberg 2015, section 4.
    """
    if units < 2 or not np.isfinite(values).all():
        return None
    tail = NORMAL.cdf(-math.sqrt(units / (units - 1)) * t_quantile(level, units - 1))
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def intervals(units: Units, count: int = REPLICATES, level: float = LEVEL) -> dict[str, Any]:
    """The test intervals of one run as a record holds them: bounds (null where undefined) and how they were made."""
    found = {name: percentile_interval(values, units.count, level) for name, values in replicates(units, count).items()}
    bounds = {name: None if pair is None else list(pair) for name, pair in found.items()}
    return {
        "level": level,
        "over": "groups" if units.grouped else "samples",
        "units": units.count,
        "replicates": count,
        "test": bounds,
    }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A - B of one metric: `low` and `high` bound it, `p` is two-sided; None where undefined."""

    a: float
    b: float
    low: float | None
    high: float | None
    p: float | None


def paired_differences(a: Units, b: Units, count: int = REPLICATES, level: float = LEVEL) -> dict[str, Difference]:
    """Paired bootstrap: A and B are drawn alike; their difference over its standard error follows Student's t.

    The standard error carries sqrt(G / (G - 1)) and the t has G - 1 degrees of freedom, as for means of G clusters
    (Cameron & Miller 2015, section VI). Raises ValueError where the units differ in number.
    """
    if a.count != b.count:
        raise ValueError(f"{a.count} and {b.count} units")
    drawn_a, drawn_b, at_a, at_b = replicates(a, count), replicates(b, count), point(a), point(b)
    found = {}
    for name in sorted(drawn_a.keys() & drawn_b.keys(), key=list(drawn_a).index):
        # the same draws for both: what they share cancels
        gap, spread = at_a[name] - at_b[name], drawn_a[name] - drawn_b[name]
        low = high = p = None
        if a.count > 1 and np.isfinite(gap) and np.isfinite(spread).all():
            error = float(spread.std(ddof=1)) * math.sqrt(a.count / (a.count - 1))
            half = t_quantile(level, a.count - 1) * error
            low, high = gap - half, gap + half
            p = t_two_sided(gap / error, a.count - 1) if error > 1e-12 else 1.0 if abs(gap) < 1e-12 else None
        found[name] = Difference(a=at_a[name], b=at_b[name], low=low, high=high, p=p)
    return found


def _unit_numbers(n: int, groups: Sequence[str] | None) -> tuple[NDArray[np.int64], int]:
    """(unit of each sample, number of units): its group, itself, or one of many random bags of equal size."""
    if groups is not None:
        if len(groups) != n:
            raise ValueError(f"{len(groups)} groups for {n} samples")
        names, unit = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        return unit.reshape(-1).astype(np.int64), len(names)
    if n <= MAX_SAMPLES:
        return np.arange(n), n
    # a thousand weights for each of so many samples would fill the memory
    return generator("bags", n).permutation(n) % BAGS, BAGS


def _of_confusion(sums: NDArray[Any], k: int, task: str) -> Callable[[NDArray[np.float32]], Metrics]:
    """Metrics of weighted sums (count, K C), multiplied in float32 where that is exact."""
    # float32 holds whole numbers to 2^24; a resample sums to about as much as the split
    exact = sums.astype(np.float32) if sums.sum() < 2**22 else sums.astype(np.float64)
    return lambda weights: measured(task, Confusion((weights @ exact).astype(np.float64).reshape(len(weights), k, -1)))


def _level_counts(
    p: NDArray[np.float64], y: NDArray[np.bool_], unit: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float32], ...]:
    """(positives, samples) per unit and score level (count, L), the highest score first."""
    distinct = np.unique(p)
    most = max(256, CELLS // count)
    if len(distinct) > most:
        # values that occur, so that a level's count is one of real scores
        distinct = np.unique(np.quantile(p, np.linspace(0, 1, most), method="higher"))
    length = len(distinct)
    # cell = (unit, level), levels counted from the highest score down
    cell = unit * length + (length - 1 - np.minimum(np.searchsorted(distinct, p), length - 1))
    return tuple(
        np.bincount(cell[chosen], minlength=count * length).reshape(count, length).astype(np.float32)
        for chosen in (y, slice(None))
    )
