"""Agreement of two rankings of models: Kendall's tau-b, its interval over datasets or groups, and its noise ceiling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.system.randomness import generator

Values = NDArray[np.float64]
MOST_DRAWS = 20_000  # resamples that are all enumerated, units ** units; of more, a thousand are drawn


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """tau-b of two rankings, its 95 % interval, and the ceiling: tau-b that halves of one condition reach."""

    tau: float
    low: float
    high: float
    ceiling: float | None


def kendall_tau_b(a: Values, b: Values) -> float:
    """(concordant - discordant) / sqrt((pairs - ties in a)(pairs - ties in b)) of scores (M,); NaN of a flat one."""
    above = np.triu_indices(len(a), 1)
    x, y = (np.sign(np.subtract.outer(each, each))[above] for each in (a, b))
    untied = math.sqrt(float(np.count_nonzero(x)) * np.count_nonzero(y))
    return float((x * y).sum() / untied) if untied else float("nan")


def agreement(a: Values, b: Values, *, count: int = 1000, level: float = 0.95, seed: int = 0) -> Agreement:
    """Agreement of the rankings by mean scores of M models on N units (N, M), such as datasets, under two conditions.

    The units are drawn again and both rankings made anew: a percentile interval, since tau cannot be above 1. The
    ceiling is the mean tau-b between random halves of the units under one condition, both conditions taken; None below
    four units. One unit has no interval: NaN. Raises ValueError where the shapes differ or a score is unknown.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"scores of shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("scores that are not finite numbers: rank models on the units that all of them have")
    units = len(a)
    random = generator(seed, "tau", units)
    if units**units <= MOST_DRAWS:
        drawn = np.stack(np.meshgrid(*[np.arange(units)] * units, indexing="ij"), -1).reshape(-1, units)
    else:
        drawn = random.integers(0, units, (count, units))
    taus = np.array([kendall_tau_b(a[rows].mean(0), b[rows].mean(0)) for rows in drawn])
    tail = (1 - level) / 2
    low, high = np.nanquantile(taus, [tail, 1 - tail]) if units > 1 and np.isfinite(taus).any() else (np.nan, np.nan)
    tau = kendall_tau_b(a.mean(0), b.mean(0))
    return Agreement(tau=tau, low=float(low), high=float(high), ceiling=_ceiling((a, b), random))


LEAST_MODELS = 8  # for a correlation of ranks: with fewer almost any value is within chance


def rank_against(values: Values, scores: Values, *, count: int = 1000, seed: int = 0) -> Agreement:
    """Agreement of the ranking by `values` (M,) of M models with that by their mean `scores` on N units (N, M).

    The interval is over the units, drawn again; the ceiling is what random halves of the units agree with one another,
    which no other measure can be expected to pass. Raises ValueError below eight models, and where a value is unknown.
    """
    values, scores = np.asarray(values, np.float64), np.asarray(scores, np.float64)
    if scores.ndim != 2 or values.shape != scores.shape[1:]:
        raise ValueError(f"values of shape {values.shape} for scores of {scores.shape}")
    if len(values) < LEAST_MODELS:
        raise ValueError(f"{len(values)} models: a correlation of ranks is given from {LEAST_MODELS} on")
    if not (np.isfinite(values).all() and np.isfinite(scores).all()):
        raise ValueError("scores that are not finite numbers")
    random = generator(seed, "rank against", len(scores))
    drawn = random.integers(0, len(scores), (count, len(scores)))
    taus = np.array([kendall_tau_b(values, scores[rows].mean(0)) for rows in drawn])
    low, high = np.nanquantile(taus, [0.025, 0.975]) if np.isfinite(taus).any() else (np.nan, np.nan)
    tau = kendall_tau_b(values, scores.mean(0))
    return Agreement(tau=tau, low=float(low), high=float(high), ceiling=_ceiling((scores,), random))


def _ceiling(conditions: tuple[Values, ...], random: np.random.Generator, halvings: int = 200) -> float | None:
    units = len(conditions[0])
    if units < 4:
        return None
    found = []
    for _ in range(halvings):
        order = random.permutation(units)
        for scores in conditions:
            halves = (scores[order[: units // 2]].mean(0), scores[order[units // 2 :]].mean(0))
            found.append(kendall_tau_b(*halves))
    return float(np.nanmean(found)) if np.isfinite(found).any() else None
