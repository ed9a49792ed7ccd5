"""Which images have enough valid pixels to be used: every file read once, the answer kept in the cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.system.files import replacing


def usable_images(
    card: Card, index: Index, cache: Path, workers: int, step: Callable[[int], object]
) -> NDArray[np.bool_]:
    """True (N,) where the share of invalid pixels is within the card's limit; `step` is told of each file that is read.

    Raises BenchError naming a file that cannot be read or has no valid pixel.
    """
    limit = card.signal.max_invalid_fraction
    key = hashlib.sha256(f"{index.signature} {limit} {card.signal.nodata} {card.signal.size}".encode()).hexdigest()[:32]
    path = cache / "index" / f"usable-{key}.npy"
    if path.exists():
        kept: NDArray[np.bool_] = np.load(path, allow_pickle=False)
        if kept.shape == (len(index.files),):
            return kept

    def within(row: int) -> bool:
        usable = index.read(row, card).invalid_fraction <= limit
        step(1)
        return usable

    with ThreadPoolExecutor(max(1, workers)) as pool:
        usable = np.array(list(pool.map(within, range(len(index.files)))), bool)
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, usable, allow_pickle=False)
    return usable
