"""Arrays of one row a sample, computed once and kept in the cache folder under the signature of the index."""

from __future__ import annotations

import hashlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.index import Index
from fgmae_bench.system.files import replacing

Arrays = dict[str, NDArray[Any]]
# What numpy raises at a damaged .npy: its header is Python text that it reads with Python's own parser, and what begins
# as a zip is read as one, whatever its ending.
BROKEN_ARRAY = (
    *(ValueError, EOFError, TypeError, SyntaxError, TokenError, MemoryError, OverflowError, RecursionError),
    *(AttributeError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error),
)


def cached_arrays(
    cache: Path,
    index: Index,
    kinds: Mapping[str, str],
    compute: Callable[[tuple[str, ...]], Mapping[str, NDArray[Any]]],
    count: int | None = None,
) -> Arrays:
    """Arrays by kind, each of `count` rows (by default one a sample of the index).

    `kinds` gives for each kind what else than the files its values depend on. `compute` is called once, with the kinds
    that the cache lacks or holds damaged, and what it returns is kept. Raises BenchError when the cache folder cannot
    be written, and what `compute` raises.
    """
    held = load_arrays(cache, index, kinds, count)
    missing = tuple(kind for kind in kinds if kind not in held)
    computed = compute(missing) if missing else {}
    for kind in missing:
        path = _path(cache, index, kind, kinds[kind])
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, values=computed[kind])
    return held | dict(computed)


def load_arrays(cache: Path, index: Index, kinds: Mapping[str, str], count: int | None = None) -> Arrays:
    """Those of the same arrays that the cache folder holds."""
    rows = len(index.files) if count is None else count
    found = {kind: _load(_path(cache, index, kind, key), rows) for kind, key in kinds.items()}
    return {kind: values for kind, values in found.items() if values is not None}


def _path(cache: Path, index: Index, kind: str, key: str) -> Path:
    name = hashlib.sha256(f"{index.signature} {key}".encode()).hexdigest()[:32]
    return cache / "index" / f"{kind}-{name}.npz"


def _load(path: Path, rows: int) -> NDArray[Any] | None:
    """The array in a file, None where there is none of `rows` rows or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values: NDArray[Any] = file["values"]
    except (OSError, *BROKEN_ARRAY):
        return None
    return values if values.ndim and len(values) == rows else None


def require_letters(texts: NDArray[Any]) -> None:
    """Raise ValueError where numbers beyond Unicode stand for letters: NumPy makes texts of them that break Python."""
    if texts.dtype.kind == "U" and texts.size:
        numbers = np.ascontiguousarray(texts).reshape(-1).view(f"{texts.dtype.byteorder}u4")
        if numbers.max(initial=0) > sys.maxunicode:
            raise ValueError("its texts hold numbers that are not letters")
