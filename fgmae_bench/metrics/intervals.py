"""Intervals and paired tests from stored predictions: over groups such as scenes where they are known, else samples.

All metrics are functions of sums over units (a unit is a group or a sample): confusion matrices, or counts per score
level. Leaving a unit out, or drawing it twice, is a vector of weights, so that all of them together are one matrix
product. Over groups, and for scores of many labels, the jackknife gives the standard error; accuracies of independent
samples have the expanded percentile interval. Which covers what: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import note
from fgmae_bench.metrics.jackknife import Estimate, degrees_of_freedom, pseudo_values, standard_error
from fgmae_bench.metrics.multi_label import THRESHOLD, multi_label
from fgmae_bench.metrics.regression import PixelSums, residuals
from fgmae_bench.metrics.significance import NORMAL, sign_flip_mid_p, t_quantile, t_two_sided
from fgmae_bench.metrics.statistics import Confusion, Tags, area_under_precision
from fgmae_bench.metrics.table import METRICS, MULTI, REGRESSION, SEGMENTATION, SINGLE
from fgmae_bench.metrics.table import measure as measured
from fgmae_bench.system.randomness import generator

REPLICATES = 1000
LEVEL = 0.95
NO_SPREAD = 1e-12  # an interval as narrow as that is of units that all score the same
MAX_SAMPLES = 10_000  # more independent samples than this are drawn in bags
BAGS = 2_000  # a standard error from as many bags is good to 1/sqrt(2 BAGS) = 1.6 %
LEAST, FEW = 5, 10  # groups for an interval, for one without a warning
HELD, SAMPLES = 3, 10  # groups that a class must be in for the interval of a mean over classes, its samples or pixels
JACKKNIFE = {
    SINGLE: 2_000,
    SEGMENTATION: 2_000,
    MULTI: 200,
    REGRESSION: 2_000,
}  # units left out one by one; more are left out in bags
CELLS = 2**17  # counts kept per class of a multi-label split: units x score levels

Metrics = dict[str, NDArray[np.float64]]  # name -> (B,), NaN where undefined


@dataclass(frozen=True, kw_only=True)
class Units:
    """What is drawn: `count` groups or samples, and the metrics of their weighted sums, (B, count) -> name -> (B,).

    `reference` (count, K) counts the samples or pixels of each class in each unit.
    """

    task: str
    count: int
    grouped: bool
    reference: NDArray[np.float64]
    measure: Callable[[NDArray[np.float32]], Metrics]


def single_label_units(logits: NDArray[Any], targets: NDArray[Any], groups: Sequence[str] | None = None) -> Units:
    """Units of a single-label split: logits (N, K), targets (N,)."""
    n, k = logits.shape
    unit, count = _unit_numbers(n, groups)
    # a sample is one cell of its unit's confusion matrix
    cells = np.asarray(targets, np.int64) * k + np.argmax(logits, 1)
    sums = np.bincount(unit * k * k + cells, minlength=count * k * k).reshape(count, k * k)
    return _units(SINGLE, sums, k, grouped=groups is not None)


def segmentation_units(confusion: NDArray[Any], groups: Sequence[str] | None = None) -> Units:
    """Units of a segmentation split: one confusion matrix an image (N, K, C), columns as in `metrics.segmentation`."""
    n, k, columns = confusion.shape
    unit, count = _unit_numbers(n, groups)
    sums = np.zeros((count, k * columns))
    np.add.at(sums, unit, confusion.reshape(n, k * columns))
    return _units(SEGMENTATION, sums, k, grouped=groups is not None)


def _units(task: str, sums: NDArray[Any], k: int, *, grouped: bool) -> Units:
    """Units from the confusion matrix of each (count, K C)."""
    reference = sums.reshape(len(sums), k, -1).sum(2).astype(np.float64)
    measure = _of_confusion(sums, k, task)
    return Units(task=task, count=len(sums), grouped=grouped, reference=reference, measure=measure)


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
        task=MULTI,
        count=count,
        grouped=groups is not None,
        reference=sums[:, 2 * classes :],
        measure=lambda weights: {k: v + shift[k] for k, v in measure(weights).items()},
    )


def regression_units(predictions: NDArray[Any], targets: NDArray[Any], groups: Sequence[str] | None = None) -> Units:
    """Units of a regression: predictions and targets (N, 1) or (N,)."""
    p, y = (np.asarray(values, np.float64).reshape(-1) for values in (predictions, targets))
    unit, count = _unit_numbers(len(p), groups)
    return Units(
        task=REGRESSION,
        count=count,
        grouped=groups is not None,
        reference=np.bincount(unit, minlength=count)[:, None].astype(np.float64),
        measure=lambda weights: measured(REGRESSION, residuals(p, y, weights[:, unit])),
    )


def pixel_units(sums: PixelSums, rows: NDArray[np.float64], groups: Sequence[str] | None = None) -> Units:
    """Units of a regression of pixels: a row of sums an image (N, W)."""
    unit, count = _unit_numbers(len(rows), groups)
    held = np.zeros((count, rows.shape[1]))
    np.add.at(held, unit, rows)
    return Units(
        task=REGRESSION,
        count=count,
        grouped=groups is not None,
        reference=held[:, :1],
        measure=lambda weights: measured(REGRESSION, sums.residuals(weights.astype(np.float64) @ held)),
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


def left_out(units: Units) -> tuple[Metrics, NDArray[np.int64]]:
    """(metrics without each unit in turn, (B,) each; bag of each unit): many units go in bags of equal size."""
    bags = min(units.count, JACKKNIFE[units.task])
    bag = np.arange(units.count)
    if bags < units.count:
        bag = generator("left out", units.count).permutation(units.count) % bags
    return units.measure((bag != np.arange(bags)[:, None]).astype(np.float32)), bag


def estimates(units: Units) -> dict[str, Estimate]:
    """Each metric with its jackknife standard error; NaN where it is undefined without some group."""
    without, bag = left_out(units)
    value, reference = point(units), reference_of_bags(units, bag)
    return {
        name: Estimate(
            value=value[name],
            error=float(standard_error(scores)),
            degrees=degrees(name, reference),
        )
        for name, scores in without.items()
    }


def reference_of_bags(units: Units, bag: NDArray[np.int64]) -> NDArray[np.float64]:
    """Samples of each class in each bag (B, K)."""
    sums = np.zeros((bag.max() + 1, units.reference.shape[1]))
    np.add.at(sums, bag, units.reference)
    return sums


def degrees(name: str, reference: NDArray[np.float64], *, difference: bool = False) -> float:
    """Degrees of freedom of a metric from the samples of each class in each unit or bag (B, K).

    Of a paired `difference`, in which what a group has in common cancels, the shares of the groups decide. The
    jackknife is too wide for that of a macro AP, whose rare positives each move it by a step: G - 1 makes up for that.
    """
    if not reference.sum():
        return 1.0  # nothing is defined
    macro, ranked = METRICS[name].macro, METRICS[name].ranked
    if difference and macro and ranked:
        return max(1.0, len(reference) - 1.0)
    return degrees_of_freedom(reference, macro=macro, ranked=ranked or (difference and not macro))


def obstacles(units: Units) -> dict[str, str]:
    """Why metrics have no interval, by name: `few_groups`, or `rare_class` of a mean over classes."""
    every = [name for name, metric in METRICS.items() if metric.interval and units.task in metric.tasks]
    if units.count < LEAST:
        return dict.fromkeys(every, "few_groups")
    return {name: "rare_class" for name in every if METRICS[name].macro and rare_classes(units)}


def rare_classes(units: Units) -> list[int]:
    """Numbers of the classes that are in some, but fewer than three, of the units, or of fewer than ten samples."""
    held, total = (units.reference > 0).sum(0), units.reference.sum(0)
    return np.flatnonzero((total > 0) & ((held < HELD) | (total < SAMPLES))).tolist()


def intervals(
    units: Units, count: int = REPLICATES, level: float = LEVEL, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """The test intervals of one run as a record holds them: bounds, how they were made, and why some are withheld.

    `withheld` names the reason of each metric without bounds: those of `obstacles`, `no_spread` where all units score
    the same, and `undefined`; `rare` the classes behind `rare_class`. Bounds outside a metric's own are moved to these.
    """
    percentiles = not units.grouped and units.task != MULTI
    withheld = obstacles(units)
    bounds: dict[str, tuple[float, float] | None]
    if units.count < LEAST:
        bounds = dict.fromkeys(withheld)
    elif percentiles:
        drawn = replicates(units, count)
        bounds = {name: percentile_interval(values, units.count, level) for name, values in drawn.items()}
    else:
        bounds = {name: estimate.interval(level) for name, estimate in estimates(units).items()}
    for name, pair in bounds.items():
        if pair is None or not np.isfinite(pair).all():
            withheld.setdefault(name, "undefined")
        elif pair[1] - pair[0] < NO_SPREAD:
            withheld.setdefault(name, "no_spread")
    return {
        "level": level,
        "over": "groups" if units.grouped else "samples",
        "units": units.count,
        "method": "percentile" if percentiles else "jackknife",
        "replicates": count if percentiles else None,
        "test": {name: None if name in withheld else _clipped(name, pair) for name, pair in bounds.items()},
        "withheld": withheld,
        "rare": [classes[k] for k in rare_classes(units)] if classes else [],
    }


def interval_notes(found: dict[str, Any] | None, kind: str) -> list[dict[str, str]]:
    """Notes of a record on its intervals; `kind` is what a group is, such as scene."""
    reasons = set((found or {}).get("withheld", {}).values())
    if found is None:
        return []
    notes, unit = [], (kind or "group") if found["over"] == "groups" else "sample"
    over = f"{found['units']} {unit}{'' if found['units'] == 1 else 's'}"
    if "few_groups" in reasons:
        text = f"the test split is of {over}: fewer than {LEAST} give no interval and no test, they are withheld"
        notes.append(note("few_groups", text))
    elif found["units"] < FEW:
        text = (
            f"the test split is of {over}: from fewer than {FEW} intervals are wide, and cover less surely than stated"
        )
        notes.append(note("few_groups", text))
    if "rare_class" in reasons and "few_groups" not in reasons:
        text = (
            f"intervals of means over classes are withheld: in fewer than {HELD} {unit}s, or of fewer than {SAMPLES} "
            f"samples, are {', '.join(found['rare']) or 'some classes'}"
        )
        notes.append(note("rare_class", text))
    if "no_spread" in reasons:
        notes.append(
            note("no_spread", f"intervals are withheld where every {unit} scores the same: nothing shows a spread")
        )
    return notes


def _clipped(name: str, pair: tuple[float, float] | None) -> list[float] | None:
    """The bounds, moved into what the metric can be."""
    return None if pair is None else np.clip(pair, *(METRICS[name].bounds or (None, None))).tolist()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A - B of one metric: `low` and `high` bound it, `p` is two-sided; None for the `reason` given."""

    a: float
    b: float
    low: float | None
    high: float | None
    p: float | None
    reason: str | None = None
    degrees: float | None = None  # of freedom of the error behind `low`, `high` and `p`
    flips: float | None = None  # mid-p of sign flips of the groups' parts, where a table of t may be trusted less


def paired_differences(a: Units, b: Units, count: int = REPLICATES, level: float = LEVEL) -> dict[str, Difference]:
    """A and B on the same units: their difference over its standard error follows Student's t.

    Over groups, and for many labels, the error is the jackknife's of the difference, its degrees of freedom those of
    the groups' shares; else it is that of a paired bootstrap, with sqrt(G / (G - 1)) and G - 1 degrees of freedom
    (Cameron & Miller 2015, section VI). Raises ValueError where the units differ in number.
    """
    if a.count != b.count:
        raise ValueError(f"{a.count} and {b.count} units")
    found, withheld = {}, obstacles(a) | obstacles(b)
    jackknife = a.grouped or a.task == MULTI
    at_a, at_b, errors = point(a), point(b), (_left_out_errors(a, b) if jackknife else _drawn_errors(a, b, count))
    for name, (error, freedom, flips) in errors.items():
        gap = at_a[name] - at_b[name]
        reason = withheld.get(name) or no_difference(gap, error)
        low = high = p = None
        if reason is None:
            half = t_quantile(level, freedom) * error
            low, high = gap - half, gap + half
            p = t_two_sided(gap / error, freedom) if error > NO_SPREAD else 1.0
        known = flips if p is not None else None
        found[name] = Difference(
            a=at_a[name], b=at_b[name], low=low, high=high, p=p, reason=reason, degrees=freedom, flips=known
        )
    return found


def no_difference(gap: float, error: float) -> str | None:
    """Why a difference of this error has neither interval nor test: `undefined`, or `no_spread` where all units differ
    alike; None where it has both, also where A and B are the same throughout.
    """
    if not np.isfinite((gap, error)).all():
        return "undefined"
    return "no_spread" if error <= NO_SPREAD < abs(gap) else None


def _drawn_errors(a: Units, b: Units, count: int) -> dict[str, tuple[float, float, None]]:
    """(standard error, degrees of freedom, None) of each difference from resamples that draw A and B alike."""
    drawn_a, drawn_b, inflation = replicates(a, count), replicates(b, count), math.sqrt(a.count / max(1, a.count - 1))
    return {
        name: (float((drawn_a[name] - drawn_b[name]).std(ddof=1)) * inflation, a.count - 1, None)
        for name in drawn_a
        if name in drawn_b
    }


def _left_out_errors(a: Units, b: Units) -> dict[str, tuple[float, float, float | None]]:
    """(standard error, degrees of freedom, mid-p of sign flips with 6 to 12 groups) of each difference."""
    (without_a, bag), (without_b, _) = left_out(a), left_out(b)
    at_a, at_b, share = point(a), point(b), reference_of_bags(a, bag)
    found = {}
    for name in [name for name in without_a if name in without_b]:
        gaps = without_a[name] - without_b[name]
        freedom = degrees(name, share, difference=True)
        parts = pseudo_values(np.asarray(at_a[name] - at_b[name]), gaps)
        flips = sign_flip_mid_p(parts) if 6 <= a.count <= 12 and np.isfinite(parts).all() else None
        found[name] = (float(standard_error(gaps)), freedom, flips)
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
        # quantiles that are real scores, each the next higher: np.quantile looks for thousands of them one by one
        places = np.ceil(np.linspace(0, 1, most) * (len(p) - 1)).astype(np.int64)
        distinct = np.unique(np.sort(p)[places])
    length = len(distinct)
    # cell = (unit, level), levels counted from the highest score down
    cell = unit * length + (length - 1 - np.minimum(np.searchsorted(distinct, p), length - 1))
    return tuple(
        np.bincount(cell[chosen], minlength=count * length).reshape(count, length).astype(np.float32)
        for chosen in (y, slice(None))
    )
