"""Copernicus-Bench's own Sentinel-1 files: EuroSAT, BigEarthNet and DFC2020 in its folders, with lists like its own."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from tqdm import tqdm

from fgmae_bench.data.bigearthnet.labels import multi_hot, nomenclature
from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.system.files import appearing, write_bytes, write_json, write_text
from fgmae_bench.worlds import dfc, eurosat
from fgmae_bench.worlds.bigearthnet import PIXEL_M, chip
from fgmae_bench.worlds.bigearthnet_v2 import patches_of, s2_name
from fgmae_bench.worlds.folder import already_there, encode_any, fingerprinted, require_amount

VERSION = 1
TURNS = ("train", "train", "val", "train", "test")  # parts of the samples in turn: 3 : 1 : 1
BIGEARTHNET = "BigEarthNet-S1-5%"


def write_copernicus_eurosat(
    root: Path, *, per_class: int = 40, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Write `eurosat_s1/all_imgs/<Class>/<Class>_<N>.tif` and `eurosat_s1/eurosat-{train,val,test}.txt` of .jpg names;
    returns the marker, which is next to the classes too.
    """
    require_amount("per_class", per_class, 5)
    root = Path(root).resolve()
    counts = dict.fromkeys(eurosat.CLASSES, per_class)
    marker = fingerprinted("copernicus_eurosat", VERSION, seed, counts)
    if already_there(root, marker):
        return marker
    lists: dict[str, list[str]] = {part: [] for part in TURNS}
    with appearing(root) as partial:
        images = partial / "eurosat_s1" / "all_imgs"
        for name in tqdm(counts, unit="class", disable=None if progress else True):
            (images / name).mkdir(parents=True)
            for number in range(1, per_class + 1):
                made = eurosat.chip(seed, name, number)
                eurosat.write_chip(images / name / f"{name}_{number}.tif", made, eurosat.place(seed, name, number))
                lists[TURNS[number % len(TURNS)]].append(f"{name}_{number}.jpg\n")
        for part, lines in lists.items():
            write_text(partial / "eurosat_s1" / f"eurosat-{part}.txt", "".join(lines))
        for folder in (partial, images):
            write_json(folder / MARKER, marker)
    return marker


def write_copernicus_bigearthnet(
    root: Path, *, patches: int = 200, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Write `bigearthnet_s1s2/BigEarthNet-S1-5%/<scene>/<patch>/<patch>_allbands.tif` and the lists
    `multilabel-{train,val,test}.csv` with a column a class; returns the marker.
    """
    require_amount("patches", patches, 10)
    root = Path(root).resolve()
    marker = fingerprinted("copernicus_bigearthnet", VERSION, seed, {"patches": patches})
    if already_there(root, marker):
        return marker
    classes = nomenclature().classes_19
    header = ",".join(["s1_path", "s2_path", *(f'"{name}"' if "," in name else name for name in classes)]) + "\n"
    lists = {part: [header] for part in TURNS}
    with appearing(root) as partial:
        place = partial / "bigearthnet_s1s2"
        numbered = enumerate(islice(patches_of(seed), patches))
        for number, patch in tqdm(numbered, total=patches, unit="patch", disable=None if progress else True):
            path = f"{patch.tile.scene[:32]}/{patch.s1_name}/{patch.s1_name}_allbands.tif"
            x, y = patch.corner_m
            crs, transform = CRS.from_epsg(32600 + patch.tile.zone), Affine(PIXEL_M, 0, x, 0, -PIXEL_M, y)
            data = encode_any(chip(seed, patch), "copernicus_bigearthnet", crs=crs, transform=transform)
            write_bytes(place / BIGEARTHNET / path, data)
            hot = multi_hot(patch.labels, patch.s1_name)
            labels = ",".join(map(str, hot.tolist()))
            s2 = s2_name(patch)
            lists[TURNS[number % len(TURNS)]].append(f"{path},{s2[:-6]}/{s2}/{s2}_allbands.tif,{labels}\n")
        for part, lines in lists.items():
            write_text(place / f"multilabel-{part}.csv", "".join(lines))
        write_json(partial / MARKER, marker)
    return marker


def write_copernicus_dfc2020(
    root: Path, *, tiles: int = 60, size: int = dfc.SIZE, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Write `dfc2020_s1s2/{s1,dfc}/ROIs0000_test_<kind>_0_p<N>.tif` and the lists `dfc-{train,val,test}-new.csv`;
    returns the marker.
    """
    require_amount("tiles", tiles, 10, size)
    root = Path(root).resolve()
    marker = fingerprinted("copernicus_dfc2020", VERSION, seed, {"tiles": tiles}, size)
    if already_there(root, marker):
        return marker
    folder = next(each for each in dfc.WORLDS["dfc2020"].folders if each.collection == "ROIs0000_test")
    lists: dict[str, list[str]] = {part: [] for part in TURNS}
    with appearing(root) as partial:
        place = partial / "dfc2020_s1s2"
        for number in tqdm(range(tiles), unit="tile", disable=None if progress else True):
            made = dfc.sample(seed, "dfc2020", folder, number, size)
            pixels: dict[str, NDArray[Any]] = {"s1": made.s1.astype(np.float64), "dfc": made.dfc[None].astype(np.int32)}
            for kind, values in pixels.items():
                name = f"ROIs0000_test_{kind}_0_p{number}.tif"
                write_bytes(place / kind / name, dfc.encode(values, "copernicus_dfc2020"))
            lists[TURNS[number % len(TURNS)]].append(f"ROIs0000_test_dfc_0_p{number}.tif\n")
        for part, lines in lists.items():
            write_text(place / f"dfc-{part}-new.csv", "".join(lines))
        write_json(partial / MARKER, marker)
    return marker
