"""The index of a dataset on disk: its samples, their classes, and a signature that changes with any file."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.labels import Codes
from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.synthetic import MARKER, read_marker
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.system.stamps import tree_stamp
from fgmae_bench.views.chip import Chip

TIFF = (".tif", ".tiff")
SIDECARS = (".aux.xml", ".ovr", ".xml", "thumbs.db", "desktop.ini")

Rows = NDArray[np.int64]  # row numbers of an index
Reader = Callable[[Path, Card], Chip]


def read_file(path: Path, card: Card) -> Chip:
    """The usual reader: one two-band TIFF a sample."""
    return read_chip(path, card)


class LabelMaps(Protocol):
    """Label maps of segmentation data: files next to the images, or values of a pack."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the label sources that every sample, or some of them, have."""

    def has(self, row: int, source: str) -> bool:
        """Whether a sample has labels of a source."""

    def codes(self, row: int, source: str) -> Codes:
        """Labels (H, W) of one sample as its source's codes. Raises BenchError where there are none."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """Samples of one dataset in the order of sorted files.

    `files` are relative to `root`. `labels` index the card's classes: (N,) for single-label datasets, multi-hot (N, C)
    for multi-label ones, (N, 0) for segmentation, whose label maps are read by `codes`.
    """

    root: Path
    files: tuple[str, ...]
    labels: NDArray[Any]
    stamps: NDArray[np.uint64]  # (N,) hash of each file's size and modification time
    synthetic: str | None  # fingerprint of the synthetic world, None for data without its marker
    left_out: int = 0  # samples on disk that no run uses, such as patches with none of the classes
    groups: tuple[str, ...] | None = None  # tile or scene of each sample, where it is known
    aliases: tuple[str, ...] | None = None  # another name of each sample, such as its S2 partner's, that lists may use
    parts: tuple[str, ...] | None = None  # train, val or test, where the data itself says so of each sample
    reader: Reader = read_file  # how the pixels of one sample are read
    source_content: NDArray[np.uint64] | None = None  # (N, 1 + S) hashes of the images and maps that a pack was made of
    source_maps: tuple[str, ...] = ()  # the label sources of its columns behind the first
    eight_bits: bool = False  # a pack that holds what a contract made of the samples, not the samples
    sums: NDArray[np.uint32] | None = None  # CRC-32 of each sample's value in a pack, which the reader can check
    names: tuple[str, ...] | None = None  # sample ids where they are not the files without their endings
    maps: LabelMaps | None = None  # label maps of segmentation data
    size: tuple[int, int] | None = (
        None  # (height, width) of the images where a synthetic world has made them smaller than the card's
    )

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Sample ids: the relative path without its ending, such as `River/River_12`."""
        return self.names or tuple(os.path.splitext(file)[0] for file in self.files)

    @cached_property
    def signature(self) -> str:
        """SHA-256 of names and stamps, and of the state of every file below `root`: changes with any file.

        The stamps alone would miss a file whose times were set back after it was written into.
        """
        names = "\n".join(self.files).encode()
        return hashlib.sha256(names + self.stamps.tobytes() + tree_stamp(self.root).encode()).hexdigest()

    def read(self, row: int, card: Card) -> Chip:
        """Pixels of one sample, held against the card."""
        return self.reader(self.path(row), card)

    def read_checked(self, row: int, card: Card) -> Chip:
        """The same, held against the checksum that a pack keeps: for the first pass, which says what the data is."""
        if self.sums is None:
            return self.read(row, card)
        return self.reader(self.path(row), card, int(self.sums[row]))  # type: ignore[call-arg]

    def codes(self, row: int, source: str) -> Codes:
        """Labels (H, W) of one sample, as codes of one of the card's label sources."""
        if self.maps is None:
            raise BenchError(
                f"{self.root} holds no label maps", "segmentation needs a dataset whose card names label sources"
            )
        return self.maps.codes(row, source)

    def path(self, row: int) -> Path:
        """Path of one sample."""
        return self.root / self.files[row]


def ids_sha256(ids: tuple[str, ...] | list[str]) -> str:
    """SHA-256 of sample ids, one a line, in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def class_folders(card: Card, root: Path) -> Index:
    """Index of `<root>/<Class>/<file>.tif`. One wrapping folder, as archives leave it, is stepped into.

    Lists and stats every file, so that a replaced one is noticed. Raises BenchError naming what is missing or too much.
    """
    root = _step_in(card, root)
    folders = {entry.name for entry in os.scandir(root) if entry.is_dir() and not _hidden(entry.name)}
    for name in sorted(folders - set(card.classes)):
        raise BenchError(f"{root / name}: '{name}' is not a class of {card.title}", closest(name, card.classes))
    files, labels, stamps = [], [], []
    for name in sorted(card.classes):
        found = sorted(_images(root / name)) if name in folders else []
        if not found:
            raise BenchError(f"{root / name}: class folder without images", f"complete the data: {card.origin.get}")
        for file, size, modified in found:
            files.append(f"{name}/{file}")
            stamps.append(int.from_bytes(hashlib.blake2b(f"{size} {modified}".encode(), digest_size=8).digest()))
        labels += [card.classes.index(name)] * len(found)
    marker = read_marker(root)
    index = Index(
        root=root,
        files=tuple(files),
        labels=np.array(labels, np.int64),
        stamps=np.array(stamps, np.uint64),
        synthetic=marker["fingerprint"] if marker else card.synthetic,
    )
    require_utf8(root, files)
    if len(set(index.ids)) != len(index.ids):
        raise BenchError(f"{root}: two files differ in their ending only", "keep one of each")
    return index


def require_utf8(root: Path, names: Iterable[str]) -> None:
    """Raise BenchError naming the first file whose name is not UTF-8: no record could hold it."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = name.encode(errors="backslashreplace").decode()
            raise BenchError(f"{root}: the name {shown} is not UTF-8", "rename the file") from None


def require_data(card: Card, root: Path) -> None:
    """Raise BenchError with the command that gets the data when there is none at `root`."""
    get = card.origin.get or f"see {card.origin.url}"
    if not root.is_dir():
        raise BenchError(f"{card.title}: no data at {root}", f"get it with: {get}")
    if not any(root.iterdir()):
        raise BenchError(f"{card.title}: {root} is empty", f"get the data with: {get}")


@dataclass(frozen=True, kw_only=True)
class Miscount:
    """How many samples there are, and how many were stated."""

    text: str
    found: int
    stated: int


def check_counts(card: Card, index: Index) -> Miscount | None:
    """What the data contradicts of the counts of its card (or of its synthetic world's marker), or None.

    Of several, one with more samples than stated comes first: no part of the dataset can have those.
    """
    found = [(place, count, stated) for place, count, stated in _counted(card, index) if count != stated]
    if not found:
        return None
    place, count, stated = max(found, key=lambda each: each[1] > each[2])
    source = MARKER if read_marker(index.root) else "the card"
    return Miscount(text=f"{place} where {source} says {stated}", found=count, stated=stated)


def _counted(card: Card, index: Index) -> Iterator[tuple[str, int, int]]:
    """(what holds how many images, in words; that number; the number stated) of each count that is stated."""
    marker = read_marker(index.root)
    if index.labels.ndim == 2:
        if not marker and card.counts and card.counts.per_collection:
            held = Counter(name.partition("/")[0] for name in index.ids)
            for name, stated in card.counts.per_collection.items():
                if held[name]:  # a collection that is not there is not a fault
                    yield f"{index.root} holds {held[name]} images of {name}", held[name], stated
            return
        on_disk = len(index.files) + index.left_out
        if marker or card.counts:
            total = sum(marker["counts"].values()) if marker else card.counts.total  # type: ignore[union-attr]
            yield f"{index.root} holds {on_disk} images", on_disk, int(total)
        return
    expected = marker["counts"] if marker else (card.counts.per_class if card.counts else {})
    if not expected and card.counts:
        yield f"{index.root} holds {len(index.files)} images", len(index.files), card.counts.total
    for name, count in zip(card.classes, np.bincount(index.labels, minlength=len(card.classes)), strict=True):
        if expected:
            yield f"{index.root / name} holds {count} images", int(count), expected.get(name, 0)


def _step_in(card: Card, root: Path) -> Path:
    """The folder that holds the class folders: `root`, or the only folder in it, twice at most."""
    for _ in range(3):
        inside = [entry.name for entry in os.scandir(root) if entry.is_dir() and not _hidden(entry.name)]
        if set(inside) & set(card.classes):
            return root
        if len(inside) != 1:
            break
        root = root / inside[0]
    raise BenchError(
        f"{root}: none of the class folders of {card.title} is there",
        f"expected {', '.join(sorted(card.classes)[:3])}, …",
    )


def _images(folder: Path) -> Iterator[tuple[str, int, int]]:
    """(name, bytes, modification time in ns) of each TIFF in a class folder; all but sidecars are refused."""
    for entry in os.scandir(folder):
        name = entry.name.lower()
        if _hidden(entry.name) or name.endswith(SIDECARS):
            continue
        if not name.endswith(TIFF):
            raise BenchError(f"{folder / entry.name} is not a TIFF file", "move it out of the class folder")
        try:
            status = entry.stat()
        except OSError as error:
            raise BenchError(
                f"{folder / entry.name} cannot be read ({error.strerror})", "repair or remove it"
            ) from error
        if not entry.is_file():
            raise BenchError(f"{folder / entry.name} is not a file", "move it out of the class folder")
        yield entry.name, status.st_size, status.st_mtime_ns


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
