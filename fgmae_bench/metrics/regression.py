"""Scores of a regression: residuals of samples, or of pixels as sums of each image, exact and weighted alike."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.statistics import Residuals, Values, finite, ratio
from fgmae_bench.metrics.table import REGRESSION, scores

QUANTILES = 5  # bins of targets where the card states none
SUMS = ("count", "error", "absolute", "squared", "target", "target_squared")
LEVELS = 32  # of predictions and targets of pixels: ranks within one are ties
CHUNK = 1 << 24  # numbers that are held at a time while ranks are weighted


class Target(Protocol):
    """What a regression predicts, as a card states it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def unit(self) -> str:
        """Its unit, empty where it has none."""

    @property
    def bins(self) -> tuple[float, ...]:
        """Bounds of bins of target values, rising; none for quintiles."""


def regression(predictions: NDArray[Any], targets: NDArray[Any]) -> dict[str, float | None]:
    """The metrics of predictions (N,) or (N, 1) and targets of the same shape; None where undefined."""
    p, y = (np.asarray(values, np.float64).reshape(-1) for values in (predictions, targets))
    if not len(p) or not (np.isfinite(p).all() and np.isfinite(y).all()):
        return {"loss": None, **scores(REGRESSION, _undefined())}
    found = residuals(p, y, np.ones((1, len(p))))
    return {"loss": finite(float(found.squared[0] / found.count[0])), **scores(REGRESSION, found)}


def residuals(p: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[Any]) -> Residuals:
    """Statistics of predictions and targets (N,) under weights (B, N): how often each sample is drawn."""
    w, e = np.asarray(weights, np.float64), p - y
    centred = y - y.mean()  # against cancellation in the scatter
    sums = w @ np.stack([np.ones_like(e), e, np.abs(e), e**2, centred, centred**2], axis=1)  # (B, 6)
    return Residuals(**dict(zip(SUMS, sums.T, strict=True)), rank_correlation=weighted_spearman(p, y, w))


def weighted_spearman(p: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> Values:
    """Spearman's correlation (B,) of p and y (N,), each sample as often as `weights` (B, N) say; ties at mean ranks."""
    found = []
    step = max(1, CHUNK // max(len(p), 1))
    levels = [np.unique(values, return_inverse=True) for values in (p, y)]
    for start in range(0, len(weights), step):
        w = weights[start : start + step]
        ranks = [_mean_ranks(inverse.reshape(-1), len(values), w) for values, inverse in levels]
        found.append(_correlation(ranks[0], ranks[1], w))
    return np.concatenate(found)


def _mean_ranks(level: NDArray[np.int64], count: int, w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean rank (B, N) of each sample: the weight below its level and half of that within it."""
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(count))
    held = np.add.reduceat(w[:, order], starts, axis=1)  # (B, levels)
    return (np.cumsum(held, axis=1) - held / 2)[:, level]


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64], w: NDArray[np.float64]) -> Values:
    """Pearson's correlation (B,) of a and b (B, N) under weights; NaN where one of them is constant."""
    total = w.sum(1, keepdims=True)
    a, b = (values - ratio((w * values).sum(1, keepdims=True), total) for values in (a, b))
    both, of_a, of_b = ((w * x).sum(1) for x in (a * b, a * a, b * b))
    return np.clip(ratio(both, np.sqrt(of_a * of_b)), -1, 1)


@dataclass(frozen=True, kw_only=True)
class PixelSums:
    """How the pixels of an image become one row of sums: residuals, counts of levels, and sums of each target bin.

    Targets count from `origin`, the mean of training; `levels` are bounds between which ranks are not distinguished.
    """

    origin: float
    levels: tuple[float, ...]
    bins: tuple[float, ...]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return len(SUMS) + (len(self.levels) + 1) ** 2 + 3 * (len(self.bins) + 1)

    def row(self, predictions: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
        """The row of an image (H, W); pixels whose target is NaN do not count."""
        kept = np.isfinite(targets)
        p, y = predictions[kept].astype(np.float64), targets[kept].astype(np.float64)
        e, centred, side = p - y, y - self.origin, len(self.levels) + 1
        sums = [len(e), e.sum(), np.abs(e).sum(), (e**2).sum(), centred.sum(), (centred**2).sum()]
        cells = np.digitize(p, self.levels) * side + np.digitize(y, self.levels)
        joint = np.bincount(cells, minlength=side**2)
        place, count = np.digitize(y, self.bins), len(self.bins) + 1
        binned = [np.bincount(place, weights=values, minlength=count) for values in (np.ones_like(e), e, e**2)]
        return np.concatenate([sums, joint, *binned])

    def residuals(self, rows: NDArray[np.float64]) -> Residuals:
        """Statistics of B rows, or of weighted sums of rows."""
        side = len(self.levels) + 1
        joint = rows[:, len(SUMS) : len(SUMS) + side**2].reshape(-1, side, side)
        held = dict(zip(SUMS, rows.T, strict=False))
        return Residuals(**held, rank_correlation=spearman_of_counts(joint))

    def details(self, rows: NDArray[np.float64], target: Target) -> dict[str, Any]:
        """As `details`, from the rows of a split."""
        total = rows.sum(0)
        sums = dict(zip(SUMS, total, strict=False))
        count, error, squared = total[-3 * (len(self.bins) + 1) :].reshape(3, -1)
        edges = [-np.inf, *self.bins, np.inf]
        null = Residuals(
            **{name: np.array([sums[name]]) for name in ("count", "target", "target_squared")},
            error=np.array([-sums["target"]]),
            absolute=np.full(1, np.nan),
            squared=np.array([sums["target_squared"]]),
            rank_correlation=np.full(1, np.nan),
        )
        scored = scores(REGRESSION, null)
        return {
            "target": target.name,
            "unit": target.unit,
            "bins": [
                {
                    "low": finite(low),
                    "high": finite(high),
                    "count": int(count[k]),
                    "rmse": finite(float(np.sqrt(squared[k] / count[k]))) if count[k] else None,
                    "bias": finite(float(error[k] / count[k])) if count[k] else None,
                }
                for k, (low, high) in enumerate(pairwise(edges))
            ],
            "null": {"train_mean": self.origin, **{name: scored[name] for name in ("rmse", "bias", "r2")}},
        }


def pixel_regression(sums: PixelSums, rows: NDArray[np.float64]) -> dict[str, float | None]:
    """The metrics of the pixels of images, from their rows; Spearman's is that of levels."""
    found = sums.residuals(rows.sum(0, keepdims=True))
    count = float(found.count[0])
    loss = finite(float(found.squared[0]) / count) if count else None
    return {"loss": loss, **scores(REGRESSION, found)}


def spearman_of_counts(joint: NDArray[np.float64]) -> Values:
    """Spearman's correlation (B,) from counts (B, L, L) of pairs of levels; pairs of one level are ties."""
    of_p, of_y = joint.sum(2), joint.sum(1)
    total = of_p.sum(1)[:, None]
    a, b = (np.cumsum(held, axis=1) - held / 2 - total / 2 for held in (of_p, of_y))
    both = np.einsum("bij,bi,bj->b", joint, a, b)
    return np.clip(ratio(both, np.sqrt((of_p * a**2).sum(1) * (of_y * b**2).sum(1))), -1, 1)


def target_bins(targets: NDArray[Any], stated: tuple[float, ...]) -> list[float]:
    """Bounds of bins of target values: those stated, else quintiles of the training targets."""
    if stated:
        return list(stated)
    values = np.asarray(targets, np.float64).reshape(-1)
    return sorted(set(np.quantile(values, np.linspace(0, 1, QUANTILES + 1)[1:-1]).tolist())) if len(values) else []


def by_bin(
    predictions: NDArray[Any], targets: NDArray[Any], bounds: list[float]
) -> list[dict[str, float | int | None]]:
    """Number, RMSE and bias of the samples of each bin of target values: `low` <= target < `high`, open at the ends."""
    p, y = (np.asarray(values, np.float64).reshape(-1) for values in (predictions, targets))
    edges, rows = [-np.inf, *bounds, np.inf], []
    for low, high in pairwise(edges):
        e = (p - y)[(y >= low) & (y < high)]
        rows.append(
            {
                "low": finite(low),
                "high": finite(high),
                "count": len(e),
                "rmse": finite(float(np.sqrt(np.mean(e**2)))) if len(e) else None,
                "bias": finite(float(e.mean())) if len(e) else None,
            }
        )
    return rows


def details(predictions: NDArray[Any], targets: NDArray[Any], train: NDArray[Any], target: Target) -> dict[str, Any]:
    """The record's `metrics.regression`: unit, bins of target values, and what the training mean alone would score."""
    y = np.asarray(train, np.float64).reshape(-1)
    mean = float(y.mean())
    null = regression(np.full(np.shape(targets), mean), targets)
    return {
        "target": target.name,
        "unit": target.unit,
        "bins": by_bin(predictions, targets, target_bins(y, target.bins)),
        "null": {"train_mean": mean, **{name: null[name] for name in ("rmse", "mae", "bias", "r2")}},
    }


def _undefined() -> Residuals:
    nothing = np.full(1, np.nan)
    return Residuals(**dict.fromkeys((*SUMS, "rank_correlation"), nothing))
