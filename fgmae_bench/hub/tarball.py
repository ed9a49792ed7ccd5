"""Tar archives of strangers, unpacked in one pass: a refusal at any entry leaves nothing."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.hub.archive import (
    COPY_BYTES,
    FETCH_AGAIN,
    MAX_BYTES,
    MAX_TOTAL_RATIO,
    NOT_OURS,
    TOTAL_FROM_BYTES,
    name_fault,
    writing,
)
from fgmae_bench.system.files import appearing
from fgmae_bench.system.progress import Progress

MB = 1_000_000

# What tarfile, gzip and zlib raise on a damaged archive.
_DAMAGE = (tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError, RecursionError)


class _Onwards:
    """The content of a gzip stream, read onwards alone: what tarfile asks of a file, each read and the whole bounded.

    tarfile reads extended headers whole and steps back by one byte before each entry; a stream of gzip would be
    unpacked from its beginning for that.
    """

    def __init__(self, stream: BinaryIO, most: int):
        self.stream, self.most = stream, most
        self.position, self.last, self.again = 0, b"", b""

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        if position == self.position - 1 and self.last:
            self.position, self.again = position, self.last[-1:]
        while self.position < position and self.read(min(COPY_BYTES, position - self.position)):
            pass
        if self.position > position:
            raise tarfile.ReadError("an entry leads back")

    def read(self, count: int) -> bytes:
        if not 0 <= count <= COPY_BYTES:
            raise tarfile.ReadError(f"a header of more than {COPY_BYTES} bytes")
        piece, self.again = self.again[:count], self.again[count:]
        try:
            piece += self.stream.read(count - len(piece))
        except OSError as error:  # not of gzip, or the disk's
            raise tarfile.ReadError(error.strerror or str(error)) from error
        self.position += len(piece)
        self.last = piece or self.last
        if self.position > self.most:
            raise tarfile.ReadError(f"more than {self.most / MB:.0f} MB come out of it")
        return piece


def unpack_tar(path: Path, folder: Path) -> int:
    """Unpack a `.tar.gz` into `folder`, which is new or empty and appears whole; returns the number of files.

    Modes, owners and times are not taken over, `__MACOSX/` and `.DS_Store` are skipped. Raises BenchError, leaving
    nothing behind, on names that lead outside, are deeply nested or not plain, links, special and sparse files, entries
    that are there twice, bombs, damage, and a full disk.
    """
    count, packed_mb = 0, 0
    try:
        with open(path, "rb") as packed, appearing(folder) as partial:
            size = path.stat().st_size
            _require_space(partial, folder, size)
            most = min(MAX_BYTES, max(TOTAL_FROM_BYTES, MAX_TOTAL_RATIO * size))
            content = _Onwards(gzip.GzipFile(fileobj=packed), most)  # type: ignore[arg-type]
            archive = tarfile.TarFile(fileobj=content)  # type: ignore[arg-type]
            with Progress(f"unpacking {path.name}", -(-size // MB), "MB") as progress:
                while (entry := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep millions of them
                    count += _write(path, content, entry, partial)
                    progress.step(packed.tell() // MB - packed_mb)
                    packed_mb = packed.tell() // MB
            _require_end(content)
    except _DAMAGE as error:
        raise BenchError(f"{path} is not a complete tar archive ({error})", FETCH_AGAIN) from error
    except OSError as error:
        raise os_error(error, path) from error
    return count


def _write(path: Path, content: _Onwards, entry: tarfile.TarInfo, partial: Path) -> int:
    """Write one entry, whose content comes next; returns how many files that are."""
    place = PurePosixPath(entry.name)
    if entry.isdir() and not place.parts:
        return 0
    if fault := name_fault(entry.name) or _kind_fault(entry):
        raise BenchError(f"{path}: entry {entry.name[:200]!r} {fault}", NOT_OURS)
    if entry.isdir() or place.parts[0] == "__MACOSX" or place.name == ".DS_Store":
        return 0
    target = partial / place
    if target.exists():
        raise BenchError(f"{path}: entry {entry.name[:200]!r} is there twice", NOT_OURS)
    with writing(target) as stream:
        left = entry.size
        while left:
            piece = content.read(min(COPY_BYTES, left))
            if not piece:
                raise tarfile.ReadError(f"it ends within {entry.name[:200]}")
            stream.write(piece)
            left -= len(piece)
    return 1


def _kind_fault(entry: tarfile.TarInfo) -> str | None:
    if entry.issym() or entry.islnk():
        return "is a link"
    if entry.isdir():
        return "is a folder with content" if entry.size else None
    if not entry.isreg() or entry.issparse():
        return "is a special or sparse file"
    return "has a negative size" if entry.size < 0 else None


def _require_end(content: _Onwards) -> None:
    """Raise ReadError unless the archive ended as archives do: tarfile takes a damaged header for the end.

    The rest is read, so that gzip's checksum is held against the whole.
    """
    if content.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("a header is damaged, or the end is missing")
    while content.read(COPY_BYTES):
        pass


def _require_space(partial: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(partial).free
    if free < needed:
        what = f"{folder.parent} has {free / MB:.0f} MB free, the unpacked archive needs more than {needed / MB:.0f} MB"
        raise BenchError(what, "free space there or choose another folder, then run the same command again")
