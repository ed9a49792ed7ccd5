"""What a pack states of its samples under `__labels__`: classes, files, groups, other names, checksums, and which have
label maps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fgmae_bench.data.index import Index
from fgmae_bench.data.packs.format import decode_value
from fgmae_bench.errors import BenchError

TEXTS = ("groups", "aliases", "parts", "names")  # of each sample, where the index has them


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What `__labels__` holds, in the order of the index."""

    labels: NDArray[Any]  # (N,) int64 or (N, C) uint8
    stamps: NDArray[np.uint64]  # (N,)
    crc32: NDArray[np.uint32]  # (N,)
    files: tuple[str, ...]
    groups: tuple[str, ...] | None
    aliases: tuple[str, ...] | None
    parts: tuple[str, ...] | None
    names: tuple[str, ...] | None  # sample ids where they are not the files without their endings
    held: NDArray[np.bool_] | None  # (N, S) which label sources each sample has

    @property
    def ids(self) -> tuple[str, ...]:
        """Sample ids, as Index makes them."""
        return self.names or tuple(os.path.splitext(file)[0] for file in self.files)


def labels_bytes(index: Index, checksums: NDArray[np.uint32]) -> bytes:
    """The value under `__labels__`: what the index says of its samples in its order, and the CRC-32 of each value."""
    maps, rows = index.maps, range(len(index.files))
    tensors: dict[str, NDArray[Any]] = {
        "labels": np.ascontiguousarray(index.labels),
        "stamps": index.stamps,
        "crc32": checksums,
        "files": _lines(index.files),
    }
    if maps is not None:
        tensors["held"] = np.array([[maps.has(row, name) for name in maps.sources] for row in rows], bool)
    tensors |= {name: _lines(lines) for name in TEXTS if (lines := getattr(index, name)) is not None}
    return save(tensors)


def read_labels(value: bytes | None, where: str) -> Labels:
    """Raises BenchError when the value is not there or not as `labels_bytes` writes it."""
    tensors = decode_value(value, where) if value is not None else {}
    missing = {"labels", "stamps", "crc32", "files"} - set(tensors)
    if missing:
        raise BenchError(f"{where} holds no {', '.join(sorted(missing))}", "write the pack again")
    texts = {name: _split(tensors[name]) if name in tensors else None for name in TEXTS}
    read = Labels(
        labels=tensors["labels"],
        stamps=tensors["stamps"],
        crc32=tensors["crc32"],
        files=_split(tensors["files"]),
        held=tensors.get("held"),
        **texts,
    )
    columns = (read.labels, read.stamps, read.crc32, read.files, read.held, *texts.values())
    if len({len(values) for values in columns if values is not None}) != 1:
        raise BenchError(f"{where}: its parts are of different lengths", "write the pack again")
    return read


def _lines(texts: tuple[str, ...]) -> NDArray[np.uint8]:
    """Texts as UTF-8 bytes, one a line: a hundredth of the time that JSON takes for half a million names."""
    if any("\n" in text for text in texts):
        raise BenchError("a name or group holds a line break", "rename it")
    return np.frombuffer("\n".join(texts).encode(), np.uint8)


def _split(lines: NDArray[np.uint8]) -> tuple[str, ...]:
    return tuple(lines.tobytes().decode().split("\n"))
