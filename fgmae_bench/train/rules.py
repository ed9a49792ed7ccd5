"""Baselines of segmentation without a backbone, fitted at once: Otsu's threshold, and a random forest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import IGNORE
from fgmae_bench.system.randomness import generator

BINS = np.arange(-60.0, 20.05, 0.1)  # dB
BOXCAR = 5  # pixels a side, over which power is averaged
TREES, LEAF, DEPTH = 100, 5, 20
MOST_PIXELS, AN_IMAGE = 200_000, 5_000  # that a forest is grown from, and of each image
Image = NDArray[np.float32]  # (2, H, W) dB: VV, VH; NaN where nothing was measured
Mask = NDArray[np.uint8]  # (H, W) class numbers, 255 where there is none
Pairs = Callable[[], Iterator[tuple[str, Image, Mask]]]  # name, image and mask of the training images


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`predict` gives class numbers (H, W) of an image; `words` say what was fitted."""

    predict: Callable[[Image], NDArray[np.int64]]
    words: str


def otsu_vv(pairs: Pairs, classes: Sequence[str], seed: int) -> Rule:
    """Otsu's threshold on VV."""
    return _otsu(pairs, classes, 0)


def otsu_vh(pairs: Pairs, classes: Sequence[str], seed: int) -> Rule:
    """Otsu's threshold on VH."""
    return _otsu(pairs, classes, 1)


def _otsu(pairs: Pairs, classes: Sequence[str], band: int) -> Rule:
    """One threshold of all labelled training pixels; the darker side is the class with the larger share there."""
    if len(classes) != 2:
        raise BenchError(f"Otsu's threshold for {len(classes)} classes", "use --head random_forest, or two classes")
    counts, below, total = np.zeros(len(BINS) - 1), np.zeros(2), np.zeros(2)
    for _, image, mask in pairs():
        counts += np.histogram(image[band][_usable(image, mask)], BINS)[0]
    threshold = otsu_threshold(counts, BINS)
    for _, image, mask in pairs():
        kept = _usable(image, mask)
        dark, labels = image[band][kept] < threshold, mask[kept]
        below += np.bincount(labels[dark], minlength=2)
        total += np.bincount(labels, minlength=2)
    darker = int(np.argmax(below / np.maximum(total, 1)))
    name = ("VV", "VH")[band]
    return Rule(
        predict=lambda image: np.where(image[band] < threshold, darker, 1 - darker),
        words=f"{classes[darker]} where {name} is below {threshold:.1f} dB, Otsu's threshold of the training pixels",
    )


def log_ratio_vv(pairs: Pairs, classes: Sequence[str], seed: int) -> Rule:
    """Otsu's threshold on the ratio of two dates in VV; images (4, H, W) are VV and VH, then those of before."""
    return _log_ratio(pairs, classes, 0)


def log_ratio_vh(pairs: Pairs, classes: Sequence[str], seed: int) -> Rule:
    """The same in VH."""
    return _log_ratio(pairs, classes, 1)


def _log_ratio(pairs: Pairs, classes: Sequence[str], band: int) -> Rule:
    """A threshold on dB after - dB before, of the mean power of 5x5 pixels (the ratio of Rignot and van Zyl, 1993)."""

    def ratio(image: Image) -> Image:
        found = boxcar_features(image[:2])[band] - boxcar_features(image[2:])[band]
        return np.where(np.isfinite(image[[band, band + 2]]).all(axis=0), found, np.float32(np.nan))

    def ratios() -> Iterator[tuple[str, Image, Mask]]:
        for name, image, mask in pairs():
            yield name, ratio(image)[None], mask

    rule = _otsu(ratios, classes, 0)
    name = ("VV", "VH")[band]
    words = rule.words.replace("VV", f"{name} after / before", 1).replace("VV", name)
    return Rule(predict=lambda image: rule.predict(ratio(image)[None]), words=words)


def otsu_threshold(counts: NDArray[np.float64], edges: NDArray[np.float64]) -> float:
    """The edge between bins that leaves the largest variance between both sides (Otsu 1979); counts (B,), edges (B+1,).

    Where several do, their middle. Raises BenchError on fewer than two bins that hold anything.
    """
    if np.count_nonzero(counts) < 2:
        raise BenchError("Otsu's threshold of fewer than two levels", "look at the data with prepare inspect")
    centre = (edges[:-1] + edges[1:]) / 2
    left, sums = np.cumsum(counts)[:-1], np.cumsum(counts * centre)[:-1]
    right = counts.sum() - left
    with np.errstate(invalid="ignore", divide="ignore"):
        between = left * right * (sums / left - ((counts * centre).sum() - sums) / right) ** 2
    between[(left == 0) | (right == 0)] = -1
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:-1][best].mean())


def random_forest(pairs: Pairs, classes: Sequence[str], seed: int) -> Rule:
    """A random forest on VV, VH and VV - VH, each averaged in power over 5x5 pixels."""
    from sklearn.ensemble import RandomForestClassifier

    features, labels = [], []
    for name, image, mask in pairs():
        rows = np.flatnonzero(_usable(image, mask))
        chosen = generator(seed, "random_forest", name).permutation(len(rows))[:AN_IMAGE]
        features.append(boxcar_features(image).reshape(3, -1)[:, rows[chosen]].T)
        labels.append(mask.ravel()[rows[chosen]])
    x, y = np.concatenate(features), np.concatenate(labels)
    if len(y) > MOST_PIXELS:
        kept = generator(seed, "random_forest", len(y)).permutation(len(y))[:MOST_PIXELS]
        x, y = x[kept], y[kept]
    forest = RandomForestClassifier(
        TREES, min_samples_leaf=LEAF, max_depth=DEPTH, random_state=seed % 2**32, n_jobs=1
    ).fit(x, y)

    def predict(image: Image) -> NDArray[np.int64]:
        found = forest.predict(boxcar_features(image).reshape(3, -1).T)
        return np.asarray(found, np.int64).reshape(image.shape[1:])

    words = f"{TREES} trees on VV, VH and VV-VH over {BOXCAR}x{BOXCAR} pixels, grown from {len(y)} training pixels"
    return Rule(predict=predict, words=words)


def boxcar_features(image: Image) -> NDArray[np.float32]:
    """VV, VH and VV - VH in dB (3, H, W): the mean power of the measured pixels of a window; without any, the band's.

    Borders are mirrored.
    """
    bands = []
    for band in image:
        kept = np.isfinite(band)
        power = np.where(kept, 10 ** (np.where(kept, band, 0).astype(np.float64) / 10), 0)
        sums, number = (
            cv2.boxFilter(plane, -1, (BOXCAR, BOXCAR), normalize=False, borderType=cv2.BORDER_REFLECT_101)
            for plane in (power, kept.astype(np.float64))
        )
        mean = power.sum() / max(kept.sum(), 1)
        averaged = np.where(number > 0.5, sums / np.maximum(number, 1), mean)
        bands.append(10 * np.log10(np.maximum(averaged, 1e-10)))
    return np.stack([*bands, bands[0] - bands[1]]).astype(np.float32)


def _usable(image: Image, mask: Mask) -> NDArray[np.bool_]:
    found: NDArray[Any] = (mask != IGNORE) & np.isfinite(image).all(axis=0)
    return found
