"""Outputs appear whole or not at all: written beside their final name, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from fgmae_bench.errors import BenchError, os_error

ATTEMPTS = 10
T = TypeVar("T")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it otherwise, with the folders made
    for it.

    Raises BenchError when the folder cannot be written or the disk is full.
    """
    temporary: Path | None = None
    made: list[Path] = []
    try:
        made = missing_folders(path.parent)
        handle, name = made_in(
            path, lambda: tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary, made = None, []
    except OSError as error:
        raise os_error(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        remove_empty(made)


@contextlib.contextmanager
def appearing(root: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `root`; it becomes `root` on success and is removed otherwise.

    Raises BenchError when `root` holds anything, when the place cannot be written or the disk is full.
    """
    partial = root.with_name(f"{root.name}.partial-{os.getpid()}")
    made: list[Path] = []
    try:
        made = missing_folders(root.parent)
        if root.exists() and any(root.iterdir()):
            raise BenchError(f"{root} is not empty", "choose another folder or remove it")
        partial.mkdir(parents=True)
        yield partial
        partial.replace(root)
    except OSError as error:
        raise os_error(error, root) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(made)


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

    No folder is made for the trial: another process could be about to use it when it is taken away again.
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
    return FileIO(made_in(path, lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)), "r+")
