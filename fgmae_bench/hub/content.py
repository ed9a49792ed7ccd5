"""Whether bytes that nobody vouches for are what their file's name says: asked before they are trusted on first use."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from fgmae_bench.system.files import SMALL_BYTES

HEADER_BYTES = 100_000_000  # the most that safetensors allows itself
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<script")
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
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
    kind, judge = FORMATS.get(ending, ("", _anything))
    return None if judge(path, head, size) else f"it is not {kind}"


def _anything(path: Path, head: bytes, size: int) -> bool:
    return True


def _zip(path: Path, head: bytes, size: int) -> bool:
    return head.startswith(b"PK") and zipfile.is_zipfile(path)


def _torch(path: Path, head: bytes, size: int) -> bool:
    """A zip archive, a pickle (as torch wrote before 1.6; it is not unpickled) or safetensors under torch's ending."""
    return _zip(path, head, size) or head[:2] in PICKLES or _safetensors(path, head, size)


def _safetensors(path: Path, head: bytes, size: int) -> bool:
    """A header of the stated length, and exactly the bytes of data that it speaks of."""
    length = int.from_bytes(head[:8], "little")
    if size < 10 or not 2 <= length <= min(HEADER_BYTES, size - 8):
        return False
    with open(path, "rb") as stream:
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError):
            return False
    if not isinstance(header, dict):
        return False
    ends = [_end(entry) for name, entry in header.items() if name != "__metadata__"]
    return min(ends, default=0) >= 0 and max(ends, default=0) == size - 8 - length


def _end(entry: object) -> int:
    """Where a tensor's bytes end, -1 where the header does not say."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return offsets[1] if isinstance(offsets, list) and len(offsets) == 2 and type(offsets[1]) is int else -1


def _tiff(path: Path, head: bytes, size: int) -> bool:
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _gzip(path: Path, head: bytes, size: int) -> bool:
    return head[:3] == b"\x1f\x8b\x08"


def _parquet(path: Path, head: bytes, size: int) -> bool:
    if size < 12 or head[:4] != b"PAR1":
        return False
    with open(path, "rb") as stream:
        stream.seek(-4, 2)
        return stream.read() == b"PAR1"


def _json(path: Path, head: bytes, size: int) -> bool:
    if size > SMALL_BYTES:
        return head.lstrip()[:1] in (b"{", b"[")
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True


def _text(path: Path, head: bytes, size: int) -> bool:
    return b"\0" not in head


FORMATS: dict[str, tuple[str, Judge]] = {
    ".safetensors": ("a whole safetensors file", _safetensors),
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin"), ("a whole file of torch", _torch)),
    **dict.fromkeys((".zip", ".npz"), ("a whole zip archive", _zip)),
    **dict.fromkeys((".tif", ".tiff"), ("a TIFF", _tiff)),
    **dict.fromkeys((".gz", ".tgz"), ("gzip data", _gzip)),
    ".parquet": ("a whole Parquet file", _parquet),
    ".json": ("JSON", _json),
    **dict.fromkeys((".csv", ".txt", ".toml", ".md"), ("text", _text)),
}
