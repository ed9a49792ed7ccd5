"""Models ranked over datasets: average ranks, Friedman and Nemenyi, Bradley-Terry strengths as Elo, with intervals.

A dataset here is a unit: several datasets cut from the same scenes have to be made one before. Scores are (N, M), N
datasets of M models, higher is better; equal scores share their mean rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.significance import mean_ranks
from fgmae_bench.metrics.variance import interquartile_mean
from fgmae_bench.system.randomness import generator

Values = NDArray[np.float64]
ENOUGH = 8  # datasets from which strengths and critical differences say more than average ranks
LEAST_FOR_IQM = 4  # datasets: of fewer, a quarter would be whole datasets
DRAWS = 1000
BASE, SCALE = 1000.0, 400 / math.log(10)  # of Elo: a strength of 1, and points a natural logarithm


@dataclass(frozen=True, kw_only=True)
class Friedman:
    """Friedman's test of equal ranks, corrected for ties: chi-square and its p; `critical` is Nemenyi's difference of
    two average ranks at 5 %.
    """

    chi_square: float
    p: float
    critical: float


def ranks(scores: Values) -> Values:
    """Rank of each model on each dataset (N, M), 1 is best. Raises ValueError for scores that are not finite."""
    x = np.asarray(scores, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError(f"scores of shape {x.shape} that are not all finite: rank models on datasets that all have")
    return np.stack([mean_ranks(-line) for line in x])


def friedman(scores: Values) -> Friedman:
    """Friedman 1937 with the correction for ties, and Nemenyi's critical difference (Demsar 2006, section 3.2.2).

    Raises ValueError below two datasets or three models, and where all models tie everywhere.
    """
    from scipy.special import chdtrc
    from scipy.stats import studentized_range

    each = ranks(scores)
    n, k = each.shape
    if n < 2 or k < 3:
        raise ValueError(f"{n} datasets of {k} models")
    chi = 12 * n / (k * (k + 1)) * (float((each.mean(0) ** 2).sum()) - k * (k + 1) ** 2 / 4)
    ties = sum(float((count**3 - count).sum()) for line in each for count in [np.unique(line, return_counts=True)[1]])
    left = 1 - ties / (n * (k**3 - k))
    if left <= 0:
        raise ValueError("all models tie on all datasets")
    quantile = float(studentized_range.ppf(0.95, k, np.inf)) / math.sqrt(2)
    return Friedman(
        chi_square=chi / left,
        p=float(chdtrc(k - 1, chi / left)),
        critical=quantile * math.sqrt(k * (k + 1) / (6 * n)),
    )


def wins(scores: Values) -> Values:
    """On how many datasets each model beats each other (M, M); a tie is half a win for both."""
    x = np.asarray(scores, np.float64)
    return np.asarray((x[:, :, None] > x[:, None]).sum(0) + 0.5 * _ties(x), np.float64)


def _ties(x: Values) -> Values:
    tied = (x[:, :, None] == x[:, None]).sum(0).astype(np.float64)
    np.fill_diagonal(tied, 0)
    return tied


def strengths(won: Values, rounds: int = 10_000, tolerance: float = 1e-10) -> Values:
    """Bradley-Terry strengths (..., M) of counts of wins (..., M, M), geometric mean 1: Hunter 2004, algorithm MM.

    Where some model wins or loses all, no maximum exists: there half a win each way of every pair is added. The order
    of games has no part in it, as it has in Elo of one game after the other.
    """
    w = np.array(won, np.float64)
    models = w.shape[-1]
    total = w.sum(-1)
    against = w.sum(-2)
    prior = 0.5 * (1 - np.eye(models))
    w = np.where(((total == 0) | (against == 0)).any(-1)[..., None, None], w + prior, w)
    games, total = w + np.swapaxes(w, -1, -2), w.sum(-1)
    p = np.ones(total.shape)
    for _ in range(rounds):
        share = games / (p[..., :, None] + p[..., None, :])
        new = total / share.sum(-1)
        new /= np.exp(np.log(new).mean(-1, keepdims=True))
        done = np.abs(np.log(new / p)).max() < tolerance
        p = new
        if done:
            break
    return np.asarray(p, np.float64)


def elo(scores: Values) -> Values:
    """Elo points (M,): 400 log10 of the strength, 1000 in the mean."""
    return np.asarray(BASE + SCALE * np.log(strengths(wins(scores))), np.float64)


@dataclass(frozen=True, kw_only=True)
class League:
    """M models over N datasets: `rank` averages and `elo` points with 95 % bounds (M, 2) over draws of the datasets,
    None where datasets are too few; `top` is the share of draws in which a model is first. The bounds of `iqm` are over
    draws of runs, NaN of a model that has a single run on some dataset.
    """

    rank: Values
    rank_bounds: Values | None = None
    elo: Values | None = None
    elo_bounds: Values | None = None
    iqm: Values | None = None
    iqm_bounds: Values | None = None
    top: Values | None = None
    friedman: Friedman | None = None


def league(scores: Values, runs: list[list[Values]] | None = None, seed: int = 0) -> League:
    """The league of scores (N, M). `runs[n][m]` holds the scores of a model's runs on a dataset, for the IQM.

    Draws are of whole datasets: games of one dataset share its data. Raises ValueError below two of either.
    """
    x = np.asarray(scores, np.float64)
    n, models = x.shape
    if n < 2 or models < 2:
        raise ValueError(f"{n} datasets of {models} models")
    each = ranks(x)
    iqm = iqm_bounds = None
    if runs is not None and n >= LEAST_FOR_IQM:
        iqm = np.array([interquartile_mean(np.concatenate([line[m] for line in runs])) for m in range(models)])
        iqm_bounds = np.array([_iqm_bounds([line[m] for line in runs], seed) for m in range(models)])
    if n < ENOUGH:
        return League(rank=each.mean(0), iqm=iqm, iqm_bounds=iqm_bounds)
    drawn = generator(seed, "datasets", n).integers(0, n, (DRAWS, n))
    won = (x[:, :, None] > x[:, None]) + 0.5 * ((x[:, :, None] == x[:, None]) & ~np.eye(models, dtype=bool))
    points = BASE + SCALE * np.log(strengths(won[drawn].sum(1), tolerance=1e-6))
    average = each[drawn].mean(1)
    first = average == average.min(1, keepdims=True)
    return League(
        rank=each.mean(0),
        rank_bounds=_bounds(average),
        elo=elo(x),
        elo_bounds=_bounds(points),
        iqm=iqm,
        iqm_bounds=iqm_bounds,
        top=(first / first.sum(1, keepdims=True)).mean(0),
        friedman=friedman(x) if models > 2 and (each != each[:, :1]).any() else None,
    )


def _iqm_bounds(runs: list[Values], seed: int) -> Values:
    """95 % bounds (2,) of the interquartile mean, runs drawn again within each dataset: the stratified bootstrap of
    Agarwal et al. 2021. Datasets are as they are; NaN where one has a single run, whose spread nothing shows.
    """
    if min(len(each) for each in runs) < 2:
        return np.full(2, np.nan)
    chance = generator(seed, "runs", *(len(each) for each in runs))
    drawn = np.concatenate([each[chance.integers(0, len(each), (DRAWS, len(each)))] for each in runs], axis=1)
    cut = drawn.shape[1] // 4
    means = np.sort(drawn, axis=1)[:, cut : drawn.shape[1] - cut].mean(1)
    return np.asarray(np.quantile(means, [0.025, 0.975]), np.float64)


def _bounds(drawn: Values) -> Values:
    return np.asarray(np.quantile(drawn, [0.025, 0.975], axis=0).T, np.float64)


def unseparated(average: Values, critical: float) -> list[tuple[int, int]]:
    """The bars of a critical-difference diagram: (first, last) places in the order of average ranks of the longest
    groups that span less than the critical difference.
    """
    order = np.sort(np.asarray(average, np.float64))
    found: list[tuple[int, int]] = []
    for i in range(len(order)):
        j = int(np.searchsorted(order, order[i] + critical, side="left")) - 1
        if j > i and (not found or j > found[-1][1]):
            found.append((i, j))
    return found
