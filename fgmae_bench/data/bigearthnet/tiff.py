"""The header of a small TIFF, read without GDAL: its shape, and whether every byte it promises is there.

Opening 1.2 million files with rasterio is most of the time of an index; pixels are still read with it.
Source: TIFF 6.0, section 2; the BigTIFF layout of libtiff.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.data.bigearthnet.labels import parse_s1
from fgmae_bench.data.raster import SYNTHETIC_TAG, read_chip, valid_mask
from fgmae_bench.data.tiff import read_plain
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

WIDTH, HEIGHT, SAMPLES = 256, 257, 277
OFFSETS, COUNTS = (273, 324), (279, 325)  # of strips, of tiles
PIXEL_SCALE, TIE_POINT, GEO_KEYS = 33550, 33922, 34735
PROJECTED_CRS = 3072  # the GeoTIFF key that holds an EPSG code
TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the whole-number types that these tags come in
PLACE_TYPES = {3: "H", 4: "I", 12: "d"}  # those of a place
# Bytes of the signature -> byte order, format of (first directory), of its length, of an entry, bytes of a value kept
# in the entry.
KINDS = {
    b"II*\0": ("<", 4, "I", "H", "HHI4s"),
    b"MM\0*": (">", 4, "I", "H", "HHI4s"),
    b"II+\0": ("<", 8, "Q", "Q", "HHQ8s"),
    b"MM\0+": (">", 8, "Q", "Q", "HHQ8s"),
}
TODO = "replace the file, or verify the download"
_HEAD_BYTES = 1024  # GDAL's directory of such a patch and the arrays it points to fit in


@dataclass(frozen=True, kw_only=True)
class Header:
    """Shape in pixels and bands of the first image of a TIFF file; `end` is the first byte after its pixels."""

    height: int
    width: int
    bands: int
    end: int


def read_header(path: Path, size: int) -> Header:
    """Header of a file of `size` bytes. Raises BenchError naming it: absent, empty, no TIFF, shorter than it
    promises.
    """
    if size == 0:
        raise BenchError(f"{path} is empty", TODO)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = _parse(_Bytes(handle))
        finally:
            os.close(handle)
    except (struct.error, KeyError, IndexError, ValueError, OverflowError) as error:
        raise BenchError(f"{path} is no TIFF, or its header is broken or cut", TODO) from error
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror})", "check the file and its permissions") from error
    if header.end > size:
        raise BenchError(f"{path} is truncated: {size} bytes where its header promises {header.end}", TODO)
    return header


def read_place(path: Path) -> tuple[tuple[float, float, float, float], int] | None:
    """((left, top, right, bottom) in metres, EPSG code) of a GeoTIFF; None where it does not say so in the usual way.

    The usual way is an upper left corner, a pixel's size and a code. Source: OGC GeoTIFF 1.1, sections 7.1 and B.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            tags = _tags(_Bytes(handle), (WIDTH, HEIGHT, PIXEL_SCALE, TIE_POINT, GEO_KEYS), PLACE_TYPES)
        finally:
            os.close(handle)
        column, row, _, left, top, _ = tags[TIE_POINT]
        across, down, _ = tags[PIXEL_SCALE]
        keys = tags[GEO_KEYS]
        epsg = next(keys[at + 3] for at in range(4, len(keys), 4) if keys[at] == PROJECTED_CRS)
        if (column, row) != (0, 0) or not 1024 <= epsg < 32767:
            return None
        return (left, top, left + across * tags[WIDTH][0], top - down * tags[HEIGHT][0]), int(epsg)
    except (OSError, struct.error, KeyError, IndexError, ValueError, OverflowError, StopIteration):
        return None


class _Bytes:
    """A file of which the head was read already."""

    def __init__(self, handle: int):
        self.handle, self.head = handle, os.pread(handle, _HEAD_BYTES, 0)

    def unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        """Values of `layout` at `offset`; struct.error beyond the end."""
        size = struct.calcsize(layout)
        piece = (
            self.head[offset : offset + size]
            if offset + size <= len(self.head)
            else os.pread(self.handle, size, offset)
        )
        return struct.unpack(layout, piece)


def _parse(data: _Bytes) -> Header:
    tags = _tags(data, (WIDTH, HEIGHT, SAMPLES, *OFFSETS, *COUNTS), TYPES)
    offsets, counts = (tags[pair[0] if pair[0] in tags else pair[1]] for pair in (OFFSETS, COUNTS))
    end = max(offset + held for offset, held in zip(offsets, counts, strict=True))
    return Header(height=tags[HEIGHT][0], width=tags[WIDTH][0], bands=tags.get(SAMPLES, (1,))[0], end=end)


def _tags(data: _Bytes, wanted: tuple[int, ...], types: dict[int, str]) -> dict[int, tuple[Any, ...]]:
    """Values of the `wanted` tags that the first directory holds; KeyError for one that is of none of `types`."""
    endian, inline, pointer, length, entry = KINDS[data.head[:4]]
    (directory,) = data.unpack(endian + pointer, 4 if inline == 4 else 8)
    (count,) = data.unpack(endian + length, int(directory))
    first, step = int(directory) + struct.calcsize(endian + length), struct.calcsize(endian + entry)
    tags: dict[int, tuple[Any, ...]] = {}
    for number in range(min(int(count), 4096)):
        tag, kind, values, held = data.unpack(endian + entry, first + number * step)
        if tag in wanted:
            tags[int(tag)] = _values(data, endian, inline, types[kind], values, held)
    return tags


def _values(data: _Bytes, endian: str, inline: int, letter: str, count: int, held: bytes) -> tuple[Any, ...]:
    """The values of an entry, from the entry itself where they fit into it."""
    layout = f"{endian}{count}{letter}"
    size = struct.calcsize(layout)
    if size <= inline:
        return struct.unpack(layout, held[:size])
    (offset,) = struct.unpack(endian + ("I" if inline == 4 else "Q"), held)
    if count > 1 << 20:
        raise ValueError("more strips than a patch has")
    return data.unpack(layout, offset)


METADATA = "_labels_metadata.json"


def band_file(folder: Path, band: str) -> Path:
    """Where a patch keeps one band."""
    return folder / f"{folder.name}_{band}.tif"


def read_patch(folder: Path, card: Card) -> Chip:
    """Chip (2, H, W) dB of `<S1>/<S1>_VV.tif` and `<S1>/<S1>_VH.tif`, in the card's order of bands.

    Raises BenchError naming the file: a band that is missing, empty, truncated, of another size, constant or without
    valid pixels.
    """
    chip = _read_faultless(folder, card)
    return chip if chip is not None else _read_any(folder, card)


def read_patch_v2(path: Path, card: Card) -> Chip:
    """The same of v2, where patches lie in the folder of their scene: `path` is `<root>/<S1>`, the files
    `<root>/<scene>/<S1>/…`.
    """
    return read_patch(path.parent / parse_s1(path.name).scene / path.name, card)


def _read_faultless(folder: Path, card: Card) -> Chip | None:
    """The chip of two plain files of which every pixel is valid, as nearly all are; None for any other."""
    db, synthetic = np.empty((len(card.signal.bands), *card.signal.size), np.float32), False
    for plane, band in zip(db, card.signal.bands, strict=True):
        plain = read_plain(band_file(folder, band))
        if plain is None or plain.nodata or plain.db.shape != (1, *plane.shape):
            return None
        plane[...] = plain.db[0]
        synthetic |= SYNTHETIC_TAG.encode() in plain.metadata
        if plane.min() == plane.max():
            return None
    return Chip(db=db, valid=None, synthetic=synthetic) if valid_mask(db, card.signal).all() else None


def _read_any(folder: Path, card: Card) -> Chip:
    chips = []
    for band in card.signal.bands:
        path = band_file(folder, band)
        if not path.is_file():
            raise BenchError(f"{path} is missing", "restore it from the archive, or remove the patch")
        chips.append(read_chip(path, dataclasses.replace(card, signal=dataclasses.replace(card.signal, bands=(band,)))))
    valid = None
    if any(chip.valid is not None for chip in chips):
        valid = np.concatenate([np.ones(chip.db.shape, bool) if chip.valid is None else chip.valid for chip in chips])
    return Chip(
        db=np.concatenate([chip.db for chip in chips]), valid=valid, synthetic=any(chip.synthetic for chip in chips)
    )
