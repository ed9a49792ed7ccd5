"""A synthetic EuroSAT-SAR: ten land-cover classes painted, placed, observed and written as the real files are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from tqdm import tqdm

from fgmae_bench import __version__
from fgmae_bench.errors import BenchError, os_error, unknown
from fgmae_bench.files import missing_folders, remove_empty, write_json
from fgmae_bench.randomness import generator
from fgmae_bench.worlds.scene import (
    Array,
    axes,
    both,
    farmland,
    fields,
    forest,
    level,
    meander,
    observe,
    pasture,
    points,
    rows,
    smooth,
    water,
)

WORLD, VERSION = "eurosat", 1  # the version changes whenever a seed gives other pixels
MARKER = "SYNTHETIC.json"
TAG = "FGMAE_BENCH_SYNTHETIC"

UTM_33N = CRS.from_epsg(32633)
PIXEL_M = (9.895, 9.787)  # width, height; a genuine file has no square pixels either

# Geography. Ten consecutive numbers of every class fall at random into the six scenes of a group, about 17 images each.
GROUP_NUMBERS, GROUP_SCENES = 10, 6
SCENE_SPACING_M, SCENE_COLUMNS = 40_000.0, 16
FIRST_SCENE_M = (185_000.0, 4_605_000.0)  # corner of the first scene: easting, northing
SLOT_M, SLOT_JITTER_M = 1000.0, 150.0  # a scene is a grid of slots, one an image at most; an image is about 630 m wide

# Spread of what one acquisition or one place has in common, dB: incidence angle and moisture of the scene, then of the image.
SCENE_GAIN_DB, IMAGE_GAIN_DB = 1.0, 0.5

log = logging.getLogger(__name__)


def _annual_crop(rng: np.random.Generator) -> Array:
    return farmland(rng, rng.uniform(1.2, 2.8))


def _herbaceous_vegetation(rng: np.random.Generator) -> Array:
    patches = rng.uniform(0.8, 1.8) * smooth(rng, rng.uniform(4, 8))
    shrubs = rng.uniform(2, 5) * points(rng, int(rng.integers(40, 250)))
    return level(rng, "herbs") + both(patches + shrubs.astype(np.float32), 1.2)


def _permanent_crop(rng: np.random.Generator) -> Array:
    """Plots of rows of trees or vines: 4 to 7 pixels apart, each plot with a direction of its own."""
    number = fields(rng, int(rng.integers(2, 7)), rng.uniform(0, np.pi), rng.uniform(1, 2))
    directions = rng.uniform(0, np.pi, number.max() + 1)
    planted = np.stack([rows(angle, rng.uniform(4, 7)) for angle in directions])
    row = np.take_along_axis(planted, number[None], axis=0)[0]
    plots = rng.normal(0, 0.7, number.max() + 1).astype(np.float32)[number]
    return level(rng, "orchard") + both(plots + rng.uniform(1.5, 3.5) * row + 0.5 * smooth(rng, 2))


def _highway(rng: np.random.Generator) -> Array:
    ground = forest(rng) if rng.random() < 0.25 else farmland(rng, rng.uniform(0.5, 1.5))
    road, width = np.abs(meander(rng, rng.uniform(0, 6))), rng.uniform(1.5, 3.5)
    ground = np.where(road < width, level(rng, "asphalt"), ground)
    verge = (road >= width) & (road < width + 1.5)
    ground = np.where(verge, ground + rng.uniform(0, 4), ground)  # embankment and crash barrier
    metal = points(rng, int(rng.integers(10, 60)), road < width + 1.5)  # vehicles, gantries, bridges
    return np.where(metal, level(rng, "roof") + rng.uniform(4, 11), ground)


def _residential(rng: np.random.Generator) -> Array:
    """Streets in a grid, houses as double bounces between them."""
    along, across = axes(rng.uniform(0, np.pi))
    block = rng.uniform(7, 14)
    street = np.minimum(along % block, across % (block * rng.uniform(1, 2))) < 1.5
    ground = level(rng, "houses") + both(rng.uniform(0.8, 1.8) * smooth(rng, 4))
    house = points(rng, int(rng.integers(200, 700)), ~street)
    ground = np.where(street, ground - 3, ground)
    return np.where(house, ground + rng.uniform(7, 10) + rng.normal(0, 2, house.shape), ground)


def _industrial(rng: np.random.Generator) -> Array:
    """Halls on flat yards, bright along the wall that faces the sensor, and some very bright corners."""
    angle = rng.uniform(0, np.pi)
    ground = level(rng, "yard", 1.0) + both(rng.uniform(0.8, 1.8) * smooth(rng, 4))
    wall_gain, corner_gain = rng.uniform(5, 9), rng.uniform(12, 18)
    for _ in range(rng.integers(4, 15)):
        centre = rng.uniform(0, 1, 2) * axes(0)[0].shape
        along, across = axes(angle, (centre[0], centre[1]))
        length, depth = rng.uniform(4, 14), rng.uniform(3, 8)
        hall = (np.abs(along) < length) & (np.abs(across) < depth)
        roof = level(rng, "roof", 1.5)
        ground = np.where(hall, np.where(across < 2 - depth, roof + wall_gain, roof), ground)
        ground = np.where(points(rng, int(rng.integers(0, 5)), hall), roof + corner_gain, ground)
    return ground


def _river(rng: np.random.Generator) -> Array:
    kind = rng.random()
    ground = forest(rng) if kind < 0.3 else pasture(rng) if kind < 0.5 else farmland(rng, rng.uniform(0.5, 1.5))
    return np.where(np.abs(meander(rng, rng.uniform(2, 14))) < rng.uniform(2, 12), water(rng), ground)


def _sea_lake(rng: np.random.Generator) -> Array:
    shore = rng.uniform(8, 25) if rng.random() < 0.2 else np.inf
    return np.where(meander(rng, rng.uniform(2, 10)) > shore, pasture(rng), water(rng))


CLASSES: dict[str, Callable[[np.random.Generator], Array]] = {
    "AnnualCrop": _annual_crop,
    "Forest": forest,
    "HerbaceousVegetation": _herbaceous_vegetation,
    "Highway": _highway,
    "Industrial": _industrial,
    "Pasture": pasture,
    "PermanentCrop": _permanent_crop,
    "Residential": _residential,
    "River": _river,
    "SeaLake": _sea_lake,
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
    """Image `number` (from 1) of a class: (2, 64, 64) float32, VV and VH in dB; depends on nothing but the arguments."""
    scene_gain = generator(seed, WORLD, "gain", scene_of(seed, name, number)).normal(0, SCENE_GAIN_DB)
    rng = generator(seed, WORLD, "pixels", name, number)
    gain = scene_gain + rng.normal(0, IMAGE_GAIN_DB)
    return observe(rng, CLASSES[name](rng) + np.float32(gain))


def write_eurosat(
    root: Path, *, per_class: int | dict[str, int] = 40, seed: int = 0, classes: tuple[str, ...] | None = None, progress: bool = False
) -> dict[str, Any]:
    """Write a world as `<root>/<Class>/<Class>_<N>.tif` and its marker `SYNTHETIC.json`; returns the marker.

    `per_class` counts images, for each class when it is a dict; `classes` keeps some classes only. The folder appears whole, by
    rename; one that already holds this very world is left as it is. Raises BenchError on counts below 1, unknown classes, a
    folder that holds anything else, and a full or read-only disk.
    """
    root = Path(root).resolve()
    marker = describe(_counts(per_class, classes), seed)
    present = read_marker(root)
    if present is not None and present["fingerprint"] == marker["fingerprint"]:
        log.info("%s already holds this world", root)
        return present
    with _appearing(root) as partial:
        numbers = [(name, number) for name, count in marker["counts"].items() for number in range(1, count + 1)]
        for name in marker["counts"]:
            (partial / name).mkdir()
        for name, number in tqdm(numbers, unit="image", disable=None if progress else True):
            write_chip(partial / name / f"{name}_{number}.tif", chip(seed, name, number), place(seed, name, number))
        write_json(partial / MARKER, marker)
    return marker


def describe(counts: dict[str, int], seed: int) -> dict[str, Any]:
    """The marker of a world: what it holds, who made it, and the SHA-256 of what determines its pixels."""
    facts = {"world": WORLD, "version": VERSION, "seed": seed, "counts": counts}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    return {**facts, "made_by": f"fgmae_bench {__version__}", "fingerprint": fingerprint}


def read_marker(root: Path) -> dict[str, Any] | None:
    """The marker of the world in `root`, or None where there is no world."""
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise os_error(error, root) from error
    return marker if isinstance(marker, dict) and "fingerprint" in marker else None


def write_chip(path: Path, backscatter_db: Array, corner_m: tuple[float, float]) -> None:
    """Write one image (2, H, W) as a GeoTIFF with its upper left corner at (easting, northing).

    The file is made in memory: on a full disk GDAL leaves a short file and says nothing, while Python's own write raises OSError.
    """
    transform = Affine(PIXEL_M[0], 0, corner_m[0], 0, -PIXEL_M[1], corner_m[1])
    count, height, width = backscatter_db.shape
    profile = {"driver": "GTiff", "dtype": "float32", "count": count, "height": height, "width": width, "interleave": "pixel"}
    with MemoryFile() as memory:
        with memory.open(**profile, crs=UTM_33N, transform=transform) as target:
            target.write(backscatter_db)
            target.update_tags(**{TAG: WORLD})
        path.write_bytes(memory.getbuffer())


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


@contextlib.contextmanager
def _appearing(root: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `root`; it becomes `root` on success and is removed otherwise."""
    partial = root.with_name(f"{root.name}.partial-{os.getpid()}")
    made: list[Path] = []
    try:
        made = missing_folders(root.parent)
        if root.exists() and any(root.iterdir()):
            raise BenchError(f"{root} is not empty", "choose another folder or remove it")
        partial.mkdir(parents=True)
        yield partial
        partial.replace(root)
    except OSError as error:
        raise os_error(error, root) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(made)
