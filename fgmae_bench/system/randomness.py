"""Randomness without state: each choice has a generator of its own, keyed by what it is for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def key(*parts: object) -> int:
    """A 128-bit integer that depends on the printed parts and nothing else."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:16], "little")


def generator(*parts: object) -> np.random.Generator:
    """A numpy generator keyed by `parts`, for example (seed, "order", epoch)."""
    return np.random.Generator(np.random.PCG64(key(*parts)))


def keyed_order(seed: int, purpose: str, ids: Iterable[str]) -> list[str]:
    """Ids in an order that depends on (seed, purpose, id) alone, so that subsets of them stay in the same relative
    order.
    """
    return sorted(ids, key=lambda item: (key(seed, purpose, item), item))


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order (count,) of an epoch, keyed by seed and epoch alone; not to be written to."""
    order = np.asarray(generator(seed, "order", epoch).permutation(count), np.int64)
    order.flags.writeable = False
    return order
