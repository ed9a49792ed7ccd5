"""What a probe that is fitted at once gives, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Labels = NDArray[Any]  # (N,) class numbers, multi-hot (N, C), or targets (N, 1)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Logits (N, C) or predictions (N, 1) of the evaluation sets by part, the penalty that was chosen (None for kNN),
    and notes.
    """

    logits: dict[str, NDArray[np.float32]]
    penalty: float | None
    parameters: dict[str, NDArray[np.float64]]
    notes: tuple[dict[str, str], ...] = ()
    selection: dict[str, Any] | None = None  # how the penalty was chosen


def unit(x: Matrix) -> Matrix:
    """Features (N, D) of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
