"""LMDB files opened so that a damaged one is an error and not the end of the process, once a process, whatever forks or
threads.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np

from fgmae_bench.errors import BenchError

MAGIC, VERSION = 0xBEEFC0DE, 1
META_OFFSET = 16  # of the meta structure in its page, behind the page's header
SIZES = (4096, 8192, 16384, 32768, 65536, 512, 1024, 2048)
Stamp = tuple[int, int, int, int]  # device, inode, bytes, modification time in ns


def data_file(root: Path) -> Path:
    """The LMDB file of a pack: `data.mdb` in its folder, or the file itself."""
    return root / "data.mdb" if root.is_dir() else root


def stamp_of(root: Path) -> Stamp:
    """What changes when the file is another one. Raises BenchError when it is not there."""
    try:
        status = os.stat(data_file(root))
    except OSError as error:
        raise BenchError(
            f"{data_file(root)} is not there ({error.strerror})", "give the folder of an LMDB pack"
        ) from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def number_of(stamp: Stamp) -> np.uint64:
    """A hash of size and modification time: the same file copied elsewhere with its times is the same."""
    return np.uint64(int.from_bytes(hashlib.blake2b(repr(stamp[2:]).encode(), digest_size=8).digest()))


def used_bytes(path: Path) -> int:
    """Bytes that an LMDB file must have: (last page + 1) x page size, read from its two meta pages.

    LMDB itself does not look and dies of SIGBUS at the first page that is missing. Raises BenchError when this is no
    LMDB file. Source: `MDB_meta` in LMDB's mdb.c, format version 1, 64 bit, little-endian.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(SIZES[4] + 4096)
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror})", "check the path") from error
    first = _meta(head, 0)
    if first is None:
        raise BenchError(f"{path} is no LMDB file of version {VERSION}", "write the pack again, or give another path")
    page = first[0]
    second = _meta(head, page)
    if page not in SIZES or second is None or second[0] != page:
        raise BenchError(f"{path}: its head is damaged", "write the pack again, or restore it")
    newest = max(first, second, key=lambda meta: meta[2])
    return (newest[1] + 1) * page


def _meta(head: bytes, start: int) -> tuple[int, int, int] | None:
    """(page size, last page, transaction) of the meta page at `start`, None where there is none."""
    at = start + META_OFFSET
    if len(head) < at + 136 or struct.unpack_from("<II", head, at) != (MAGIC, VERSION):
        return None
    (page,) = struct.unpack_from("<I", head, at + 24)
    last, transaction = struct.unpack_from("<QQ", head, at + 120)
    return page, last, transaction


def require_whole(root: Path) -> None:
    """Raise BenchError unless the file of a pack is an LMDB file of its full length."""
    path = data_file(root)
    held, needed = stamp_of(root)[2], used_bytes(path)
    if held < needed:
        raise BenchError(f"{path} is cut short: {held} of {needed} bytes", "copy or write the pack again")


@dataclass(frozen=True)
class _Open:
    made_for: tuple[int, Stamp]  # process and file
    environment: lmdb.Environment


# LMDB forbids to open a file twice in a process, so that one table for the process is its own rule, not our
# convenience.
_OPEN: dict[Path, _Open] = {}
_OPENING = threading.Lock()
os.register_at_fork(before=_OPENING.acquire, after_in_parent=_OPENING.release, after_in_child=_OPENING.release)


def environment(root: Path, stamp: Stamp) -> lmdb.Environment:
    """The environment of a pack in this process, for reading; a child that was forked gets its own.

    Raises BenchError when the file is no longer the one with `stamp`, or is damaged.
    """
    wanted = (os.getpid(), stamp)
    held = _OPEN.get(root)
    if held is None or held.made_for != wanted:
        with _OPENING:
            held = _OPEN.get(root)  # another thread may have been faster
            if held is None or held.made_for != wanted:
                held = _OPEN[root] = _Open(wanted, _open(root, stamp, held))
    return held.environment


def _open(root: Path, stamp: Stamp, outdated: _Open | None) -> lmdb.Environment:
    if stamp_of(root) != stamp:
        raise BenchError(f"{root} was replaced while it was in use", "run the command again")
    require_whole(root)
    if outdated is not None:
        outdated.environment.close()
    try:
        return lmdb.open(
            str(root),
            readonly=True,
            lock=False,
            readahead=False,
            subdir=root.is_dir(),
            map_size=max(stamp[2], 1 << 20),
            max_spare_txns=16,
        )
    except lmdb.Error as error:
        raise BenchError(f"{root} cannot be opened as LMDB ({error})", "write the pack again, or restore it") from error


def get(root: Path, stamp: Stamp, key: bytes) -> bytes | None:
    """The value of one key, None where there is none. Raises BenchError on a damaged file."""
    try:
        with environment(root, stamp).begin() as reading:
            value: bytes | None = reading.get(key)
    except lmdb.Error as error:
        what = f"{root}: {key.decode(errors='replace')} cannot be read ({error})"
        raise BenchError(what, "write the pack again, or restore it") from error
    return value
