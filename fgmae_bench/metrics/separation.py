"""Which of several models are apart: every pair tested over seeds and groups, corrected together, and what follows.

The test is the hierarchical paired one of `metrics.rows`: each metric's jackknife over the same groups of every model,
seeds crossed with them, and from six seeds on a bootstrap that draws seeds within draws of groups. A pair that is not
separated is not thereby equal; that two models are equal up to a margin is a claim of its own (`equivalent`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.intervals import NO_SPREAD, Units, no_difference, obstacles
from fgmae_bench.metrics.jackknife import Estimate
from fgmae_bench.metrics.rows import MeasuredRow, difference, measured_row
from fgmae_bench.metrics.significance import holm
from fgmae_bench.metrics.variance import over_datasets

LEVEL = 0.05
MARGIN = 0.01  # by which two models may differ and still be called equal, in the unit of the metric
Pairs = dict[tuple[int, int], Estimate]


@dataclass(frozen=True, kw_only=True)
class Apart:
    """What the tests of M models say: `above[i, j]` where i is separated above j, `equal[i, j]` where the two are equal
    up to the margin; `tests` pairs were tested.
    """

    above: NDArray[np.bool_]
    equal: NDArray[np.bool_]
    tests: int

    def may_be_best(self) -> NDArray[np.bool_]:
        """(M,) whether nothing is separated above a model. True of all where nothing could be tested."""
        return np.asarray(~self.above.any(0))

    def rank_sets(self) -> list[tuple[int, int]]:
        """The ranks that each model may have, all at once at the level (Mogstad, Romano, Shaikh & Wilhelm 2023)."""
        models = len(self.above)
        return [(1 + int(self.above[:, i].sum()), models - int(self.above[i].sum())) for i in range(models)]


def pair_estimates(rows: Sequence[Sequence[Units]], seeds: Sequence[Sequence[str]], metric: str) -> Pairs:
    """Differences i - j, i < j, of one metric of M rows on the same units, each the units of its seeds.

    Rows of the same seeds are paired by them. A pair whose difference has no spread, or is undefined, is left out; all
    are where an interval of the metric would be withheld. Raises ValueError where rows are of different units.
    """
    if any(metric in obstacles(row[0]) for row in rows):
        return {}
    held: list[MeasuredRow] = [measured_row(row) for row in rows]
    found: Pairs = {}
    for i, j in itertools.combinations(range(len(rows)), 2):
        estimate = difference(held[i], held[j], metric, paired=sorted(seeds[i]) == sorted(seeds[j]))
        if no_difference(estimate.value, estimate.error) is None:
            found[i, j] = estimate
    return found


def over_places(places: Sequence[Mapping[tuple[int, int], Estimate]]) -> Pairs:
    """The mean difference of each pair that all datasets know; their errors are independent."""
    shared = set(places[0]).intersection(*places[1:]) if places else set()
    return {pair: over_datasets([place[pair] for place in places]) for pair in sorted(shared)}


def together(places: Sequence[Estimate]) -> Estimate:
    """One estimate of several datasets cut from the same scenes: their mean, with the error of errors that rise and
    fall together, so that more of them make nothing surer.
    """
    return Estimate(
        value=float(np.mean([each.value for each in places])),
        error=float(np.mean([each.error for each in places])),
        degrees=min(each.degrees for each in places),
    )


def apart(models: int, pairs: Mapping[tuple[int, int], Estimate], margin: float = MARGIN) -> Apart:
    """Holm over the tests of difference, and over those of equality, each family at 5 %."""
    above = np.zeros((models, models), bool)
    equal = np.zeros((models, models), bool)
    differing = holm([_p(estimate) for estimate in pairs.values()])
    alike = holm([equality_p(estimate, margin) for estimate in pairs.values()])
    for ((i, j), estimate), p, q in zip(pairs.items(), differing, alike, strict=True):
        if p is not None and p < LEVEL:
            upper, lower = (i, j) if estimate.value > 0 else (j, i)
            above[upper, lower] = True
        if q is not None and q < LEVEL:
            equal[i, j] = equal[j, i] = True
    return Apart(above=above, equal=equal, tests=len(pairs))


def _p(estimate: Estimate) -> float:
    """Two-sided p; 1 for models that are the same throughout."""
    from scipy.special import stdtr

    if estimate.error <= NO_SPREAD:
        return 1.0
    return float(2 * stdtr(estimate.degrees, -abs(estimate.value / estimate.error)))


def equality_p(estimate: Estimate, margin: float) -> float:
    """The larger p of two one-sided tests, of a difference of at most -margin and of at least margin (Schuirmann 1987).

    Below the level the two models are equal up to the margin; 0 for models that are the same throughout. Raises
    ValueError where the margin is not above 0.
    """
    from scipy.special import stdtr

    if not margin > 0 or not math.isfinite(margin):
        raise ValueError(f"a margin of {margin}")
    if estimate.error <= NO_SPREAD:
        return float(abs(estimate.value) >= margin)
    low, high = ((estimate.value + sign * margin) / estimate.error for sign in (1, -1))
    return float(max(stdtr(estimate.degrees, -low), stdtr(estimate.degrees, high)))
