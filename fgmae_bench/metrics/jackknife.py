"""The jackknife over groups: standard errors and intervals from what a score is without each group in turn.

It needs no draws, and is not biased where a bootstrap is, whose resamples hold the same positives twice. With few
groups it rejects as often as it says (Cameron & Miller 2015, section VI: CR3 with G - 1 degrees of freedom).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.significance import t_quantile

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score with its standard error and the degrees of freedom of Student's t that belong to it."""

    value: float
    error: float
    degrees: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The two-sided interval of Student's t."""
        half = t_quantile(level, self.degrees) * self.error
        return self.value - half, self.value + half


def standard_error(without: Values) -> Values:
    """Standard errors (...,) from the scores without each group, (..., G): sqrt((G - 1) / G sum of squares)."""
    count = without.shape[-1]
    gaps = without - without.mean(-1, keepdims=True)
    return np.asarray(np.sqrt((count - 1) / count * (gaps**2).sum(-1)), np.float64)


def pseudo_values(value: Values, without: Values) -> Values:
    """What each group says of the score, (..., G): G value - (G - 1) without; of a plain mean, the groups' own."""
    count = without.shape[-1]
    return np.asarray(count * value[..., None] - (count - 1) * without, np.float64)


def shares(reference: NDArray[Any], *, macro: bool) -> Values:
    """How much of a score hangs on each group (G,), sum 1, from the samples of each class in it (G, K).

    Of a mean over classes each class counts alike, however few groups hold it.
    """
    total = reference.sum(0)
    held = np.asarray(reference, np.float64)[:, total > 0]
    share = (held / held.sum(0)).mean(1) if macro else held.sum(1) / held.sum()
    return np.asarray(share, np.float64)


def effective_groups(share: Values) -> float:
    """Kish's number of groups of equal size that vary as these do: (sum n)^2 / sum n^2."""
    return float(share.sum() ** 2 / (share**2).sum())


def degrees_of_freedom(reference: NDArray[Any], *, macro: bool, ranked: bool = False) -> float:
    """Degrees of freedom of a standard error over groups (Satterthwaite 1946), at least 1, from the samples of each
    class in each group (G, K).

    What a group adds to the variance has two parts, in sum of equal size: that of its samples, n / N^2 with N of the
    class in all groups, and that of what they have in common, (n / N)^2. A class that few groups hold leaves few
    degrees. Of a mean over classes n / N stands for the second part: what makes a group hard differs by class, and the
    jackknife is wide where few groups hold one. Scores of ranks (`ranked`) are less linear still: there it stands
    alone. These choices are those that cover in simulation (docs/statistics.md).
    """
    share = shares(reference, macro=macro)
    if ranked:
        return max(1.0, effective_groups(share) - 1)
    counts = np.asarray(reference, np.float64)
    counts = counts[:, counts.sum(0) > 0] if macro else counts.sum(1, keepdims=True)
    within = (counts / counts.sum(0) ** 2).sum(1)
    between = share if macro else share**2
    return max(1.0, effective_groups(within / within.sum() + between / between.sum()) - 1)
