"""What torch.save writes since 1.6: a zip of one pickle and the bytes of each storage. torch itself reads it by pickle
protocol 2; its reader of plain weights knows no operation of protocols 3 to 5, so those are read here by the inert
unpickler.
"""

from __future__ import annotations

import io
import mmap
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch.storage import TypedStorage, UntypedStorage

from fgmae_bench.checkpoints.inert import PLAIN, TORCH_ALLOWED, TORCH_PROTOCOL, PlainUnpickler, Refused, scan

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
ZIPPED = {
    **{name: stand_in for name, stand_in in PLAIN.items() if name != "torch.storage _load_from_bytes"},
    **STORAGES,
}
LOCAL_HEADER = 30  # bytes of a zip member's own header before its name


def scan_zip(archive: zipfile.ZipFile, size: int) -> zipfile.ZipInfo | None:
    """Scan the pickle of a torch zip of `size` bytes: its member where it is to be read by `read_newer`, None where
    torch reads it.

    Raises Refused as `scan`, and where the archive is no plain torch.save.
    """
    member = _pickle_of(archive, size)
    with archive.open(member) as stream:
        head = stream.read(2)
    newer = head[:1] == b"\x80" and head[1:] > bytes([TORCH_PROTOCOL])
    with archive.open(member) as stream:
        scan(stream, ZIPPED if newer else TORCH_ALLOWED, pickle.HIGHEST_PROTOCOL if newer else TORCH_PROTOCOL)
    return member if newer else None


def read_newer(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Any:
    """The content of a scanned zip at `path` by pickle protocols 3 to 5; tensors lie in the mapped file."""
    return _ZipUnpickler(archive, member, path).load()


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
    if (
        any(member.compress_type != zipfile.ZIP_STORED for member in members)
        or sum(member.file_size for member in members) > size
    ):
        raise Refused("it is a compressed zip archive")
    return pickles[0]


class _ZipUnpickler(PlainUnpickler):
    """Unpickler whose only globals are those of `ZIPPED` and whose storages are members of the archive."""

    names = ZIPPED

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path):
        super().__init__(io.BytesIO(archive.read(member)))
        self.folder = member.filename.removesuffix("data.pkl")
        self.members = {info.filename: info for info in archive.infolist()}
        if (order := f"{self.folder}byteorder") in self.members and archive.read(order) != sys.byteorder.encode():
            raise Refused("it holds numbers in another byte order than this machine's")
        with open(path, "rb") as stream:
            self.view = _private_view(stream)
        self.storages: dict[str, UntypedStorage] = {}

    def persistent_load(self, pid: Any) -> TypedStorage:
        """The storage that ("storage", type, key, device, count) names, on the CPU; raises ValueError where its bytes
        differ in length.
        """
        if type(pid) is not tuple or len(pid) != 5 or type(pid[0]) is not str or pid[0] != "storage":
            raise Refused("it names a part outside of it that is no storage")
        _, dtype, key, _, count = pid
        if type(dtype) is not torch.dtype or type(key) is not str or type(count) is not int:
            raise Refused("it names a storage that is none")
        if key not in self.storages:
            self.storages[key] = self._storage(self.members[f"{self.folder}data/{key}"])
        if self.storages[key].nbytes() != count * dtype.itemsize:
            raise ValueError("a storage and its bytes differ in length")
        return TypedStorage(wrap_storage=self.storages[key], dtype=dtype, _internal=True)

    def _storage(self, member: zipfile.ZipInfo) -> UntypedStorage:
        """The member's bytes where they lie; of a fixed length, so that no tensor can enlarge it."""
        if not member.file_size:
            return UntypedStorage(0)
        sizes = struct.unpack_from(
            "<HH", self.view, member.header_offset + LOCAL_HEADER - 4
        )  # of its name, of its extra field
        start = member.header_offset + LOCAL_HEADER + sum(sizes)
        return torch.frombuffer(self.view, dtype=torch.uint8, count=member.file_size, offset=start).untyped_storage()


def _private_view(stream: IO[bytes]) -> mmap.mmap:
    """The file in memory only where it is read; what is written to it stays with this process."""
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
