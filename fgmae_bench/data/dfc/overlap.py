"""Samples of two parts that show the same ground: told by their names and by quadrants with the same pixels.

Tiles of SEN12MS overlap by half, so a whole tile is rarely met twice; its quadrants are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.errors import BenchError
from fgmae_bench.files import replacing
from fgmae_bench.records import note

NAMED = 3  # pairs that a message names
Rows = NDArray[np.int64]
NONE = 0  # hash of a quadrant that tells nothing: of one value, or without a valid pixel


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Samples of two parts that overlap: how it is seen (`name` or `pixels`), how many of `second` are concerned, and some pairs."""

    first: str
    second: str
    by: str
    count: int
    pairs: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        named = ", ".join(f"{a} and {b}" for a, b in self.pairs[:NAMED])
        same = "the same name" if self.by == "name" else "a quadrant with the same pixels"
        return f"{self.count} {self.second} images share {same} with a {self.first} image: {named}"


def quadrant_hashes(
    card: Card, index: Index, cache: Path, workers: int = 4, step: Callable[[int], object] = lambda _: None
) -> NDArray[np.uint64]:
    """Hashes (N, 4) of the quadrants of each image, NONE where a quadrant has one value only; read once and kept in the cache."""
    key = hashlib.sha256(f"{index.signature} quadrants".encode()).hexdigest()[:32]
    path = cache / "index" / f"quadrants-{key}.npy"
    if path.exists():
        kept: NDArray[np.uint64] = np.load(path, allow_pickle=False)
        if kept.shape == (len(index.files), 4):
            return kept

    def of(row: int) -> list[int]:
        db = index.read(row, card).db
        step(1)
        return [_hash(part) for half in np.array_split(db, 2, axis=1) for part in np.array_split(half, 2, axis=2)]

    with ThreadPoolExecutor(max(1, workers)) as pool:
        hashes = np.array(list(pool.map(of, range(len(index.files)))), np.uint64)
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, hashes, allow_pickle=False)
    return hashes


def find_overlaps(index: Index, parts: dict[str, Rows], hashes: NDArray[np.uint64]) -> tuple[Overlap, ...]:
    """Overlaps between each two of the parts, by file name and by quadrants."""
    found = []
    for (first, a), (second, b) in combinations(((name, rows) for name, rows in parts.items() if len(rows)), 2):
        names = {os.path.basename(index.ids[row]): row for row in a}
        by_name = [(names[name], int(row)) for row in b if (name := os.path.basename(index.ids[row])) in names]
        owner = {int(value): int(row) for row in a for value in hashes[row] if value != NONE}
        by_pixels = [(owner[value], int(row)) for row in b if (value := next((v for v in hashes[row].tolist() if v in owner), NONE))]
        for by, pairs in (("name", by_name), ("pixels", by_pixels)):
            if pairs:
                shown = tuple((index.ids[x], index.ids[y]) for x, y in pairs[:NAMED])
                found.append(Overlap(first=first, second=second, by=by, count=len(pairs), pairs=shown))
    return tuple(found)


def overlap_notes(overlaps: tuple[Overlap, ...], *, strict: bool) -> list[dict[str, str]]:
    """A note `overlapping_splits` for each overlap; under `strict` the first is a BenchError."""
    if overlaps and strict:
        raise BenchError(str(overlaps[0]), "choose a split whose parts are apart, or leave --strict out")
    return [note("overlapping_splits", str(overlap)) for overlap in overlaps]


def _hash(quadrant: NDArray[np.float32]) -> int:
    finite = quadrant[np.isfinite(quadrant)]
    if not finite.size or finite.min() == finite.max():
        return NONE
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(quadrant).tobytes(), digest_size=8).digest()) or 1
