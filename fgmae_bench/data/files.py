"""Files of images by name: what a pattern finds in a folder, and readers of TIFF, PNG, NumPy arrays, and of a file a
band.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.sample_cache import BROKEN_ARRAY
from fgmae_bench.data.signal import chip_of
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import is_kind
from fgmae_bench.views.chip import Chip

TIFF = (".tif", ".tiff")
IMAGES = (*TIFF, ".png", ".npy")
SIDECARS = (".aux.xml", ".ovr", ".xml", "thumbs.db", "desktop.ini")
MOST_ARRAY_BYTES = 1 << 30
DEEPEST = 4  # folders below those of images and of label maps
MOST_WRAPPERS = 256  # folders of one depth that are looked into for what an archive wraps
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}  # what folders and columns call the parts of a split
Stat = tuple[int, int]  # bytes, modification time in ns


@dataclass(frozen=True)
class Pattern:
    """A file name with one `*`, its key, and `{band}` where each band has a file of its own.

    Of two `*` the key is what both stand for, joined by `_`.
    """

    text: str

    @cached_property
    def folder(self) -> str:
        """The folder of the pattern, empty for none."""
        folder = PurePosixPath(self.text).parent.as_posix()
        return "" if folder == "." else folder

    @property
    def by_band(self) -> bool:
        """Whether each band is a file."""
        return "{band}" in self.text

    @cached_property
    def _both(self) -> re.Pattern[str] | None:
        """An expression where there are two `*`."""
        parts = PurePosixPath(self.text).name.split("*")
        return re.compile("(.+)".join(map(re.escape, parts))) if len(parts) == 3 else None

    def name(self, key: str, band: str = "") -> str:
        """The file name, without its folder, of a key; of two `*` the pattern, which a key does not say."""
        if self._both is not None:
            return PurePosixPath(self.text).name
        return PurePosixPath(self.text).name.replace("{band}", band).replace("*", key)

    def key(self, name: str, band: str = "") -> str | None:
        """What `*` stands for in a file name, None where it does not fit."""
        if self._both is not None:
            match = self._both.fullmatch(name)
            return "_".join(match.groups()) if match else None
        before, _, after = self.name("*", band).partition("*")
        fits = len(name) > len(before) + len(after) and name.startswith(before) and name.endswith(after)
        return name[len(before) : len(name) - len(after)] if fits else None


def hidden(name: str) -> bool:
    """Whether a name is one of those that systems leave next to data."""
    return name.startswith((".", "__MACOSX")) or name.lower().endswith(SIDECARS)


def folders_in(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return sorted(entry.name for entry in os.scandir(root) if not hidden(entry.name) and is_kind(entry, folder=True))


def folders_below(root: Path) -> list[str]:
    """Folders below a folder, relative to it and with a `/` at the end, sorted within each depth."""
    found, level = [], [""]
    for _ in range(DEEPEST):
        level = [f"{folder}{inner}/" for folder in level for inner in folders_in(root / folder)]
        found += level
    return found


def part_folders(root: Path, taken: tuple[str, ...] = ()) -> dict[str, str]:
    """Folder -> part of a split, where the folders of a place are named after parts, train and test among them."""
    named = {name: PARTS[name.lower()] for name in folders_in(root) if name.lower() in PARTS and name not in taken}
    return named if {"train", "test"} <= set(named.values()) else {}


def holding(root: Path, name: str, deepest: int = 4) -> Path | None:
    """The nearest folder, `root` or below, in which the path `name` is; None where there is none.

    Archives wrap folders around what they hold, and those of one dataset differ in how many.
    """
    level = [root] if root.is_dir() else []
    for depth in range(deepest + 1):
        found = [folder for folder in level if os.path.exists(folder / name)]
        if found:
            return found[0]
        if depth == deepest or len(level) > MOST_WRAPPERS:
            return None
        level = [folder / inner for folder in level for inner in folders_in(folder)]
    return None


def keyed_files(folder: Path, pattern: Pattern, bands: tuple[str, ...]) -> dict[str, list[tuple[str, Stat]]]:
    """Key -> (file name, stat) of its files, one for each band where the pattern has `{band}`; keys sorted.

    Bands may be written in small letters. Raises BenchError naming a key that lacks a band.
    """
    entries = {entry.name: entry for entry in os.scandir(folder) if not hidden(entry.name) and is_kind(entry)}
    wanted = bands if pattern.by_band else ("",)
    found: dict[str, dict[str, str]] = {}
    for name in entries:
        for band in wanted:
            key = next((k for b in (band, band.lower()) if (k := pattern.key(name, b)) is not None), None)
            if key is not None:
                found.setdefault(key, {})[band] = name
    for key, held in sorted(found.items()):
        if absent := [band for band in wanted if band not in held]:
            what = f"{folder / next(iter(held.values()))} has no file of band {absent[0]}"
            raise BenchError(f"{what}: {pattern.name(key, absent[0])} was looked for", "complete the data")
    return {key: [(held[band], _stat(entries[held[band]])) for band in wanted] for key, held in sorted(found.items())}


def _stat(entry: os.DirEntry[str]) -> Stat:
    status = entry.stat()
    return status.st_size, status.st_mtime_ns


def read_image(path: Path, card: Card) -> Chip:
    """One image with all its bands: TIFF, PNG, or a NumPy array by its ending. Raises BenchError as `read_chip`."""
    return read_array(path, card) if path.suffix.lower() == ".npy" else read_chip(path, card)


def read_array(path: Path, card: Card) -> Chip:
    """One image as a NumPy array (bands, H, W), (H, W, bands), or (H, W) of one band; never unpickled.

    Raises BenchError naming the file: not an array of real numbers, or of another shape than the card states.
    """
    size, held = tuple(card.signal.size), load_array(path)
    values = held[None] if held.ndim == 2 else held
    if values.ndim == 3 and values.shape[1:] != size and values.shape[:2] == size:
        values = np.moveaxis(values, -1, 0)
    if values.ndim != 3 or values.shape[1:] != size:
        stated = "x".join(map(str, (len(card.signal.bands), *size)))
        what = f"{path} is an array of {'x'.join(map(str, held.shape))}, {card.title} has {stated}"
        raise BenchError(what, "replace the file, or correct bands and size on the card")
    with np.errstate(over="ignore"):
        return chip_of(np.array(values, np.float64 if card.signal.converted else np.float32), card, path)


def load_array(path: Path) -> NDArray[Any]:
    """A NumPy file's array of real numbers, mapped: nothing is allocated by what its header says, nothing unpickled.

    Raises BenchError naming the file.
    """
    try:
        if os.path.getsize(path) > MOST_ARRAY_BYTES:
            raise ValueError(f"more than {MOST_ARRAY_BYTES >> 20} MiB")
        held = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, *BROKEN_ARRAY) as error:
        reason = " ".join(str(error).split())[:120]
        raise BenchError(f"{path} cannot be read as a NumPy array ({reason})", "replace the file") from error
    if not isinstance(held, np.ndarray) or held.dtype.kind not in "fiu":
        kind = held.dtype if isinstance(held, np.ndarray) else "an archive of"
        raise BenchError(f"{path} holds {kind} values", "give one array of real numbers")
    return held


@dataclass(frozen=True)
class BandFiles:
    """Reads images whose bands are files; an image is known by the file of the card's first band.

    `others` are patterns of further images of the same places, such as those of an earlier date.
    """

    pattern: Pattern
    others: tuple[Pattern, ...] = ()

    def __call__(self, path: Path, card: Card) -> Chip:
        """One image, its bands in the order of the card. Raises BenchError naming a file as `read_image`."""
        bands, chips = card.signal.bands, []
        pattern, key = self._key(path, bands[0])
        for band in bands:
            file = next(
                (p for b in (band, band.lower()) if (p := path.parent / pattern.name(key, b)).is_file()),
                path.parent / pattern.name(key, band),
            )
            alone = dataclasses.replace(card.signal, bands=(band,), index=(), described=())
            one = dataclasses.replace(card, signal=alone)
            chips.append(read_image(file, one))
        db = np.concatenate([chip.db for chip in chips])
        valid = np.concatenate([np.ones(c.db.shape, bool) if c.valid is None else c.valid for c in chips])
        return Chip(db=db, valid=None if valid.all() else valid, synthetic=any(chip.synthetic for chip in chips))

    def _key(self, path: Path, first: str) -> tuple[Pattern, str]:
        """The pattern that a file of the first band fits, with its key."""
        for pattern in (self.pattern, *self.others):
            for band in (first, first.lower()):
                key = pattern.key(path.name, band)
                if key is not None:
                    return pattern, key
        raise BenchError(f"{path} is not named as {self.pattern.text}", "correct layout.images on the card")


def stem_of(name: str) -> str:
    """A name without the ending of an image file; other endings belong to it."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in IMAGES else name
