"""Rows of several seeds: their scores, and the differences of two, with the variance of seeds and of groups."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.intervals import (
    REPLICATES,
    Units,
    degrees,
    left_out,
    point,
    reference_of_bags,
    replicates,
)
from fgmae_bench.metrics.jackknife import Estimate, pseudo_values
from fgmae_bench.metrics.variance import MANY, Combined, crossed, hierarchical, interaction, unpaired

Values = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """One metric of a row: scores of its seeds (S,), what each group says of them (S, G), degrees of freedom."""

    scores: Values
    groups: Values
    degrees: float


def row_parts(seeds: Sequence[Units], *, difference: bool = False) -> dict[str, Parts]:
    """The parts of each metric of a row; all seeds are of the same units. Raises ValueError where they are not.

    `difference`: the degrees of freedom are those of a paired difference.
    """
    if len({units.count for units in seeds}) != 1:
        raise ValueError("seeds of different numbers of units")
    held = [(point(units), left_out(units)) for units in seeds]
    bag = held[0][1][1]
    reference = reference_of_bags(seeds[0], bag)
    found = {}
    for name in held[0][0]:
        scores = np.array([at[name] for at, _ in held])
        without = np.stack([left[name] for _, (left, _) in held])
        groups = pseudo_values(scores, without)
        found[name] = Parts(scores=scores, groups=groups, degrees=degrees(name, reference, difference=difference))
    return found


def row_estimates(seeds: Sequence[Units]) -> dict[str, Combined]:
    """Each metric of a row, mean over seeds, with its error over seeds and groups; of one seed that over groups."""
    drawn = _drawn(seeds)
    found = {}
    for name, parts in row_parts(seeds).items():
        estimate = crossed(parts.groups, parts.degrees, value=float(parts.scores.mean()))
        found[name] = _by_bootstrap(estimate, None if drawn is None else drawn[name], seeds)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredRow:
    """What differences from a row need, computed once however many others there are: its seeds' units, parts of each
    metric, and their scores on resamples (S, B), where there are seeds enough.
    """

    seeds: tuple[Units, ...]
    parts: dict[str, Parts]
    drawn: dict[str, Values] | None


def measured_row(seeds: Sequence[Units]) -> MeasuredRow:
    """The row of these seeds. Raises ValueError where they are not of the same units."""
    return MeasuredRow(seeds=tuple(seeds), parts=row_parts(seeds, difference=True), drawn=_drawn(seeds))


def row_differences(a: Sequence[Units], b: Sequence[Units], *, paired: bool) -> dict[str, Combined]:
    """A - B of each metric of two rows on the same units, over seeds and groups.

    `paired`: both have the same seeds in the same order, which share what a seed decides, such as the draw of labels.
    """
    first, second = measured_row(a), measured_row(b)
    return {name: difference(first, second, name, paired=paired) for name in first.parts if name in second.parts}


def difference(a: MeasuredRow, b: MeasuredRow, name: str, *, paired: bool) -> Combined:
    """A - B of one metric; raises ValueError where the two are of different numbers of units."""
    first, second = a.parts[name], b.parts[name]
    if first.groups.shape[1] != second.groups.shape[1]:
        raise ValueError("rows of different numbers of units")
    gap = float(first.scores.mean() - second.scores.mean())
    if paired:
        estimate = crossed(first.groups - second.groups, first.degrees, value=gap)
        drawn = None if a.drawn is None or b.drawn is None else a.drawn[name] - b.drawn[name]
        return _by_bootstrap(estimate, drawn, a.seeds)
    groups = first.groups.mean(0) - second.groups.mean(0)
    error = math.sqrt(float(groups.var(ddof=1)) / len(groups)) if len(groups) > 1 else math.nan
    of_seeds = [(_error_over(each.scores), len(each.scores)) for each in (first, second)]
    both = interaction(first.groups) + interaction(second.groups)
    return unpaired(of_seeds, Estimate(value=gap, error=error, degrees=first.degrees), both)


def _error_over(scores: Values) -> float:
    return float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0


def _drawn(seeds: Sequence[Units]) -> dict[str, Values] | None:
    """Scores of each seed on the same resamples (S, B), where there are seeds enough to be drawn again."""
    if len(seeds) < MANY:
        return None
    each = [replicates(units, REPLICATES) for units in seeds]
    return {name: np.stack([scores[name] for scores in each]) for name in each[0]}


def _by_bootstrap(estimate: Combined, drawn: Values | None, seeds: Sequence[Units]) -> Combined:
    """The estimate with the error of the hierarchical bootstrap, where its scores (S, B) are given and defined."""
    if drawn is None or not np.isfinite(drawn).all():
        return estimate
    fewest = min(len(seeds), seeds[0].count)
    error = float(hierarchical(drawn).std(ddof=1)) * math.sqrt(fewest / (fewest - 1))
    return dataclasses.replace(estimate, error=error)
