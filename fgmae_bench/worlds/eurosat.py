"""A synthetic EuroSAT-SAR: ten land-cover classes painted, placed, observed and written as the real files are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import Affine
from tqdm import tqdm

from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.system.files import appearing, write_json
from fgmae_bench.system.randomness import generator
from fgmae_bench.worlds import covers
from fgmae_bench.worlds.folder import already_there, encode, fingerprinted
from fgmae_bench.worlds.scene import Array, forest, observe, pasture

WORLD, VERSION = "eurosat", 1  # the version changes whenever a seed gives other pixels

UTM_33N = CRS.from_epsg(32633)
PIXEL_M = (9.895, 9.787)  # width, height; a genuine file has no square pixels either

# Geography. Ten consecutive numbers of every class fall at random into the six scenes of a group, about 17 images each.
GROUP_NUMBERS, GROUP_SCENES = 10, 6
SCENE_SPACING_M, SCENE_COLUMNS = 40_000.0, 16
FIRST_SCENE_M = (185_000.0, 4_605_000.0)  # corner of the first scene: easting, northing
SLOT_M, SLOT_JITTER_M = 1000.0, 150.0  # a scene is a grid of slots, one an image at most; an image is about 630 m wide

# Spread of what one acquisition or one place has in common, dB: incidence angle and moisture of the scene, then of the
# image.
SCENE_GAIN_DB, IMAGE_GAIN_DB = 1.0, 0.5


CLASSES: dict[str, Callable[[np.random.Generator], Array]] = {
    "AnnualCrop": covers.annual_crop,
    "Forest": forest,
    "HerbaceousVegetation": covers.herbaceous_vegetation,
    "Highway": covers.highway,
    "Industrial": covers.industrial,
    "Pasture": pasture,
    "PermanentCrop": covers.permanent_crop,
    "Residential": covers.residential,
    "River": covers.river,
    "SeaLake": covers.sea_lake,
}


def scene_of(seed: int, name: str, number: int) -> int:
    """Scene that image `number` (from 1) of a class belongs to."""
    group = (number - 1) // GROUP_NUMBERS
    return group * GROUP_SCENES + int(generator(seed, WORLD, "scene of", name, number).integers(GROUP_SCENES))


def place(seed: int, name: str, number: int) -> tuple[float, float]:
    """Easting and northing in metres of the upper left corner of an image; no two images of a world overlap."""
    scene = scene_of(seed, name, number)
    slots = generator(seed, WORLD, "slots", scene).permutation(len(CLASSES) * GROUP_NUMBERS)
    slot = slots[list(CLASSES).index(name) * GROUP_NUMBERS + (number - 1) % GROUP_NUMBERS]
    row, column = divmod(int(slot), GROUP_NUMBERS)
    jitter = generator(seed, WORLD, "place", name, number).uniform(-SLOT_JITTER_M, SLOT_JITTER_M, 2)
    scene_row, scene_column = divmod(scene, SCENE_COLUMNS)
    easting = FIRST_SCENE_M[0] + scene_column * SCENE_SPACING_M + column * SLOT_M + jitter[0]
    northing = FIRST_SCENE_M[1] + scene_row * SCENE_SPACING_M + row * SLOT_M + jitter[1]
    return float(easting), float(northing)


def chip(seed: int, name: str, number: int) -> Array:
    """Image `number` (from 1) of a class: (2, 64, 64) float32, VV and VH in dB; decided by the arguments."""
    scene_gain = generator(seed, WORLD, "gain", scene_of(seed, name, number)).normal(0, SCENE_GAIN_DB)
    rng = generator(seed, WORLD, "pixels", name, number)
    gain = scene_gain + rng.normal(0, IMAGE_GAIN_DB)
    return observe(rng, CLASSES[name](rng) + np.float32(gain))


def write_eurosat(
    root: Path,
    *,
    per_class: int | dict[str, int] = 40,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Write a world as `<root>/<Class>/<Class>_<N>.tif` and its marker `SYNTHETIC.json`; returns the marker.

    `per_class` counts images, for each class when it is a dict; `classes` keeps some classes only. The folder appears
    whole, by rename; one that already holds this very world is left as it is. Raises BenchError on counts below 1,
    unknown classes, a folder that holds anything else, and a full or read-only disk.
    """
    root = Path(root).resolve()
    marker = describe(_counts(per_class, classes), seed)
    if already_there(root, marker):
        return marker
    with appearing(root) as partial:
        numbers = [(name, number) for name, count in marker["counts"].items() for number in range(1, count + 1)]
        for name in marker["counts"]:
            (partial / name).mkdir()
        for name, number in tqdm(numbers, unit="image", disable=None if progress else True):
            write_chip(partial / name / f"{name}_{number}.tif", chip(seed, name, number), place(seed, name, number))
        write_json(partial / MARKER, marker)
    return marker


def describe(counts: dict[str, int], seed: int) -> dict[str, Any]:
    """The marker of a world: what it holds, who made it, and the SHA-256 of what determines its pixels."""
    return fingerprinted(WORLD, VERSION, seed, counts)


def write_chip(path: Path, backscatter_db: Array, corner_m: tuple[float, float]) -> None:
    """Write one image (2, H, W) as a GeoTIFF with its upper left corner at (easting, northing)."""
    transform = Affine(PIXEL_M[0], 0, corner_m[0], 0, -PIXEL_M[1], corner_m[1])
    path.write_bytes(encode(backscatter_db, crs=UTM_33N, transform=transform, world=WORLD))


def _counts(per_class: int | dict[str, int], classes: tuple[str, ...] | None) -> dict[str, int]:
    """Images of each class, in the order of CLASSES."""
    wanted = dict.fromkeys(classes or CLASSES, per_class) if isinstance(per_class, int) else per_class
    chosen = classes or tuple(wanted)
    for name in (*wanted, *chosen):
        if name not in CLASSES:
            raise unknown("class", name, CLASSES)
    counts = {name: wanted.get(name, 0) for name in CLASSES if name in chosen}
    if not counts or min(counts.values()) < 1:
        raise BenchError(f"per_class is {per_class}", "ask for 1 image or more of every class")
    return counts
