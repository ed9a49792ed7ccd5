"""Outputs appear whole or not at all: written under a temporary name of the same folder, then renamed. And locks.

A temporary name is `.<name>.<boot>-<random>.partial`. Its owner holds an flock on that file, which the kernel drops
with the process: a free lock means a dead owner, whatever its PID and container. What dead owners left is removed by
the next process that writes into the folder. Shared folders may hold what others planted there: locks and temporary
files are regular files of one name, never links, FIFOs or devices.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import re
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from fgmae_bench.errors import BenchError, os_error

ATTEMPTS = 10
READ_BYTES = 1 << 20
SMALL_BYTES = 1 << 20  # the most that is read of a note, a receipt or a marker
# A file of another machine or boot is only taken for a leftover once nothing was written to it for so long: some shared
# file systems keep locks within one machine.
ELSEWHERE_SECONDS = 3600.0
LEFTOVER = re.compile(r"\..+\.([0-9a-f]{8})-[a-z0-9_]{8}\.partial")
T = TypeVar("T")


def _boot() -> str:
    """Eight hex digits that name this start of this machine, the same in all its containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        return f"{zlib.crc32(platform.node().encode()):08x}"


BOOT = _boot()


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it is renamed to `path` on success and removed otherwise.

    Folders are made as needed, and removed again on failure. When `durable`, content and name are on the disk before
    the end. Raises BenchError when the folder cannot be written or the disk is full.
    """
    made: list[Path] = []
    try:
        made = missing_folders(path.parent)
        remove_leftovers(path.parent)
        with _owned(path) as temporary:
            yield temporary
            if durable:
                with open(temporary, "rb+") as stream:
                    os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            made = []
            if durable:
                sync_folder(path.parent)
    except OSError as error:
        raise os_error(error, path) from error
    finally:
        remove_empty(made)


@contextlib.contextmanager
def appearing(root: Path) -> Iterator[Path]:
    """Yield a temporary folder in the folder of `root`; it becomes `root` on success and is removed otherwise.

    Raises BenchError when `root` holds anything, when the place cannot be written or the disk is full.
    """
    made: list[Path] = []
    try:
        made = missing_folders(root.parent)
        if root.exists() and any(root.iterdir()):
            raise BenchError(f"{root} is not empty", "choose another folder or remove it")
        remove_leftovers(root.parent)
        with _owned(root) as token:  # a folder cannot be locked on every file system: this file is, in its place
            partial = _folder_of(token)
            try:
                partial.mkdir()
                yield partial
                partial.replace(root)
                sync_folder(root.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise os_error(error, root) from error
    finally:
        remove_empty(made)


def _folder_of(token: Path) -> Path:
    """The temporary folder that belongs to a temporary file."""
    return token.with_name(f"{token.name}.d")


@contextlib.contextmanager
def _owned(path: Path) -> Iterator[Path]:
    """Yield a new temporary file for `path` under this process's lock; removed at the end if it still has that name."""
    stream, temporary = made_in(path, lambda: _new(path))
    with stream:
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _new(path: Path) -> tuple[FileIO, Path]:
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.{BOOT}-", suffix=".partial", dir=path.parent)
        stream = FileIO(handle, "r+")
        with contextlib.suppress(OSError):  # without locks on this file system nobody takes it for a leftover either
            fcntl.flock(stream, fcntl.LOCK_EX)
        if still_at(Path(name), stream):
            return stream, Path(name)
        stream.close()  # another process saw it before it was locked, and removed it


_looked_into: set[Path] = set()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that dead processes left in `folder`; looked for once a process."""
    if folder in _looked_into:
        return
    _looked_into.add(folder)
    try:
        names = [name for name in os.listdir(folder) if name.endswith(".partial")]
    except OSError:
        return
    for name in names:
        if found := LEFTOVER.fullmatch(name):
            with contextlib.suppress(OSError, BenchError):
                _remove_if_left(folder / name, elsewhere=found[1] != BOOT)


def _remove_if_left(path: Path, elsewhere: bool) -> None:
    """Remove a temporary file, and its folder, whose lock is free; raises OSError where it is held or not ours."""
    with FileIO(open_regular(path, os.O_RDWR), "r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        idle = time.time() - os.fstat(stream.fileno()).st_mtime
        if still_at(path, stream) and not (elsewhere and idle < ELSEWHERE_SECONDS):
            folder = _folder_of(path)
            if folder.is_dir() and not folder.is_symlink():  # rmtree would wait for ever at a FIFO
                shutil.rmtree(folder, ignore_errors=True)
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where its file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of the regular file `path`, which O_CREAT makes where it is absent.

    Raises BenchError where it is a link, a FIFO, a device, or to be written and another file as well (a hard link);
    OSError as `os.open` does.
    """
    fault = BenchError(f"{path} is not a regular file of its own", "remove it: links, FIFOs and devices are not used")
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise fault from error
        raise
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and (status.st_nlink <= 1 or not flags & (os.O_WRONLY | os.O_RDWR)):
        return handle
    os.close(handle)
    raise fault


def _up_to(stream: FileIO, most: int) -> bytes:
    """The first `most` bytes, with memory for what is there: one `read` of so many would ask for all of it at once."""
    parts = []
    while most and (part := stream.read(min(most, READ_BYTES))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def read_small(path: Path, most: int = SMALL_BYTES) -> bytes:
    """The content of a small file; raises BenchError where it is not a regular file or larger, OSError as `open`."""
    with FileIO(open_regular(path, os.O_RDONLY)) as stream:
        content = _up_to(stream, most + 1)
    if len(content) > most:
        raise BenchError(f"{path} is larger than {most} bytes", "remove it")
    return content


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a file of a dataset, which may be a link; raises OSError where it is absent, larger than `most`
    bytes, or a FIFO or device, which could be read without end.
    """
    with FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError("it is not a regular file")
        content = _up_to(stream, most + 1)
    if len(content) > most:
        raise OSError(f"it is larger than {most >> 20} MiB")
    return content


def read_small_json(path: Path) -> Any:
    """What a small JSON file holds; None where it is absent, damaged, too large or not a regular file."""
    try:
        return json.loads(read_small(path))
    except (OSError, ValueError, RecursionError, BenchError):
        return None


def is_kind(entry: os.DirEntry[str], *, folder: bool = False) -> bool:
    """Whether an entry is a file, or a folder; a link in a circle, or one that may not be followed, is neither."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:
        return False


def missing_folders(folder: Path) -> list[Path]:
    """`folder` and the folders above it that are not there, innermost first."""
    return [place for place in [folder, *folder.parents] if not place.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Remove those of `folders` (innermost first) that are there and empty."""
    for place in folders:
        with contextlib.suppress(OSError):
            place.rmdir()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` by rename."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to `path` by rename."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON to `path` by rename; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def require_writable(folder: Path) -> None:
    """Raise BenchError unless a file can be made in `folder`, or in the nearest folder above that is there; leaves
    nothing behind.

    No folder is made for the trial: another process could be about to use it when it is removed again.
    """
    try:
        nearest = next(
            place for place in [folder.absolute(), *folder.absolute().parents] if place.exists() or place.is_symlink()
        )
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise os_error(error, folder) from error


def made_in(path: Path, make: Callable[[], T]) -> T:
    """What `make` returns, which makes a file in the folder of `path`; the folder is made where absent.

    Tried again where another process, cleaning up after itself, takes the empty folder away in between.
    """
    for attempt in range(ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return make()
        except (FileNotFoundError, FileExistsError):
            if attempt == ATTEMPTS - 1 or (path.parent.exists() and not path.parent.is_dir()):
                raise
    raise AssertionError


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


log = logging.getLogger("fgmae_bench")


@contextlib.contextmanager
def wait_for_lock(path: Path) -> Iterator[FileIO]:
    """Yield `path`, made empty where absent, open for reading and writing, unbuffered and locked against other
    processes.

    Its folder is made where absent. Waits for the holder and says so. The holder may rename or remove the file: whoever
    waited then gets the new one. Raises BenchError when the file cannot be made or the file system has no locks.
    """
    try:
        stream = _acquire(path)
    except OSError as error:
        raise os_error(error, path) from error
    with stream:
        yield stream


@contextlib.contextmanager
def lock_and_clean_up(path: Path) -> Iterator[None]:
    """Hold the lock of `path` as `wait_for_lock` does and take the file away at the end, with the folders
    made for it that are empty.

    A folder stays where another process that waited had begun before it was taken away.
    """
    try:
        made = missing_folders(path.parent)
    except OSError as error:
        raise os_error(error, path) from error
    try:
        with wait_for_lock(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        remove_empty(made)


def _acquire(path: Path) -> FileIO:
    while True:
        stream = _opened(path)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is at work on %s; waiting for it", path)
            fcntl.flock(stream, fcntl.LOCK_EX)
        if still_at(path, stream):
            return stream
        stream.close()


def still_at(path: Path, stream: FileIO) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def lock_or_fail(path: Path, what: str, todo: str) -> Iterator[None]:
    """Hold the lock of `path` and remove the file at the end; raises BenchError(what, todo) at once where another
    process holds it.
    """
    made: list[Path] = []
    try:
        made = missing_folders(path.parent)
        stream = _try(path)
    except OSError as error:
        raise os_error(error, path) from error
    if stream is None:
        raise BenchError(what, todo)
    with stream:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            remove_empty(made)


def _try(path: Path) -> FileIO | None:
    """`path` open and locked, or None where another process holds it; a file that was removed meanwhile is made
    again.
    """
    while True:
        stream = _opened(path)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return None
        if still_at(path, stream):
            return stream
        stream.close()


def _opened(path: Path) -> FileIO:
    return FileIO(made_in(path, lambda: open_regular(path, os.O_RDWR | os.O_CREAT)), "r+")
