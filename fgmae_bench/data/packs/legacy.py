"""Packs of others: rico-hdl's safetensors, and the two pickled formats of published SAR code, decoded without
unpickling.

Pickled values are (s2 bytes, s2 shape, s1 bytes, s1 shape, target bytes) with S1 float32 (H, W, 2) as VV,VH, or (s1
bytes, s1 shape, target bytes), whose known writers stored VH,VV. Keys are numbers; targets float32, one value a class.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.config.contract import BANDS
from fgmae_bench.data.audit import MIN_IMAGES, SAMPLED
from fgmae_bench.data.bigearthnet.labels import is_s1_patch, order_of, parse_s1, reorder
from fgmae_bench.data.bigearthnet.metadata import find_metadata, read_metadata
from fgmae_bench.data.bigearthnet.raw import content_number, hot_labels, usable_rows
from fgmae_bench.data.index import Index
from fgmae_bench.data.packs.format import bands_of, decode_value
from fgmae_bench.data.packs.pickled import Parts, read_tuple
from fgmae_bench.data.packs.store import Stamp, get, items, keys, lacking, number_of, stamp_of
from fgmae_bench.data.raster import valid_mask
from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import generator
from fgmae_bench.views.chip import Chip

PICKLE = b"\x80"  # first byte of protocol 2 and later; a safetensors value begins with the length of its head
STORED_ORDER = {5: ("VV", "VH"), 3: ("VH", "VV")}  # by the length of the tuple, as the known writers had it
Order = tuple[str, ...]


def open_foreign(card: Card, root: Path, stamp: Stamp, band_order: Order | None) -> Index:
    """Index of a pack without `__meta__`. Raises BenchError where it is of no known format, or cannot give labels."""
    _, value = first_item(root, stamp)
    if value.startswith(PICKLE):
        return open_pickled(card, root, stamp, band_order)
    if {"VV", "VH"} & set(decode_value(value, str(root))) or any(True for _ in rico_items(root)):
        raise BenchError(
            f"{root} is a rico-hdl pack, which holds no labels",
            "give the folder of the patches, or prepare pack from it",
        )
    raise BenchError(
        f"{root} has no __meta__ and holds no Sentinel-1 bands", "write it with: python -m fgmae_bench.prepare pack"
    )


def first_item(root: Path, stamp: Stamp) -> tuple[bytes, bytes]:
    """First (key, value) of a pack; raises BenchError when it is empty."""
    first = next(items(root, stamp), None)
    if first is not None:
        return first
    raise BenchError(f"{root} is an empty pack without __meta__", "write it with: python -m fgmae_bench.prepare pack")


def rico_items(root: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(patch name, VV and VH (2, H, W) float32) of every Sentinel-1 entry of a rico-hdl pack, in the order of names."""
    root = root.resolve()
    for key, value in items(root, stamp_of(root)):
        name = key.decode(errors="replace")
        tensors = decode_value(value, f"{root}: {name}")
        if set(BANDS) & set(tensors):
            yield name, bands_of(tensors, BANDS, f"{root}: {name}")


def open_rico(
    card: Card, root: Path, ids: tuple[str, ...], labels: NDArray[Any], groups: tuple[str, ...] | None = None
) -> Index:
    """Index of a rico-hdl pack with labels from elsewhere: patch names `ids`, and what belongs to them row by row.

    Raises BenchError when a patch is not in the pack.
    """
    root = root.resolve()
    stamp = stamp_of(root)
    absent = lacking(root, stamp, ids)
    if absent:
        raise BenchError(
            f"{root} lacks {len(absent)} of {len(ids)} patches, first {absent[0]}", "complete the pack or the labels"
        )
    stamps = np.full(len(ids), number_of(stamp))
    return Index(
        root=root,
        files=ids,
        labels=labels,
        stamps=stamps,
        synthetic=None,
        groups=groups,
        reader=RicoReader(root, stamp),
    )


@dataclass(frozen=True)
class RicoReader:
    """Reads one patch of a rico-hdl pack, bands by name."""

    root: Path
    stamp: Stamp

    def __call__(self, path: Path, card: Card) -> Chip:
        """The chip of the patch at `path`, bands in the order of the card."""
        value = get(self.root, self.stamp, path.name.encode())
        if value is None:
            raise BenchError(f"{self.root} holds no patch {path.name}", "complete the pack")
        return _chip(bands_of(decode_value(value, str(path)), card.signal.bands, str(path)), card, path)


def open_pickled(card: Card, root: Path, stamp: Stamp, band_order: Order | None) -> Index:
    """Index of a legacy pickled pack: ids are its numbers, labels the targets, taken in the order of the card's
    classes.

    Without `band_order` the order of the known writers is taken when the pixels agree, and chips have the card's order;
    with it, chips have the order that is stored. Raises BenchError: a value that is not such a tuple, other classes,
    band order in doubt.
    """
    numbers, targets, kinds = [], [], set()
    for key, parts in pickled_items(root, stamp):
        target = np.frombuffer(parts[-1], np.float32)
        if not key.isdecimal():
            raise BenchError(f"{root}: the key '{key[:40]}' is not a number", "give a pack of the known legacy formats")
        if len(target) != len(card.classes) or not np.isin(target, (0, 1)).all():
            what = f"{root}: sample {key} has {len(target)} target values, {card.title} has {len(card.classes)} classes"
            raise BenchError(what, "give the card that the pack was made for")
        kinds.add(len(parts))
        numbers.append(key)
        targets.append(target.astype(np.uint8))
    if len(kinds) != 1:
        raise BenchError(f"{root} mixes tuples of {' and '.join(map(str, sorted(kinds)))}", "give a pack of one format")
    stored = STORED_ORDER[kinds.pop()]
    order = np.argsort([int(key) for key in numbers], kind="stable")
    reader = PickledReader(
        root, stamp, stored if band_order is None else BANDS, card.signal.bands if band_order is None else BANDS
    )
    index = Index(
        root=root,
        files=tuple(numbers[row] for row in order),
        labels=_labels(np.stack(targets)[order], card),
        stamps=np.full(len(numbers), number_of(stamp)),
        synthetic=None,
        reader=reader,
    )
    if band_order is None:
        _require_order(index, card, stored)
    return index


def pickled_items(root: Path, stamp: Stamp) -> Iterator[tuple[str, Parts]]:
    """(key, parts) of every value; raises BenchError naming the first one that is not a tuple of a known format."""
    for key, value in items(root, stamp):
        name = key.decode(errors="replace")
        yield name, checked_parts(value, f"{root}: {name}")


def checked_parts(value: bytes, where: str) -> Parts:
    """The parts of a pickled sample, held against the known formats."""
    parts = read_tuple(value, where) if value.startswith(PICKLE) else ()
    shape = parts[-2] if len(parts) in STORED_ORDER else ()
    good = (
        isinstance(shape, tuple)
        and len(shape) == 3
        and all(isinstance(side, int) and 0 < side < 2**16 for side in shape)
        and shape[2] == 2
        and isinstance(parts[-3], bytes)
        and isinstance(parts[-1], bytes)
        and len(parts[-3]) == 4 * math.prod(shape)
        and len(parts[-1]) % 4 == 0
    )
    if not good:
        what = f"{where}: is not a sample of the known legacy formats"
        raise BenchError(what, "give a pack of 5-tuples or 3-tuples with S1 as (H, W, 2) float32")
    return parts


@dataclass(frozen=True)
class PickledReader:
    """Reads one sample of a legacy pickled pack, stored as `stored`, in the order of bands `order`."""

    root: Path
    stamp: Stamp
    stored: Order
    order: Order

    def __call__(self, path: Path, card: Card) -> Chip:
        """The chip with the number `path.name`."""
        value = get(self.root, self.stamp, path.name.encode())
        if value is None:
            raise BenchError(f"{self.root} holds no sample {path.name}", "restore the pack")
        parts = checked_parts(value, str(path))
        image = np.frombuffer(parts[-3], np.float32).reshape(parts[-2])  # (H, W, 2)
        return _chip(np.stack([image[..., self.stored.index(band)] for band in self.order]), card, path)


def _chip(db: NDArray[np.float32], card: Card, path: Path) -> Chip:
    valid = valid_mask(db, card.signal)
    if not valid.any(axis=(1, 2)).all():
        raise BenchError(f"{path}: a band has no valid pixel", "write the pack again without this sample")
    return Chip(db=db, valid=None if valid.all() else valid, synthetic=False)


def _labels(targets: NDArray[np.uint8], card: Card) -> NDArray[Any]:
    return targets if card.task == "multi_label" else targets.argmax(axis=1).astype(np.int64)


def _require_order(index: Index, card: Card, stored: Order) -> None:
    """Raise BenchError unless VV is above VH, as the median over enough images, in the order the known writers had.

    Too few images leave the order of 3-tuples in doubt; that of 5-tuples is written down by their makers.
    """
    rows = generator(0, "audit", len(index.files)).permutation(len(index.files))[:SAMPLED]
    differences = []
    for row in rows:
        bands = dict(zip(card.signal.bands, index.read(int(row), card).db, strict=True))
        differences.append(np.nanmedian(bands["VV"].astype(np.float64)) - np.nanmedian(bands["VH"]))
    middle = float(np.median(differences))
    todo = "say which with --band_order VV,VH or --band_order VH,VV"
    if len(rows) < MIN_IMAGES:
        if stored == STORED_ORDER[5]:
            return
        raise BenchError(
            f"{index.root}: {len(rows)} images are too few to recognise the order of its bands (at least {MIN_IMAGES})",
            todo,
        )
    if not middle > 0:
        what = (
            f"{index.root} would be {','.join(stored)} by its format, but then the median of VV-VH is {middle:.1f} dB"
        )
        raise BenchError(what, todo)


log = logging.getLogger("fgmae_bench")


def rico_patches(root: Path, stamp: Stamp) -> list[str]:
    """Names of the Sentinel-1 patches of a rico-hdl pack in order; empty for a pack of anything else."""
    names = [name for key in keys(root, stamp) if is_s1_patch(name := key.decode(errors="replace"))]
    value = (get(root, stamp, names[0].encode()) or b"") if names else PICKLE
    return names if not value.startswith(PICKLE) and set(BANDS) <= set(decode_value(value, str(root))) else []


def open_rico_v2(card: Card, root: Path, patches: list[str]) -> Index:
    """Index of a rico-hdl pack as the layout `bigearthnet_v2` makes it of files; `metadata.parquet` is in the pack or
    beside it.

    Raises BenchError where the metadata is missing or broken, or names no patch of the pack that a run can use.
    """
    order = order_of(card)
    metadata = read_metadata(find_metadata(root)).sort_by("s1_name")
    held = pc.is_in(metadata["s1_name"], value_set=pa.array(patches, pa.string()))
    absent = len(metadata) - int(pc.sum(held).as_py() or 0)
    if absent:
        log.warning("the metadata of %s names %d of %d patches that are not there", root, absent, len(metadata))
    chosen = metadata.filter(pc.and_(held, usable_rows(metadata)))
    if not len(chosen):
        raise BenchError(
            f"{root}: its metadata names none of its patches as free of snow and clouds",
            "give the metadata of this pack",
        )
    names = tuple(chosen["s1_name"].to_pylist())
    index = open_rico(
        card,
        root,
        names,
        reorder(hot_labels(chosen), "original", order),
        tuple(parse_s1(name).tile or "" for name in names),
    )
    return dataclasses.replace(
        index,
        stamps=index.stamps ^ np.uint64(content_number(chosen)),
        left_out=len(patches) - len(chosen),
        aliases=tuple(chosen["s2_name"].to_pylist()),
        parts=tuple(chosen["split"].to_pylist()),
    )
