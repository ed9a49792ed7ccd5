"""Whether a folder of files is as it was, without reading them, and what was found when it was last read."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import write_json

LMDB_LOCK = "lock.mdb"  # written by every reader of a pack


def tree_stamp(root: Path) -> str:
    """SHA-256 over name, size, modification time, change time and inode of every file below `root`, or of a file.

    Whoever writes into a file and sets its times back leaves another change time: no ordinary program can set that.
    Hidden files and folders are passed over, symbolic links followed to files but not into folders. Raises BenchError
    where the folder cannot be listed.
    """
    digest = hashlib.sha256()
    try:
        if not root.is_dir():
            digest.update(_line("", os.stat(root)))
            return digest.hexdigest()
        for place, folders, names in os.walk(root, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(name for name in names if not name.startswith(".") and name != LMDB_LOCK):
                path = os.path.join(place, name)
                digest.update(_line(os.path.relpath(path, root), os.stat(path)))
    except OSError as error:
        raise BenchError(f"{root} cannot be listed ({error.strerror})", "check the path and its permissions") from error
    return digest.hexdigest()


def _line(name: str, status: os.stat_result) -> bytes:
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return f"{name}\0{facts}\n".encode(errors="surrogateescape")


def _raise(error: OSError) -> None:
    raise error


Parts = dict[str, str]  # SHA-256 of what each part of a split holds


def remember(cache: Path, root: Path, parts: Parts) -> None:
    """Keep in the cache folder that the data at `root`, as it is now, holds these parts."""
    path, tree = _place(cache, root), tree_stamp(root)
    held = _read(path, tree)
    if parts not in held:
        write_json(path, {"root": str(root.resolve()), "tree": tree, "parts": [*held, parts]})


def remembered(cache: Path, root: Path) -> list[Parts] | None:
    """What the data at `root` is known to hold: nothing where it has changed since, None where it is not there."""
    return _read(_place(cache, root), tree_stamp(root)) if root.exists() else None


def _place(cache: Path, root: Path) -> Path:
    return cache / "content" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]}.json"


def _read(path: Path, tree: str) -> list[Parts]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return list(held["parts"]) if held["tree"] == tree else []
    except (OSError, ValueError, KeyError, TypeError):
        return []  # read again: the cache only saves a pass
