"""What a folder is: class folders, images with label maps, split or not, a file a band or one for all."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.files import (
    IMAGES,
    TIFF,
    Pattern,
    folders_below,
    folders_in,
    hidden,
    load_array,
    part_folders,
    stem_of,
)
from fgmae_bench.data.gather import (
    MOST_CODES,
    WITHIN,
    Found,
    LooksLikeLabels,
    colours_of,
    find_images,
    foreign_kinds,
    look,
)
from fgmae_bench.data.raster import open_tiff, read_values
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import is_kind
from fgmae_bench.system.randomness import keyed_order

LOOKED_AT = 3  # files of a folder that tell images from label maps
MOST_BANDS = 4  # of a Sentinel-1 image
MOST_MAPS = 200  # label maps whose codes are counted
KNOWN_MASKS = {"_LabelHand": {"0": "Land", "1": "Water"}}  # Sen1Floods11
UNLABELLED = 255
MARKS = ("_", "-", ".", " ")  # that divide the words of a name
DATED = re.compile(r"(?<!\d)(19|20)\d{2}[-_.]?(0[1-9]|1[0-2])([-_.]?([0-2]\d|3[01]))?(?!\d)")
# Names of folders of two dates.
EARLIER = re.compile(r"(^|[_\-. ])(pre|before|earlier)($|[_\-. ]|event|flood)", re.IGNORECASE)
LATER = re.compile(r"(^|[_\-. ])(post|after|later|during)($|[_\-. ]|event|flood)", re.IGNORECASE)
TWO = "give the folder of one of them, or name the label maps with --masks"


@dataclass(kw_only=True)
class Plan:
    """What a draft says of files and labels. `remarks` are comments by the section that they stand in."""

    root: Path
    task: str
    kind: str
    images: list[Found]
    options: dict[str, Any] = field(default_factory=dict)  # of [layout]
    folder: str = ""  # of the images, where label maps are next to them
    classes: list[str] = field(default_factory=list)
    per_class: dict[str, int] = field(default_factory=dict)
    label_folder: str = ""
    codes: dict[str, str] = field(default_factory=dict)
    ignore: list[float] = field(default_factory=list)
    label_facts: dict[str, Any] = field(default_factory=dict)  # what else is said of the label maps
    before: dict[str, str] = field(default_factory=dict)  # folder and names of the earlier date
    target: str = ""
    groups: list[str] = field(default_factory=list)  # one a sample, where they can be seen and the layout knows them
    unusable: list[int] = field(default_factory=list)  # places of images that cannot be used
    stated: bool = False  # train and test are divided already
    remarks: dict[str, list[str]] = field(default_factory=dict)

    def remark(self, section: str, text: str) -> None:
        """A comment in a section of the draft."""
        self.remarks.setdefault(section, []).append(text)


def plan_of(root: Path, masks: Path | None) -> Plan:
    """What a folder without a table is. Raises BenchError where it is none of the layouts, or two of them."""
    if not root.is_dir():
        raise BenchError(f"{root} is not a folder", "give the folder of the data")
    if masks is not None:
        return _paired(*_common(root, masks))
    for _ in range(3):  # wrapping folders, as archives leave them
        inside = folders_in(root)
        if len(inside) != 1 or any(is_kind(entry) and not hidden(entry.name) for entry in os.scandir(root)):
            break
        root = root / inside[0]
    _refuse_known(root)
    parts = part_folders(root)
    inner = root / sorted(parts)[0] if parts else root
    held = {name: kind for name in folders_in(inner) if (kind := _kind_of(inner / name))}
    deep = not held and not _image_files(inner)
    if deep:
        held = {name: kind for name in folders_in(inner) if (kind := _kind_of(inner / name, below=True))}
    here = _kind_of(inner, every=True) if _image_files(inner) else ""
    maps = [name for name, kind in held.items() if kind == "maps"]
    images = [name for name, kind in held.items() if kind == "images"]
    _refuse_two(root, here, images, maps)
    if here == "both":
        return _paired(root, "", "")
    if maps:
        return _paired(root, _the_images(inner, images), maps[0])
    if deep and images:
        first = _files_below(inner / images[0])[0].relative_to(root)
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
    told = any(map(_is_sensor, images)) or bool(_later_of_two(images))
    if maps and len(images) > 1 and not told:
        found.append(f"class folders ({', '.join(images[:3])})")
    elif images and here:
        found.append(f"folders of images ({', '.join(images[:3])})")
    if maps:
        found.append(f"label maps ({', '.join(maps[:3])})")
    if len(maps) > 1:
        raise BenchError(f"{root} holds several folders of label maps: {', '.join(maps[:5])}", "name one with --masks")
    if len(found) > 1 and (here or len(images) != 1) and not (maps and images and told):
        raise BenchError(f"{root} holds two layouts: {' and '.join(found)}", TWO)


def _is_sensor(name: str) -> bool:
    """Whether a folder is named as one of Sentinel-1 or of images."""
    low = name.lower()
    return low.startswith(("s1", "sar", "sentinel1", "sentinel-1", "vv", "image", "img")) or low.endswith("s1")


def _the_images(inner: Path, images: list[str]) -> str:
    """The folder of Sentinel-1 images next to label maps. Raises BenchError where that is ambiguous."""
    few = [name for name in images if _bands_of(inner / name) <= MOST_BANDS]
    named = _later_of_two(few) or [name for name in few if _is_sensor(name)] or few
    if len(named) != 1:
        found = f"{', '.join(named)} could each be the images" if named else "no folder of images is next to them"
        raise BenchError(f"{inner}: {found}", "give the folder of the images, and that of the label maps with --masks")
    return named[0]


def _later_of_two(names: list[str]) -> list[str]:
    """The folder of the later date, where one name says so and another says that it is of an earlier one."""
    later = [name for name in names if LATER.search(name)]
    return later if len(later) == 1 and any(EARLIER.search(name) for name in names) else []


def _image_files(folder: Path, *, every: bool = False) -> list[Path]:
    """Image files right in a folder, sorted: the TIFF files, where there is none those of any kind, or `every` one."""
    found = [
        Path(entry.path)
        for entry in os.scandir(folder)
        if not hidden(entry.name) and entry.name.lower().endswith(IMAGES) and is_kind(entry)
    ]
    tiffs = [path for path in found if path.suffix.lower() in TIFF]
    return sorted(found if every else tiffs or found)


def _files_below(folder: Path) -> list[Path]:
    """Image files right in a folder, where there is none those in the folders below it."""
    below = (folder / name for name in ["", *folders_below(folder)])
    files = _image_files(folder)
    return files or [path for place in below for path in _image_files(place)]


def _some(files: list[Path], most: int) -> list[Path]:
    """Some files, in keyed order."""
    by_name = {str(path): path for path in files}
    short = {path.name: path for path in files}
    by_name = short if len(short) == len(by_name) else by_name
    return [by_name[name] for name in keyed_order(0, "card", sorted(by_name))[:most]]


def _kind_of(folder: Path, *, every: bool = False, below: bool = False) -> str:
    """images, maps, both, or empty where a folder holds no image. Raises BenchError naming a file that is broken."""
    files, kinds = _files_below(folder) if below else _image_files(folder, every=every), set()
    for path in _some(files, LOOKED_AT if len(files) < 8 else 4 * LOOKED_AT):
        kinds.add(_kind_of_file(path))
    kinds.discard("")
    return "both" if len(kinds) > 1 else kinds.pop() if kinds else ""


def _kind_of_file(path: Path) -> str:
    """images, maps, or empty where a file says neither, as one without a valid pixel does."""
    try:
        look(Found(path.name, "", (path,)))
    except LooksLikeLabels:
        return "maps"
    except BenchError as error:
        if "no valid pixel" in error.what:
            return ""
        raise
    return "images"


def _bands_of(place: Path) -> int:
    """Bands of a file, or of the first in a folder."""
    path = _files_below(place)[0] if place.is_dir() else place
    if path.suffix == ".npy":
        return min(load_array(path).shape)
    with open_tiff(path) as source:
        return int(source.count)


# --- class folders


def _class_folders(root: Path, inner: Path, parts: dict[str, str]) -> Plan:
    places = [root / part for part in sorted(parts)] or [root]
    classes = sorted({name for place in places for name in folders_in(place) if _image_files(place / name)})
    _refuse_other_bands(inner, [name for name in classes if _image_files(inner / name)])
    first = _image_files(inner / classes[0]) if _image_files(inner / classes[0]) else []
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
    bands = {name: _bands_of(inner / name) for name in classes}
    first = classes[0]
    other = next((name for name in classes if bands[name] != bands[first]), None)
    if other:
        what = f"{inner}: files in {first} have {bands[first]} band(s), those in {other} {bands[other]}"
        raise BenchError(
            what, "name a folder of label maps, or of maps of a number, with --masks, or replace the files"
        )


def named_options(images: list[Found], first: str) -> dict[str, str]:
    """`images` of [layout] for a file a band, or for other files than TIFF; empty where nothing has to be said."""
    pair = next((image for image in images if image.bands), None)
    if pair is not None:
        name, band = pair.files[0].name, pair.bands[0]
        stem, ending = os.path.splitext(name)
        if not stem.upper().endswith(band):
            return {"images": _around_bands([image.files[0].name for image in images if image.bands])}
        mark = stem[: -len(band)][-1:]
        return {"images": f"*{mark if mark in MARKS else ''}{{band}}{ending}"}
    ending = os.path.splitext(first)[1]
    return {} if ending.lower() in TIFF else {"images": f"*{ending}"}


def _around_bands(names: list[str]) -> str:
    """The pattern of names with a band in their middle, such as `Sigma0_{band}_*.tif`. Raises BenchError where what is
    before and what is behind the band both differ.
    """
    parts = [WITHIN.split(name, maxsplit=1) for name in names]  # before, band, behind
    before, behind = ({each[place] for each in parts} for place in (0, 2))
    if len(behind) == 1:
        mark = next(iter(before))[-1:]
        return f"*{mark if mark in MARKS else ''}{{band}}{behind.pop()}"
    if len(before) == 1:
        start = _shared_start(sorted(behind))[:1]
        return f"{before.pop()}{{band}}{start}*{os.path.splitext(names[0])[1]}"
    what = f"{names[0]}: names differ before and behind the polarisation"
    raise BenchError(what, "end them with it, such as scene_1_VV.tif and scene_1_VH.tif")


# --- images and label maps


def _common(root: Path, masks: Path) -> tuple[Path, str, str]:
    """(the folder that holds images and label maps, folder of the images, folder of the maps)."""
    for folder in (root, masks):
        if not folder.is_dir():
            raise BenchError(f"{folder} is not a folder", "give the folders of images and of label maps")
    root, masks = root.resolve(), masks.resolve()
    if masks.is_relative_to(root):
        others = [name for name in folders_in(root) if not (root / name).samefile(masks)]
        inside = [name for name in others if _files_below(root / name)]
        if _image_files(root):
            return root, "", masks.relative_to(root).as_posix()
        return root, _the_images(root, inside), masks.relative_to(root).as_posix()
    shared = Path(os.path.commonpath([root, masks]))
    return shared, root.relative_to(shared).as_posix(), masks.relative_to(shared).as_posix()


def _paired(root: Path, folder: str, maps: str) -> Plan:
    """Images in `folder` with label maps in `maps`, which may be the same one, matched by their names."""
    parts = part_folders(root)
    inner = root / sorted(parts)[0] if parts else root
    if part_folders(inner / folder) and folder:
        parts = part_folders(inner / folder)
        image_files = _image_files(inner / folder / sorted(parts)[0])
        map_files = _image_files(inner / maps / sorted(parts)[0])
    else:
        image_files, map_files = _files_below(inner / folder), _files_below(inner / maps)
    if folder == maps:
        image_files, map_files = _told_apart(_image_files(inner / folder, every=True))
    for named, files in ((folder, image_files), (maps, map_files)):
        if not files:
            raise BenchError(f"{inner / named} holds no image that is read", "give a folder of TIFF, PNG or .npy files")
    plan = Plan(root=root, task="segmentation", kind="paired_folders", images=[], folder=folder, label_folder=maps)
    plan.stated = bool(parts)
    options = match_names([path.name for path in image_files], [path.name for path in map_files], folder == maps)
    if options is None:
        what = f"{image_files[0]} and {map_files[0]}: names of images and label maps do not match"
        raise BenchError(what, 'state [layout] images = "*_S1.tif", masks = "*_mask.tif" on a card of your own')
    plan.options = options
    _refuse_other_folders(inner, (folder, image_files), (maps, map_files))
    place = image_files[0].parent
    pattern = Pattern(options["images"]) if options else None
    kept = [p for p in image_files if pattern is None or pattern.key(p.name) is not None]
    names = [f"{_below(inner / folder, p)}{_key(p, pattern)}" for p in kept]
    plan.images = [Found(name, place.name, (p,)) for name, p in zip(names, kept, strict=True)]
    plan.groups = [image.name for image in plan.images]
    chosen = _some(map_files, MOST_MAPS)
    if len(map_files) > len(chosen):
        plan.remark("label_sources", f"codes of {len(chosen)} of {len(map_files)} label maps were counted")
    bands = _bands_of(chosen[0])
    if bands in (3, 4):  # colours
        plan.label_facts = {"bands": bands, "rgb": True}
    count_codes(plan, (_map_values(path, bands) for path in chosen), options.get("masks", ""))
    if plan.task == "segmentation":
        _refuse_real_codes(chosen[0])
    plan.before = _earlier(inner, folder, [path.name for path in kept], options.get("images", ""))
    if plan.before:
        plan.remark("before", "GUESSED by its name: the same places before the event")
    return plan


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
    matched = match_names(images, [path.name for path in _files_below(inner / named[0])])
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


def _told_apart(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """(images, label maps) of one folder, by the endings of the names of some that are looked into."""
    kinds: dict[str, list[Path]] = {"images": [], "maps": []}
    for path in _some(files, 40):
        kinds.get(_kind_of_file(path), []).append(path)
    images, maps = (sorted(path.name for path in kinds[kind]) for kind in ("images", "maps"))
    marks = _mark(images, maps), _mark(maps, images)
    if None in marks:
        what = f"{files[0].parent} holds images and label maps that their names do not tell apart"
        raise BenchError(what, "put them into two folders")
    told = [[p for p in files if p.name.startswith(m[0]) and p.name.endswith(m[1])] for m in marks if m]
    return told[0], told[1]


def _mark(names: list[str], others: list[str]) -> tuple[str, str] | None:
    """(beginning, end) that all names have and none of the others, the shortest; None where there is none."""
    ends, begins = [("", end) for end in reversed(_ends(names))], [(begin, "") for begin in _begins(names)[1:]]
    return next((m for m in [*ends, *begins] if not any(o.startswith(m[0]) and o.endswith(m[1]) for o in others)), None)


def match_names(images: list[str], maps: list[str], same_folder: bool = False) -> dict[str, str] | None:
    """`images` and `masks` of [layout] that pair names, empty where names without ending are equal; None without any.

    Of what all names of a kind begin and end with, the most is taken that makes the rest of the names equal.
    """
    stems = {stem_of(name) for name in maps}
    if not same_folder and all(stem_of(name) in stems for name in images):
        return {}
    for begin in _begins(images):
        for end in _ends(images):
            keys = {name[len(begin) : len(name) - len(end)] for name in images}
            if "" in keys:
                continue
            for other_begin in _begins(maps):
                for other_end in _ends(maps):
                    if keys <= {name[len(other_begin) : len(name) - len(other_end)] for name in maps}:
                        return {"images": f"{begin}*{end}", "masks": f"{other_begin}*{other_end}"}
    return None


def _ends(names: list[str]) -> list[str]:
    """What all names end with, from a separator on, the longest first, the file's ending last."""
    common = _shared_start([name[::-1] for name in names])[::-1]
    ending = os.path.splitext(names[0])[1]
    ending = ending if common.endswith(ending) else ""
    places = [place for place, letter in enumerate(common[: len(common) - len(ending)]) if letter in "_-. "]
    longest = [common] if common != ending and len(names) == 1 else []
    return [*(common[place:] for place in places), *longest, ending][:6] or [ending]


def _begins(names: list[str]) -> list[str]:
    """What all names begin with, up to a separator: nothing first, then the longest."""
    common = _shared_start(names)
    places = [place for place, letter in enumerate(common) if letter in "_-. "]
    return ["", *(common[: place + 1] for place in reversed(places))][:6]


def _shared_start(names: list[str]) -> str:
    """The letters that all names begin with."""
    first, last = min(names), max(names)
    return first[
        : next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    ]


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


def places_of(names: list[str]) -> Iterator[str]:
    """What names begin with before their numbers, such as `Sri-Lanka_` in `Sri-Lanka_103272`, else their first word."""
    for name in names:
        base = os.path.basename(name)
        letters = re.match(r"\D*[^\W\d_]\D*?[_-]*(?=\d)", base)
        yield letters[0] if letters else f"{base.split('_')[0]}_"
