"""What a probe that is fitted at once gives, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Labels = NDArray[Any]  # (N,) class numbers, multi-hot (N, C), or targets (N, 1)


class Part(NamedTuple):
    """Features (N, D), labels and, where they are known, groups of the samples of one part."""

    features: Matrix
    labels: Labels
    groups: tuple[str, ...] | None = None

    @property
    def units(self) -> NDArray[Any]:
        """What the error of a mean over the samples is over (N,): groups where several are known, else samples."""
        known = self.groups is not None and len(set(self.groups)) > 1
        return np.asarray(self.groups) if known else np.arange(len(self.labels))


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
    retrieval: dict[str, float | None] | None = None  # of texts and images of the test split


def unit(x: Matrix) -> Matrix:
    """Features (N, D) of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
