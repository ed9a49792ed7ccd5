"""The labels of a pack: its table of names, classes and groups, and label maps read from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fgmae_bench.config.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.data.labels import Codes, Source
from fgmae_bench.data.packs.format import LABEL, Meta, decode_value
from fgmae_bench.data.packs.store import Stamp, get
from fgmae_bench.data.schemes import card_source
from fgmae_bench.errors import BenchError

TEXTS = ("groups", "aliases", "parts", "names")  # of each sample, where the index has them
# Type and dimensions of what `__labels__` holds besides the labels themselves.
SHAPES = {"stamps": ("<u8", 1), "content": ("<u8", 2), "crc32": ("<u4", 1), "held": ("?", 2)} | dict.fromkeys(
    ("files", *TEXTS), ("u1", 1)
)


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
    content: NDArray[np.uint64] | None  # (N, 1 + S) hashes of the source's images and label maps; not in older packs

    @property
    def ids(self) -> tuple[str, ...]:
        """Sample ids, as Index makes them."""
        return self.names or tuple(os.path.splitext(file)[0] for file in self.files)


def labels_bytes(index: Index, checksums: NDArray[np.uint32], content: NDArray[np.uint64]) -> bytes:
    """The value under `__labels__`: what the index says of its samples in its order, the CRC-32 of each value, and the
    hashes of what it was made of.
    """
    maps, rows = index.maps, range(len(index.files))
    tensors: dict[str, NDArray[Any]] = {
        "labels": np.ascontiguousarray(index.labels),
        "stamps": index.stamps,
        "crc32": checksums,
        "content": content,
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
    for name, (kind, dimensions) in SHAPES.items():
        if name in tensors and (tensors[name].dtype, tensors[name].ndim) != (np.dtype(kind), dimensions):
            raise BenchError(f"{where}: {name} is of another type or shape", "write the pack again")
    labels = tensors["labels"]
    kinds = "iuf" if labels.ndim == 2 else "iu"  # targets of a regression are numbers of any kind, one a column
    if labels.ndim not in (1, 2) or (labels.dtype.kind not in kinds and labels.size):
        raise BenchError(f"{where}: its labels are not whole numbers", "write the pack again")
    try:
        return _read_labels(tensors, where)
    except UnicodeDecodeError as error:
        raise BenchError(f"{where}: a name is not UTF-8", "write the pack again, or restore it") from error


def _read_labels(tensors: dict[str, NDArray[Any]], where: str) -> Labels:
    rows = len(tensors["stamps"])
    lines = [tensors[name] for name in ("files", *TEXTS) if name in tensors]
    # Counted before they are split: an empty line of one byte becomes an object of fifty.
    if any(np.count_nonzero(line == ord("\n")) + 1 != rows for line in lines):
        raise BenchError(f"{where}: its parts are of different lengths", "write the pack again")
    texts = {name: _split(tensors[name]) if name in tensors else None for name in TEXTS}
    read = Labels(
        labels=tensors["labels"],
        stamps=tensors["stamps"],
        crc32=tensors["crc32"],
        files=_split(tensors["files"]),
        held=tensors.get("held"),
        content=tensors.get("content"),
        **texts,
    )
    columns = (read.labels, read.stamps, read.crc32, read.files, read.held, read.content, *texts.values())
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


@dataclass(frozen=True, kw_only=True)
class PackMaps:
    """See `LabelMaps`. `ids` are the keys of the samples, `held` (N, S) says which of `known` each of them has labels
    of.

    Codes are whole numbers of 8 bits as the source's files hold them; in a uint8 pack they are 255 under invalid
    pixels.
    """

    root: Path
    stamp: Stamp
    ids: tuple[str, ...]
    known: Mapping[str, Source]
    held: NDArray[np.bool_]
    size: tuple[int, int]  # (height, width)

    @property
    def sources(self) -> tuple[str, ...]:
        """Label sources that any sample has."""
        return tuple(name for name, column in zip(self.known, self.held.T, strict=True) if column.any())

    def has(self, row: int, source: str) -> bool:
        """Whether a sample has labels of this source."""
        return source in self.known and bool(self.held[row, list(self.known).index(source)])

    def codes(self, row: int, source: str) -> Codes:
        """Labels (H, W) of a sample. Raises BenchError: no such source or labels, a damaged value."""
        values, where = self._tensor(row, source), f"{self.root}/{self.ids[row]}"
        if values is None or values.dtype != np.uint8 or values.shape != self.size:
            what = f"{where}: its {source} labels are not {self.size[0]}x{self.size[1]} codes of 8 bits"
            raise BenchError(what, "write the pack again, or restore it")
        return Codes(values=values, source=self.known[source])

    def _tensor(self, row: int, source: str) -> NDArray[Any] | None:
        if source not in self.known:
            raise BenchError(
                f"{self.root} holds no {source} labels", f"choose from {', '.join(self.known)}, or pack the data again"
            )
        where = f"{self.root}/{self.ids[row]}"
        if not self.has(row, source):
            there = ", ".join(name for name in self.known if self.has(row, name)) or "no source"
            raise BenchError(
                f"{where} has no {source} labels", f"choose another label source or split (there: {there})"
            )
        value = get(self.root, self.stamp, self.ids[row].encode())
        return decode_value(value, where).get(LABEL + source) if value is not None else None

    def targets(self, row: int, source: str) -> NDArray[np.float32]:
        """Targets (H, W) of a sample, NaN where there is none. Raises BenchError as `codes`."""
        values = self._tensor(row, source)
        if values is None or values.dtype != np.float32 or values.shape != self.size:
            what = f"{self.root}/{self.ids[row]}: its {source} targets are not {self.size[0]}x{self.size[1]} numbers"
            raise BenchError(what, "write the pack again, or restore it")
        return values


def packed_maps(card: Card, root: Path, stamp: Stamp, meta: Meta, labels: Labels) -> PackMaps | None:
    """The label maps of a pack of a segmentation dataset, None for others. Raises BenchError where it should have some
    and has none.
    """
    if not card.per_pixel:
        return None
    unknown = sorted(set(meta.label_sources) - set(card.label_sources))
    if not meta.label_sources or unknown:
        what = (
            f"{root} holds labels of {', '.join(unknown)}, which {card.title} has not"
            if unknown
            else f"{root} holds no label maps"
        )
        raise BenchError(what, "write the pack again from the files")
    if labels.held is None or labels.held.shape != (meta.count, len(meta.label_sources)):
        raise BenchError(f"{root}: __labels__ does not say which samples have labels", "write the pack again")
    height, width = meta.size or card.signal.size
    return PackMaps(
        root=root,
        stamp=stamp,
        ids=labels.ids,
        known={name: _known(card, name) for name in meta.label_sources},
        held=labels.held,
        size=(height, width),
    )


def same_labels(packed: Index, source: Index) -> bool:
    """Whether both have label maps of the same sources for the same samples; their codes are compared with the
    pixels.
    """
    if packed.maps is None or source.maps is None:
        return packed.maps is source.maps
    if sorted(packed.maps.sources) != sorted(source.maps.sources):
        return False
    rows = range(len(source.files))
    return all(packed.maps.has(row, name) == source.maps.has(row, name) for name in source.maps.sources for row in rows)


def _known(card: Card, name: str) -> Source:
    """A label source of the card; maps of targets have no codes."""
    return Source(name=name, title=name, codes={}) if card.task == "regression" else card_source(card, name)
