"""Whether a folder of files is as it was, without reading them, and what was found when it was last read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import is_kind, lock_and_clean_up, read_small_json, write_json

WRITTEN_BY_READING = ("lock.mdb", "__pycache__")  # of a pack, and of the code of a model


def tree_stamp(root: Path) -> str:
    """SHA-256 over name, size, modification time, change time and inode of every file below `root`, or of a file.

    Whoever writes into a file and sets its times back leaves another change time: no ordinary program can set that.
    Hidden files and folders are passed over, symbolic links followed to files and into folders, into each folder once.
    Raises BenchError where the folder cannot be listed.
    """
    digest = hashlib.sha256()
    try:
        if not root.is_dir():
            digest.update(_line("", os.stat(root)))
            return digest.hexdigest()
        followed: set[tuple[int, int]] = set()  # links of links may lead back to where they are
        pending = [(str(root), "")]
        while pending:
            place, name = pending.pop()
            folders = []
            for entry in sorted(os.scandir(place), key=lambda each: each.name):
                if entry.name.startswith(".") or entry.name in WRITTEN_BY_READING:
                    continue
                inside = f"{name}/{entry.name}" if name else entry.name
                if not is_kind(entry, folder=True):
                    digest.update(_line(inside, _status(entry)))
                elif not entry.is_symlink() or _new(entry, inside, followed, digest):
                    folders.append((entry.path, inside))
            pending += reversed(folders)
    except OSError as error:
        raise BenchError(f"{root} cannot be listed ({error.strerror})", "check the path and its permissions") from error
    return digest.hexdigest()


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    """Of the file that a link leads to; of the link itself where it leads nowhere."""
    try:
        return os.stat(entry.path)
    except OSError:
        if not entry.is_symlink():
            raise
        return os.lstat(entry.path)


def _new(entry: os.DirEntry[str], name: str, followed: set[tuple[int, int]], digest: Any) -> bool:
    """Whether a link leads into a folder that no link has led into before; where it leads is hashed."""
    status = os.stat(entry.path)
    target = status.st_dev, status.st_ino
    digest.update(f"{name}\0{target}\n".encode(errors="surrogateescape"))
    if target in followed:
        return False
    followed.add(target)
    return True


def _line(name: str, status: os.stat_result) -> bytes:
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return f"{name}\0{facts}\n".encode(errors="surrogateescape")


Parts = dict[str, Any]  # what files hold, as hashes: of data those of each part of the split


def remember(cache: Path, root: Path | Sequence[Path], parts: Parts, tree: str | None = None) -> None:
    """Keep in the cache folder that the files at `root`, or at several places, as they are now or were at the stamp
    `tree`, hold these parts.
    """
    path, tree = _place(cache, root), stamp_of(root) if tree is None else tree
    if parts in _read(path, tree):
        return
    with lock_and_clean_up(path.with_suffix(".lock")):  # another process may add its own at the same time
        held = _read(path, tree)
        if parts not in held:
            write_json(path, {"root": _names(root), "tree": tree, "parts": [*held, parts]})


def remembered(cache: Path, root: Path | Sequence[Path]) -> list[Parts] | None:
    """What the files at `root` are known to hold: nothing where they have changed since, None where they are not
    there.
    """
    there = all(place.exists() for place in ([root] if isinstance(root, Path) else root))
    return _read(_place(cache, root), stamp_of(root)) if there else None


def stamp_of(root: Path | Sequence[Path]) -> str:
    """The stamp of one place or of several together."""
    return tree_stamp(root) if isinstance(root, Path) else " ".join(map(tree_stamp, root))


def _names(root: Path | Sequence[Path]) -> str:
    return str(root.resolve()) if isinstance(root, Path) else "\n".join(str(place.resolve()) for place in root)


def _place(cache: Path, root: Path | Sequence[Path]) -> Path:
    return cache / "content" / f"{hashlib.sha256(_names(root).encode()).hexdigest()[:32]}.json"


def _read(path: Path, tree: str) -> list[Parts]:
    held = read_small_json(path)
    parts = held.get("parts") if isinstance(held, dict) and held.get("tree") == tree else None
    return parts if isinstance(parts, list) else []  # read again: the cache only saves a pass
