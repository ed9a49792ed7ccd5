"""How much of a stress a score tolerates: monotone curves over severity, where they cross, the area below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.table import MULTI, SINGLE

LOST = 0.05  # share of what a score is above chance that may be lost
Values = NDArray[np.float64]


def falling(scores: Values) -> Values:
    """The nearest curves (B, S) that never rise, in least squares: pooled adjacent violators.

    The first score, of clean data, stays the most that any later one can reach. NaN stays where a curve has any.
    """
    fitted = np.array(scores, np.float64)
    for curve in fitted:
        if not np.isfinite(curve).all():
            curve[:] = np.nan
            continue
        # blocks of (sum, length): a block that is above the one before it joins it
        blocks: list[tuple[float, int]] = []
        for value in curve.tolist():
            total, length = value, 1
            while blocks and blocks[-1][0] / blocks[-1][1] < total / length:
                before = blocks.pop()
                total, length = total + before[0], length + before[1]
            blocks.append((total, length))
        curve[:] = np.repeat([total / length for total, length in blocks], [length for _, length in blocks])
    return fitted


def crossing(positions: Sequence[float], scores: Values, chance: float, lost: float = LOST) -> Values:
    """Where curves (B, S) over rising `positions`, the first of them clean, have lost a share of clean minus chance.

    Linear between severities, after `falling`; infinite where a curve never falls so far (censored), NaN where clean
    data does not clear chance.
    """
    at, curves = np.asarray(positions, np.float64), falling(scores)
    found = np.full(len(curves), np.inf)
    for i, curve in enumerate(curves):
        clean = float(scores[i, 0])
        if not clean > chance or not np.isfinite(curve).all():
            found[i] = np.nan
            continue
        level = clean - lost * (clean - chance)
        below = np.flatnonzero(curve <= level)
        if not len(below):
            continue
        k = int(below[0])
        if k == 0:  # where nothing may be lost, clean data is at the level already
            found[i] = at[0]
            continue
        above, under = curve[k - 1], curve[k]
        found[i] = at[k - 1] + (at[k] - at[k - 1]) * (above - level) / (above - under)
    return found


def area_kept(positions: Sequence[float], scores: Values, chance: float) -> Values:
    """Mean share of clean minus chance that curves (B, S) keep over the positions: trapezoids, 1 without any loss."""
    at, curves = np.asarray(positions, np.float64), np.asarray(scores, np.float64)
    gain = curves[:, :1] - chance
    share = np.divide(curves - chance, gain, out=np.full_like(curves, np.nan), where=gain > 0)
    area: Values = np.trapezoid(share, at, axis=1) / (at[-1] - at[0])
    return area


def chance_of(task: str, targets: NDArray[Any], classes: int) -> dict[str, float]:
    """What guessing reaches by metric: the largest class for OA, 1 / K for AA, random order for average precision."""
    if task == SINGLE:
        held = np.bincount(np.asarray(targets), minlength=classes)
        return {"oa": float(held.max() / held.sum()), "aa": 1 / int((held > 0).sum())}
    if task == MULTI:
        held = np.asarray(targets).sum(0)
        each = [random_order(len(targets), int(count)) for count in held if count]
        return {
            "map_macro": float(np.mean(each)) if each else float("nan"),
            "map_micro": random_order(int(np.asarray(targets).size), int(held.sum())),
        }
    raise ValueError(f"no chance level is known for {task}")


def chance_of_pixels(reference: NDArray[Any]) -> dict[str, float]:
    """What the largest class everywhere reaches, by the pixels (K,) of each class: its share, over the classes that
    are there for means over classes.
    """
    counts = np.asarray(reference, np.float64)
    held, share = int((counts > 0).sum()), float(counts.max() / counts.sum())
    return {"oa": share, "aa": 1 / held, "miou": share / held}


def random_order(samples: int, positives: int) -> float:
    """Expected average precision of `samples` in random order: ((P - 1) / (N - 1) (N - H_N) + H_N) / N.

    More than the share of positives where they are few: .052 for 1 of 100.
    """
    if samples == 1 or positives == 0:
        return float(positives)
    harmonic = float(np.sum(1 / np.arange(1, samples + 1)))
    return ((positives - 1) / (samples - 1) * (samples - harmonic) + harmonic) / samples


def flip_rate(task: str, clean: NDArray[Any], stressed: NDArray[Any]) -> float:
    """Share of predictions that changed, by logits (N, C): of samples, or of all decisions of a multi-label task."""
    if task == MULTI:
        return float(((clean > 0) != (stressed > 0)).mean())
    return float((np.argmax(clean, 1) != np.argmax(stressed, 1)).mean())
