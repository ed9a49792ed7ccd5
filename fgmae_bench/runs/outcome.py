"""What fitting one head gives: its curve, scores, predictions and parameters, before they become a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(kw_only=True)
class Outcome:
    """One head. `final` is the last epoch on the evaluation split; `logits` (N, C) are the test split's."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    final: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    targets: NDArray[np.int64] | NDArray[np.uint8] | None = None  # of the test split, (N,) or multi-hot (N, C)
    logits: NDArray[np.float32] | None = None
    legacy: dict[str, Any] | None = None
    legacy_curve: list[dict[str, Any]] = field(default_factory=list)
    fitted: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # parameters of a probe without epochs
    notes: list[dict[str, str]] = field(default_factory=list)
    diverged: bool = False
