"""What a folder is: class folders, images with label maps, split or not, a file a band or one for all."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fgmae_bench.data.files import folders_in, hidden, part_folders
from fgmae_bench.data.gather import find_images, foreign_kinds
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare.card_kinds import (
    bands_of,
    files_below,
    image_files,
    kind_of,
    later_of_two,
    names_a_sensor,
    the_images,
)
from fgmae_bench.prepare.card_maps import common_folder, paired
from fgmae_bench.prepare.card_names import named_options
from fgmae_bench.prepare.card_plan import Plan
from fgmae_bench.system.files import is_kind

DATED = re.compile(r"(?<!\d)(19|20)\d{2}[-_.]?(0[1-9]|1[0-2])([-_.]?([0-2]\d|3[01]))?(?!\d)")
TWO = "give the folder of one of them, or name the label maps with --masks"


def plan_of(root: Path, masks: Path | None) -> Plan:
    """What a folder without a table is. Raises BenchError where it is none of the layouts, or two of them."""
    if not root.is_dir():
        raise BenchError(f"{root} is not a folder", "give the folder of the data")
    if masks is not None:
        return paired(*common_folder(root, masks))
    root = _unwrapped(root)
    _refuse_known(root)
    parts = part_folders(root)
    inner = root / sorted(parts)[0] if parts else root
    held = {name: kind for name in folders_in(inner) if (kind := kind_of(inner / name))}
    deep = not held and not image_files(inner)
    if deep:
        held = {name: kind for name in folders_in(inner) if (kind := kind_of(inner / name, below=True))}
    here = kind_of(inner, every=True) if image_files(inner) else ""
    maps = [name for name, kind in held.items() if kind == "maps"]
    images = [name for name, kind in held.items() if kind == "images"]
    _refuse_two(root, here, images, maps)
    if here == "both":
        return paired(root, "", "")
    if maps:
        return paired(root, the_images(inner, images), maps[0])
    if deep and images:
        first = files_below(inner / images[0])[0].relative_to(root)
        what = f"{root}: images are deeper than a folder for each class, such as {first}"
        raise BenchError(what, "give the folder of the class folders, or name a table with --labels FILE")
    if len(images) >= 2 and not here:
        return _class_folders(root, inner, parts)
    if here == "images" or images:
        raise BenchError(
            f"{root} holds images and nothing that labels them",
            "name a table with --labels FILE, the folder of label maps with --masks DIR, or sort images by class",
        )
    instead = foreign_kinds(root)
    what, _, todo = instead.partition("; ")
    what = f"{root} holds no image that is read{'; ' * bool(what)}{what}"
    raise BenchError(what, todo or "give a folder of TIFF, PNG or .npy files")


def _unwrapped(root: Path) -> Path:
    """The first folder that holds more than a folder: archives leave some around their content."""
    for _ in range(3):
        inside = folders_in(root)
        if len(inside) != 1 or any(is_kind(entry) and not hidden(entry.name) for entry in os.scandir(root)):
            break
        root = root / inside[0]
    return root


def _refuse_known(root: Path) -> None:
    """Raise BenchError on data that has a card of the suite already."""
    first = next((name for name in folders_in(root)[:3] if list((root / name).glob("*_labels_metadata.json"))), None)
    if first:
        raise BenchError(f"{root} is BigEarthNet-S1", f"it has a card: --dataset bigearthnet --data_path {root}")


def _refuse_two(root: Path, here: str, images: list[str], maps: list[str]) -> None:
    """Raise BenchError where a folder holds two layouts."""
    found = []
    if here:
        found.append("images in itself")
    named = any(map(names_a_sensor, images)) or bool(later_of_two(images))
    if maps and len(images) > 1 and not named:
        found.append(f"class folders ({', '.join(images[:3])})")
    elif images and here:
        found.append(f"folders of images ({', '.join(images[:3])})")
    if maps:
        found.append(f"label maps ({', '.join(maps[:3])})")
    if len(maps) > 1:
        raise BenchError(f"{root} holds several folders of label maps: {', '.join(maps[:5])}", "name one with --masks")
    if len(found) > 1 and (here or len(images) != 1) and not (maps and images and named):
        raise BenchError(f"{root} holds two layouts: {' and '.join(found)}", TWO)


def _class_folders(root: Path, inner: Path, parts: dict[str, str]) -> Plan:
    places = [root / part for part in sorted(parts)] or [root]
    classes = sorted({name for place in places for name in folders_in(place) if image_files(place / name)})
    _refuse_other_bands(inner, [name for name in classes if image_files(inner / name)])
    first = image_files(inner / classes[0]) if image_files(inner / classes[0]) else []
    images, _ = find_images(root)
    plan = Plan(root=root, task="single_label", kind="class_folders", images=images, classes=classes)
    plan.options = named_options(images, first[0].name if first else "")
    for name in classes:
        plan.per_class[name] = sum(image.files[0].parent.name == name for image in images)
    if parts:
        plan.stated = True
        plan.remark("layout", f"divided already: {', '.join(sorted(parts))}")
    if all(DATED.search(name) for name in classes):
        plan.remark("layout", f"GUESSED: folders are classes, though their names hold dates, as {classes[0]} does")
    return plan


def _refuse_other_bands(inner: Path, classes: list[str]) -> None:
    """Raise BenchError where files of one folder have other bands than those of another, as images and maps have."""
    bands = {name: bands_of(inner / name) for name in classes}
    first = classes[0]
    other = next((name for name in classes if bands[name] != bands[first]), None)
    if other:
        what = f"{inner}: files in {first} have {bands[first]} band(s), those in {other} {bands[other]}"
        raise BenchError(
            what, "name a folder of label maps, or of maps of a number, with --masks, or replace the files"
        )
