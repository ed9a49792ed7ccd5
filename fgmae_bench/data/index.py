"""The index of a dataset on disk: which samples there are, their classes, and a signature that changes with any
file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.labels import Codes
from fgmae_bench.data.raster import read_chip
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.views.chip import Chip

TIFF = (".tif", ".tiff")
SIDECARS = (".aux.xml", ".ovr", ".xml", "thumbs.db", "desktop.ini")
MARKER = "SYNTHETIC.json"  # what a synthetic world leaves at its root


Reader = Callable[[Path, Card], Chip]


def read_file(path: Path, card: Card) -> Chip:
    """The usual reader: one two-band TIFF a sample."""
    return read_chip(path, card)


class LabelMaps(Protocol):
    """Label maps of segmentation data: files beside the images, or values of a pack."""

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
        """SHA-256 of names and stamps: changes with any file."""
        return hashlib.sha256("\n".join(self.files).encode() + self.stamps.tobytes()).hexdigest()

    def read(self, row: int, card: Card) -> Chip:
        """Pixels of one sample, held against the card."""
        return self.reader(self.path(row), card)

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
        raise BenchError(f"{root / name}: '{name}' is no class of {card.title}", closest(name, card.classes))
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
    if len(set(index.ids)) != len(index.ids):
        raise BenchError(f"{root}: two files differ in their ending only", "keep one of each")
    return index


def require_data(card: Card, root: Path) -> None:
    """Raise BenchError with the command that gets the data when there is none at `root`."""
    get = card.origin.get or f"see {card.origin.url}"
    if not root.is_dir():
        raise BenchError(f"{card.title}: no data at {root}", f"get it with: {get}")
    if not any(root.iterdir()):
        raise BenchError(f"{card.title}: {root} is empty", f"get the data with: {get}")


def check_counts(card: Card, index: Index) -> str | None:
    """What the data contradicts of the counts of its card (or of its synthetic world's marker), or None."""
    marker = read_marker(index.root)
    source = MARKER if marker else "the card"
    if index.labels.ndim == 2:
        if not marker and card.counts and card.counts.per_collection:
            return _collections(card.counts.per_collection, index)
        on_disk, total = (
            len(index.files) + index.left_out,
            sum(marker["counts"].values()) if marker else card.counts and card.counts.total,
        )
        return None if total in (None, on_disk) else f"{index.root} holds {on_disk} images where {source} says {total}"
    expected = marker["counts"] if marker else (card.counts.per_class if card.counts else {})
    found = np.bincount(index.labels, minlength=len(card.classes))
    for name, count in zip(card.classes, found, strict=True):
        if expected and expected.get(name) != count:
            return f"{index.root / name} holds {count} images where {source} says {expected.get(name, 0)}"
    if not expected and card.counts and card.counts.total != len(index.files):
        return f"{index.root} holds {len(index.files)} images where {source} says {card.counts.total}"
    return None


def _collections(stated: dict[str, int], index: Index) -> str | None:
    """What the data contradicts of the sizes of its collections, the first part of each id; collections that lack are
    no fault.
    """
    found = Counter(name.partition("/")[0] for name in index.ids)
    for name, count in stated.items():
        if found[name] not in (0, count):
            return f"{index.root} holds {found[name]} images of {name} where the card says {count}"
    return None


def read_marker(root: Path) -> dict[str, Any] | None:
    """The marker of a synthetic world, or None for a folder without one. Raises BenchError on a broken marker."""
    path = root / MARKER
    if not path.exists():
        return None
    try:
        marker = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "")
        if isinstance(marker["fingerprint"], str) and isinstance(marker["counts"], dict):
            return dict(marker)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchError(
            f"{path}: broken marker of a synthetic world ({error})", "write the world again with prepare synth"
        ) from error
    raise BenchError(f"{path}: broken marker of a synthetic world", "write the world again with prepare synth")


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
    """(name, bytes, modification time in ns) of each TIFF in a class folder; other files are refused, sidecars
    skipped.
    """
    for entry in os.scandir(folder):
        name = entry.name.lower()
        if _hidden(entry.name) or name.endswith(SIDECARS):
            continue
        if not name.endswith(TIFF):
            raise BenchError(f"{folder / entry.name} is not a TIFF file", "move it out of the class folder")
        try:
            status = entry.stat()
        except OSError as error:
            raise BenchError(f"{folder / entry.name} cannot be read ({error.strerror})", "mend or remove it") from error
        if not entry.is_file():
            raise BenchError(f"{folder / entry.name} is not a file", "move it out of the class folder")
        yield entry.name, status.st_size, status.st_mtime_ns


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
