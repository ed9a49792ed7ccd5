"""The header of a small TIFF, read without GDAL: its shape, and whether every byte it promises is there.

Opening 1.2 million files with rasterio is most of the time of an index; pixels are still read with it.
Source: TIFF 6.0, section 2; the BigTIFF layout of libtiff.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from fgmae_bench.errors import BenchError

WIDTH, HEIGHT, SAMPLES = 256, 257, 277
OFFSETS, COUNTS = (273, 324), (279, 325)  # of strips, of tiles
TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the whole-number types that these tags come in
# Bytes of the signature -> byte order, format of (first directory), of its length, of an entry, bytes of a value kept in the entry.
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
    """Header of a file of `size` bytes. Raises BenchError naming it: absent, empty, no TIFF, shorter than it promises."""
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


class _Bytes:
    """A file of which the head was read already."""

    def __init__(self, handle: int):
        self.handle, self.head = handle, os.pread(handle, _HEAD_BYTES, 0)

    def unpack(self, layout: str, offset: int) -> tuple[int | bytes, ...]:
        """Values of `layout` at `offset`; struct.error beyond the end."""
        size = struct.calcsize(layout)
        piece = self.head[offset : offset + size] if offset + size <= len(self.head) else os.pread(self.handle, size, offset)
        return struct.unpack(layout, piece)


def _parse(data: _Bytes) -> Header:
    endian, inline, pointer, length, entry = KINDS[data.head[:4]]
    (directory,) = data.unpack(endian + pointer, 4 if inline == 4 else 8)
    (count,) = data.unpack(endian + length, int(directory))
    first, step = int(directory) + struct.calcsize(endian + length), struct.calcsize(endian + entry)
    tags: dict[int, tuple[int, ...]] = {}
    for number in range(min(int(count), 4096)):
        tag, kind, values, held = data.unpack(endian + entry, first + number * step)
        if tag in (WIDTH, HEIGHT, SAMPLES, *OFFSETS, *COUNTS):
            tags[int(tag)] = _values(data, endian, inline, int(kind), int(values), bytes(held))
    offsets, counts = (tags[pair[0] if pair[0] in tags else pair[1]] for pair in (OFFSETS, COUNTS))
    end = max(offset + held for offset, held in zip(offsets, counts, strict=True))
    return Header(height=tags[HEIGHT][0], width=tags[WIDTH][0], bands=tags.get(SAMPLES, (1,))[0], end=end)


def _values(data: _Bytes, endian: str, inline: int, kind: int, count: int, held: bytes) -> tuple[int, ...]:
    """The values of an entry, from the entry itself where they fit into it."""
    layout = f"{endian}{count}{TYPES[kind]}"
    size = struct.calcsize(layout)
    if size <= inline:
        return struct.unpack(layout, held[:size])
    (offset,) = struct.unpack(endian + ("I" if inline == 4 else "Q"), held)
    if count > 1 << 20:
        raise ValueError("more strips than a patch has")
    return tuple(int(value) for value in data.unpack(layout, offset))
