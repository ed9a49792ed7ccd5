"""What chance alone can do: Student's t, McNemar's test on the same samples, sign flips and signed ranks of a few
values, Holm's correction of many tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMAL = NormalDist()


def t_two_sided(t: float, df: float) -> float:
    """P(|T| > |t|) for Student's t with `df` degrees of freedom."""
    from scipy.special import stdtr  # here: a report without seeds needs no scipy

    return float(2 * stdtr(df, -abs(t)))


def t_quantile(level: float, df: float) -> float:
    """The t with P(|T| <= t) = `level` for Student's t with `df` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))


def mcnemar_mid_p(only_a: int, only_b: int) -> float:
    """Two-sided mid-p McNemar test from the counts that only A, and only B, got right.

    Twice the binomial tail of the smaller count, less the probability of that count itself; 1 without discordant
    samples: Fagerland, Lydersen & Laake 2013.
    """
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    # log of C(n, 0..k) / 2^n, in logarithms because n may be thousands
    steps = np.log((n - np.arange(k)) / np.arange(1, k + 1))
    log_pmf = np.concatenate([[0.0], np.cumsum(steps)]) - n * math.log(2)
    pmf = np.exp(log_pmf)
    # both tails, of which the observed count itself counts half
    return float(min(1.0, 2 * pmf.sum() - pmf[-1]))


MAX_FLIPPED = 20  # values of which all signs are tried


def sign_flip_mid_p(values: Sequence[float] | NDArray[Any]) -> float:
    """Two-sided mid-p of the mean of a few independent values, all 2^n signs tried: the wild bootstrap's null.

    The statistic is the mean over its standard error. Below 6 values not even agreement of all is below .05 without the
    half of ties; 1 where all values are 0. Raises ValueError for more than 20 values, and for unknown ones.
    """
    x = _known(values)
    n = len(x)
    if not 2 <= n <= MAX_FLIPPED:
        raise ValueError(f"{n} values to flip")
    if not x.any():
        return 1.0
    signs = 1 - 2 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)  # the other half is its mirror image
    flipped = signs * x
    mean, square = flipped.mean(1), (x**2).mean()
    # the square of t grows with mean^2 / (square - mean^2), and so with the square of the mean
    size, own = mean**2, float(x.mean() ** 2)
    tied = np.isclose(size, own, rtol=1e-9, atol=1e-15 * square)
    return float((size[~tied] > own).sum() + tied.sum() / 2) / len(size)


def wilcoxon_p(differences: Sequence[float] | NDArray[Any]) -> float:
    """Two-sided exact p of Wilcoxon's signed-rank test, all signs counted; 1 without differences.

    Zeros are dropped, equal sizes share their mean rank (Wilcoxon 1945). Raises ValueError for unknown values.
    """
    x = _known(differences)
    x = x[x != 0]
    if not len(x):
        return 1.0
    ranks = 2 * mean_ranks(np.abs(x))  # whole numbers, halves of ties included
    ways = np.zeros(int(ranks.sum()) + 1)
    ways[0] = 1.0
    for rank in ranks.astype(int):  # the number of ways to each sum of positive ranks
        shifted = np.zeros_like(ways)
        shifted[rank:] = ways[: len(ways) - rank]
        ways += shifted
    ways /= ways.sum()
    positive = int(ranks[x > 0].sum())
    return float(min(1.0, 2 * min(ways[: positive + 1].sum(), ways[positive:].sum())))


def _known(values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    """The values (N,); raises ValueError where one is not finite: left out, it would change the question."""
    x = np.asarray(values, np.float64)
    if not np.isfinite(x).all():
        raise ValueError("values that are not finite numbers")
    return x


def mean_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks (N,) from 1, the smallest first; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place.reshape(-1)], np.float64)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values (Holm 1979), to compare with the level as if there were one test; None stays None."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        # a larger p never gets a smaller adjusted one
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted
