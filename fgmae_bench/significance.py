"""What chance alone can do: Student's t, McNemar's test on the same samples, and Holm's correction for many comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
LARGE_DF = 5000  # beyond it t and normal quantiles differ by less than 1/(4 df), .0001 at 95 %


def t_two_sided(t: float, df: int) -> float:
    """P(|T| > |t|) for Student's t with `df` degrees of freedom: the finite series 26.7.3-4 of Abramowitz & Stegun 1964."""
    t = abs(t)
    if math.isinf(t):
        return 0.0
    if df > LARGE_DF:
        return 2 * NORMAL.cdf(-t)
    angle = math.atan(t / math.sqrt(df))
    sin, cos = math.sin(angle), math.cos(angle)
    if df == 1:
        return 1 - 2 * angle / math.pi
    if df % 2:
        steps = np.arange(2, df - 1, 2)
        terms = cos * np.cumprod(np.concatenate([[1.0], cos**2 * steps / (steps + 1)]))
        inside = 2 / math.pi * (angle + sin * terms.sum())
    else:
        steps = np.arange(1, df - 2, 2)
        terms = np.cumprod(np.concatenate([[1.0], cos**2 * steps / (steps + 1)]))
        inside = sin * terms.sum()
    return float(min(1.0, max(0.0, 1 - inside)))


def t_quantile(level: float, df: int) -> float:
    """The t with P(|T| <= t) = `level`, by bisection."""
    low, high = 0.0, 1.0
    while t_two_sided(high, df) > 1 - level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, df) > 1 - level else (low, middle)
    return high


def mcnemar_mid_p(only_a: int, only_b: int) -> float:
    """Two-sided mid-p McNemar test from the counts that only A, and only B, got right (Fagerland, Lydersen & Laake 2013).

    Twice the binomial tail of the smaller count, less the probability of that count itself; 1 without discordant samples.
    """
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    steps = np.log((n - np.arange(k)) / np.arange(1, k + 1))
    log_pmf = np.concatenate([[0.0], np.cumsum(steps)]) - n * math.log(2)
    pmf = np.exp(log_pmf)
    return float(min(1.0, 2 * pmf.sum() - pmf[-1]))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values (Holm 1979): they may be held against the level as if there were one test. None stays None, uncounted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted
