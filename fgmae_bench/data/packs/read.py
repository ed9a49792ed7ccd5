"""Reading a pack as an index: our own packs with all that they state held against the card; packs of others by
`legacy`.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, Signal
from fgmae_bench.config.contract import InputContract
from fgmae_bench.config.strict import from_plain
from fgmae_bench.data.index import Index, ids_sha256
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs.format import FORMAT, LABELS, META, Meta, bands_of, decode_value
from fgmae_bench.data.packs.labels import Labels, packed_maps, read_labels
from fgmae_bench.data.packs.legacy import open_foreign, open_rico_v2, rico_patches
from fgmae_bench.data.packs.store import Stamp, count, get, number_of, stamp_of
from fgmae_bench.data.signal import valid_mask
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip, Ready

Order = tuple[str, ...]
# Layout -> what opens a rico-hdl pack with the labels that the dataset keeps in tables of its own.
LABELS_BESIDE = {"bigearthnet_v2": open_rico_v2}


def is_pack(root: Path) -> bool:
    """Whether `root` is meant as a pack: a folder with `data.mdb`, or anything that is named `.lmdb` or `.mdb`."""
    return (root / "data.mdb").exists() or (root.exists() and root.suffix in (".lmdb", ".mdb"))


def open_index(card: Card, root: Path, band_order: Order | None = None) -> Index:
    """The index of a dataset, be it a pack or in its own layout. `band_order` as in `open_pack`."""
    return open_pack(card, root, band_order) if is_pack(root) else build_index(card, root)


def open_pack(card: Card, root: Path, band_order: Order | None = None) -> Index:
    """Index of a pack: ours, rico-hdl's or one of the legacy formats; chips have the bands in the order of the card.

    With `band_order`, what the user states of the source's files, chips have that order instead, as if read from the
    files; it must be what our pack states. Raises BenchError: not LMDB, cut short, another format, card, class order or
    count.
    """
    root = root.resolve()
    stamp = stamp_of(root)
    held = get(root, stamp, META)
    if held is None:
        labels_beside = LABELS_BESIDE.get(card.layout)
        patches = rico_patches(root, stamp) if labels_beside else []
        if labels_beside and patches:
            _refuse_order(root, band_order)
            return labels_beside(card, root, patches)
        return open_foreign(card, root, stamp, band_order)
    meta = parse_meta(held, root)
    _require_card(meta, card, root)
    if band_order != meta.bands:
        _refuse_order(root, band_order, f", packed from files in the order {','.join(meta.bands)}")
    labels = checked_labels(root, stamp, meta, card)
    maps = packed_maps(card, root, stamp, meta, labels)
    if labels.content is not None and labels.content.shape[1] != 1 + len(meta.label_sources):
        raise BenchError(f"{root}: __labels__ holds the hashes of other label maps", "write the pack again")
    reader = PackReader(root, stamp, meta, band_order or card.signal.bands, named=labels.names is not None)
    return Index(
        root=root,
        files=labels.names or labels.files,
        labels=labels.labels,
        stamps=labels.stamps ^ number_of(stamp),
        synthetic=meta.synthetic,
        left_out=meta.left_out,
        groups=labels.groups,
        aliases=labels.aliases,
        parts=labels.parts,
        names=labels.names,
        reader=reader,
        sums=labels.crc32,
        source_content=labels.content,
        source_maps=meta.label_sources,
        eight_bits=meta.kind == "uint8",
        maps=maps,
        size=meta.size,
    )


def _refuse_order(root: Path, band_order: Order | None, where: str = "") -> None:
    if band_order:
        raise BenchError(f"{root} names its bands{where}", "leave --band_order out")


def parse_meta(held: bytes, root: Path) -> Meta:
    """The facts under `__meta__`; raises BenchError when they are damaged or of a format that is not known here."""
    try:
        facts = json.loads(held)
        found = facts["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchError(f"{root}: __meta__ is damaged", "write the pack again") from error
    if found != FORMAT:
        raise BenchError(
            f"{root} is a pack of format {found}, this version reads format {FORMAT}", "write the pack again, or update"
        )
    return from_plain(Meta, facts, f"{root}: __meta__")


def _require_card(meta: Meta, card: Card, root: Path) -> None:
    """Raise BenchError unless the pack was written for this card."""
    if meta.card != card.name:
        raise BenchError(
            f"{root} is a pack of {meta.card}, not of {card.name}", f"pass --dataset {meta.card}, or give another pack"
        )
    if meta.classes != card.classes or meta.label_scheme != card.label_scheme:
        what = (
            f"{root} states {_told(meta.classes, meta.label_scheme)}, the card {_told(card.classes, card.label_scheme)}"
        )
        raise BenchError(what, "its labels would mean other classes: write the pack again for this card")
    if meta.card_version != card.version:
        what = f"{root} was written for version {meta.card_version} of the card {card.name}, which is at {card.version}"
        raise BenchError(what, "write the pack again")
    if meta.units != "dB":
        raise BenchError(f"{root} holds {meta.units}, not dB", "write the pack again from the files")


def _told(classes: tuple[str, ...], scheme: str) -> str:
    return f"{len(classes)} classes in the order {', '.join(classes[:3])}, … by {scheme}"


def checked_labels(root: Path, stamp: Stamp, meta: Meta, card: Card) -> Labels:
    """The labels, held against the facts and the card. Raises BenchError where they disagree."""
    labels = read_labels(get(root, stamp, LABELS), f"{root}: __labels__")
    held = count(root, stamp) - 2
    if not held == len(labels.files) == meta.count:
        what = f"{root} holds {held} samples and {len(labels.files)} labels where it states {meta.count}"
        raise BenchError(what, "write the pack again, or restore it")
    if ids_sha256(labels.ids) != meta.sample_ids_sha256:
        raise BenchError(
            f"{root}: the names of its samples are not those that it states", "write the pack again, or restore it"
        )
    values = labels.labels
    shape, multi = values.shape, card.task == "multi_label"
    wanted = (0,) if card.per_pixel else (len(card.outputs),) if multi or card.target else ()
    fits = shape[1:] == wanted and (values.dtype.kind == "f") == (card.target is not None and not card.per_pixel)
    if fits and values.size:
        top = np.inf if card.target else 2 if multi else len(card.classes)
        fits = bool(np.isfinite(values).all() and (card.target or values.min() >= 0) and values.max() < top)
    if not fits:
        wanted_of = "targets" if card.target else f"{len(card.classes)} classes"
        raise BenchError(f"{root}: its labels {shape} are none of {wanted_of} of {card.title}", "write the pack again")
    return labels


def _plain(db: NDArray[np.float32], signal: Signal) -> bool:
    """True where the extremes show that every pixel is valid: all finite, and no zero or nodata value
    between them.
    """
    low, high = float(db.min()), float(db.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return False
    return signal.converted or not any(
        low <= last and first <= high for first, last in _not_measured(signal.nodata, signal.fill)
    )


@lru_cache(maxsize=16)
def _not_measured(*stated: tuple[float | tuple[float, ...], ...]) -> list[tuple[float, float]]:
    """Ranges of values, rounded as images hold them, that may stand for a pixel that was not measured."""
    ranges = [item if isinstance(item, tuple) else (item, item) for item in (0.0, *chain(*stated))]
    return [(float(np.float32(first)), float(np.float32(last))) for first, last in ranges]


@dataclass(frozen=True)
class PackReader:
    """Reads one sample of our pack; safe in threads and, forked or spawned, in other processes.

    `order` is that of the bands. `named`: sample ids are names of their own, not files without their endings.
    """

    root: Path
    stamp: Stamp
    meta: Meta
    order: Order
    named: bool = False

    def __call__(self, path: Path, card: Card, crc32: int | None = None) -> Chip:
        """The chip at `path`, which is the pack's folder and the sample's file name, or its id where it is named.

        Where `crc32` is given, the value is held against it: a sample that was changed after packing is refused.
        """
        name = str(path)[len(str(self.root)) + 1 :]
        key = name if self.named else os.path.splitext(name)[0]
        value = get(self.root, self.stamp, key.encode())
        if value is None:
            raise BenchError(f"{self.root} holds no sample {key}", "write the pack again, or restore it")
        if crc32 is not None and zlib.crc32(value) != crc32:
            raise BenchError(f"{path}: the sample does not have its checksum", "restore the pack, or write it again")
        tensors = decode_value(value, str(path))
        valid = tensors.get("valid")
        if valid is not None:
            valid = valid[[self.meta.bands.index(band) for band in self.order]]
        return (
            self._ready(tensors, valid, path) if self.meta.contract else self._backscatter(tensors, valid, path, card)
        )

    def _backscatter(
        self, tensors: dict[str, NDArray[Any]], valid: NDArray[np.bool_] | None, path: Path, card: Card
    ) -> Chip:
        db = bands_of(tensors, self.order, str(path))
        if db.shape[1:] != (self.meta.size or tuple(card.signal.size)):
            raise BenchError(
                f"{path} is {db.shape[1]}x{db.shape[2]} pixels, not as {card.title} states", "write the pack again"
            )
        if valid is None and not _plain(db, card.signal):
            valid = valid_mask(db, card.signal)
        return Chip(
            db=db, valid=None if valid is None or valid.all() else valid, synthetic=self.meta.synthetic is not None
        )

    def _ready(self, tensors: dict[str, NDArray[Any]], valid: NDArray[np.bool_] | None, path: Path) -> Chip:
        image = tensors.get("input")
        if image is None or image.dtype != np.uint8 or image.ndim != 3 or len(image) != len(self.order):
            raise BenchError(f"{path}: holds {sorted(tensors)}, not an input of eight bits", "write the pack again")
        like = self._ready_for
        ready = Ready(image=image, contract=like.contract, order=like.order, input_resize=like.input_resize)
        db = like.read_back(image, valid, whole=bool(self.meta.label_sources))
        return Chip(db=db, valid=valid, synthetic=self.meta.synthetic is not None, ready=ready)

    @cached_property
    def _ready_for(self) -> _ReadyFor:
        assert self.meta.contract is not None
        contract = self.meta.contract.contract()
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (contract.mean, contract.std))
        order = tuple(self.order.index(band) for band in contract.bands)
        return _ReadyFor(
            contract=contract,
            order=order,
            input_resize=self.meta.contract.input_resize,
            low=mean - 2 * std,
            step=4 * std / np.float32(255),
        )


@dataclass(frozen=True, kw_only=True)
class _ReadyFor:
    """What the samples of a uint8 pack have in common; `low` and `step` (2, 1, 1) in dB undo the eight bits."""

    contract: InputContract
    order: tuple[int, ...]
    input_resize: int | None
    low: NDArray[np.float32]
    step: NDArray[np.float32]

    def read_back(
        self, image: NDArray[np.uint8], valid: NDArray[np.bool_] | None, *, whole: bool
    ) -> NDArray[np.float32]:
        """Backscatter (2, h, w) in dB that the bytes (m - 2s .. m + 2s) stand for, in file order.

        As large as `valid` where that is given, else every fourth pixel, enough to recognise units and band order;
        every pixel where the image is `whole`, as it is drawn next to its labels.
        """
        seen = image if whole or valid is not None else image[:, ::4, ::4]
        db: NDArray[np.float32] = seen * self.step + self.low
        db = db if self.order == (0, 1) else db[[self.order.index(band) for band in range(len(image))]]
        if valid is not None and valid.shape != db.shape:
            db = np.stack([cv2.resize(plane, valid.shape[:0:-1], interpolation=cv2.INTER_NEAREST) for plane in db])
        return db
