"""Backscatter images in any folder, card or no card: two-band TIFFs, and pairs of one-band VV and VH files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Signal
from fgmae_bench.config.contract import BANDS
from fgmae_bench.data.index import TIFF
from fgmae_bench.data.raster import open_tiff, read_measured, valid_mask
from fgmae_bench.data.synthetic import SYNTHETIC_TAG
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

SINGLE = re.compile(r"^(?P<stem>.*?)_?(?P<band>VV|VH)$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """One image: its name relative to the folder, its group (the folder above it), and one file, or two in the order
    VV, VH.
    """

    name: str
    group: str
    files: tuple[Path, ...]


def find_images(root: Path) -> tuple[list[Found], list[str]]:
    """(images below `root` in path order, lines on files that are not images of two bands)."""
    files = sorted(
        p for p in root.rglob("*") if p.suffix.lower() in TIFF and p.is_file() and not p.name.startswith(".")
    )
    images: list[Found] = []
    pairs: dict[tuple[Path, str], dict[str, Path]] = {}
    skipped: list[str] = []
    for path in files:
        match = SINGLE.match(path.stem)
        if match:
            pairs.setdefault((path.parent, match["stem"]), {})[match["band"].upper()] = path
        else:
            images.append(Found(path.relative_to(root).as_posix(), path.parent.name, (path,)))
    for (folder, stem), bands in pairs.items():
        if set(bands) == set(BANDS):
            name = (
                (folder / (stem or folder.name)).relative_to(root).as_posix() if folder != root else stem or folder.name
            )
            images.append(Found(name, folder.parent.name if stem else root.name, tuple(bands[band] for band in BANDS)))
        else:
            skipped += [f"{path.relative_to(root)}: its partner band is missing" for path in bands.values()]
    return sorted(images, key=lambda image: image.name), skipped


def _signal(size: tuple[int, ...]) -> Signal:
    """What is looked for in files without a card: two bands in dB, -99 where nothing was measured."""
    return Signal(bands=BANDS, units="dB", calibration="unstated", size=size, dtype="float32", nodata=(-99.0,))


def read_image(found: Found) -> Chip:
    """Read an image of any size; raises BenchError naming the file when it is not two bands of real numbers."""
    planes, nodata, tagged = [], [], False
    for path in found.files:
        with open_tiff(path) as source:
            if source.count != 3 - len(found.files):
                raise BenchError(f"{path} has {source.count} bands", "two are needed: VV and VH")
            values, declared = read_measured(source, path, _signal(source.shape))
            planes.append(values)
            nodata += declared
            tagged |= SYNTHETIC_TAG in source.tags()
    if len({plane.shape for plane in planes}) != 1:
        raise BenchError(f"{found.name}: VV and VH differ in size", "replace the files")
    db: NDArray[np.float32] = np.concatenate(planes)
    valid = valid_mask(db, _signal(db.shape[1:]), nodata)
    if not valid.any(axis=(1, 2)).all():
        raise BenchError(f"{found.name}: a band has no valid pixel", "replace or remove it")
    return Chip(db=db, valid=None if valid.all() else valid, synthetic=tagged)
