"""Chunks of a Zarr store: what one decodes to is known before it is decoded."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fgmae_bench.data.zarr_metadata import COMPRESSIONS, TEXT, Variable

DEFLATE_TIMES = 1032  # what deflate makes of a byte at most


def guarded(path: Path, variables: dict[str, Variable], most: Callable[[str], int]) -> Any:
    """A store of zarr's that looks at each chunk before it is decoded, and passes over copies of the metadata."""
    from zarr.storage import LocalStore

    class Guarded(LocalStore):
        async def get(self, key: str, *given: Any, **more: Any) -> Any:
            found = None if key == ".zmetadata" else await super().get(key, *given, **more)
            name, _, rest = key.partition("/")
            if found is not None and name in variables and not rest.endswith(("zarr.json", ".zarray", ".zattrs")):
                check_chunk(found.to_bytes(), variables[name], most(name))
            return found

    return Guarded(path, read_only=True)


def check_chunk(content: bytes, variable: Variable, most: int) -> None:
    """Raise ValueError where a stored chunk would decode to more than `most` bytes, or to more texts than it has."""
    codec = next((codec for codec in variable.codecs if codec in COMPRESSIONS), "")
    size = _decoded_bytes(content, codec, most)
    if size > most:
        raise ValueError(f"a chunk of {len(content)} bytes would take {size >> 20} MiB")
    if TEXT in variable.codecs:
        import numcodecs

        plain = content if not codec else bytes(numcodecs.get_codec({"id": codec}).decode(content))
        if int.from_bytes(plain[:4], "little") > math.prod(variable.chunks):
            raise ValueError("a chunk states more texts than it may hold")


def _decoded_bytes(content: bytes, codec: str, most: int) -> int:
    """Bytes that a chunk says, or can be shown, to decode to."""
    if codec == "blosc":
        return int.from_bytes(content[4:8], "little")
    if codec == "lz4":
        return int.from_bytes(content[:4], "little")
    if codec == "zstd":
        return _zstd_bytes(content)
    if codec in ("gzip", "zlib"):
        if DEFLATE_TIMES * len(content) <= most:
            return len(content)
        return _inflated(content, most)
    return len(content)


def _zstd_bytes(content: bytes) -> int:
    """The content size that the header of a Zstandard frame states (RFC 8878, 3.1.1). Raises ValueError without one."""
    if content[:4] != b"\x28\xb5\x2f\xfd" or len(content) < 6:
        raise ValueError("a chunk is no Zstandard frame")
    flags = content[4]
    single, dictionary = flags >> 5 & 1, (0, 1, 2, 4)[flags & 3]
    length = (1 if single else 0, 2, 4, 8)[flags >> 6]
    if not length:
        raise ValueError("a chunk does not state its size")
    at = 5 + (not single) + dictionary
    return int.from_bytes(content[at : at + length], "little") + (256 if length == 2 else 0)


def _inflated(content: bytes, most: int) -> int:
    """Bytes that deflated content, of one part or several, makes; counts no further than `most`."""
    total = 0
    while content and total <= most:
        stream = zlib.decompressobj(wbits=47)
        while content and not stream.eof and total <= most:
            total += len(stream.decompress(content, min(most + 1, 1 << 22)))
            content = stream.unconsumed_tail
        content = stream.unused_data
    return total
