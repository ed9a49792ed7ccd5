"""What a pack holds: its keys, the value of one sample, and the facts and labels beside the samples.

A value is a safetensors file. `float32`: tensors `VV` and `VH` (H, W) exactly as read. `uint8`: tensor `input` (2, H, W), what
the view of a named contract is before its geometry. `valid` (2, H, W), in the order of the source's bands, is there only
where the pixels do not tell by themselves which of them are measurements.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fgmae_bench import __version__
from fgmae_bench.cards import Card
from fgmae_bench.contract import InputContract
from fgmae_bench.data.index import Index, Reader, ids_sha256
from fgmae_bench.data.raster import valid_mask
from fgmae_bench.errors import BenchError
from fgmae_bench.views import View

FORMAT = 1
META, LABELS, PROGRESS = b"__meta__", b"__labels__", b"__packing__"
RESERVED = "__"  # no sample id begins with it
MAX_KEY_BYTES = 511  # of LMDB
# Of safetensors, as far as packs of ours and of others hold them.
DTYPES = {
    "F32": "<f4",
    "F64": "<f8",
    "U8": "u1",
    "BOOL": "?",
    "I16": "<i2",
    "U16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "U64": "<u8",
}
Kind = Literal["float32", "uint8"]


@dataclass(frozen=True, kw_only=True)
class ReadyFor:
    """What decides the bytes of a ready input: everything of a contract but its size and geometry, and the card's resize."""

    bands: tuple[str, ...]
    normalizer: str
    mean: tuple[float, ...]  # dB
    std: tuple[float, ...]
    input_resize: int | None

    def contract(self) -> InputContract:
        """The contract that these facts are of, with the usual geometry."""
        return InputContract(bands=self.bands, normalizer=self.normalizer, mean=self.mean, std=self.std)


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The facts under `__meta__`."""

    format: int
    kind: Kind
    card: str
    card_version: int
    bands: tuple[str, ...]  # order of the bands in the source's files
    units: str
    contract: ReadyFor | None  # of uint8 packs
    count: int
    sample_ids_sha256: str
    classes: tuple[str, ...]
    label_scheme: str
    groups: bool
    left_out: int  # samples of the source that no run uses
    synthetic: str | None  # fingerprint of the synthetic world, "tagged" where only the files said so
    sources_sha256: str  # of the stamps of the files that were read
    created_by: str


def make_meta(card: Card, index: Index, view: View | None, bands: tuple[str, ...]) -> Meta:
    """The facts of a pack of `index`; `view` makes it a uint8 pack."""
    ready = None
    if view is not None:
        c = view.contract
        ready = ReadyFor(bands=c.bands, normalizer=c.normalizer, mean=c.mean, std=c.std, input_resize=view.input_resize)
    return Meta(
        format=FORMAT, kind="uint8" if view else "float32", card=card.name, card_version=card.version, bands=bands,
        units=card.signal.units, contract=ready, count=len(index.files), sample_ids_sha256=ids_sha256(index.ids),
        classes=card.classes, label_scheme=card.label_scheme, groups=index.groups is not None, left_out=index.left_out,
        synthetic=index.synthetic, sources_sha256=hashlib.sha256(index.stamps.tobytes()).hexdigest(),
        created_by=f"fgmae_bench {__version__}",
    )  # fmt: skip


def meta_bytes(meta: Meta) -> bytes:
    """Canonical JSON of the facts."""
    return json.dumps(dataclasses.asdict(meta), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def sample_keys(index: Index) -> list[tuple[bytes, int]]:
    """(key, row) of every sample in the order of keys. Raises BenchError on an id that cannot be a key."""
    keys = []
    for row, sample in enumerate(index.ids):
        key = sample.encode()
        if not sample.isascii() or not 0 < len(key) <= MAX_KEY_BYTES or "\n" in sample or sample.startswith(RESERVED):
            what = f"{index.root}: the name '{sample[:80]}' cannot be a key of a pack"
            raise BenchError(what, f"use ASCII names of at most {MAX_KEY_BYTES} letters that do not begin with {RESERVED}")
        keys.append((key, row))
    return sorted(keys)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns one file of the source into the value of its sample; can be sent to another process."""

    card: Card
    reader: Reader
    bands: tuple[str, ...]  # order of the bands in the files
    view: View | None

    def __call__(self, path: Path) -> tuple[bytes, bool]:
        """(value, whether the file is tagged as synthetic). Raises BenchError naming a file that cannot be read."""
        chip = self.reader(path, self.card)
        if chip.ready is not None:
            raise BenchError(f"{path.parent} is a uint8 pack, its backscatter is gone", "pack from the files, or from a float32 pack")
        if self.view is None:
            tensors = {band: np.ascontiguousarray(plane) for band, plane in zip(self.bands, chip.db, strict=True)}
            told = valid_mask(chip.db, self.card.signal)
            kept = np.ones(chip.db.shape, bool) if chip.valid is None else chip.valid
            extra = {} if np.array_equal(told, kept) else {"valid": kept}
        else:
            tensors = {"input": np.ascontiguousarray(self.view.before_geometry([chip])[0])}
            extra = {} if chip.valid is None else {"valid": chip.valid}
        return save({**tensors, **extra}), chip.synthetic


def decode_value(value: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Tensors of a safetensors value by name, views of its bytes; raises BenchError naming `where` when it is damaged.

    The library's own reader copies everything twice.
    """
    try:
        (length,) = struct.unpack_from("<Q", value)
        head, body = json.loads(value[8 : 8 + length]), memoryview(value)[8 + length :]
        return {name: _tensor(body, **facts) for name, facts in head.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BenchError(f"{where}: the value is damaged ({error})", "write the pack again, or restore it") from error


def _tensor(body: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> NDArray[Any]:
    kind, (start, end) = DTYPES[dtype], data_offsets
    tensor = np.frombuffer(body[start:end], kind) if end > start >= 0 else np.empty(0, kind)
    if min(shape, default=1) < 0 or end > len(body):
        raise ValueError("its head is inconsistent")
    return tensor.reshape(shape)


def bands_of(tensors: Mapping[str, NDArray[Any]], bands: tuple[str, ...], where: str) -> NDArray[np.float32]:
    """Bands (2, H, W) float32 in the order of `bands`, addressed by name; raises BenchError where they are not there as such."""
    planes = [tensors[band] for band in bands if band in tensors]
    if len(planes) != len(bands) or {(plane.dtype, plane.ndim) for plane in planes} != {(np.dtype(np.float32), 2)}:
        raise BenchError(f"{where}: holds {sorted(tensors)}, not {' and '.join(bands)} as float32 images", "write the pack again")
    if planes[0].shape != planes[1].shape:
        raise BenchError(f"{where}: {' and '.join(bands)} differ in size", "write the pack again")
    return np.stack(planes)


def labels_bytes(index: Index, checksums: NDArray[np.uint32]) -> bytes:
    """The value under `__labels__`: what the index says of its samples in its order, and the CRC-32 of each value."""
    tensors: dict[str, NDArray[Any]] = {
        "labels": np.ascontiguousarray(index.labels), "stamps": index.stamps, "crc32": checksums, "files": _lines(index.files),
    }  # fmt: skip
    texts = {"groups": index.groups, "aliases": index.aliases, "parts": index.parts}
    tensors |= {name: _lines(lines) for name, lines in texts.items() if lines is not None}
    return save(tensors)


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


def read_labels(value: bytes | None, where: str) -> Labels:
    """Raises BenchError when the value is not there or not as `labels_bytes` writes it."""
    tensors = decode_value(value, where) if value is not None else {}
    missing = {"labels", "stamps", "crc32", "files"} - set(tensors)
    if missing:
        raise BenchError(f"{where} holds no {', '.join(sorted(missing))}", "write the pack again")
    read = Labels(
        labels=tensors["labels"], stamps=tensors["stamps"], crc32=tensors["crc32"], files=_split(tensors["files"]),
        groups=_split(tensors["groups"]) if "groups" in tensors else None,
        aliases=_split(tensors["aliases"]) if "aliases" in tensors else None,
        parts=_split(tensors["parts"]) if "parts" in tensors else None,
    )  # fmt: skip
    held = (read.labels, read.stamps, read.crc32, read.files, read.groups, read.aliases, read.parts)
    if len({len(values) for values in held if values is not None}) != 1:
        raise BenchError(f"{where}: its parts are of different lengths", "write the pack again")
    return read


def ids_of(files: tuple[str, ...]) -> tuple[str, ...]:
    """Sample ids of file names, as Index makes them."""
    return tuple(os.path.splitext(file)[0] for file in files)


def _lines(texts: tuple[str, ...]) -> NDArray[np.uint8]:
    """Texts as UTF-8 bytes, one a line: a hundredth of the time that JSON takes for half a million names."""
    if any("\n" in text for text in texts):
        raise BenchError("a name or group holds a line break", "rename it")
    return np.frombuffer("\n".join(texts).encode(), np.uint8)


def _split(lines: NDArray[np.uint8]) -> tuple[str, ...]:
    return tuple(lines.tobytes().decode().split("\n"))
