"""Recall of texts and images of one space: whether what belongs together is among the k nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

KS = (1, 5, 10)


def retrieval(similarities: NDArray[Any], targets: NDArray[Any]) -> dict[str, float | None]:
    """Recall at 1, 5 and 10 by similarities (N, C) of N images and C classes; None where k is not below the choices.

    `image_to_text_rK`: share of images that have a class, for which one of theirs is among the K most similar texts.
    `text_to_image_rK`: share of classes that have an image, for which one of theirs is among the K most similar images
    (recall@K of CLIP, Radford et al. 2021). Targets are class numbers (N,) or multi-hot (N, C); of equal similarities
    those that do not belong stand first.
    """
    belongs = np.eye(similarities.shape[1], dtype=bool)[targets] if targets.ndim == 1 else targets.astype(bool)
    found: dict[str, float | None] = {}
    for way, similar, own in (("image_to_text", similarities, belongs), ("text_to_image", similarities.T, belongs.T)):
        asked = own.any(axis=1)
        best = np.where(own, similar, -np.inf).max(axis=1, keepdims=True)
        before = ((similar >= best) & ~own).sum(axis=1)[asked]  # what does not belong and is at least as similar
        for k in KS:
            found[f"{way}_r{k}"] = float((before < k).mean()) if len(before) and k < own.shape[1] else None
    return found
