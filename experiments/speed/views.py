"""The quantile view: naive per-sample `np.quantile` as in the published loader, against the vectorised one.

  python experiments/speed/views.py
Expected: identical bytes, at least 4x.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.views.normalizers import fgmae
from fgmae_bench.worlds.eurosat import CLASSES, chip

IMAGES, BATCH, ROUNDS = 512, 32, 7


def naive(image: np.ndarray) -> np.ndarray:
    """One image (2, H, W) dB to (2, H, W) uint8, band by band, as a loader does for each sample."""
    out = []
    for band, mean, std in zip(image, FGMAE_CONTRACT.mean, FGMAE_CONTRACT.std, strict=True):
        clipped = np.clip(band, np.quantile(band, 0.01), np.quantile(band, 0.99))
        low, high = mean - 2 * std, mean + 2 * std
        out.append(np.clip((clipped - low) / (high - low) * 255.0, 0, 255).astype(np.uint8))
    return np.stack(out)


def main() -> None:
    """Time both in turns and print images/s and the ratio."""
    names = sorted(CLASSES)
    images = np.stack([chip(0, names[i % len(names)], i // len(names) + 1) for i in range(IMAGES)])
    seconds: dict[str, list[float]] = {"naive": [], "ours": []}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        expected = np.stack([naive(image) for image in images])
        middle = time.perf_counter()
        got = np.concatenate(
            [fgmae(images[i : i + BATCH].copy(), None, FGMAE_CONTRACT) for i in range(0, IMAGES, BATCH)]
        )
        seconds["naive"].append(middle - start)
        seconds["ours"].append(time.perf_counter() - middle)
    assert np.array_equal(got, expected), "the two views differ"
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in median.items():
        print(f"{name:<6}{IMAGES / value:>10.0f} images/s on one core (median of {ROUNDS})")
    print(f"ratio {median['naive'] / median['ours']:.1f}x, bytes identical (wanted: 4x)")


if __name__ == "__main__":
    main()
