"""Pixels of the plainest TIFF files, uncompressed float32 strips in one piece, without GDAL, which takes 0.5 ms to open
one.

Every other file, broken ones included, is left to GDAL.

Source: TIFF 6.0, sections 2 and 8; the tags 42112 and 42113 of GDAL's GTiff driver.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BITS, COMPRESSION, OFFSETS, SAMPLES, COUNTS, PLANAR, SAMPLE_FORMAT = (
    256,
    257,
    258,
    259,
    273,
    277,
    279,
    284,
    339,
)
ORIENTATION, METADATA, NODATA = 274, 42112, 42113
# Tags that say nothing about how pixels are stored: photometric, description, rows a strip, resolution, software, date,
# extra samples, GeoTIFF. A file with any other tag is not plain.
HARMLESS = {262, 270, 278, 282, 283, 296, 305, 306, 338, 33550, 33922, 34264, 34735, 34736, 34737}
KNOWN = {
    *HARMLESS,
    WIDTH,
    HEIGHT,
    BITS,
    COMPRESSION,
    OFFSETS,
    SAMPLES,
    COUNTS,
    PLANAR,
    SAMPLE_FORMAT,
    ORIENTATION,
    METADATA,
    NODATA,
}
LAYOUTS = {1: ("B", 1), 2: ("s", 1), 3: ("H", 2), 4: ("I", 4)}  # type -> format and bytes of a value
TEXTS = {METADATA, NODATA}
MOST_BYTES, MOST_VALUES = 1 << 24, 1 << 16  # of a file, of a tag that holds numbers


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Pixels `db` (bands, H, W) float32, the declared nodata values, and GDAL's metadata as written."""

    db: NDArray[np.float32]
    nodata: tuple[float, ...]
    metadata: bytes


def read_plain(path: Path) -> Plain | None:
    """The image of a plain TIFF file; None for everything else, broken and absent files included."""
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
        return _parse(data) if data[:4] == b"II*\0" else None
    except (struct.error, ValueError, KeyError, IndexError):
        return None


def _parse(data: bytes) -> Plain | None:
    tags = _tags(data)
    if tags is None:
        return None
    width, height, bands = tags[WIDTH][0], tags[HEIGHT][0], tags.get(SAMPLES, (1,))[0]
    if not width * height * bands:
        return None
    usual = (
        tags.get(COMPRESSION, (1,)),
        tags.get(ORIENTATION, (1,)),
        set(tags[BITS]),
        set(tags.get(SAMPLE_FORMAT, ())),
    )
    if usual != ((1,), (1,), {32}, {3}):
        return None
    offsets, counts = tags[OFFSETS], tags[COUNTS]
    in_one_piece = all(at + held == after for at, held, after in zip(offsets, counts, offsets[1:], strict=False))
    needed = 4 * width * height * bands
    if len(offsets) != len(counts) or not in_one_piece or sum(counts) != needed or offsets[0] + needed > len(data):
        return None
    pixels = np.frombuffer(data, "<f4", width * height * bands, offsets[0])
    if bands > 1 and tags.get(PLANAR, (1,)) == (1,):
        pixels = pixels.reshape(height, width, bands).transpose(2, 0, 1)
    nodata = tags.get(NODATA, (b"",))[0].rstrip(b"\0 ")
    return Plain(
        db=np.array(pixels.reshape(bands, height, width), np.float32, order="C"),
        nodata=(float(nodata),) if nodata else (),
        metadata=tags.get(METADATA, (b"",))[0],
    )


def _tags(data: bytes) -> dict[int, tuple[Any, ...]] | None:
    """Values of the tags of the only directory; None when there are several, or a tag that is not known."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = data[start + 2 : start + 2 + 12 * count]
    if struct.unpack_from("<I", data, start + 2 + 12 * count) != (0,):
        return None
    tags: dict[int, tuple[Any, ...]] = {}
    for number, (tag, kind, values, offset) in enumerate(struct.iter_unpack("<HHII", entries)):
        if tag not in KNOWN:
            return None
        if tag in HARMLESS:
            continue
        letter, size = LAYOUTS[kind]
        if (letter == "s") != (tag in TEXTS) or (letter != "s" and values > MOST_VALUES):
            return None
        at = start + 2 + 12 * number + 8 if values * size <= 4 else offset
        tags[tag] = struct.unpack_from(f"<{values}{letter}", data, at)
    return tags
