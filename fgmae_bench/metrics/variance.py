"""Two sources of variance at once: the seed of a run, and the groups of its test split.

The seeds alone say what training again would give on this test split, the groups alone what these weights would give
elsewhere; both together are what a claim about a model needs. Every seed sees the same groups: the design is crossed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.jackknife import Estimate
from fgmae_bench.metrics.significance import t_quantile, t_two_sided
from fgmae_bench.system.randomness import generator

Values = NDArray[np.float64]
MANY = 6  # seeds from which they are drawn again; of fewer a bootstrap would make their variance too small


@dataclass(frozen=True, kw_only=True)
class Combined(Estimate):
    """An estimate with both variances in its error, and each alone: None where there is one seed or one group."""

    over_seeds: float | None
    over_groups: float | None

    def p(self) -> float | None:
        """Two-sided p of the value being 0; None without a spread."""
        if self.error > 1e-12:
            return t_two_sided(self.value / self.error, self.degrees)
        return 1.0 if abs(self.value) < 1e-12 else None


def crossed(values: Values, degrees: float | None = None, value: float | None = None) -> Combined:
    """Mean of (S, G) values of S seeds in G groups with its standard error over both.

    SE^2 = v_s + v_g - v_e: the variances of the means of seeds and of groups, each of which holds that of their
    interaction over S G, so that it is taken away once; never less than the larger of the two. `degrees` are those of
    the groups, by default G - 1, `value` is the estimate where it is another one than the mean. Raises ValueError for a
    single seed in a single group.
    """
    seeds, groups = values.shape
    if seeds * groups < 2:
        raise ValueError("one seed in one group has no variance")
    rows, columns, mean = values.mean(1), values.mean(0), values.mean()
    by_seed = float(rows.var(ddof=1)) / seeds if seeds > 1 else 0.0
    by_group = float(columns.var(ddof=1)) / groups if groups > 1 else 0.0
    both = interaction(values)
    total = max(by_seed + by_group - both, by_seed, by_group)
    parts = [(by_seed, seeds - 1), (by_group, degrees or groups - 1), (both, (seeds - 1) * (groups - 1))]
    return Combined(
        value=float(mean) if value is None else value,
        error=math.sqrt(total),
        degrees=_satterthwaite(total, parts),
        over_seeds=math.sqrt(by_seed) if seeds > 1 else None,
        over_groups=math.sqrt(by_group) if groups > 1 else None,
    )


def interaction(values: Values) -> float:
    """The part v_e of (S, G) values that the variance of the means of seeds and that of groups both hold."""
    seeds, groups = values.shape
    if seeds < 2 or groups < 2:
        return 0.0
    rest = values - values.mean(1)[:, None] - values.mean(0) + values.mean()
    return float((rest**2).sum()) / ((seeds - 1) * (groups - 1)) / (seeds * groups)


def unpaired(seeds: Sequence[tuple[float, int]], groups: Estimate, both: float = 0.0) -> Combined:
    """A - B of rows whose seeds are not the same: their seeds vary apart, their groups together.

    `seeds` holds (standard error over them, number of them) of A and of B, `groups` is the difference of the means over
    seeds with its error over groups, `both` the interactions of A and B, which both of these hold.
    """
    by_seed = [error**2 for error, _ in seeds]
    total = max(sum(by_seed) + groups.error**2 - both, sum(by_seed), groups.error**2)
    parts = [(part, count - 1) for part, (_, count) in zip(by_seed, seeds, strict=True)]
    return Combined(
        value=groups.value,
        error=math.sqrt(total),
        degrees=_satterthwaite(total, [*parts, (groups.error**2, groups.degrees)]),
        over_seeds=math.sqrt(sum(by_seed)) if min(count for _, count in seeds) > 1 else None,
        over_groups=groups.error,
    )


def total_bounds(
    mean: float, seeds: tuple[float, int], bounds: tuple[float, float], units: int, level: float = 0.95
) -> tuple[float, float]:
    """The interval of a mean over both, from what records alone hold: `seeds` are (standard deviation, number), and
    `bounds` the interval over `units` groups or samples, at the same level.

    SE^2 = v_s + v_g as in `crossed`, but the interaction, which both hold, cannot be taken off without the scores of
    groups: the interval is somewhat too wide. It is nowhere narrower than `bounds`.
    """
    deviation, count = seeds
    quantile, found = t_quantile(level, units - 1), []
    for end in bounds:
        groups = Estimate(value=mean, error=abs(end - mean) / quantile, degrees=units - 1)
        low, high = unpaired([(deviation / math.sqrt(count), count)], groups).interval(level)
        found.append(max((high - low) / 2, abs(end - mean)))
    return mean - found[0], mean + found[1]


def hierarchical(replicates: Values, seed: int = 0) -> Values:
    """Means over seeds of scores of resampled groups (S, B), the seeds drawn with replacement in each of them: (B,)."""
    seeds, count = replicates.shape
    drawn = generator(seed, "seeds", seeds).integers(0, seeds, (seeds, count))
    return np.asarray(np.take_along_axis(replicates, drawn, axis=0).mean(0), np.float64)


def over_datasets(each: Sequence[Estimate]) -> Combined:
    """The mean of estimates on different datasets, each counting alike: their errors are independent.

    The datasets are taken as they are. What others would give, only more of them can say: see `wilcoxon_p`.
    """
    count = len(each)
    parts = [(estimate.error**2 / count**2, estimate.degrees) for estimate in each]
    total = sum(part for part, _ in parts)
    value = float(np.mean([estimate.value for estimate in each]))
    degrees = _satterthwaite(total, parts)
    return Combined(value=value, error=math.sqrt(total), degrees=degrees, over_seeds=None, over_groups=None)


def _satterthwaite(total: float, parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances (Satterthwaite 1946), at least 1."""
    spread = sum(part**2 / degrees for part, degrees in parts if part > 0 and degrees > 0)
    return max(1.0, total**2 / spread) if spread else 1.0


def interquartile_mean(scores: NDArray[Any]) -> float:
    """The mean without the lowest and the highest quarter of runs x tasks (Agarwal et al. 2021, arXiv 2108.13264)."""
    values = np.sort(np.asarray(scores, np.float64).ravel())
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def improvement_probability(x: NDArray[Any], y: NDArray[Any]) -> float:
    """P(a run of X is better than one of Y), mean over tasks, ties as half; runs are rows (n, tasks), (m, tasks)."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    a, b = a.reshape(len(a), -1)[:, None], b.reshape(len(b), -1)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())
