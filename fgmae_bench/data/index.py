"""The index of a dataset on disk: its samples, their classes, and a signature that changes with any file."""

from __future__ import annotations

import dataclasses
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
from fgmae_bench.errors import BenchError
from fgmae_bench.system.stamps import tree_stamp
from fgmae_bench.views.chip import Chip

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

    def targets(self, row: int, source: str) -> NDArray[np.float32]:
        """Targets (H, W) of a regression, NaN where there is none. Raises BenchError where the sample has none."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """Samples of one dataset in the order of sorted files.

    `files` are relative to `root`. `labels` index the card's classes: (N,) for single-label datasets, multi-hot (N, C)
    for multi-label ones, (N, 0) for segmentation, whose label maps are read by `codes`; targets (N, 1) of a regression.
    """

    root: Path
    files: tuple[str, ...]
    labels: NDArray[Any]
    stamps: NDArray[np.uint64]  # (N,) hash of each file's size and modification time
    synthetic: str | None  # fingerprint of the synthetic world, None for data without its marker
    left_out: int = 0  # samples on disk that no run uses, such as patches with none of the classes
    groups: tuple[str, ...] | None = None  # tile or scene of each sample, where it is known
    group_kind: str = ""  # what a group is: scene, acquisition, 20 km block
    aliases: tuple[str, ...] | None = None  # another name of each sample, such as its S2 partner's, that lists may use
    parts: tuple[str, ...] | None = None  # train, val or test, where the data itself says so of each sample
    reader: Reader = read_file  # how the pixels of one sample are read
    image: Callable[[Path], Path] = Path  # the file of a sample, by its path, that a georeference is read from
    source_content: NDArray[np.uint64] | None = None  # (N, 1 + S) hashes of the images and maps that a pack was made of
    source_maps: tuple[str, ...] = ()  # the label sources of its columns behind the first
    eight_bits: bool = False  # a pack that holds what a contract made of the samples, not the samples
    sums: NDArray[np.uint32] | None = None  # CRC-32 of each sample's value in a pack, which the reader can check
    before: tuple[str, ...] | None = None  # file of the earlier date of each sample, where there are two
    places: NDArray[np.float64] | None = None  # (N, 5, 2) degrees: centre and corners, where a table states them
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

    def read_before(self, row: int, card: Card) -> Chip:
        """Pixels of the earlier date of one sample, held against the card. Raises BenchError where there is none."""
        if self.before is None:
            todo = "name the earlier images under [before] on the card, and use the files, not a pack"
            raise BenchError(f"{self.root} holds one date a sample", todo)
        return self.reader(self.root / self.before[row], card)

    def codes(self, row: int, source: str) -> Codes:
        """Labels (H, W) of one sample, as codes of one of the card's label sources."""
        if self.maps is None:
            raise BenchError(
                f"{self.root} holds no label maps", "segmentation needs a dataset whose card names label sources"
            )
        return self.maps.codes(row, source)

    def targets(self, row: int, source: str) -> NDArray[np.float32]:
        """Targets (H, W) of one sample of a regression of pixels, NaN where there is none."""
        if self.maps is None:
            raise BenchError(f"{self.root} holds no maps of targets", "name them as a label source on the card")
        return self.maps.targets(row, source)

    def path(self, row: int) -> Path:
        """Path of one sample."""
        return self.root / self.files[row]


@dataclass(frozen=True)
class SomeMaps:
    """The label maps of some rows of an index, by their place among these."""

    maps: LabelMaps
    rows: Rows

    @property
    def known(self) -> Any:
        """The label sources by name, where the maps have codes."""
        return getattr(self.maps, "known", {})

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the label sources."""
        return self.maps.sources

    def has(self, row: int, source: str) -> bool:
        """Whether a sample has labels of a source."""
        return self.maps.has(int(self.rows[row]), source)

    def codes(self, row: int, source: str) -> Codes:
        """Labels (H, W) of one sample."""
        return self.maps.codes(int(self.rows[row]), source)

    def targets(self, row: int, source: str) -> NDArray[np.float32]:
        """Targets (H, W) of one sample."""
        return self.maps.targets(int(self.rows[row]), source)


def some_of(index: Index, rows: Rows) -> Index:
    """The index of some of its samples."""
    texts: dict[str, Any] = {
        name: held and tuple(held[row] for row in rows)
        for name in ("files", "groups", "aliases", "parts", "names", "before")
        for held in [getattr(index, name)]
    }
    return dataclasses.replace(
        index,
        **texts,
        labels=index.labels[rows],
        stamps=index.stamps[rows],
        sums=None if index.sums is None else index.sums[rows],
        places=None if index.places is None else index.places[rows],
        maps=None if index.maps is None else SomeMaps(index.maps, rows),
    )


def ids_sha256(ids: tuple[str, ...] | list[str]) -> str:
    """SHA-256 of sample ids, one a line, in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


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
        raise BenchError(f"{card.title}: no data at {root}", f"to get it: {get}")
    if not any(root.iterdir()):
        raise BenchError(f"{card.title}: {root} is empty", f"to get the data: {get}")


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
