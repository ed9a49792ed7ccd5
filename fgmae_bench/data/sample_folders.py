"""Sample folders: a folder for each sample, with its images, label maps and valid pixels by the names of its files."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from fgmae_bench.config.cards import Card, LabelFile
from fgmae_bench.data.dfc.layout import SizedReader, data_size, stamp
from fgmae_bench.data.dfc.maps import map_files, read_band
from fgmae_bench.data.files import Pattern, Stat, hidden, keyed_files
from fgmae_bench.data.folders import reader_of
from fgmae_bench.data.index import Index, Reader, require_utf8
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import is_kind
from fgmae_bench.views.chip import Chip

DEEPEST = 8  # folders below the root that are looked into
DATE = re.compile(r"(?<!\d)((?:19|20)\d{2})(\d{2})(\d{2})(?!\d)")
IMAGE, BEFORE, VALID, EARLIER = "image", "earlier image", "map of valid pixels", "image before that"


@dataclass(frozen=True)
class Validated:
    """Reads an image, and takes pixels out where the map next to it is not 1."""

    inner: Reader
    pattern: Pattern

    def __call__(self, path: Path, card: Card) -> Chip:
        """One image. Raises BenchError naming a map that is absent, or of another size."""
        chip = self.inner(path, card)
        names = [entry.name for entry in os.scandir(path.parent) if self.pattern.key(entry.name) is not None]
        if len(names) != 1:
            raise BenchError(f"{path.parent} has {len(names)} files named as {self.pattern.text}", "complete the data")
        size = (card.signal.size[0], card.signal.size[1])
        kept = read_band(path.parent / names[0], LabelFile(folder=""), size) == 1
        held = np.ones(chip.db.shape, bool) if chip.valid is None else chip.valid
        valid = held & kept
        return Chip(db=chip.db, valid=None if valid.all() else valid, synthetic=chip.synthetic)


def sample_folders(card: Card, root: Path) -> Index:
    """Index of folders that hold a sample each, however deep, such as `130/01/<id>/MS1_IVV_130_01_20170504.tif`.

    `layout.images`, `layout.valid`, `before.images` and the `masks` of label sources are names of files in the folder;
    its last `layout.levels` parts are the sample's id. Raises BenchError naming the first folder that lacks a file, and
    an earlier image that is not of an earlier date.
    """
    found = {_id(card, folder): _held(card, root, folder) for folder in _sample_folders(card, root, "", 0)}
    if not found:
        what = f"{root}: no folder of a sample is there, {card.arrangement.images} was looked for"
        raise BenchError(what, f"get the data: {card.origin.get}")
    names = tuple(sorted(found.keys() - set(card.broken)))
    kinds = {stated.folder for stated in card.label_sources.values()}
    files = tuple(found[name][IMAGE][0][0] for name in names)
    require_utf8(root, files)
    size, synthetic = data_size(card, root)
    maps = {kind: tuple(found[name][kind][0][0] if found[name][kind] else "" for name in names) for kind in kinds}
    return Index(
        root=root,
        files=files,
        labels=np.zeros((len(names), 0), np.uint8),
        stamps=np.array(
            [stamp(*(stat for held in found[name].values() for _, stat in held)) for name in names], np.uint64
        ),
        synthetic=synthetic or card.synthetic,
        left_out=len(found) - len(names),
        before=tuple(found[name][BEFORE][0][0] for name in names) if card.before else None,
        names=names,
        reader=_reader(card, size),
        size=size,
        maps=map_files(card, root, names, maps, size, files),
    )


def _reader(card: Card, size: tuple[int, int]) -> Reader:
    inner = reader_of(card)
    return SizedReader(size, Validated(inner, Pattern(card.arrangement.valid)) if card.arrangement.valid else inner)


def _wanted(card: Card) -> dict[str, Pattern]:
    """Pattern of each kind of file that a folder must hold, `EARLIER` aside, which it may hold."""
    found = {IMAGE: Pattern(card.arrangement.images)}
    if card.before is not None:
        found[BEFORE] = Pattern(card.before.images)
        if card.before.earlier:
            found[EARLIER] = Pattern(card.before.earlier)
    if card.arrangement.valid:
        found[VALID] = Pattern(card.arrangement.valid)
    return found | {stated.folder: Pattern(stated.masks) for stated in card.label_sources.values()}


def _sample_folders(card: Card, root: Path, place: str, depth: int) -> Iterator[str]:
    """Folders, relative to the root, that hold a file of any kind."""
    patterns, inside = list(_wanted(card).values()), []
    holds = False
    for entry in os.scandir(root / place):
        if hidden(entry.name):
            continue
        if is_kind(entry, folder=True):
            inside.append(entry.name)
        else:
            holds = holds or any(_fits(card, pattern, entry.name) for pattern in patterns)
    if holds:
        yield place
    for name in sorted(inside) if depth < DEEPEST else ():
        yield from _sample_folders(card, root, f"{place}/{name}" if place else name, depth + 1)


def _fits(card: Card, pattern: Pattern, name: str) -> bool:
    bands = card.signal.bands if pattern.by_band else ("",)
    return any(pattern.key(name, spelt) is not None for band in bands for spelt in (band, band.lower()))


def _id(card: Card, folder: str) -> str:
    return "/".join(PurePosixPath(folder).parts[-card.arrangement.levels :]) or folder


def _held(card: Card, root: Path, folder: str) -> dict[str, list[tuple[str, Stat]]]:
    """Files of a folder by kind, relative to the root. Raises BenchError where it lacks one, or has one twice."""
    place, found = root / folder, {}
    usual = card.label_sources[card.label_source].folder if card.label_source else ""
    optional = {EARLIER, *(stated.folder for stated in card.label_sources.values())} - {usual}
    for kind, pattern in _wanted(card).items():
        keys = keyed_files(place, pattern, card.signal.bands)
        if len(keys) > 1:
            raise BenchError(f"{place} has {len(keys)} files named as {pattern.text}", "keep one")
        if not keys and kind not in optional:
            what = {IMAGE: "later image", usual: "label map"}.get(kind, kind)
            raise BenchError(f"{place} has no {what}: {pattern.text} was looked for", "complete the data, or remove it")
        lead = f"{folder}/" if folder else ""
        found[kind] = [(lead + file, stat) for files in keys.values() for file, stat in files]
    _refuse_dates(card, root, found)
    return found


def _refuse_dates(card: Card, root: Path, found: dict[str, list[tuple[str, Stat]]]) -> None:
    """Raise BenchError where dates in the names of files are not in the order of the card."""
    for earlier, later in ((BEFORE, IMAGE), (EARLIER, BEFORE)):
        if not found.get(earlier) or not found.get(later):
            continue
        first, second = (root / found[kind][0][0] for kind in (earlier, later))
        before, after = _date(first.name), _date(second.name)
        if before is None or after is None or before < after or (earlier == EARLIER and before == after):
            continue
        what = f"{first} is of {before}, {second.name} of {after}, which is stated to be the later one"
        known = f": {card.traps['pre_event']}" if "pre_event" in card.traps else ""
        raise BenchError(what + known, "name the files by their dates, or correct [before] on the card")


def _date(name: str) -> datetime.date | None:
    """The last date in a file's name, None without one."""
    for year, month, day in reversed(DATE.findall(name)):
        try:
            return datetime.date(int(year), int(month), int(day))
        except ValueError:
            continue
    return None
