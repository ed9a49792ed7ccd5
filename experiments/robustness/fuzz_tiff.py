"""Damage TIFF files by a seed and give them to every reader of images and label maps.

  python experiments/robustness/fuzz.py tiff [--readers folder chip labels patch place]
Tags of the directory get other types, counts, values and numbers, bytes are changed at random, and every tenth file is
one that asks for memory out of proportion.
"""

from __future__ import annotations

import functools
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import rasterio
from fuzzing import Reader, Work, mutated
from rasterio.crs import CRS
from rasterio.transform import Affine

from fgmae_bench.config.cards import LabelFile, load_card
from fgmae_bench.data.audit import measure
from fgmae_bench.data.dfc.maps import read_band
from fgmae_bench.data.gather import find_images, read_image
from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.recognise import recognise_units
from fgmae_bench.data.spatial import _place
from fgmae_bench.data.tiff import read_header, read_place

SIDE, SIDES = 64, (5000, 14000)  # of an image, of a tile or image out of proportion
SEEDS = Path(tempfile.mkdtemp(prefix="fuzz_tiff_"))
# What the files are made of besides float32 strips: compression, tiles, order of bytes and bands, BigTIFF.
KINDS: tuple[dict[str, object], ...] = (
    {},
    {"compress": "deflate"},
    {"compress": "lzw", "predictor": 2},
    {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "zstd"},
    {"interleave": "band"},
    {"BIGTIFF": "YES"},
    {"ENDIANNESS": "BIG"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "BIGTIFF": "YES", "compress": "packbits"},
)


@functools.cache
def sample(kind: int, dtype: str, count: int) -> bytes:
    """A whole file: speckle, or codes of classes where `dtype` is of whole numbers."""
    rng, path = np.random.default_rng(kind), SEEDS / f"{kind}-{dtype}-{count}.tif"
    speckle = rng.normal(-12, 3, (count, SIDE, SIDE))
    values = rng.integers(0, 10, speckle.shape) if np.dtype(dtype).kind in "iu" else speckle
    place = {"crs": CRS.from_epsg(32633), "transform": Affine(10, 0, 384000, 0, -10, 5342400)}
    profile = {"driver": "GTiff", "dtype": dtype, "count": count, "height": SIDE, "width": SIDE, "nodata": 0}
    with rasterio.open(path, "w", **{**profile, **place, **KINDS[kind]}) as target:
        target.update_tags(SOURCE="speckle")
        target.write(values.astype(dtype))
    return path.read_bytes()


def damaged(rng: np.random.Generator, dtype: str = "float32", count: int = 2) -> bytes:
    """A file of a random kind with one to three entries of its directory changed, or bytes of it."""
    if rng.random() < 0.1:
        return bomb(rng, dtype, count)
    content = bytearray(sample(int(rng.integers(len(KINDS))), dtype, count))
    if rng.random() < 0.3:
        return mutated(rng, bytes(content))
    endian, big = "<" if content[:2] == b"II" else ">", content[2] == 43 or content[3] == 43
    start = struct.unpack_from(f"{endian}Q" if big else f"{endian}I", content, 8 if big else 4)[0]
    entries = struct.unpack_from(f"{endian}Q" if big else f"{endian}H", content, start)[0]
    first, size, wide = start + (8 if big else 2), 20 if big else 12, 8 if big else 4
    for _ in range(int(rng.integers(1, 4))):
        at = first + size * int(rng.integers(entries))
        kind = rng.integers(6)
        if kind == 0:
            struct.pack_into(f"{endian}H", content, at + 2, int(rng.integers(0, 20)))
        elif kind == 1:
            count_of = int(rng.choice([0, 1, 2, 3, 255, 65535, 2**24, 2**31, 2**32 - 1]))
            content[at + 4 : at + 4 + wide] = count_of.to_bytes(wide, "little" if endian == "<" else "big")
        elif kind == 2:
            value = int(rng.choice([0, 1, 2, 3, 8, 64, 4096, 65535, 2**20, 2**31 - 1, 2**32 - 1]))
            content[at + 4 + wide : at + size] = value.to_bytes(wide, "little" if endian == "<" else "big")
        elif kind == 3:
            struct.pack_into(f"{endian}H", content, at, int(rng.choice([256, 257, 258, 259, 277, 278, 322, 323, 339])))
        elif kind == 4:
            content[at + 4 + wide : at + size] = rng.bytes(wide)
        else:
            other = first + size * int(rng.integers(entries))
            content[at : at + size] = content[other : other + size]
    return bytes(content)


def bomb(rng: np.random.Generator, dtype: str, count: int) -> bytes:
    """A small image in one large deflated tile, or a large image of zeros."""
    side = int(rng.choice(SIDES))
    body, shown, bits = _zeros(side, np.dtype(dtype).itemsize * count), SIDE, 8 * np.dtype(dtype).itemsize
    if rng.random() < 0.3:
        shown = side
    # One value of the bits and of the form stands for all samples.
    tags = [(256, shown), (257, shown), (258, bits), (259, 8), (262, 1), (277, count), (322, side), (323, side)]
    tags += [(324, 8), (325, len(body)), (339, 3 if np.dtype(dtype).kind == "f" else 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


@functools.cache
def _zeros(side: int, size: int) -> bytes:
    """The deflated zeros of a square tile: one row, packed so that it can stand `side` times, and the sum of all."""
    squeeze, row = zlib.compressobj(1, zlib.DEFLATED, -15), bytes(side * size)
    packed, end = squeeze.compress(row) + squeeze.flush(zlib.Z_FULL_FLUSH), squeeze.flush()
    adler32 = (side * len(row) % 65521) << 16 | 1
    return b"\x78\x01" + packed * side + end + struct.pack(">I", adler32)


def folder(rng: np.random.Generator, place: Path) -> Work:
    """Every image of a folder, no card, as `prepare inspect` reads and measures it."""
    (place / "images").mkdir()
    (place / "images" / "a.tif").write_bytes(damaged(rng))
    images, _ = find_images(place / "images")
    return _silent(lambda: recognise_units(measure([read_image(image) for image in images], ("VV", "VH"))))


def chip(rng: np.random.Generator, place: Path) -> Work:
    """One image held against its card."""
    path, card = _placed(place, damaged(rng)), load_card("eurosat")
    return _silent(lambda: read_chip(path, card))


def labels(rng: np.random.Generator, place: Path) -> Work:
    """One band of a label file."""
    path = _placed(place, damaged(rng, "uint8", 4))
    return _silent(lambda: read_band(path, LabelFile(folder="labels", bands=4, band=1), (SIDE, SIDE)))


def patch(rng: np.random.Generator, place: Path) -> Work:
    """The header of a patch, as an index reads it."""
    path = _placed(place, damaged(rng, count=1))
    return _silent(lambda: (read_place(path), read_header(path, path.stat().st_size)))


def centre(rng: np.random.Generator, place: Path) -> Work:
    """The place of a chip, as a spatial split reads it."""
    path = _placed(place, damaged(rng))
    return _silent(lambda: _place(path))


def _silent(read: Work) -> Work:
    """`read` without what it returns, which would be taken for an exit code."""

    def work() -> None:
        read()

    return work


def _placed(place: Path, content: bytes) -> Path:
    (place / "a.tif").write_bytes(content)
    return place / "a.tif"


READERS: dict[str, Reader] = {"folder": folder, "chip": chip, "labels": labels, "patch": patch, "place": centre}


def prepare() -> None:
    """Make the whole files."""
    warnings.filterwarnings("ignore")
    for number in range(len(KINDS)):
        for form, bands in (("float32", 2), ("float32", 1), ("uint8", 4)):
            sample(number, form, bands)
            for side in SIDES:
                _zeros(side, np.dtype(form).itemsize * bands)
