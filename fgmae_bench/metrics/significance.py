"""What chance alone can do: Student's t, McNemar's test on the same samples, Holm's correction of many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()


def t_two_sided(t: float, df: int) -> float:
    """P(|T| > |t|) for Student's t with `df` degrees of freedom."""
    from scipy.special import stdtr  # here: a report without seeds needs no scipy

    return float(2 * stdtr(df, -abs(t)))


def t_quantile(level: float, df: int) -> float:
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
