"""Class folders: images by the folder that they are in, TIFF, PNG or arrays, whole or a file a band, split or not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.data.files import (
    IMAGES,
    TIFF,
    BandFiles,
    Pattern,
    Stat,
    folders_in,
    hidden,
    keyed_files,
    part_folders,
    read_image,
    stem_of,
)
from fgmae_bench.data.index import Index, Reader, read_file, require_utf8
from fgmae_bench.data.synthetic import read_marker
from fgmae_bench.errors import BenchError, closest

Found = tuple[str, str, list[Stat]]  # id without its folder, file, stats of its files


def class_folders(card: Card, root: Path) -> Index:
    """Index of `<root>/<Class>/<file>.tif`, or of `<root>/<train, val, test>/<Class>/<file>`. One wrapping folder, as
    archives leave it, is stepped into.

    The card's `layout.images` names other files: `*.png`, `*.npy`, or `*_{band}.tif` for a file a band. Lists and stats
    every file, so that a replaced one is noticed. Raises BenchError naming what is missing or too much.
    """
    root = _step_in(card, root)
    parted = part_folders(root, card.classes)
    rows: list[tuple[str, str, int, list[Stat], str]] = []  # id, file, label, stats, part
    for folder in sorted(parted) or [""]:
        rows += [(*row, parted.get(folder, "")) for row in _classes(card, root, folder)]
    missing = set(range(len(card.classes))) - {row[2] for row in rows}
    if missing:
        name = card.classes[min(missing)]
        raise BenchError(f"{root / name}: class folder without images", f"complete the data: {card.origin.get}")
    marker = read_marker(root)
    ids, files, labels, stats, parts = zip(*rows, strict=True)
    index = Index(
        root=root,
        files=files,
        labels=np.array(labels, np.int64),
        stamps=np.array([_stamp(each) for each in stats], np.uint64),
        synthetic=marker["fingerprint"] if marker else card.synthetic,
        names=ids if card.arrangement.images else None,
        parts=parts if parted else None,
        reader=reader_of(card),
    )
    require_utf8(root, files)
    if len(set(index.ids)) != len(index.ids):
        raise BenchError(f"{root}: two files differ in their ending only", "keep one of each")
    return index


def reader_of(card: Card) -> Reader:
    """What reads the images that a card names: TIFF where it names none."""
    if not card.arrangement.images and not card.arrangement.table:
        return read_file
    pattern = Pattern(card.arrangement.images)
    earlier = (Pattern(card.before.images),) if card.before and card.before.images else ()
    return BandFiles(pattern, earlier) if pattern.by_band else read_image


def _classes(card: Card, root: Path, part: str) -> list[tuple[str, str, int, list[Stat]]]:
    """(id, file, class, stats) of each image below `root / part`, by sorted class."""
    place = root / part
    folders = set(folders_in(place))
    for name in sorted(folders - set(card.classes)):
        raise BenchError(f"{place / name}: '{name}' is not a class of {card.title}", closest(name, card.classes))
    rows = []
    for name in sorted(card.classes):
        inside = f"{part}/{name}" if part else name
        found = _images(card, place / name) if name in folders else []
        if not found and not part:
            raise BenchError(f"{place / name}: class folder without images", f"complete the data: {card.origin.get}")
        rows += [(f"{inside}/{key}", f"{inside}/{file}", card.classes.index(name), stats) for key, file, stats in found]
    return rows


def _images(card: Card, folder: Path) -> list[Found]:
    """(key, first file, stats) of each image in a class folder, sorted by file. All but sidecars must fit."""
    if card.arrangement.images:
        pattern = Pattern(card.arrangement.images)
        held = keyed_files(folder, pattern, card.signal.bands)
        if not held:
            there = next((entry.name for entry in os.scandir(folder) if not hidden(entry.name)), "nothing")
            what = f"{folder}: no image is named as {pattern.text}, there is {there}"
            raise BenchError(what, "correct layout.images on the card")
        return [(key, files[0][0], [stat for _, stat in files]) for key, files in held.items()]
    found = []
    for entry in os.scandir(folder):
        if hidden(entry.name):
            continue
        if not entry.name.lower().endswith(TIFF):
            ending = os.path.splitext(entry.name)[1].lower()
            todo = "move it out of the class folder"
            if ending in IMAGES:
                todo += f', or say on the card: [layout] kind = "class_folders", images = "*{ending}"'
            raise BenchError(f"{folder / entry.name} is not a TIFF file", todo)
        try:
            status = entry.stat()
        except OSError as error:
            raise BenchError(f"{folder / entry.name} cannot be read ({error.strerror})", "mend or remove it") from error
        if not entry.is_file():
            raise BenchError(f"{folder / entry.name} is not a file", "move it out of the class folder")
        found.append((stem_of(entry.name), entry.name, [(status.st_size, status.st_mtime_ns)]))
    return sorted(found, key=lambda each: each[1])


def _stamp(stats: list[Stat]) -> int:
    """Hash of sizes and modification times of the files of an image."""
    text = " ".join(f"{size} {modified}" for size, modified in stats)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _step_in(card: Card, root: Path) -> Path:
    """The folder that holds the class folders, or those of the parts: `root`, or the only folder in it, twice at
    most.
    """
    for _ in range(3):
        inside = folders_in(root)
        if set(inside) & set(card.classes):
            return root
        if any(set(folders_in(root / name)) & set(card.classes) for name in part_folders(root)):
            return root
        if len(inside) != 1:
            break
        root = root / inside[0]
    raise BenchError(
        f"{root}: none of the class folders of {card.title} is there",
        f"expected {', '.join(sorted(card.classes)[:3])}, …",
    )
