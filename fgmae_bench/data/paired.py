"""Paired folders: images in one folder, label maps or maps of targets in others, matched by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.data.dfc.layout import SizedReader, data_size, stamp
from fgmae_bench.data.dfc.maps import map_files
from fgmae_bench.data.files import (
    IMAGES,
    PARTS,
    TIFF,
    Pattern,
    Stat,
    folders_below,
    hidden,
    holding,
    keyed_files,
    part_folders,
    stem_of,
)
from fgmae_bench.data.folders import reader_of
from fgmae_bench.data.index import Index, Reader, read_file
from fgmae_bench.errors import BenchError

IMAGE = "\0"  # the images among the folders, which may have the same name as that of the label maps
BEFORE = "\0before"  # the images of the earlier date
Files = dict[str, list[tuple[str, Stat]]]  # key -> (file relative to the data, stat), one a band or one


def paired_folders(card: Card, root: Path) -> Index:
    """Index of `<folder of images>/<name>.tif` with label maps `<folder of labels>/<name>.tif`, folders as on the card.

    The card's `layout.images` and `layout.masks` are file names with one `*`, which matches the same text in both.
    Files may be in folders below these, of the same names for images and label maps: a scene a folder. Where folders
    `train`, `val` and `test` hold the folders, or are in them, or stand for `{part}` in their names, they
    are the parts of a stated split. Folders that an archive wraps around them are stepped over. Ids and groups are the
    names. A label source that is not the card's usual one may be wholly absent. Raises BenchError naming an image
    without its label map, or without its other date, and what was looked for.
    """
    places = _places(card, root)
    parted = _parted(card, root)
    held: dict[str, Files] = {kind: {} for kind in (IMAGE, *places, *([BEFORE] if card.before else []))}
    part_of: dict[str, str] = {}
    lead = _wrapped(card, root)
    for part in sorted(parted) or [""]:
        found = {IMAGE: _listed(card, root, lead + card.signal.folder, part, card.arrangement.images)}
        found |= {kind: _listed(card, root, lead + kind, part, _masks(card, kind)) for kind in places}
        if card.before is not None:
            named = card.before.images or card.arrangement.images
            found[BEFORE] = _listed(card, root, lead + card.before.folder, part, named)
        part_of |= dict.fromkeys(found[IMAGE], parted.get(part, ""))
        for kind, files in found.items():
            held[kind] |= files
    images = held[IMAGE]
    if not images:
        looked = card.arrangement.images or "*.tif"
        what = f"{root / card.signal.folder}: no images are there, {looked} was looked for"
        raise BenchError(what, f"get the data: {card.origin.get}")
    for kind in places:
        _refuse_absent(card, root, kind, images, held[kind])
    if card.before is not None:
        _refuse_absent(card, root, BEFORE, images, held[BEFORE])
        _refuse_alone(card, root, images, held[BEFORE])
    names = tuple(sorted(images.keys() - set(card.broken)))
    size, synthetic = data_size(card, root)
    maps = {kind: tuple(held[kind][name][0][0] for name in names) for kind in places}
    maps |= {stated.folder: ("",) * len(names) for stated in card.label_sources.values() if stated.folder not in maps}
    paths = tuple(images[name][0][0] for name in names)
    return Index(
        root=root,
        files=paths,
        labels=np.zeros((len(names), 0), np.uint8),
        stamps=np.array([stamp(*(stat for kind in held for _, stat in held[kind][name])) for name in names], np.uint64),
        synthetic=synthetic or card.synthetic,
        left_out=len(images) - len(names),
        groups=names,
        parts=tuple(part_of[name] for name in names) if parted else None,
        before=tuple(held[BEFORE][name][0][0] for name in names) if card.before else None,
        names=names,
        reader=_reader(card, size),
        size=size,
        maps=map_files(card, root, names, maps, size, paths),
    )


def _places(card: Card, root: Path) -> list[str]:
    """Folders of label maps; without those of sources that a card only adds, where they are not there at all."""
    usual = card.label_sources[card.label_source].folder
    lead = _wrapped(card, root)
    every = {stated.folder for stated in card.label_sources.values()}
    return sorted(kind for kind in every if kind == usual or "{part}" in kind or (root / (lead + kind)).is_dir())


def _wrapped(card: Card, root: Path) -> str:
    """What an archive has wrapped around the folders, as the beginning of a path: empty for nothing."""
    first = card.signal.folder.replace("{part}", "train").partition("/")[0]
    if not first or (root / first).is_dir() or not root.is_dir() or part_folders(root):
        return ""
    found = holding(root, first, deepest=6)
    return "" if found is None or found == root else f"{found.relative_to(root).as_posix()}/"


def _parted(card: Card, root: Path) -> dict[str, str]:
    """Folder -> part of a split. Of folders named by `{part}`, a part whose label maps are not there is none."""
    if not root.is_dir():
        return {}
    lead, usual = _wrapped(card, root), card.label_sources[card.label_source].folder
    if "{part}" not in card.signal.folder:
        inner = root / (lead + card.signal.folder)
        return part_folders(root) or (part_folders(inner) if inner.is_dir() else {})
    wanted = [lead + card.signal.folder, lead + usual]
    return {
        name: part
        for name, part in PARTS.items()
        if all((root / folder.replace("{part}", name)).is_dir() for folder in wanted)
    }


def _masks(card: Card, folder: str) -> str:
    """The names of label maps in a folder, as a pattern; empty for those of the images."""
    own = next((stated.masks for stated in card.label_sources.values() if stated.folder == folder), "")
    return own or card.arrangement.masks


def _reader(card: Card, size: tuple[int, int]) -> Reader:
    inner = reader_of(card)
    return SizedReader(size) if inner is read_file else SizedReader(size, inner)


def _listed(card: Card, root: Path, folder: str, part: str, named: str) -> Files:
    """Files by key, `<part>/<key>` where folders are parts, below `<part>/<folder>` or `<folder>/<part>`."""
    pattern = Pattern(named)
    inside = "/".join(filter(None, (folder.replace("{part}", part).rstrip("/"), pattern.folder)))
    place = next((p for p in (f"{part}/{inside}", f"{inside}/{part}") if (root / p).is_dir()), inside).strip("/")
    if not (root / place).is_dir():
        return {}
    start, lead = f"{place}/" if place else "", f"{part}/" if part else ""
    found: Files = {}
    for below in ["", *(folders_below(root / place) if inside else ())]:
        here = root / place / below
        files = _by_stem(here) if not named else keyed_files(here, pattern, card.signal.bands)
        found |= {
            f"{lead}{below}{key}": [(f"{start}{below}{file}", stat) for file, stat in held]
            for key, held in files.items()
        }
        if found and not below:  # a folder with files of its own is looked at alone
            break
    return found


def _by_stem(folder: Path) -> Files:
    """Image files by their names without ending: the TIFF files, where there is none those of any kind. Raises
    BenchError on two of one name.
    """
    found: Files = {}
    paths = [path for path in sorted(folder.iterdir()) if not hidden(path.name)]
    endings = next((kinds for kinds in (TIFF, IMAGES) if any(p.suffix.lower() in kinds for p in paths)), ())
    for path in paths:
        if path.suffix.lower() not in endings or not path.is_file():
            continue
        key, status = stem_of(path.name), path.stat()
        if key in found:
            raise BenchError(f"{path} and {found[key][0][0]} differ in their ending only", "keep one of the two")
        found[key] = [(path.name, (status.st_size, status.st_mtime_ns))]
    return found


def _refuse_alone(card: Card, root: Path, images: Files, earlier: Files) -> None:
    """Raise BenchError naming the first earlier image without a later one."""
    alone = sorted(earlier.keys() - images.keys() - set(card.broken))
    if alone:
        key, named = alone[0].rpartition("/")[2], card.arrangement.images
        looked = Pattern(named).name(key) if named else f"{key}.tif"
        what = f"{root / earlier[alone[0]][0][0]} has no later image in {root / card.signal.folder}"
        raise BenchError(f"{what}: {looked} was looked for", "complete the data, or remove the image")


def _refuse_absent(card: Card, root: Path, kind: str, images: Files, maps: Files) -> None:
    """Raise BenchError naming the first image that has no map of a kind, and the name that was looked for."""
    absent = sorted(images.keys() - maps.keys())
    if not absent:
        return
    key = absent[0].rpartition("/")[2]
    named, folder, partner = _masks(card, kind), kind, "label map"
    if kind == BEFORE and card.before is not None:
        named, folder, partner = card.before.images or card.arrangement.images, card.before.folder, "earlier image"
    looked = Pattern(named).name(key) if named else f"{key}.tif or .png"
    what = f"{root / images[absent[0]][0][0]} has no {partner} in {root / folder}: {looked} was looked for"
    if len(absent) > 1:
        what += f" ({len(absent)} of {len(images)} images have none)"
    todo = "complete the data, or remove the image"
    if len(absent) == len(images):
        todo = 'correct the names on the card, such as [layout] images = "*_S1.tif", masks = "*_mask.tif"'
    raise BenchError(what, todo)
