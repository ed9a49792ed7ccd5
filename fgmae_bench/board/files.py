"""The files of a store that is a folder, and where in a store everything stands."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from fgmae_bench.board.git import AGAIN, Entry
from fgmae_bench.errors import BenchError
from fgmae_bench.records import clean_id

RECORDS, PREDICTIONS, EXPLANATIONS, CARDS = "records", "predictions", "explanations", "cards"
ROOMS = (RECORDS, PREDICTIONS, EXPLANATIONS, CARDS)
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")  # a part of a path: no leading dot or dash, nothing to escape


class Folder:
    """A checkout of a store. Nothing is read through a link."""

    def __init__(self, root: Path):
        self.root = root

    def entries(self) -> list[Entry]:
        """Every file of the rooms of a store, links and special files as what they are."""
        found: list[Entry] = []
        for room in ROOMS:
            place = self.root / room
            if place.is_symlink():
                found.append(Entry(path=room, kind="symbolic link", size=0))
            elif place.is_dir():
                self._look(place, found)
        return sorted(found, key=lambda entry: entry.path)

    def _look(self, folder: Path, found: list[Entry]) -> None:
        pending = [folder]
        while pending:
            with os.scandir(pending.pop()) as inside:
                for each in inside:
                    status = each.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(Path(each.path))
                        continue
                    path = Path(each.path).relative_to(self.root).as_posix()
                    found.append(Entry(path=path, kind=_kind(status.st_mode), size=status.st_size))

    def read(self, entry: Entry) -> bytes:
        """The bytes of a file; raises BenchError where it cannot be read."""
        try:
            handle = os.open(self.root / entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(handle, "rb") as stream:
                return stream.read(entry.size + 1)
        except OSError as error:
            raise BenchError(f"{entry.path}: cannot be read ({error.strerror})", AGAIN) from error


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    return "symbolic link" if stat.S_ISLNK(mode) else "special file"


def predictions_path(run_id: str) -> str:
    """Where the predictions of a run stand; a record of stresses is scored from those of the run it stresses."""
    return f"{PREDICTIONS}/{clean_id(run_id)}.safetensors"


def require_store(folder: Path) -> Path:
    """The folder; raises BenchError unless it is a checkout of a repository."""
    if not folder.is_dir():
        raise BenchError(f"{folder} is not a folder", "clone the store and give the folder of the clone")
    if not (folder / ".git").exists():
        raise BenchError(f"{folder} is not a git repository", "clone the store, or begin one with git init")
    return folder
