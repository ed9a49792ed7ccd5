"""The one door to LMDB: a damaged file is an error and not the end of the process, whatever forks or threads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np

from fgmae_bench.data.packs.pages import TODO, check_pages, read_head
from fgmae_bench.errors import BenchError

FIRST_MAP_BYTES = 256 << 20  # of a file that is written; it grows

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
    if not stat.S_ISREG(status.st_mode):
        raise BenchError(f"{data_file(root)} is not a regular file", "give the folder of an LMDB pack")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def number_of(stamp: Stamp) -> np.uint64:
    """A hash of size and modification time: the same file copied elsewhere with its times is the same."""
    return np.uint64(int.from_bytes(hashlib.blake2b(repr(stamp[2:]).encode(), digest_size=8).digest()))


def used_bytes(path: Path) -> int:
    """Bytes that an LMDB file must have. Raises BenchError when this is not an LMDB file.

    LMDB itself does not look and dies of SIGBUS at the first page that is missing.
    """
    return read_head(path).used_bytes


def require_whole(root: Path) -> None:
    """Raise BenchError unless the file of a pack is an LMDB file of its full length."""
    path = data_file(root)
    held, needed = stamp_of(root)[2], used_bytes(path)
    if held < needed:
        raise BenchError(f"{path} is cut short: {held} of {needed} bytes", "copy or write the pack again")


def require_sound(root: Path, *, thorough: bool = False) -> None:
    """Raise BenchError naming the damage unless LMDB can read every page of the file safely. See `check_pages`."""
    stamp = stamp_of(root)
    require_whole(root)
    check_pages(data_file(root), thorough=thorough)
    _SOUND[root] = stamp


@dataclass(frozen=True)
class _Open:
    made_for: tuple[int, Stamp]  # process and file
    environment: lmdb.Environment


# LMDB forbids to open a file twice in a process, so that one table for the process is its own rule, not our
# convenience.
_OPEN: dict[Path, _Open] = {}
_SOUND: dict[Path, Stamp] = {}  # files whose pages were checked, by this process or the one it was forked from
_OPENING = threading.Lock()
os.register_at_fork(before=_OPENING.acquire, after_in_parent=_OPENING.release, after_in_child=_OPENING.release)


def _environment(root: Path, stamp: Stamp) -> lmdb.Environment:
    """The environment of a pack in this process, for reading; a child that was forked gets its own.

    Raises BenchError when the file is not the one with `stamp`, or is damaged.
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
    if _SOUND.get(root) != stamp:
        require_sound(root)
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
    except (lmdb.Error, MemoryError) as error:
        raise BenchError(f"{root} cannot be opened as LMDB ({error})", TODO) from error


@contextlib.contextmanager
def _errors(root: Path) -> Iterator[None]:
    """LMDB's errors become BenchError."""
    try:
        yield
    except lmdb.Error as error:
        raise BenchError(f"{root}: a value cannot be read ({error})", TODO) from error


def get(root: Path, stamp: Stamp, key: bytes) -> bytes | None:
    """The value of one key, None where there is none. Raises BenchError on a damaged file."""
    try:  # without `_errors`, which takes as long as the value itself
        with _environment(root, stamp).begin() as reading:
            value: bytes | None = reading.get(key)
    except lmdb.Error as error:
        raise BenchError(f"{root}: {key.decode(errors='replace')} cannot be read ({error})", TODO) from error
    return value


def items(root: Path, stamp: Stamp) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value) in the order of keys. Raises BenchError on a damaged file."""
    with _errors(root), _environment(root, stamp).begin() as reading:
        yield from reading.cursor()


def views(root: Path, stamp: Stamp) -> Iterator[tuple[bytes, memoryview]]:
    """As `items`, without a copy of the values: a view ends with the step that gave it."""
    with _errors(root), _environment(root, stamp).begin(buffers=True) as reading:
        for key, value in reading.cursor():
            yield bytes(key), value


def keys(root: Path, stamp: Stamp) -> Iterator[bytes]:
    """Every key in order. Raises BenchError on a damaged file."""
    with _errors(root), _environment(root, stamp).begin() as reading:
        yield from reading.cursor().iternext(values=False)


def count(root: Path, stamp: Stamp) -> int:
    """How many keys there are. Raises BenchError on a damaged file."""
    return int(_environment(root, stamp).stat()["entries"])


def lacking(root: Path, stamp: Stamp, names: Iterable[str]) -> list[str]:
    """Those of `names` that are not keys. Raises BenchError on a damaged file."""
    with _errors(root), _environment(root, stamp).begin() as reading:
        cursor = reading.cursor()
        return [name for name in names if not cursor.set_key(name.encode())]


class Writer:
    """An LMDB folder open for writing under our own lock instead of LMDB's, which waits for ever.

    One that is there must be sound: BenchError names the damage.
    """

    def __init__(self, folder: Path):
        size = data_file(folder).stat().st_size if data_file(folder).is_file() else 0
        if size:
            require_sound(folder, thorough=True)
        self._environment = lmdb.open(
            str(folder), map_size=max(FIRST_MAP_BYTES, 2 * size), lock=False, readahead=False, metasync=False
        )

    def commit(self, items: Iterable[tuple[bytes, bytes]], drop: bytes | None = None) -> None:
        """Put `items` and delete the key `drop` in one transaction; the map grows when it is full."""
        while True:
            try:
                with self._environment.begin(write=True) as writing:
                    for key, value in items:
                        writing.put(key, value)
                    if drop is not None:
                        writing.delete(drop)
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    def get(self, key: bytes) -> bytes | None:
        """The value of one key, None where there is none."""
        with self._environment.begin() as reading:
            value = reading.get(key)
        return value

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value) in the order of keys."""
        with self._environment.begin() as reading:
            yield from reading.cursor()

    def sync(self) -> None:
        """Everything that was committed is on the disk."""
        self._environment.sync(True)

    def close(self) -> None:
        """Give the file back."""
        self._environment.close()
