"""A synthetic BigEarthNet-S1 v1.0: patches of several CORINE classes, in clusters on Sentinel-2 tiles."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import Affine
from tqdm import tqdm

from fgmae_bench.data.bigearthnet.labels import nomenclature
from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import appearing, write_json, write_text
from fgmae_bench.system.randomness import generator
from fgmae_bench.worlds.bigearthnet_land import SIZE, draw_labels, paint
from fgmae_bench.worlds.bigearthnet_tiles import TILES, Tile
from fgmae_bench.worlds.folder import already_there, encode, fingerprinted
from fgmae_bench.worlds.scene import Array, observe

WORLD, VERSION = "bigearthnet", 1  # the version changes whenever a seed gives other pixels
PIXEL_M = 10
PATCH_M = SIZE * PIXEL_M

# Geography. Patches come in square clusters of one landscape, dealt to the tiles in turn; those of a tile fill a
# growing square.
CLUSTER = 5  # patches on a side
TILE_CLUSTERS = 18  # on a side of a tile; the grid of a genuine tile has 91 patches
MAX_PATCHES = len(TILES) * (TILE_CLUSTERS * CLUSTER) ** 2

# Spread of what one acquisition, one cluster and one place have in common, dB: incidence angle and moisture.
SCENE_GAIN_DB, CLUSTER_GAIN_DB, PATCH_GAIN_DB = 0.7, 0.5, 0.5

SPLITS = {
    "train": 13,
    "val": 6,
    "test": 6,
}  # patches of a cluster: 52, 24 and 24 % as in the official split, torn apart as there


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One patch: `col` eastwards and `row` southwards on its tile's grid, its labels of the 43, and its split."""

    tile: Tile
    cluster: int
    col: int
    row: int
    labels: tuple[str, ...]
    split: str

    @property
    def s1_name(self) -> str:
        """Name of the Sentinel-1 patch: the column comes first."""
        return f"{self.tile.scene[:32]}_{self.tile.name}_{self.col}_{self.row}"

    @property
    def s2_name(self) -> str:
        """Name of the Sentinel-2 patch of the pair; version 1 omits the tile."""
        return f"{self.tile.s2_scene}_{self.col}_{self.row}"

    @property
    def corner_m(self) -> tuple[int, int]:
        """Easting and northing of the upper left corner."""
        return self.tile.corner_m[0] + self.col * PATCH_M, self.tile.corner_m[1] - self.row * PATCH_M

    @property
    def in_19(self) -> bool:
        """Whether any of the labels is kept in the 19-class nomenclature."""
        return any(nomenclature().position[name] is not None for name in self.labels)


def patch_of(seed: int, number: int) -> Patch:
    """Patch `number` (from 0) of a world; depends on nothing but the arguments."""
    cluster, place = divmod(number, CLUSTER**2)
    turn, tile = divmod(cluster, len(TILES))
    shell = isqrt(turn)
    step = turn - shell**2
    col, row = (shell, step) if step <= shell else (2 * shell - step, shell)
    labels, splits = _cluster(seed, cluster)
    return Patch(
        tile=TILES[tile],
        cluster=cluster,
        col=col * CLUSTER + place % CLUSTER,
        row=row * CLUSTER + place // CLUSTER,
        labels=labels[place],
        split=splits[place],
    )


def chip(seed: int, patch: Patch) -> Array:
    """Pixels of a patch: (2, 120, 120) float32, VV and VH in dB."""
    scene_gain = generator(seed, WORLD, "gain", patch.tile.scene).normal(0, SCENE_GAIN_DB)
    cluster_gain = generator(seed, WORLD, "gain", patch.cluster).normal(0, CLUSTER_GAIN_DB)
    rng = generator(seed, WORLD, "pixels", patch.s1_name)
    gain = scene_gain + cluster_gain + rng.normal(0, PATCH_GAIN_DB)
    return observe(rng, paint(rng, patch.labels) + np.float32(gain))


def metadata(patch: Patch) -> dict[str, Any]:
    """What `<S1name>_labels_metadata.json` says; its `lly` is the lower y, spelled as in the genuine files."""
    x, y = patch.corner_m
    start = patch.tile.scene[17:32]
    return {
        "labels": list(patch.labels),
        "coordinates": {"ulx": x, "uly": y, "lrx": x + PATCH_M, "lly": y - PATCH_M},
        "projection": patch.tile.projection,
        "corresponding_s2_patch": patch.s2_name,
        "scene_source": patch.tile.scene,
        "acquisition_time": f"{start[:4]}-{start[4:6]}-{start[6:8]}T{start[9:11]}:{start[11:13]}:{start[13:]}",
    }


def write_bigearthnet(root: Path, *, patches: int = 600, seed: int = 0, progress: bool = False) -> dict[str, Any]:
    """Write a world as `<root>/<S1name>/<S1name>_VV.tif`, `_VH.tif` and `_labels_metadata.json`; returns its marker.

    `splits/{train,val,test}.csv` are lists in the published form, without the patches that have none of the 19 classes;
    the marker is `SYNTHETIC.json`. The folder appears whole, by rename; one that already holds this very world is left
    as it is. Raises BenchError on a number of patches outside 1 ... MAX_PATCHES, a folder that holds anything else, and
    a full disk.
    """
    root = Path(root).resolve()
    marker = describe_world(WORLD, VERSION, seed, patches, MAX_PATCHES)
    if already_there(root, marker):
        return marker
    lists: dict[str, list[str]] = {name: [] for name in SPLITS}
    with appearing(root) as partial:
        for number in tqdm(range(patches), unit="patch", disable=None if progress else True):
            patch = patch_of(seed, number)
            write_patch(partial, patch, chip(seed, patch))
            if patch.in_19:
                lists[patch.split].append(f"{patch.s2_name},{patch.s1_name}\n")
        for name, lines in lists.items():
            write_text(partial / "splits" / f"{name}.csv", "".join(lines))
        write_json(partial / MARKER, marker)
    return marker


def describe_world(world: str, version: int, seed: int, patches: int, most: int) -> dict[str, Any]:
    """The marker of a world of `patches` patches; raises BenchError where they are none or more than `most`."""
    if not 1 <= patches <= most:
        raise BenchError(f"patches is {patches}", f"ask for 1 to {most} patches")
    return fingerprinted(world, version, seed, {"patches": patches})


def write_patch(root: Path, patch: Patch, backscatter_db: Array) -> None:
    """Write the folder of one patch: (2, 120, 120) VV and VH, one file a band, and the labels."""
    folder = root / patch.s1_name
    write_bands(folder, patch, backscatter_db, WORLD)
    (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps(metadata(patch)), encoding="utf-8")


def write_bands(folder: Path, patch: Patch, backscatter_db: Array, world: str) -> None:
    """Make the folder of one patch with its (2, 120, 120) VV and VH, one file a band, tagged with their world."""
    folder.mkdir(parents=True)
    x, y = patch.corner_m
    transform, crs = Affine(PIXEL_M, 0, x, 0, -PIXEL_M, y), _crs(patch.tile.zone)
    for name, band_db in zip(("VV", "VH"), backscatter_db, strict=True):
        (folder / f"{folder.name}_{name}.tif").write_bytes(
            encode(band_db[None], crs=crs, transform=transform, world=world)
        )


@lru_cache(maxsize=64)
def _cluster(seed: int, cluster: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Labels and split of each patch of a cluster. The first ones of a tile take its landscapes in turn."""
    turn, tile = divmod(cluster, len(TILES))
    landscapes = TILES[tile].landscapes
    rng = generator(seed, WORLD, "cluster", cluster)
    drawn = int(rng.integers(len(landscapes)))
    alone = [name for name, place in nomenclature().position.items() if place is None]
    labels = draw_labels(rng, landscapes[turn if turn < len(landscapes) else drawn], CLUSTER**2, alone)
    splits = np.repeat(list(SPLITS), list(SPLITS.values()))
    return labels, rng.permutation(splits).tolist()


@lru_cache(maxsize=64)
def _crs(zone: int) -> CRS:
    return CRS.from_epsg(32600 + zone)
