"""A synthetic DFC2020 and SEN12MS in the true layouts: float64 tiles, fine and coarse labels of the same ground."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from tqdm import tqdm

from fgmae_bench.data.dfc.layout import TileName
from fgmae_bench.data.synthetic import MARKER, SYNTHETIC_TAG
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import appearing, write_json
from fgmae_bench.system.randomness import generator
from fgmae_bench.worlds.dfc_land import DFC_LANDSCAPES, LANDSCAPES, draw_classes, modis, paint, truth
from fgmae_bench.worlds.folder import already_there, fingerprinted
from fgmae_bench.worlds.scene import MARGIN, Array, observe

VERSION = 1  # changes whenever a seed gives other pixels
SIZE, SMALLEST = 256, 32  # pixels on a side of a tile
WGS84 = CRS.from_epsg(4326)

SCENE_GAIN_DB, TILE_GAIN_DB = 0.7, 0.4  # spread of what one acquisition and one tile have in common


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Tiles `<collection>/<kind>_<folder>/<collection>_<kind>_<scene>_p<N>.tif`; `weight` is its share of the world."""

    collection: str
    folder: str
    scene: int
    weight: int


@dataclass(frozen=True, kw_only=True)
class World:
    """What a world holds: its folders, the kinds of labels, the landscapes."""

    folders: tuple[Folder, ...]
    kinds: tuple[str, ...]
    landscapes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One tile: `s1` (2, H, W) dB float32, `dfc` (H, W) uint8, `lc` (4, H, W) uint16."""

    s1: Array
    dfc: NDArray[np.uint8]
    lc: NDArray[np.uint16]


def _scene(collection: str, scene: int) -> Folder:
    return Folder(collection=collection, folder=str(scene), scene=scene, weight=1)


# SEN12MS has two of the published hold-out scenes, spring 63 and summer 43.
WORLDS = {
    "dfc2020": World(
        folders=(
            Folder(collection="ROIs0000_validation", folder="validation", scene=0, weight=986),
            Folder(collection="ROIs0000_test", folder="0", scene=0, weight=5128),
        ),
        kinds=("dfc", "lc"),
        landscapes=DFC_LANDSCAPES,
    ),
    "sen12ms": World(
        folders=(
            _scene("ROIs1158_spring", 1),
            _scene("ROIs1158_spring", 63),
            _scene("ROIs1868_summer", 8),
            _scene("ROIs1868_summer", 43),
            _scene("ROIs1970_fall", 22),
            _scene("ROIs2017_winter", 25),
        ),
        kinds=("lc",),
        landscapes=tuple(LANDSCAPES),
    ),
}


def sample(seed: int, world: str, folder: Folder, patch: int, size: int = SIZE) -> Sample:
    """Tile `patch` (from 0) of a folder; depends on nothing but the arguments."""
    landscapes = WORLDS[world].landscapes
    gain = generator(seed, world, "gain", folder.collection, folder.folder).normal(0, SCENE_GAIN_DB)
    rng = generator(seed, world, "pixels", folder.collection, folder.folder, patch)
    canvas = size + 2 * MARGIN
    codes = truth(rng, draw_classes(rng, landscapes[patch % len(landscapes)]), canvas)
    ground = paint(rng, codes) + np.float32(gain + rng.normal(0, TILE_GAIN_DB))
    kept = codes[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return Sample(s1=observe(rng, ground), dfc=kept, lc=modis(rng, kept))


def write_dfc(
    root: Path, *, world: str = "dfc2020", tiles: int = 96, size: int = SIZE, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Write a world of `tiles` tiles, `size` pixels on a side (256 in truth), and its marker; returns the marker.

    The folder appears whole, by rename; one that already holds this very world is left as it is. Raises BenchError on
    fewer tiles than folders, a size below SMALLEST, a folder that holds anything else, and a full disk.
    """
    folders = WORLDS[world].folders
    if tiles < len(folders):
        raise BenchError(f"tiles is {tiles}", f"ask for {len(folders)} tiles or more")
    if size < SMALLEST:
        raise BenchError(f"size is {size}", f"ask for {SMALLEST} pixels or more")
    root = Path(root).resolve()
    counts = _counts(folders, tiles)
    stated = {f"{folder.collection}/{folder.folder}": count for folder, count in zip(folders, counts, strict=True)}
    marker = fingerprinted(world, VERSION, seed, stated, size)
    if already_there(root, marker):
        return marker
    todo = [(folder, patch) for folder, count in zip(folders, counts, strict=True) for patch in range(count)]
    with appearing(root) as partial:
        for folder, patch in tqdm(todo, unit="tile", disable=None if progress else True):
            write_tile(partial, world, folder, patch, sample(seed, world, folder, patch, size))
        write_json(partial / MARKER, marker)
    return marker


def write_tile(root: Path, world: str, folder: Folder, patch: int, made: Sample) -> None:
    """Write the files of one tile: image float64, `lc` uint16, `dfc` int32."""
    name = TileName(collection=folder.collection, kind="s1", scene=folder.scene, patch=patch)
    pixels: dict[str, NDArray[Any]] = {
        "s1": made.s1.astype(np.float64),
        "lc": made.lc,
        "dfc": made.dfc[None].astype(np.int32),
    }
    for kind in ("s1", *WORLDS[world].kinds):
        place = root / folder.collection / f"{kind}_{folder.folder}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name.of(kind)}.tif").write_bytes(encode(pixels[kind], world))


def encode(pixels: NDArray[Any], world: str) -> bytes:
    """Pixels (C, H, W) of any type as the bytes of a tagged GeoTIFF: EPSG:4326, identity transform, as in truth."""
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "dtype": pixels.dtype.name, "count": count, "height": height, "width": width}
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**profile, crs=WGS84, transform=Affine.identity()) as target:
            target.update_tags(
                **{SYNTHETIC_TAG: world}
            )  # before the pixels, so that GDAL does not write the directory twice
            target.write(pixels)
        return bytes(memory.getbuffer())


def _counts(folders: tuple[Folder, ...], tiles: int) -> list[int]:
    """Tiles of each folder by its weight, one at least."""
    bounds = np.round(
        np.cumsum([folder.weight for folder in folders]) * tiles / sum(folder.weight for folder in folders)
    ).astype(int)
    counts = np.maximum(np.diff(bounds, prepend=0), 1)
    counts[counts.argmax()] += tiles - counts.sum()
    return [int(count) for count in counts]
