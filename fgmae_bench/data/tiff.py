"""Small TIFF files without GDAL, which takes 0.5 ms to open one: what the header says, and the pixels of the plainest.

Every file that is not as plain, broken ones included, is left to GDAL.

Source: TIFF 6.0, sections 2 and 8; the BigTIFF layout of libtiff; the tags 42112 and 42113 of GDAL's GTiff driver; OGC
GeoTIFF 1.1, sections 7.1 and B.
"""

from __future__ import annotations

import html
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError

WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, SAMPLES, PLANAR, SAMPLE_FORMAT = 256, 257, 258, 259, 274, 277, 284, 339
STRIPS, STRIP_BYTES, TILES, TILE_BYTES = 273, 279, 324, 325
PIXEL_SCALE, TIE_POINT, MATRIX, GEO_KEYS = 33550, 33922, 34264, 34735
METADATA, NODATA = 42112, 42113
PROJECTED_CRS = 3072  # the GeoTIFF key that holds an EPSG code
# GeoTIFF keys of a projection by its EPSG code alone, as GDAL writes them, with the value that they must have: model
# type, pixels that are areas, citations, degrees, the code, metres. Any other key may change what the code says.
GEO_USUAL = {1024: 1, 1025: 1, 1026: None, 2049: None, 2054: 9102, PROJECTED_CRS: None, 3076: 9001}
GEO_TEXT = 34737
UTM = {*range(32601, 32661), *range(32701, 32761)}  # EPSG codes of the zones of WGS84, north and south
# Tags that say nothing about how pixels are stored: photometric, description, rows a strip, resolution, software, date,
# extra samples, GeoTIFF. A file with any other tag is not plain.
HARMLESS = {262, 270, 278, 282, 283, 296, 305, 306, 338, 33550, 33922, 34264, 34735, 34736, 34737}
READ = {WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, SAMPLES, PLANAR, SAMPLE_FORMAT, STRIPS, STRIP_BYTES}
PLAIN = HARMLESS | READ | {METADATA, NODATA}
# Signature -> byte order, where the offset of the first directory stands, formats of that offset, of the directory's
# length and of an entry, whose last field holds the values where they fit.
KINDS = {
    b"II*\0": ("<", 4, "I", "H", "HHI4s"),
    b"MM\0*": (">", 4, "I", "H", "HHI4s"),
    b"II+\0": ("<", 8, "Q", "Q", "HHQ8s"),
    b"MM\0+": (">", 8, "Q", "Q", "HHQ8s"),
}
TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 12: "d", 16: "Q"}
TEXT, SHORT, LONG, DOUBLE = 2, 3, 4, 12
WHOLE = (1, SHORT, LONG, 16)
MOST_BYTES = 1 << 24  # of a file that is read whole
MOST_ENTRIES, MOST_VALUES = 4096, 1 << 20
HEAD_BYTES = 1024  # GDAL's directory of a patch and the arrays that it points to fit in
DESCRIPTION = re.compile(rb'<Item name="DESCRIPTION" sample="(\d{1,4})" role="description">([^<]*)</Item>')
TODO = "replace the file, or verify the download"
Entry = tuple[int, int, bytes]  # type, number of values, the entry's last field
BROKEN = (struct.error, KeyError, IndexError, ValueError, OverflowError)


class Bytes:
    """A file of which the head was read already, or the whole of it."""

    def __init__(self, head: bytes, handle: int | None = None):
        self.head, self.handle = head, handle

    def piece(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`; fewer beyond the end."""
        if self.handle is None or offset + size <= len(self.head):
            return self.head[offset : offset + size]
        return os.pread(self.handle, size, offset)

    def unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        """Values of `layout` at `offset`; struct.error beyond the end."""
        return struct.unpack(layout, self.piece(offset, struct.calcsize(layout)))


class Directory:
    """The first directory of a TIFF file; struct.error, KeyError or ValueError where it is broken."""

    def __init__(self, data: Bytes):
        self.data = data
        self.endian, at, self.pointer, length, entry = KINDS[data.head[:4]]
        (start,) = data.unpack(self.endian + self.pointer, at)
        (count,) = data.unpack(self.endian + length, start)
        first, step = start + struct.calcsize(self.endian + length), struct.calcsize(self.endian + entry)
        held = data.piece(first, min(count, MOST_ENTRIES) * step)
        if len(held) < min(count, MOST_ENTRIES) * step:
            raise struct.error("the directory is cut")
        self.end = first + count * step
        self.entries: dict[int, Entry] = {
            tag: (kind, values, field) for tag, kind, values, field in struct.iter_unpack(self.endian + entry, held)
        }

    def is_only(self) -> bool:
        """Whether no other directory follows."""
        return bool(self.data.unpack(self.endian + self.pointer, self.end) == (0,))

    def values(self, tag: int, *kinds: int) -> tuple[Any, ...]:
        """Values of a tag, which must be of one of `kinds`; KeyError where it is not there."""
        kind, count, field = self.entries[tag]
        if kind not in kinds:
            raise KeyError(tag)
        layout = f"{self.endian}{count}{TYPES[kind]}"
        size = struct.calcsize(layout)
        if size <= len(field):
            return struct.unpack(layout, field[:size])
        if count > MOST_VALUES:
            raise ValueError("more values than a small file has")
        return self.data.unpack(layout, *struct.unpack(self.endian + self.pointer, field))

    def get(self, tag: int, default: tuple[Any, ...], *kinds: int) -> tuple[Any, ...]:
        """Values of a tag, `default` where it is not there."""
        return self.values(tag, *kinds) if tag in self.entries else default


@contextmanager
def _directory(path: Path) -> Iterator[Directory]:
    """The directory of a file of which no more is read than is asked for; OSError as of `os.open`."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Directory(Bytes(os.pread(handle, HEAD_BYTES, 0), handle))
    finally:
        os.close(handle)


@dataclass(frozen=True, kw_only=True)
class Header:
    """Shape in pixels and bands of the first image of a TIFF file; `end` is the first byte after its pixels."""

    height: int
    width: int
    bands: int
    end: int


def read_header(path: Path, size: int) -> Header:
    """Header of a file of `size` bytes. Raises BenchError naming it: absent, empty, no TIFF, shorter than it says."""
    if size == 0:
        raise BenchError(f"{path} is empty", TODO)
    try:
        with _directory(path) as held:
            offsets = held.values(STRIPS if STRIPS in held.entries else TILES, *WHOLE)
            counts = held.values(STRIP_BYTES if STRIP_BYTES in held.entries else TILE_BYTES, *WHOLE)
            header = Header(
                height=held.values(HEIGHT, *WHOLE)[0],
                width=held.values(WIDTH, *WHOLE)[0],
                bands=held.get(SAMPLES, (1,), *WHOLE)[0],
                end=max(offset + count for offset, count in zip(offsets, counts, strict=True)),
            )
    except BROKEN as error:
        raise BenchError(f"{path} is not a TIFF, or its header is broken or cut", TODO) from error
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror})", "check the file and its permissions") from error
    if header.end > size:
        raise BenchError(f"{path} is truncated: {size} bytes where its header promises {header.end}", TODO)
    return header


def read_place(path: Path) -> tuple[tuple[float, float, float, float], int] | None:
    """((left, top, right, bottom) in metres, EPSG code) of a GeoTIFF; None where it does not say so in the usual way.

    The usual way is an upper left corner, a pixel's size and a code.
    """
    try:
        with _directory(path) as held:
            column, row, _, left, top, _ = held.values(TIE_POINT, DOUBLE)
            across, down, _ = held.values(PIXEL_SCALE, DOUBLE)
            keys = held.values(GEO_KEYS, SHORT)
            width, height = (held.values(tag, SHORT, LONG)[0] for tag in (WIDTH, HEIGHT))
        epsg = next(keys[at + 3] for at in range(4, len(keys), 4) if keys[at] == PROJECTED_CRS)
        if (column, row) != (0, 0) or not 1024 <= epsg < 32767:
            return None
        return (left, top, left + across * width, top - down * height), int(epsg)
    except (OSError, StopIteration, *BROKEN):
        return None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the pixels of a file are: EPSG code, upper left corner and size of a pixel in metres, shape in pixels."""

    epsg: int
    left: float
    top: float
    across: float
    down: float
    height: int
    width: int


def read_grid(path: Path) -> Grid | None:
    """The grid of a GeoTIFF in a UTM zone of WGS84, as GDAL reads it; None for all others, broken ones too."""
    try:
        with _directory(path) as held:
            column, row, _, left, top, _ = held.values(TIE_POINT, DOUBLE)
            across, down, _ = held.values(PIXEL_SCALE, DOUBLE)
            keys = held.values(GEO_KEYS, SHORT)
            width, height = (held.values(tag, SHORT, LONG)[0] for tag in (WIDTH, HEIGHT))
            text = held.get(GEO_TEXT, (b"",), TEXT)[0]
            turned = MATRIX in held.entries
    except (OSError, *BROKEN):
        return None
    said = {keys[at]: keys[at + 3] for at in range(4, len(keys) - 3, 4)}
    usual = all(key in GEO_USUAL and GEO_USUAL[key] in (None, value) for key, value in said.items())
    epsg = int(said.get(PROJECTED_CRS, 0))
    # a citation may hold a definition of its own, as in `ESRI PE String = ...`
    if turned or not usual or epsg not in UTM or b"=" in text or (column, row) != (0, 0) or not (across > 0 < down):
        return None
    return Grid(epsg=epsg, left=left, top=top, across=across, down=down, height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Pixels `db` (bands, H, W) float32, the declared nodata values, and GDAL's metadata as written."""

    db: NDArray[np.float32]
    nodata: tuple[float, ...]
    metadata: bytes

    def descriptions(self) -> tuple[str, ...]:
        """Description of each band, empty where there is none; as GDAL writes them."""
        found = {
            int(band): html.unescape(text.decode("utf-8", "replace"))
            for band, text in DESCRIPTION.findall(self.metadata)
        }
        return tuple(found.get(band, "") for band in range(len(self.db)))


def read_plain(path: Path) -> Plain | None:
    """The image of a file of uncompressed float32 strips in one piece; None for all others, broken and absent ones too.

    Reads little-endian files of one directory and 16 MiB at most, of which no tag says anything unusual.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        size = os.fstat(handle).st_size
        data = os.read(handle, size) if size <= MOST_BYTES else b""
    except OSError:
        return None
    finally:
        os.close(handle)
    try:
        return _pixels(Directory(Bytes(data)), data) if data[:4] == b"II*\0" else None
    except BROKEN:
        return None


def _pixels(held: Directory, data: bytes) -> Plain | None:
    if not held.is_only() or held.entries.keys() - PLAIN:
        return None
    width, height = held.values(WIDTH, *WHOLE)[0], held.values(HEIGHT, *WHOLE)[0]
    bands = held.get(SAMPLES, (1,), *WHOLE)[0]
    stored = (held.get(COMPRESSION, (1,), *WHOLE), held.get(ORIENTATION, (1,), *WHOLE))
    kinds = set(held.values(BITS, *WHOLE)), set(held.get(SAMPLE_FORMAT, (), *WHOLE))
    if stored != ((1,), (1,)) or kinds != ({32}, {3}) or not width * height * bands:
        return None
    offsets, counts = held.values(STRIPS, *WHOLE), held.values(STRIP_BYTES, *WHOLE)
    in_one_piece = all(at + count == after for at, count, after in zip(offsets, counts, offsets[1:], strict=False))
    needed = 4 * width * height * bands
    if len(offsets) != len(counts) or not in_one_piece or sum(counts) != needed or offsets[0] + needed > len(data):
        return None
    pixels = np.frombuffer(data, "<f4", width * height * bands, offsets[0])
    if bands > 1 and held.get(PLANAR, (1,), *WHOLE) == (1,):
        pixels = pixels.reshape(height, width, bands).transpose(2, 0, 1)
    nodata = held.get(NODATA, (b"",), TEXT)[0].rstrip(b"\0 ")
    metadata = held.get(METADATA, (b"",), TEXT)[0]
    if b'role="scale"' in metadata or b'role="offset"' in metadata:  # GDAL applies them
        return None
    return Plain(
        db=np.array(pixels.reshape(bands, height, width), np.float32, order="C"),
        nodata=(float(nodata),) if nodata else (),
        metadata=metadata,
    )
