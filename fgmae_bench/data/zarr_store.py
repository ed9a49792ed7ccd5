"""Zarr stores of samples, of format 2 and 3, opened with limits: nothing is unpickled, and what a chunk decodes to is
known before it is decoded. Needs the library zarr (`pip install 'fgmae-bench[zarr]'`).
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.sample_cache import require_letters
from fgmae_bench.data.zarr_metadata import COMPRESSIONS, TEXT, TODO, Variable, metadata_of, variable_of
from fgmae_bench.errors import BenchError
from fgmae_bench.system.stamps import tree_stamp

if TYPE_CHECKING:
    from zarr import Array

MARKS = ("zarr.json", ".zgroup", ".zarray")
MEMORY_BYTES, MEMORY_TIMES = 64 << 20, 16  # what a chunk may take: the larger of this and so many times its array
HELD_BYTES = 128 << 20  # of decoded blocks
FAULTS = (
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    OSError,
    BufferError,
    EOFError,
    MemoryError,
    zlib.error,
    struct.error,
)


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any(os.path.isfile(path / mark) for mark in MARKS)


class Store:
    """The variables of a store by name; reads samples in blocks of whole chunks, the last of which are held."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = threading.Lock()
        self.blocks: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self.arrays: dict[str, Array[Any]] = {}
        self.variables: dict[str, Variable] = {}
        self.refused: dict[str, str] = {}  # reason by variable
        for name, texts in metadata_of(path).items():
            try:
                self.variables[name] = variable_of(name, texts)
            except FAULTS as error:
                self.refused[name] = " ".join(str(error).split())[:120] or type(error).__name__
        self.guarded = guarded(path, self.variables, self.most)
        self.allowed: dict[str, int] = {}  # bytes by variable

    def variable(self, name: str) -> Variable:
        """A variable by name. Raises BenchError where it is not there, or of a kind that is not read."""
        if name in self.refused:
            raise BenchError(f"{self.path}: variable '{name}' cannot be read ({self.refused[name]})", TODO)
        if name not in self.variables:
            raise BenchError(f"{self.path} has no variable '{name}'", f"it has {', '.join(sorted(self.variables))}")
        return self.variables[name]

    def whole(self, name: str) -> NDArray[Any]:
        """All values of a variable of few. Raises BenchError as `sample`."""
        variable = self.variable(name)
        self._require_bounded(variable, math.prod(variable.shape))
        return self._read(variable, slice(None))

    def most(self, name: str) -> int:
        """Bytes that a chunk of a variable may take decoded."""
        if name not in self.allowed:
            places = os.walk(self.path / name)
            size = sum(os.path.getsize(os.path.join(place, file)) for place, _, files in places for file in files)
            self.allowed[name] = max(MEMORY_BYTES, MEMORY_TIMES * size)
        return self.allowed[name]

    def _require_bounded(self, variable: Variable, count: int) -> None:
        """Raise BenchError where so many values, or a chunk, take memory out of proportion to the variable's files."""
        most = self.most(variable.name)
        needed = max(count, math.prod(variable.chunks)) * variable.dtype.itemsize
        if needed > most:
            what = f"{self.path}: variable '{variable.name}' would take {needed >> 20} MiB of memory"
            raise BenchError(what, f"{most >> 20} MiB are allowed for its files: write it with fewer samples a chunk")

    def sample(self, name: str, number: int) -> NDArray[Any]:
        """Values (…) of one sample as they are stored. Raises BenchError naming store and variable: not readable, or
        chunks that take memory out of proportion.
        """
        variable = self.variable(name)
        rows = variable.chunks[0]
        with self.lock:
            block = self.blocks.get((name, number // rows))
            if block is None:
                self._require_bounded(variable, min(rows, variable.shape[0]) * math.prod(variable.shape[1:]))
                start = number // rows * rows
                block = self._read(variable, slice(start, start + rows))
                self.blocks[name, number // rows] = block
                while len(self.blocks) > 1 and sum(held.nbytes for held in self.blocks.values()) > HELD_BYTES:
                    self.blocks.popitem(last=False)
            return block[number % rows]

    def _read(self, variable: Variable, rows: slice) -> NDArray[Any]:
        import zarr

        name = variable.name
        try:
            if name not in self.arrays:
                self.arrays[name] = zarr.open_array(self.guarded, path=name, mode="r")
            values = np.asarray(self.arrays[name][rows])
            require_letters(values)
            return values
        except FAULTS as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise BenchError(f"{self.path}: variable '{name}' cannot be read ({reason})", TODO) from error


def open_store(path: Path) -> Store:
    """The store at `path`, as it is now. Raises BenchError: no store, damaged, or zarr is not installed."""
    if not is_store(path):
        raise BenchError(f"{path} is not a Zarr store", "give the folder with zarr.json or .zgroup")
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        todo = "install it with: pip install 'fgmae-bench[zarr]'"
        raise BenchError(f"{path} is a Zarr store, which needs zarr ({error})", todo) from error
    return _opened(path.resolve(), digest_of(path))


@functools.lru_cache(maxsize=4)
def _opened(path: Path, digest: str) -> Store:
    return Store(path)


def digest_of(path: Path) -> str:
    """SHA-256 of the state of every file of a store, and of the metadata of format 2, whose files are hidden ones."""
    digest = hashlib.sha256(tree_stamp(path).encode())
    for name, texts in metadata_of(path).items():
        digest.update("\0".join([name, *texts]).encode())
    return digest.hexdigest()


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
        raise ValueError("a chunk is not a Zstandard frame")
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
