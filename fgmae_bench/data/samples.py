"""The samples of a dataset, each decoded once: what one pass reads is held for the next, and what the pixels say of a
sample is kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.content import content_of
from fgmae_bench.data.index import Index
from fgmae_bench.data.labels import Codes
from fgmae_bench.data.sample_cache import Arrays, cached_arrays
from fgmae_bench.data.signal import floored
from fgmae_bench.data.statistics import moments
from fgmae_bench.views.chip import Chip

IMAGE_BYTES = 1 << 30  # 32,768 chips of 2x64x64, which is all of EuroSAT, or 2,048 of 2x256x256
LABEL_BYTES = 1 << 28  # 4,096 label maps of 256x256
NONE = 0  # hash of a quadrant that says nothing: of one value, or without a valid pixel
V = TypeVar("V")


class Held(Generic[V]):
    """Decoded values by key, first come first kept, up to `budget` bytes; what does not fit is decoded again."""

    def __init__(self, budget: int, size_of: Callable[[V], int]):
        self.budget, self.size_of = budget, size_of
        self.values: dict[Any, V] = {}
        self.bytes = 0
        self.lock = threading.Lock()

    def get(self, key: Any, decode: Callable[[], V]) -> V:
        """The value of a key, kept for the next pass."""
        value = self.values.get(key)
        if value is None:
            value = decode()
            size = self.size_of(value)
            with self.lock:
                if key not in self.values and self.bytes + size <= self.budget:
                    self.values[key] = value
                    self.bytes += size
        return value

    def take(self, key: Any, decode: Callable[[], V]) -> V:
        """The value of a key, for the last pass that needs it: nothing is kept."""
        value = self.drop(key)
        return decode() if value is None else value

    def drop(self, key: Any) -> V | None:
        """Let go of a key; returns what was held."""
        with self.lock:
            value = self.values.pop(key, None)
            self.bytes -= 0 if value is None else self.size_of(value)
        return value


def _chip_bytes(chip: Chip) -> int:
    arrays = (chip.db, chip.valid, chip.ready.image if chip.ready else None)
    return sum(int(array.nbytes) for array in arrays if array is not None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Images and label maps of `index` under `card`, by row; safe in threads.

    Every pass over a dataset asks here. The last one takes, so that memory is free again as training begins.
    """

    card: Card
    index: Index
    images: Held[Chip] = field(default_factory=lambda: Held(IMAGE_BYTES, _chip_bytes))
    labels: Held[Codes] = field(default_factory=lambda: Held(LABEL_BYTES, lambda codes: int(codes.values.nbytes)))
    measured: Arrays = field(default_factory=dict)  # by kind, before it is known whether the data is good
    keeps: bool = False  # what is taken is held all the same: many passes follow

    def chip(self, row: int) -> Chip:
        """The image of a row, held for the next pass. Raises BenchError naming a file that cannot be read."""
        return self.images.get(int(row), lambda: self.index.read_checked(row, self.card))

    def take_chip(self, row: int) -> Chip:
        """The image of a row for the last pass."""
        if self.keeps:
            return self.images.get(int(row), lambda: self.index.read(row, self.card))
        return self.images.take(int(row), lambda: self.index.read(row, self.card))

    def codes(self, row: int, source: str) -> Codes:
        """The label map of a row, held for the next pass. Raises BenchError where there is none or it is broken."""
        return self.labels.get((int(row), source), lambda: self.index.codes(row, source))

    def take_codes(self, row: int, source: str) -> Codes:
        """The label map of a row for the last pass."""
        return (self.labels.get if self.keeps else self.labels.take)(
            (int(row), source), lambda: self.index.codes(row, source)
        )

    def let_go(self, rows: Iterable[int]) -> None:
        """Free the images of rows that no later pass asks for."""
        for row in rows:
            self.images.drop(int(row))


def quadrants(chip: Chip) -> NDArray[np.uint64]:
    """Hashes (4,) of the quadrants of an image; NONE where a quadrant has one value only, or none that is finite."""
    halves = np.array_split(chip.db, 2, axis=1)
    return np.array([_hash(part) for half in halves for part in np.array_split(half, 2, axis=2)], np.uint64)


def _hash(quadrant: NDArray[np.float32]) -> int:
    finite = quadrant[np.isfinite(quadrant)]
    if not finite.size or finite.min() == finite.max():
        return NONE
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(quadrant).tobytes(), digest_size=8).digest()) or 1


# What a pass over the pixels can say of a sample: each fact is one row of an array, from one decoded image.
FACTS: dict[str, Callable[[Chip], Any]] = {
    "invalid": lambda chip: np.float64(chip.invalid_fraction),  # share of invalid pixels
    "quadrants": quadrants,
    "content": content_of,
    "moments": moments,
}


def sample_facts(
    samples: Samples,
    names: tuple[str, ...],
    cache: Path,
    workers: int = 4,
    step: Callable[[int], object] = lambda _: None,
) -> Arrays:
    """Facts (N, …) of every sample by name, from one pass over the images for all that the cache folder lacks.

    `floored` is the number of pixels without positive power that the card's floor stands for.
    `step` is called with the number of images done. Raises BenchError naming a file that cannot be read or has no valid
    pixel.
    """

    known = FACTS | {"floored": lambda chip: floored(chip, samples.card.signal)}

    def compute(missing: tuple[str, ...]) -> Arrays:
        def facts_of(row: int) -> list[Any]:
            chip = samples.chip(row)
            step(1)
            return [known[name](chip) for name in missing]

        with ThreadPoolExecutor(max(1, workers)) as pool:
            columns = zip(*pool.map(facts_of, range(len(samples.index.files))), strict=True)
            return {name: np.stack(column) for name, column in zip(missing, columns, strict=True)}

    return cached_arrays(cache, samples.index, dict.fromkeys(names, pixels_key(samples)), compute)


def pixels_key(samples: Samples) -> str:
    """What facts about pixels depend on but for the files: what the card states, and the order of bands of a pack."""
    order, stored = (getattr(samples.index.reader, name, None) for name in ("order", "stored"))
    valid = f" {samples.card.arrangement.valid}" if samples.card.arrangement.valid else ""
    return f"{samples.card.signal!r} {order} {stored}{valid}"
