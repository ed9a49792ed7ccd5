"""Curves of a score over the number of labels: the area under them, and the labels that reach a score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def area_on_log(labels: Sequence[float], scores: Sequence[float]) -> float:
    """Mean score over log n: the integral of the curve over ln n, by its ends. On n itself only the right end counts.

    Raises ValueError unless there are two or more numbers of labels, rising and above 0.
    """
    n, s = _curve(labels, scores)
    return float(np.trapezoid(s, n) / (n[-1] - n[0]))


def labels_to_reach(labels: Sequence[float], scores: Sequence[float], wanted: float) -> float | None:
    """The first n at which the curve, straight over log n, is at `wanted`; None beyond its end, never extrapolated.

    A curve that begins there or above gives its first n.
    """
    n, s = _curve(labels, scores)
    if s[0] >= wanted:
        return float(labels[0])
    for i in np.flatnonzero(s[1:] >= wanted)[:1]:
        return float(np.exp(n[i] + (n[i + 1] - n[i]) * (wanted - s[i]) / (s[i + 1] - s[i])))
    return None


def _curve(labels: Sequence[float], scores: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n, s = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if len(n) < 2 or len(n) != len(s) or n[0] <= 0 or (np.diff(n) <= 0).any():
        raise ValueError(f"numbers of labels {list(labels)} of {len(s)} scores")
    return np.log(n), s
