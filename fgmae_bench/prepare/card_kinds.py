"""The image files of a folder, and whether they are Sentinel-1 images or label maps."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fgmae_bench.data.files import IMAGES, TIFF, folders_below, hidden, load_array
from fgmae_bench.data.gather import Found, LooksLikeLabels, look
from fgmae_bench.data.raster import open_tiff
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import is_kind
from fgmae_bench.system.randomness import keyed_order

LOOKED_AT = 3  # files of a folder that tell images from label maps
MOST_BANDS = 4  # of a Sentinel-1 image
# Names of folders of two dates.
EARLIER = re.compile(r"(^|[_\-. ])(pre|before|earlier)($|[_\-. ]|event|flood)", re.IGNORECASE)
LATER = re.compile(r"(^|[_\-. ])(post|after|later|during)($|[_\-. ]|event|flood)", re.IGNORECASE)


def image_files(folder: Path, *, every: bool = False) -> list[Path]:
    """Image files right in a folder, sorted: the TIFF files, where there is none those of any kind, or `every` one."""
    found = [
        Path(entry.path)
        for entry in os.scandir(folder)
        if not hidden(entry.name) and entry.name.lower().endswith(IMAGES) and is_kind(entry)
    ]
    tiffs = [path for path in found if path.suffix.lower() in TIFF]
    return sorted(found if every else tiffs or found)


def files_below(folder: Path) -> list[Path]:
    """Image files right in a folder, where there is none those in the folders below it."""
    below = (folder / name for name in ["", *folders_below(folder)])
    files = image_files(folder)
    return files or [path for place in below for path in image_files(place)]


def some_of(files: list[Path], most: int) -> list[Path]:
    """Some files, in keyed order."""
    by_name = {str(path): path for path in files}
    short = {path.name: path for path in files}
    by_name = short if len(short) == len(by_name) else by_name
    return [by_name[name] for name in keyed_order(0, "card", sorted(by_name))[:most]]


def kind_of(folder: Path, *, every: bool = False, below: bool = False) -> str:
    """images, maps, both, or empty where a folder holds no image. Raises BenchError naming a file that is broken."""
    files, kinds = files_below(folder) if below else image_files(folder, every=every), set()
    for path in some_of(files, LOOKED_AT if len(files) < 8 else 4 * LOOKED_AT):
        kinds.add(kind_of_file(path))
    kinds.discard("")
    return "both" if len(kinds) > 1 else kinds.pop() if kinds else ""


def kind_of_file(path: Path) -> str:
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


def bands_of(place: Path) -> int:
    """Bands of a file, or of the first in a folder."""
    path = files_below(place)[0] if place.is_dir() else place
    if path.suffix == ".npy":
        return min(load_array(path).shape)
    with open_tiff(path) as source:
        return int(source.count)


def names_a_sensor(name: str) -> bool:
    """Whether a folder is named as one of Sentinel-1 or of images."""
    low = name.lower()
    return low.startswith(("s1", "sar", "sentinel1", "sentinel-1", "vv", "image", "img")) or low.endswith("s1")


def the_images(inner: Path, images: list[str]) -> str:
    """The folder of Sentinel-1 images next to label maps. Raises BenchError where that is ambiguous."""
    few = [name for name in images if bands_of(inner / name) <= MOST_BANDS]
    named = later_of_two(few) or [name for name in few if names_a_sensor(name)] or few
    if len(named) != 1:
        found = f"{', '.join(named)} could each be the images" if named else "no folder of images is next to them"
        raise BenchError(f"{inner}: {found}", "give the folder of the images, and that of the label maps with --masks")
    return named[0]


def later_of_two(names: list[str]) -> list[str]:
    """The folder of the later date, where one name says so and another says that it is of an earlier one."""
    later = [name for name in names if LATER.search(name)]
    return later if len(later) == 1 and any(EARLIER.search(name) for name in names) else []
