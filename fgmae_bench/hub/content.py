"""Whether bytes that nobody vouches for are what their file's name says: asked before they are trusted on first use."""

from __future__ import annotations

import json
import math
import struct
import tarfile
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from fgmae_bench.hub.archive import member_names
from fgmae_bench.hub.pickles import is_whole
from fgmae_bench.system.files import SMALL_BYTES

HEADER_BYTES = 100_000_000  # the most that safetensors allows itself
MARK_BYTES = 150  # what a comma, a brace or a bracket of a header takes in memory when it is parsed
LEAST_ROOM, ROOM_FACTOR = 64 << 20, 16
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<script")
POINTER = b"version https://git-lfs.github.com/spec/"  # what a repository holds in place of a large file
# Bits of a number; a file of another type is of a later safetensors, whose sizes are not held against its shapes.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
# Signature -> byte order, where the offset of the first directory stands, layouts of that offset, of a directory's
# length and of an entry. Source: TIFF 6.0, section 2; the BigTIFF layout of libtiff.
TIFFS = {
    b"II*\0": ("<", 4, "L", "H", "HHL4s"),
    b"MM\0*": (">", 4, "L", "H", "HHL4s"),
    b"II+\0": ("<", 8, "Q", "Q", "HHQ8s"),
    b"MM\0+": (">", 8, "Q", "Q", "HHQ8s"),
}
TIFF_NUMBERS = {1: "B", 3: "H", 4: "L", 16: "Q"}
MOST_TAGS, MOST_PIECES = 4096, 1 << 22
Judge = Callable[[Path, bytes, int], bool]


def content_fault(path: Path, name: str) -> str | None:
    """Why the file at `path` cannot be the file called `name`, None where nothing speaks against it.

    An empty file and a web page are never what was asked for; known endings are held against their format.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(1024)
    if not size:
        return "it is empty"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    ending = Path(name).suffix.lower()
    if ending not in (".html", ".xml") and text.startswith(PAGES):
        return "it is a web page"
    if text.startswith(POINTER):
        return "it is a pointer of Git LFS"
    ending = ".tar.gz" if name.lower().endswith(".tar.gz") else ending
    kind, judge = FORMATS.get(ending, ("", _anything))
    return None if judge(path, head, size) else f"it is not {kind}"


def _anything(path: Path, head: bytes, size: int) -> bool:
    return True


def _zip(path: Path, head: bytes, size: int) -> bool:
    return head.startswith(b"PK") and any(not name.endswith("/") for name in member_names(path))


def _npz(path: Path, head: bytes, size: int) -> bool:
    return head.startswith(b"PK") and any(name.endswith(".npy") for name in member_names(path))


def _torch(path: Path, head: bytes, size: int) -> bool:
    """A zip archive that torch wrote, a pickle (as torch wrote before 1.6), or safetensors under torch's ending."""
    if head.startswith(b"PK"):
        return any(name.endswith("/data.pkl") for name in member_names(path))
    return _pickle(path, head, size) or _safetensors(path, head, size)


def _pickle(path: Path, head: bytes, size: int) -> bool:
    with open(path, "rb") as stream:
        return is_whole(stream, size)


def _safetensors(path: Path, head: bytes, size: int) -> bool:
    """A header of the stated length that lists a tensor, and the bytes of its tensors one behind the other."""
    length = int.from_bytes(head[:8], "little")
    if size < 10 or not 2 <= length <= min(HEADER_BYTES, size - 8):
        return False
    with open(path, "rb") as stream:
        stream.seek(8)
        text = stream.read(length)
    if sum(text.count(mark) for mark in (b",", b"{", b"[")) * MARK_BYTES > max(LEAST_ROOM, ROOM_FACTOR * size):
        return False
    try:
        header = json.loads(text)
        places = sorted(_place(entry) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, OverflowError):
        return False
    starts, ends = [place[0] for place in places], [place[1] for place in places]
    return bool(places) and [*starts, size - 8 - length] == [0, *ends]


def _place(entry: dict[str, list[int]]) -> tuple[int, int]:
    """First byte of a tensor and the one behind its last; ValueError or TypeError where the header contradicts
    itself.
    """
    start, end = entry["data_offsets"]
    shape, bits = entry["shape"], BITS.get(str(entry["dtype"]))
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)) or start > end:
        raise ValueError("a place or a shape that cannot be")
    if bits is not None and bits * math.prod(shape) != 8 * (end - start):
        raise ValueError("bytes that are not those of its shape")
    return start, end


def _tiff(path: Path, head: bytes, size: int) -> bool:
    """A directory that states the image's shape and where its pixels are, all of which are there."""
    if head[:4] not in TIFFS:
        return False
    try:
        with open(path, "rb") as stream:
            return _tiff_end(stream, *TIFFS[head[:4]]) <= size
    except (struct.error, KeyError, ValueError, OverflowError):
        return False


def _tiff_end(stream: IO[bytes], order: str, at: int, pointer: str, length: str, entry: str) -> int:
    """The first byte behind the pixels of a TIFF's first image; struct.error, KeyError or ValueError where it is
    broken.
    """

    def read(layout: str, place: int | None = None) -> tuple[Any, ...]:
        if place is not None:
            stream.seek(place)
        return struct.unpack(order + layout, stream.read(struct.calcsize(order + layout)))

    (start,) = read(pointer, at)
    (count,) = read(length, start)
    entries = {tag: found for tag, *found in (read(entry) for _ in range(min(count, MOST_TAGS)))}

    def values(tag: int) -> tuple[Any, ...]:
        kind, number, field = entries[tag]
        if number > MOST_PIECES:
            raise ValueError("more strips or tiles than an image has")
        layout = f"{number}{TIFF_NUMBERS[kind]}"
        held = struct.calcsize(order + layout)
        if held <= len(field):
            return struct.unpack(order + layout, field[:held])
        return read(layout, *struct.unpack(order + pointer, field))

    width, height = values(256), values(257)
    if min(*width, *height) < 1:
        raise ValueError("an image without pixels")
    offsets, counts = (values(strips if strips in entries else tiles) for strips, tiles in ((273, 324), (279, 325)))
    return max(offset + count for offset, count in zip(offsets, counts, strict=True))


def _gzip(path: Path, head: bytes, size: int) -> bool:
    return _unpacked(path, 1) is not None


def _packed_tar(path: Path, head: bytes, size: int) -> bool:
    """gzip data that begins as an archive does: with the header of a member under its checksum."""
    try:
        tarfile.TarInfo.frombuf(_unpacked(path, tarfile.BLOCKSIZE) or b"", "utf-8", "replace")
    except tarfile.TarError:
        return False
    return True


def _unpacked(path: Path, most: int) -> bytes | None:
    """The first bytes of gzip data, `most` of them at most; None where it is none."""
    with open(path, "rb") as stream:
        packed = stream.read(GZIP_BYTES)
    try:
        return zlib.decompressobj(31).decompress(packed, most) if len(packed) >= LEAST_GZIP else None
    except zlib.error:
        return None


def _parquet(path: Path, head: bytes, size: int) -> bool:
    """Marked at both ends, with a footer of the stated length between them."""
    if size <= 12 or head[:4] != b"PAR1":
        return False
    with open(path, "rb") as stream:
        stream.seek(-8, 2)
        footer = stream.read()
    return footer[4:] == b"PAR1" and 0 < int.from_bytes(footer[:4], "little") <= size - 12


def _json(path: Path, head: bytes, size: int) -> bool:
    """An object or a list; of a large file only its two ends are read."""
    with open(path, "rb") as stream:
        stream.seek(max(0, size - 1024))
        ends = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] + stream.read().rstrip()[-1:]
    if ends not in (b"{}", b"[]"):
        return False
    try:
        return size > SMALL_BYTES or json.loads(path.read_bytes()) is not None
    except (ValueError, RecursionError):
        return False


def _toml(path: Path, head: bytes, size: int) -> bool:
    try:
        return size > SMALL_BYTES or tomllib.loads(path.read_text()) is not None
    except (ValueError, RecursionError):
        return False


def _npy(path: Path, head: bytes, size: int) -> bool:
    """The signature, and a header of the stated length."""
    wide = head[6:7] > b"\1"
    length = int.from_bytes(head[8 : 12 if wide else 10], "little")
    return head[:6] == b"\x93NUMPY" and b"\1" <= head[6:7] <= b"\3" and 0 < length <= size - (12 if wide else 10)


def _png(path: Path, head: bytes, size: int) -> bool:
    with open(path, "rb") as stream:
        stream.seek(max(0, size - 12))
        return head[:16] == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" and stream.read()[4:8] == b"IEND"


def _text(path: Path, head: bytes, size: int) -> bool:
    return b"\0" not in head


def _csv(path: Path, head: bytes, size: int) -> bool:
    """Text, and not the JSON in which a server says what is wrong."""
    return b"\0" not in head and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b'{"', b"[{"))


GZIP_BYTES, LEAST_GZIP = 1 << 16, 18  # what is read of a file; bytes of the shortest one
FORMATS: dict[str, tuple[str, Judge]] = {
    ".safetensors": ("a whole safetensors file with a tensor", _safetensors),
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin"), ("a whole file of torch with a tensor", _torch)),
    ".pkl": ("a whole pickle with a tensor or an array", _pickle),
    ".zip": ("a whole zip archive of files", _zip),
    ".npz": ("a whole archive of NumPy arrays", _npz),
    **dict.fromkeys((".tif", ".tiff"), ("a whole TIFF", _tiff)),
    ".gz": ("gzip data", _gzip),
    **dict.fromkeys((".tar.gz", ".tgz"), ("an archive of tar in gzip data", _packed_tar)),
    ".parquet": ("a whole Parquet file", _parquet),
    **dict.fromkeys((".json", ".geojson"), ("JSON of an object or a list", _json)),
    ".toml": ("TOML", _toml),
    ".npy": ("a NumPy array", _npy),
    ".png": ("a whole PNG", _png),
    ".csv": ("a table as text", _csv),
    **dict.fromkeys((".txt", ".md"), ("text", _text)),
}
