"""What torch.save writes, read by the inert unpickler: since 1.6 a zip of one pickle and the bytes of each storage,
before that a row of pickles with the bytes behind them.
"""

from __future__ import annotations

import io
import mmap
import pickle
import struct
import sys
import zipfile
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch.storage import TypedStorage, UntypedStorage

from fgmae_bench.checkpoints.inert import STAND_INS, InertUnpickler, Rebuild, stand_in
from fgmae_bench.checkpoints.scan import AGAIN, Refused, scan, shown
from fgmae_bench.errors import BenchError
from fgmae_bench.hub.archive import list_fits
from fgmae_bench.hub.pickles import MAGIC as LEGACY_MAGIC
from fgmae_bench.hub.pickles import PICKLES as LEGACY_PICKLES

LEGACY_PROTOCOL = 2
LOCAL_HEADER = 30  # bytes of a zip member's own header before its name

# What names a storage's type, as the type of its numbers: cannot be called, and has no attributes to set.
STORAGES: dict[str, Any] = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
WITH_STORAGES = {**STAND_INS, **STORAGES}


def read_zip(path: Path) -> tuple[Any, Collection[str]]:
    """(content of torch's zip, names of foreign objects in it); tensors stay in the mapped file.

    The checksums of all members are compared first. Raises Refused as `scan`, and where the archive is not a plain
    torch.save; BenchError or ValueError on damage.
    """
    size = path.stat().st_size
    if not list_fits(path):
        raise Refused("it is a zip archive of too many members")
    with zipfile.ZipFile(path) as archive:
        member = _pickle_of(archive, size)
        with archive.open(member) as stream:
            scan(stream, partial(stand_in, WITH_STORAGES), pickle.HIGHEST_PROTOCOL, size)
        damaged = archive.testzip()
        if damaged is not None:
            raise BenchError(f"{path} is damaged: the checksum of its part {shown(damaged)} does not match", AGAIN)
        unpickler = _ZipUnpickler(archive, member, path)
        return unpickler.load(), unpickler.skipped


def read_legacy(stream: IO[bytes], size: int) -> tuple[Any, Collection[str]]:
    """(content of torch's older format, names of foreign objects in it); the storages are copied into memory.

    `stream` holds `size` bytes. Raises Refused as `scan`, ValueError on damage.
    """
    starts = []
    for _ in range(LEGACY_PICKLES):
        starts.append(stream.tell())
        scan(stream, partial(stand_in, WITH_STORAGES), LEGACY_PROTOCOL, size)
    end = stream.tell()
    unpicklers = []
    for start in starts:
        stream.seek(start)
        unpicklers.append(_LegacyUnpickler(stream, size))
    parts = []
    for start, unpickler in zip(starts, unpicklers, strict=True):
        stream.seek(start)
        parts.append(unpickler.load())
    _, _, system, content, keys = parts
    if not isinstance(system, dict) or system.get("little_endian", True) is not True or sys.byteorder != "little":
        raise Refused("it holds numbers in another byte order than this machine's")
    stream.seek(end)
    unpicklers[3].fill(stream, keys)
    return content, unpicklers[3].skipped


def _bytes_storage(content: Any) -> TypedStorage:
    """`torch.storage._load_from_bytes`: a storage in torch's older format inside a plain pickle."""
    if type(content) is not bytes or not content.startswith(LEGACY_MAGIC):
        raise Refused("it holds a malformed tensor")
    storage, _ = read_legacy(io.BytesIO(content), len(content))
    if type(storage) is not TypedStorage:
        raise Refused("it holds a malformed tensor")
    return storage


# Plain pickles.
PLAIN: dict[str, Any] = {**STAND_INS, "torch.storage _load_from_bytes": Rebuild(_bytes_storage)}


def _pickle_of(archive: zipfile.ZipFile, size: int) -> zipfile.ZipInfo:
    """The member `<name>/data.pkl`. torch stores members without compression, once each, side by side."""
    members = archive.infolist()
    pickles = [
        member for member in members if member.filename.count("/") == 1 and member.filename.endswith("/data.pkl")
    ]
    if len(pickles) != 1:
        raise Refused("it is a zip archive, not a checkpoint of torch.save")
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise Refused("it is a TorchScript program")
    if len({member.filename.casefold() for member in members}) != len(members):
        raise Refused("it is a zip archive that holds a name twice")
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > size:
        raise Refused("it is a compressed zip archive")
    return pickles[0]


def _storage_of(pid: Any) -> tuple[torch.dtype, str, int, Any]:
    """(type, key, number of values, rest) of a storage's persistent id; raises Refused on anything else."""
    if type(pid) is not tuple or len(pid) < 5 or type(pid[0]) is not str or pid[0] != "storage":
        raise Refused("it names something other than a storage from outside of it")
    _, dtype, key, _, count, *rest = pid
    if type(dtype) is not torch.dtype or type(key) is not str or type(count) is not int or count < 0:
        raise Refused("it names a malformed storage")
    return dtype, key, count, rest


class _ZipUnpickler(InertUnpickler):
    """Unpickler whose storages are members of the archive."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path):
        super().__init__(io.BytesIO(archive.read(member)), WITH_STORAGES)
        self.folder = member.filename.removesuffix("data.pkl")
        self.members = {info.filename: info for info in archive.infolist()}
        if (order := f"{self.folder}byteorder") in self.members and archive.read(order) != sys.byteorder.encode():
            raise Refused("it holds numbers in another byte order than this machine's")
        with open(path, "rb") as stream:
            self.view = _private_view(stream)
        self.storages: dict[str, UntypedStorage] = {}

    def persistent_load(self, pid: Any) -> TypedStorage:
        """The storage that ("storage", type, key, device, count) names, on the CPU.

        Raises ValueError where its bytes differ in length.
        """
        dtype, key, count, rest = _storage_of(pid)
        if rest:
            raise Refused("it names a malformed storage")
        if key not in self.storages:
            self.storages[key] = self._storage(self.members[f"{self.folder}data/{key}"])
        if self.storages[key].nbytes() != count * dtype.itemsize:
            raise ValueError("a storage and its bytes differ in length")
        return TypedStorage(wrap_storage=self.storages[key], dtype=dtype, _internal=True)

    def _storage(self, member: zipfile.ZipInfo) -> UntypedStorage:
        """The member's bytes in the mapped file; of a fixed length, so that no tensor can enlarge it."""
        if not member.file_size:
            return UntypedStorage(0)
        place = member.header_offset + LOCAL_HEADER
        sizes = struct.unpack_from("<HH", self.view, place - 4)  # of its name, of its extra field
        start = place + sum(sizes)
        return torch.frombuffer(self.view, dtype=torch.uint8, count=member.file_size, offset=start).untyped_storage()


class _LegacyUnpickler(InertUnpickler):
    """Unpickler whose storages are made empty and filled from behind the pickles."""

    def __init__(self, stream: IO[bytes], size: int):
        super().__init__(stream, WITH_STORAGES)
        self.room = size
        self.storages: dict[str, TypedStorage] = {}

    def persistent_load(self, pid: Any) -> TypedStorage:
        """A storage of the length that ("storage", type, key, device, count, None) states, never beyond the file's."""
        dtype, key, count, rest = _storage_of(pid)
        if rest not in ([], [None]):
            raise Refused("it names a part of a storage")
        if key not in self.storages:
            self.room -= count * dtype.itemsize
            if self.room < 0:
                raise ValueError("its storages are larger than the file")
            whole = UntypedStorage(count * dtype.itemsize)
            self.storages[key] = TypedStorage(wrap_storage=whole, dtype=dtype, _internal=True)
        if self.storages[key].dtype is not dtype or self.storages[key].size() != count:
            raise ValueError("a storage has two types or lengths")
        return self.storages[key]

    def fill(self, stream: IO[bytes], keys: Any) -> None:
        """Read the bytes of all storages, in the order of `keys`; raises ValueError unless these are all of them."""
        if type(keys) is not list or len(keys) != len(self.storages) or set(keys) != set(self.storages):
            raise ValueError("its storages are not those that it names")
        for key in keys:
            storage = self.storages[key]
            (count,) = struct.unpack("<q", stream.read(8))
            raw = stream.read(storage.nbytes())
            if count != storage.size() or len(raw) != storage.nbytes():
                raise ValueError("a storage and its bytes differ in length")
            if raw:
                torch.empty(0, dtype=torch.uint8).set_(storage.untyped()).copy_(
                    torch.frombuffer(raw, dtype=torch.uint8)
                )


def _private_view(stream: IO[bytes]) -> mmap.mmap:
    """The file in memory only where it is read; what is written to it stays with this process."""
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
