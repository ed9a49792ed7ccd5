"""What tells that a folder of files is as it was, without reading them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fgmae_bench.errors import BenchError


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
            for name in sorted(name for name in names if not name.startswith(".")):
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
