"""What a pack holds: its keys, the value of one sample, and the facts besides the samples.

A value is a safetensors file. `float32`: tensors `VV` and `VH` (H, W) exactly as read. `uint8`: tensor `input` (2, H,
W), what the view of a named contract is before its geometry. `valid` (2, H, W), in the order of the source's bands, is
there only where the pixels do not show by themselves which of them are measurements. Of segmentation data, tensors
`labels.<source>` (H, W) uint8 hold the codes of each label source, in a uint8 pack with 255 under invalid pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fgmae_bench import __version__
from fgmae_bench.config.cards import Card
from fgmae_bench.config.contract import InputContract
from fgmae_bench.data.content import codes_of, content_of
from fgmae_bench.data.index import Index, LabelMaps, Reader, ids_sha256
from fgmae_bench.data.signal import valid_mask
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import View

FORMAT = 1
META, LABELS, PROGRESS = b"__meta__", b"__labels__", b"__packing__"
RESERVED = "__"  # no sample id begins with it
LABEL = "labels."  # what the name of a tensor of codes begins with
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
FLOAT32 = np.dtype(np.float32)
Kind = Literal["float32", "uint8"]


@dataclass(frozen=True, kw_only=True)
class ReadyFor:
    """What decides the bytes of a ready input: everything of a contract but its size and geometry, and the card's
    resize.
    """

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
    units: str  # of what the pack holds: dB, whatever the files hold
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
    label_sources: tuple[str, ...] = ()  # of segmentation data
    size: tuple[int, int] | None = None  # (height, width) of the images where it is not the card's


def make_meta(card: Card, index: Index, view: View | None, bands: tuple[str, ...]) -> Meta:
    """The facts of a pack of `index`; `view` makes it a uint8 pack. Raises BenchError where labels would not match its
    pixels.
    """
    ready, sources = None, index.maps.sources if index.maps else ()
    if view is not None:
        c = view.contract
        if sources and view.input_resize:
            what = f"{card.title} is resized to {view.input_resize} pixels in a uint8 pack, its label maps are not"
            raise BenchError(what, "write a float32 pack")
        ready = ReadyFor(bands=c.bands, normalizer=c.normalizer, mean=c.mean, std=c.std, input_resize=view.input_resize)
    return Meta(
        format=FORMAT,
        kind="uint8" if view else "float32",
        card=card.name,
        card_version=card.version,
        bands=bands,
        units="dB",
        contract=ready,
        count=len(index.files),
        sample_ids_sha256=ids_sha256(index.ids),
        classes=card.classes,
        label_scheme=card.label_scheme,
        groups=index.groups is not None,
        left_out=index.left_out,
        synthetic=index.synthetic,
        sources_sha256=hashlib.sha256(index.stamps.tobytes()).hexdigest(),
        created_by=f"fgmae_bench {__version__}",
        label_sources=sources,
        size=index.size,
    )


def meta_bytes(meta: Meta) -> bytes:
    """Canonical JSON of the facts, without those of label maps where there are none."""
    facts = {
        name: value
        for name, value in dataclasses.asdict(meta).items()
        if name not in ("label_sources", "size") or value
    }
    return json.dumps(facts, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def sample_keys(index: Index) -> list[tuple[bytes, int]]:
    """(key, row) of every sample in the order of keys. Raises BenchError on an id that cannot be a key."""
    keys = []
    for row, sample in enumerate(index.ids):
        key = sample.encode()
        if not sample.isascii() or not 0 < len(key) <= MAX_KEY_BYTES or "\n" in sample or sample.startswith(RESERVED):
            what = f"{index.root}: the name '{sample[:80]}' cannot be a key of a pack"
            raise BenchError(
                what, f"use ASCII names of at most {MAX_KEY_BYTES} letters that do not begin with {RESERVED}"
            )
        keys.append((key, row))
    return sorted(keys)


class Encoded(NamedTuple):
    """A sample as a pack keeps it. `hashes`: of the source's image, then of its label maps by source, 0 where it has
    none; see `fgmae_bench.data.content`.
    """

    value: bytes
    tagged: bool  # the file says that it is synthetic
    hashes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns one sample of the source into its value; can be sent to another process."""

    card: Card
    reader: Reader
    bands: tuple[str, ...]  # order of the bands in the files
    view: View | None
    maps: LabelMaps | None = None
    size: tuple[int, ...] | None = None  # (height, width) that every sample must have

    def __call__(self, path: Path, row: int) -> Encoded:
        """The sample of a row. Raises BenchError naming a file that cannot be read, or is of another size."""
        chip = self.reader(path, self.card)
        if chip.ready is not None:
            raise BenchError(
                f"{path.parent} is a uint8 pack, its backscatter is gone", "pack from the files, or from a float32 pack"
            )
        if self.size is not None and chip.db.shape[1:] != self.size:
            held, stated = ("x".join(map(str, each)) for each in (chip.db.shape[1:], self.size))
            what = f"{path} is {held} pixels, {self.card.title} states {stated}: no run could read the pack"
            raise BenchError(what, "use the data as it is, or correct the card's size")
        if self.view is None:
            tensors = {band: np.ascontiguousarray(plane) for band, plane in zip(self.bands, chip.db, strict=True)}
            implied = valid_mask(chip.db, self.card.signal)
            kept = np.ones(chip.db.shape, bool) if chip.valid is None else chip.valid
            extra = {} if np.array_equal(implied, kept) else {"valid": kept}
        else:
            tensors = {"input": np.ascontiguousarray(self.view.before_geometry([chip])[0])}
            extra = {} if chip.valid is None else {"valid": chip.valid}
        labels, hashes = self._labels(row, chip)
        return Encoded(save({**tensors, **extra, **labels}), chip.synthetic, (self._content(chip), *hashes))

    def _content(self, chip: Chip) -> int:
        """Hash of the image with its bands in the card's order, as a run on the source has it."""
        if self.bands == self.card.signal.bands:
            return int(content_of(chip))
        order = [self.bands.index(band) for band in self.card.signal.bands]
        valid = None if chip.valid is None else chip.valid[order]
        return int(content_of(Chip(db=chip.db[order], valid=valid, synthetic=chip.synthetic)))

    def _labels(self, row: int, chip: Chip) -> tuple[dict[str, NDArray[Any]], list[int]]:
        """(codes or targets (H, W) of each label source that a sample has, hashes of what the source holds of each).
        Raises BenchError on one that is absent, broken or of another size.
        """
        tensors: dict[str, NDArray[Any]] = {}
        hashes: list[int] = []
        for source in self.maps.sources if self.maps else ():
            hashes.append(0)
            if self.maps is not None and self.maps.has(row, source) and self.card.task == "regression":
                values = self.maps.targets(row, source)
                if self.view is not None and chip.valid is not None:
                    values = np.where(chip.valid.all(axis=0), values, np.float32(np.nan))
                tensors[LABEL + source] = np.ascontiguousarray(values)
            elif self.maps is not None and self.maps.has(row, source):
                codes = self.maps.codes(row, source)
                hashes[-1] = int(codes_of(codes))
                kept = codes if self.view is None else codes.where(chip.valid)
                tensors[LABEL + source] = np.ascontiguousarray(kept.values)
        return tensors, hashes


def decode_value(value: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Tensors of a safetensors value by name, views of its bytes; raises BenchError naming `where` when it is damaged.

    The library's own reader copies everything twice. Samples of a pack have the same head, which is parsed once.
    """
    try:
        start = 8 + struct.unpack_from("<Q", value)[0]
        return {name: _tensor(value, start, *facts) for name, facts in _parsed(value[8:start])}
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BenchError(f"{where}: the value is damaged ({error})", "write the pack again, or restore it") from error


@lru_cache(maxsize=16)
def _parsed(head: bytes) -> list[tuple[str, tuple[np.dtype[Any], list[int], int, int, int]]]:
    """(name, (type, shape, first byte behind the head, the one after its last, number of values)) of each tensor."""
    return [(name, _facts(**facts)) for name, facts in json.loads(head).items() if name != "__metadata__"]


def _facts(dtype: str, shape: list[int], data_offsets: list[int]) -> tuple[np.dtype[Any], list[int], int, int, int]:
    kind, (start, end) = np.dtype(DTYPES[dtype]), data_offsets
    if min(shape, default=1) < 0 or not 0 <= start <= end or (end - start) % kind.itemsize:
        raise ValueError("its head is inconsistent")
    return kind, shape, start, end, (end - start) // kind.itemsize


def _tensor(
    value: bytes, body: int, kind: np.dtype[Any], shape: list[int], start: int, end: int, count: int
) -> NDArray[Any]:
    """One tensor of a value whose head ends at byte `body`."""
    if body + end > len(value):
        raise ValueError("its head is inconsistent")
    tensor = np.frombuffer(value, kind, count, body + start) if count else np.empty(0, kind)
    return tensor.reshape(shape)


def bands_of(tensors: Mapping[str, NDArray[Any]], bands: tuple[str, ...], where: str) -> NDArray[np.float32]:
    """Bands (C, H, W) float32 in the order of `bands`, addressed by name; raises BenchError where they are not there as
    such.
    """
    planes = [tensors[band] for band in bands if band in tensors]
    if len(planes) != len(bands) or any(plane.dtype != FLOAT32 or plane.ndim != 2 for plane in planes):
        raise BenchError(
            f"{where}: holds {sorted(tensors)}, not {' and '.join(bands)} as float32 images", "write the pack again"
        )
    shape = planes[0].shape
    if any(plane.shape != shape for plane in planes[1:]):
        raise BenchError(f"{where}: {' and '.join(bands)} differ in size", "write the pack again")
    image = np.empty((len(planes), *shape), np.float32)
    for place, plane in enumerate(planes):
        image[place] = plane
    return image
