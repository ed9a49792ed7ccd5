"""Zip archives of strangers, unpacked: all entries are judged before the first write, a refusal leaves nothing."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.system.files import appearing
from fgmae_bench.system.progress import Progress

MAX_BYTES = 200_000_000_000  # of everything unpacked; the largest dataset of the suite is below it
MAX_RATIO, RATIO_FROM_BYTES = 200, 10_000_000  # unpacked : packed of one entry, judged from this size on
MAX_TOTAL_RATIO, TOTAL_FROM_BYTES = 16, 64 << 20  # the same of everything together
MAX_FOLDERS, MAX_NAME_BYTES = 32, 255  # of one entry's path: how deep, and how long each part
BLOCK_BYTES, COPY_BYTES = 4096, 1 << 20
LOCAL_HEADER_BYTES, END_RECORD_BYTES, IN_ZIP64_RECORD = 30, 22, 0xFFFF
ENCRYPTED_FLAGS = 0x1 | 0x40 | 0x2000
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

MEMBER, LEAST_MEMBER = 1500, 47  # bytes of memory that a listed member takes; bytes of the shortest entry of the list
LEAST_ROOM, ROOM_FACTOR = 64 << 20, 16  # of memory for the list: a minimum, and times the archive's size
LIST_BYTES = 5  # place of the list's length in zipfile's record of the archive's end

FETCH_AGAIN = "remove it and fetch it again"
NOT_OURS = "nothing was unpacked; get the archive from its publisher"

# What zipfile and zlib raise on a damaged archive.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, OverflowError)


def unpack(zip_path: Path, folder: Path) -> int:
    """Unpack into `folder`, which is new or empty and appears whole; returns the number of files.

    Modes, owners and times of the archive are not taken over, `__MACOSX/` and `.DS_Store` are skipped. Raises
    BenchError, leaving nothing behind, on names that lead outside, are deeply nested or not plain, links and special
    files, encryption, duplicates (also when case is ignored), bombs, damage, and a full disk.
    """
    with _reading(zip_path):
        if not list_fits(zip_path):
            raise BenchError(f"{zip_path} lists more members than there is room for", NOT_OURS)
    with _reading(zip_path), zipfile.ZipFile(zip_path) as archive:
        _require_all_listed(zip_path, archive)
        files = _judged(zip_path, archive.infolist())
        with appearing(folder) as partial, Progress(f"unpacking {zip_path.name}", len(files), "files") as progress:
            _require_space(partial, folder, files)
            for path, entry in files.items():
                _write(zip_path, archive, entry, partial / path)
                progress.step()
    return len(files)


def list_fits(zip_path: Path) -> bool:
    """Whether the list of a zip's members takes no memory out of proportion to the file; True of what is not a zip."""
    size = zip_path.stat().st_size
    with open(zip_path, "rb") as stream:
        end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]  # what ZipFile itself goes by
    return end is None or min(end[LIST_BYTES], size) // LEAST_MEMBER * MEMBER <= max(LEAST_ROOM, ROOM_FACTOR * size)


def member_names(zip_path: Path) -> list[str]:
    """Names of a zip's members; none where it is damaged, no zip, or lists more than there is room for."""
    try:
        if not list_fits(zip_path):
            return []
        with zipfile.ZipFile(zip_path) as archive:
            return archive.namelist()
    except _DAMAGE:
        return []


def _require_all_listed(zip_path: Path, archive: zipfile.ZipFile) -> None:
    """Hold the number of entries against the end record, which zipfile does not: a damaged length can swallow the
    entries behind it.
    """
    with open(zip_path, "rb") as stream:
        stream.seek(-END_RECORD_BYTES - len(archive.comment), os.SEEK_END)
        stated = struct.unpack_from("<H", stream.read(END_RECORD_BYTES), 10)[0]
    found = len(archive.infolist())
    if stated != IN_ZIP64_RECORD and stated != found % (IN_ZIP64_RECORD + 1):
        raise BenchError(
            f"{zip_path} is not a complete zip archive ({found} entries are listed, {stated} are stated)", FETCH_AGAIN
        )


def _judged(zip_path: Path, entries: list[zipfile.ZipInfo]) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files to unpack by their path; raises BenchError naming the first entry that must not be."""
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    places: dict[str, tuple[PurePosixPath, bool]] = {}  # name as a file system may fold it -> (path, whether a file)
    for entry in entries:
        if fault := _fault(entry):
            raise BenchError(f"{zip_path}: entry {entry.orig_filename[:200]!r} {fault}", NOT_OURS)
        path = PurePosixPath(entry.filename)
        for place in [*((parent, False) for parent in path.parents), (path, not entry.is_dir())]:
            other = places.setdefault(_folded(place[0]), place)
            if other is not place and (other != place or place[1]):
                raise BenchError(f"{zip_path}: entries '{other[0]}' and '{path}' fall on each other", NOT_OURS)
        if not entry.is_dir():
            files[path] = entry
    _require_proportion(zip_path, sum(entry.file_size for entry in files.values()))
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    for entry, following in itertools.pairwise(ordered):
        if entry.header_offset + LOCAL_HEADER_BYTES + entry.compress_size > following.header_offset:
            raise BenchError(f"{zip_path}: entries '{entry.filename}' and '{following.filename}' share bytes", NOT_OURS)
    return {path: entry for path, entry in files.items() if path.parts[0] != "__MACOSX" and path.name != ".DS_Store"}


def _require_proportion(zip_path: Path, total: int) -> None:
    """Raise BenchError where all entries together would take too much disk: each alone may be just small enough."""
    if total > MAX_BYTES:
        raise BenchError(
            f"{zip_path}: would unpack to {total / 1e9:.0f} GB, more than {MAX_BYTES / 1e9:.0f} GB", NOT_OURS
        )
    if total > max(TOTAL_FROM_BYTES, MAX_TOTAL_RATIO * zip_path.stat().st_size):
        what = f"{zip_path}: would unpack to {total / 1e6:.0f} MB, more than {MAX_TOTAL_RATIO} times its size"
        raise BenchError(what, NOT_OURS)


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry must not be unpacked; None for a plain file or folder."""
    return name_fault(entry.orig_filename) or name_fault(entry.filename) or _kind_fault(entry) or _size_fault(entry)


def name_fault(name: str) -> str | None:
    """Why an entry of an archive must not have this name; None for a plain one."""
    if name.count("/") > MAX_FOLDERS:
        return f"is nested more than {MAX_FOLDERS} folders deep"
    path = PurePosixPath(name)
    if any(len(part.encode(errors="replace")) > MAX_NAME_BYTES for part in path.parts):
        return f"has a name of more than {MAX_NAME_BYTES} bytes"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "has control characters in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if path.is_absolute() or re.match("[A-Za-z]:", name):
        return "has an absolute name"
    if ".." in path.parts:
        return "leads outside the folder"
    if not path.parts and not name.endswith("/"):
        return "has no name"
    return None


def _kind_fault(entry: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a special file"
    if entry.flag_bits & ENCRYPTED_FLAGS:
        return "is encrypted"
    if entry.compress_type not in METHODS:
        return f"is packed by method {entry.compress_type}, which is neither stored nor deflated"
    return None


def _size_fault(entry: zipfile.ZipInfo) -> str | None:
    if entry.is_dir() and entry.file_size:
        return "is a folder with content"
    if entry.file_size > RATIO_FROM_BYTES and entry.file_size > MAX_RATIO * entry.compress_size:
        return f"unpacks to more than {MAX_RATIO} times its size"
    if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
        return "is stored, and its two sizes differ"
    return None


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _write(zip_path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    """Write one file; its CRC is checked by zipfile, its length here."""
    wider = copy.copy(entry)
    wider.file_size += 1  # zipfile stops at the declared size; with one byte more allowed, a longer stream shows
    length = 0
    with archive.open(wider) as packed, writing(path) as stream:
        while (piece := packed.read(COPY_BYTES)) and length <= entry.file_size:
            length += len(piece)
            stream.write(piece)
    if length != entry.file_size:
        more = "more" if length > entry.file_size else "less"
        raise BenchError(
            f"{zip_path}: entry '{entry.filename}' holds {more} than the {entry.file_size} bytes that it declares",
            FETCH_AGAIN,
        )


@contextlib.contextmanager
def _reading(zip_path: Path) -> Iterator[None]:
    """Turn what a missing or damaged archive raises into one line."""
    try:
        yield
    except _DAMAGE as error:
        raise BenchError(f"{zip_path} is not a complete zip archive ({error})", FETCH_AGAIN) from error
    except OSError as error:
        raise BenchError(f"{zip_path} cannot be read ({error.strerror or error})", FETCH_AGAIN) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file, in folders that are made for it; raises BenchError where that fails, as on a full disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as stream:
            yield stream
    except OSError as error:
        raise os_error(error, path) from error


def _require_space(partial: Path, folder: Path, files: dict[PurePosixPath, zipfile.ZipInfo]) -> None:
    needed = sum(-(-entry.file_size // BLOCK_BYTES) * BLOCK_BYTES for entry in files.values())
    free = shutil.disk_usage(partial).free
    if free < needed:
        what = f"{folder.parent} has {free / 1e6:.0f} MB free, the unpacked archive needs {needed / 1e6:.0f} MB"
        raise BenchError(what, "free space there or choose another folder, then run the same command again")
