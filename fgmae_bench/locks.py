"""One process at a time: an exclusive lock on a file, held while it is written and given up by the kernel when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.files import made_in, missing_folders, remove_empty

log = logging.getLogger("fgmae_bench")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[FileIO]:
    """Yield `path`, made empty where absent, open for reading and writing, unbuffered and locked against other processes.

    Its folder is made where absent. Waits for the holder and says so. The holder may rename or remove the file: whoever waited
    then gets the new one. Raises BenchError when the file cannot be made or the file system has no locks.
    """
    try:
        stream = _acquire(path)
    except OSError as error:
        raise os_error(error, path) from error
    with stream:
        yield stream


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of `path` as `locked` does and take the file away at the end, with the folders made for it that are empty.

    A folder stays where another process that waited had begun before it was taken away.
    """
    try:
        made = missing_folders(path.parent)
    except OSError as error:
        raise os_error(error, path) from error
    try:
        with locked(path):
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
def held(path: Path, what: str, todo: str) -> Iterator[None]:
    """Hold the lock of `path` and remove the file at the end; raises BenchError(what, todo) at once where another process holds it."""
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
    """`path` open and locked, or None where another process holds it; a file that was removed meanwhile is made again."""
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
