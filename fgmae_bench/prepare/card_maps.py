"""Images with label maps: how their names pair, what codes the maps hold, and an earlier date."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.files import Pattern, folders_in, load_array, part_folders, stem_of
from fgmae_bench.data.gather import MOST_CODES, Found, colours_of
from fgmae_bench.data.raster import open_tiff, read_values
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare.card_kinds import (
    EARLIER,
    LATER,
    bands_of,
    files_below,
    image_files,
    kind_of_file,
    some_of,
    the_images,
)
from fgmae_bench.prepare.card_names import mark_of, match_names
from fgmae_bench.prepare.card_plan import Plan

MOST_MAPS = 200  # label maps whose codes are counted
KNOWN_MASKS = {"_LabelHand": {"0": "Land", "1": "Water"}}  # Sen1Floods11
UNLABELLED = 255


def common_folder(root: Path, masks: Path) -> tuple[Path, str, str]:
    """(the folder that holds images and label maps, folder of the images, folder of the maps)."""
    for folder in (root, masks):
        if not folder.is_dir():
            raise BenchError(f"{folder} is not a folder", "give the folders of images and of label maps")
    root, masks = root.resolve(), masks.resolve()
    if masks.is_relative_to(root):
        others = [name for name in folders_in(root) if not (root / name).samefile(masks)]
        inside = [name for name in others if files_below(root / name)]
        if image_files(root):
            return root, "", masks.relative_to(root).as_posix()
        return root, the_images(root, inside), masks.relative_to(root).as_posix()
    shared = Path(os.path.commonpath([root, masks]))
    return shared, root.relative_to(shared).as_posix(), masks.relative_to(shared).as_posix()


def paired(root: Path, folder: str, maps: str) -> Plan:
    """Images in `folder` with label maps in `maps`, which may be the same one, matched by their names."""
    parts, inner, images, masks = _files_of_both(root, folder, maps)
    plan = Plan(root=root, task="segmentation", kind="paired_folders", images=[], folder=folder, label_folder=maps)
    plan.stated = parts
    options = match_names([path.name for path in images], [path.name for path in masks], folder == maps)
    if options is None:
        what = f"{images[0]} and {masks[0]}: names of images and label maps do not match"
        raise BenchError(what, 'state [layout] images = "*_S1.tif", masks = "*_mask.tif" on a card of your own')
    plan.options = options
    _refuse_other_folders(inner, (folder, images), (maps, masks))
    place = images[0].parent
    pattern = Pattern(options["images"]) if options else None
    kept = [p for p in images if pattern is None or pattern.key(p.name) is not None]
    names = [f"{_below(inner / folder, p)}{_key(p, pattern)}" for p in kept]
    plan.images = [Found(name, place.name, (p,)) for name, p in zip(names, kept, strict=True)]
    plan.groups = [image.name for image in plan.images]
    chosen = some_of(masks, MOST_MAPS)
    if len(masks) > len(chosen):
        plan.remark("label_sources", f"codes of {len(chosen)} of {len(masks)} label maps were counted")
    bands = bands_of(chosen[0])
    if bands in (3, 4):  # colours
        plan.label_facts = {"bands": bands, "rgb": True}
    count_codes(plan, (_map_values(path, bands) for path in chosen), options.get("masks", ""))
    if plan.task == "segmentation":
        _refuse_real_codes(chosen[0])
    plan.before = _earlier(inner, folder, [path.name for path in kept], options.get("images", ""))
    if plan.before:
        plan.remark("before", "GUESSED by its name: the same places before the event")
    return plan


def _files_of_both(root: Path, folder: str, maps: str) -> tuple[bool, Path, list[Path], list[Path]]:
    """(whether the data is divided into parts, the folder that holds both, images, label maps), of the first part."""
    parts = part_folders(root)
    inner = root / sorted(parts)[0] if parts else root
    if part_folders(inner / folder) and folder:
        parts = part_folders(inner / folder)
        images = image_files(inner / folder / sorted(parts)[0])
        masks = image_files(inner / maps / sorted(parts)[0])
    else:
        images, masks = files_below(inner / folder), files_below(inner / maps)
    if folder == maps:
        images, masks = _divided(image_files(inner / folder, every=True))
    for named, files in ((folder, images), (maps, masks)):
        if not files:
            raise BenchError(f"{inner / named} holds no image that is read", "give a folder of TIFF, PNG or .npy files")
    return bool(parts), inner, images, masks


def _refuse_real_codes(path: Path) -> None:
    """Raise BenchError where codes of classes are stored as real numbers, which a run refuses."""
    if path.suffix.lower() == ".npy":
        dtype = str(load_array(path).dtype)
    else:
        with open_tiff(path) as source:
            dtype = source.dtypes[0]
    if np.dtype(dtype).kind == "f":
        what = f"{path} holds codes of classes as {dtype}; label maps hold whole numbers"
        raise BenchError(
            what, "write them as integers, such as uint8; where they are a number to predict, see docs/data.md"
        )


def _earlier(inner: Path, folder: str, images: list[str], pattern: str) -> dict[str, str]:
    """`folder` and `images` of [before], where a folder next to that of the images is named as an earlier date and
    holds the same names; empty without one.
    """
    named = [name for name in folders_in(inner) if EARLIER.search(name) and name != folder]
    if not LATER.search(folder) or len(named) != 1:
        return {}
    matched = match_names(images, [path.name for path in files_below(inner / named[0])])
    if matched is None or matched.get("images", "") != pattern:
        return {}
    return {"folder": named[0], **({"images": matched["masks"]} if matched else {})}


def _below(place: Path, path: Path) -> str:
    """The folders between a place and a file below it, with a `/` at the end; empty without any."""
    inside = path.parent.relative_to(place).as_posix() if path.is_relative_to(place) else "."
    return "" if inside == "." else f"{inside}/"


def _refuse_other_folders(inner: Path, images: tuple[str, list[Path]], maps: tuple[str, list[Path]]) -> None:
    """Raise BenchError where label maps are in other folders below theirs than the images below their own."""
    held = [{_below(inner / folder, path): path for path in reversed(files)} for folder, files in (images, maps)]
    alone = sorted(held[0].keys() - held[1].keys())
    if alone:
        what = (
            f"{held[0][alone[0]]}: label maps are in other folders than images, such as {next(iter(held[1].values()))}"
        )
        raise BenchError(what, "give folders below which both are alike, such as prepare card DIR/2019 --masks MASKS")


def _key(path: Path, pattern: Pattern | None) -> str:
    return (pattern.key(path.name) if pattern else None) or stem_of(path.name)


def _divided(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """(images, label maps) of one folder, by the endings of the names of some that are looked into."""
    kinds: dict[str, list[Path]] = {"images": [], "maps": []}
    for path in some_of(files, 40):
        kinds.get(kind_of_file(path), []).append(path)
    images, maps = (sorted(path.name for path in kinds[kind]) for kind in ("images", "maps"))
    marks = mark_of(images, maps), mark_of(maps, images)
    if None in marks:
        what = f"{files[0].parent} holds images and label maps that their names do not tell apart"
        raise BenchError(what, "put them into two folders")
    found = [[p for p in files if p.name.startswith(m[0]) and p.name.endswith(m[1])] for m in marks if m]
    return found[0], found[1]


def count_codes(plan: Plan, maps: Iterable[NDArray[Any]], masks: str, names: Mapping[str, str] | None = None) -> None:
    """Codes of label maps, whose files are named as `masks`, or the target that maps of real numbers hold. `names` are
    those that the data itself gives its codes.
    """
    counts: Counter[float] = Counter()
    real = False
    for held in maps:
        values = held
        if values.dtype.kind == "f":
            finite = values[np.isfinite(values)]
            if len(np.unique(finite)) > MOST_CODES or (finite != np.round(finite)).any():
                real = True
                break
            values = finite
        counts.update(dict(zip(*(each.tolist() for each in np.unique(values, return_counts=True)), strict=True)))
    if real:
        plan.task, plan.target = "regression", stem_of(masks).strip("*_-. ") or Path(plan.label_folder).name or "target"
        plan.remark("target", "maps of real numbers: guessed to be what is predicted; give it its name and unit")
        return
    codes = [int(code) for code in sorted(counts)]
    binary = sum(0 <= code != UNLABELLED for code in codes) == 1 and UNLABELLED in codes  # 0 and 255 are two classes
    ignore = [code for code in codes if code < 0 or (code == UNLABELLED and not binary)]
    if plan.label_facts.get("rgb"):  # 255 is blue
        ignore, binary = [], False
    if len(codes) - len(ignore) < 2:
        shown = ", ".join(map(str, codes)) or "nothing"
        raise BenchError(f"{plan.root / plan.label_folder}: label maps hold {shown}", "two classes or more are needed")
    known = names or next((named for ending, named in KNOWN_MASKS.items() if ending in masks), {})
    kept = [code for code in codes if code not in ignore]
    if plan.label_facts.get("rgb"):
        known = {str(code): f"#{code:06x}" for code in kept}
        plan.label_facts["colours"] = known
    plan.codes = {str(code): known.get(str(code), f"Class{code}") for code in kept}
    plan.ignore, plan.classes = [float(code) for code in ignore], list(plan.codes.values())
    total = sum(counts.values())
    shares = ", ".join(f"{code}: {counts[code] / total:.1%}" for code in codes)
    plan.remark("label_sources", f"pixels of each code: {shares}")
    if not known or plan.label_facts:
        plan.remark("label_sources", "GUESSED: names of the codes; give them theirs")
    if ignore:
        plan.remark("label_sources", "GUESSED: negative codes and 255 are not classes")
    if binary:
        plan.remark("label_sources", "GUESSED: 255 is a class here, since one other code is all there is")


def _map_values(path: Path, bands: int) -> NDArray[Any]:
    """Codes of a label map, which has one band, or colours as one number."""
    if path.suffix.lower() == ".npy":
        return np.asarray(load_array(path))
    with open_tiff(path) as source:
        if source.count != bands or bands not in (1, 3, 4):
            raise BenchError(f"{path} has {source.count} bands", "a label map has one, or three of colours")
        if bands > 1:
            return colours_of(read_values(source, path, [1, 2, 3], kinds="u"))
        return read_values(source, path, 1, kinds="fiu")
