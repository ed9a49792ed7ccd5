"""How often each code occurs in each label map: read once, kept in the cache folder; what classes, priors and checks come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.index import Index
from fgmae_bench.errors import BenchError
from fgmae_bench.files import replacing
from fgmae_bench.label_schemes import LabelMap

Histograms = NDArray[np.uint32]
CODES = 256


def label_histograms(
    index: Index, source: str, cache: Path, workers: int = 4, step: Callable[[int], object] = lambda _: None
) -> Histograms:
    """Pixels (N, 256) of each code of a source, zeros where a sample has no such labels; `step` is told of each file read.

    Validity of the image is not looked at. Raises BenchError naming a file that cannot be read or holds other codes.
    """
    if index.maps is None or source not in index.maps.sources:
        held = ", ".join(index.maps.sources) if index.maps else "none"
        raise BenchError(f"{index.root} holds no {source} labels", f"there are: {held}")
    key = hashlib.sha256(f"{index.signature} {source}".encode()).hexdigest()[:32]
    path = cache / "index" / f"labels-{key}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as held_there:
            kept: Histograms = held_there["counts"]
        if kept.shape == (len(index.files), CODES):
            return kept
    maps = index.maps

    def count(row: int) -> NDArray[np.uint32]:
        if not maps.has(row, source):
            return np.zeros(CODES, np.uint32)
        counts = maps.codes(row, source).histogram().astype(np.uint32)
        step(1)
        return counts

    with ThreadPoolExecutor(max(1, workers)) as pool:
        counts = np.stack(list(pool.map(count, range(len(index.files)))))
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, counts=counts)
    return counts


def labelled(histograms: Histograms, label_map: LabelMap) -> NDArray[np.bool_]:
    """True (N,) where a sample has at least one pixel of a class of the scheme; the others are left out and counted."""
    return label_map.counts(histograms).sum(axis=1) > 0


def shares(histograms: Histograms, label_map: LabelMap) -> NDArray[np.float64]:
    """Share (K,) of each class in the labelled pixels of some samples; NaN where there are none."""
    counts = label_map.counts(histograms.sum(axis=0, dtype=np.int64))
    total = counts.sum()
    return counts / total if total else np.full(len(counts), np.nan)


def total_variation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Half the sum of the differences of two distributions: 0 where they agree, 1 where they share nothing."""
    return float(np.abs(first - second).sum() / 2)
