"""The header of a small TIFF, read without GDAL: enough to tell its shape and whether every byte it promises is there.

Some fifty times faster than opening the file with rasterio, which is what indexing 1.2 million files needs.
Source: TIFF 6.0 specification, section 2; BigTIFF by Adobe and the libtiff project.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from fgmae_bench.errors import BenchError

_WIDTH, _HEIGHT, _SAMPLES = 256, 257, 277
_OFFSETS, _COUNTS = (273, 324), (279, 325)  # of strips, of tiles
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the whole-number types that these tags come in
_TODO = "replace the file, or verify the download"
_HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Header:
    """Shape of the first image of a TIFF file in pixels and the bytes it needs: `end` is the first byte after its pixels."""

    height: int
    width: int
    bands: int
    end: int


def read_header(path: Path, size: int) -> Header:
    """Header of a file of `size` bytes; raises BenchError naming it where it is empty, no TIFF, or shorter than it promises."""
    if size == 0:
        raise BenchError(f"{path} is empty", _TODO)
    try:
        with open(path, "rb", buffering=0) as stream:
            head = stream.read(_HEAD_BYTES)
            header = _parse(path, head if size <= _HEAD_BYTES or _holds_directory(head) else head + stream.read())
    except (struct.error, KeyError, IndexError, ValueError) as error:
        raise BenchError(f"{path}: broken TIFF header", _TODO) from error
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror})", "check the file and its permissions") from error
    if header.end > size:
        raise BenchError(f"{path} is truncated: {size} bytes where its header promises {header.end}", _TODO)
    return header
