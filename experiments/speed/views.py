"""The quantile view: naive per-sample `np.quantile` as in the published loader, against the vectorised one.

  python experiments/speed/views.py
Expected: identical bytes, at least 6x; with a tenth of the pixels invalid at most 1.3 times the clean images.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from measured import keep

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


def with_invalid(images: np.ndarray) -> float:
    """Time of images of which a tenth of the pixels is NaN, as a multiple of that of clean ones."""
    valid = np.random.default_rng(0).random(images.shape) > 0.1
    holes = np.where(valid, images, np.float32(np.nan))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for broken in (False, True):
            start = time.perf_counter()
            for i in range(0, IMAGES, BATCH):
                part = slice(i, i + BATCH)
                fgmae((holes if broken else images)[part].copy(), valid[part] if broken else None, FGMAE_CONTRACT)
            seconds[broken].append(time.perf_counter() - start)
    return statistics.median(seconds[True]) / statistics.median(seconds[False])


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
    ratio, invalid = median["naive"] / median["ours"], with_invalid(images)
    print(f"ratio {ratio:.1f}x, bytes identical (wanted: 6x)")
    print(f"a tenth of the pixels invalid: {invalid:.2f} times the clean images (wanted: at most 1.3)")
    keep(view_ratio=ratio, view_ours=IMAGES / median["ours"], view_naive=IMAGES / median["naive"], view_invalid=invalid)


if __name__ == "__main__":
    main()
