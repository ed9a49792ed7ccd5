"""Synthetic BioMassters, SpaceNet 6 and FUSAR-Map in their own layouts: biomass maps, building outlines, colours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from tqdm import tqdm

from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.system.files import appearing, write_bytes, write_json, write_text
from fgmae_bench.system.randomness import generator
from fgmae_bench.worlds.covers import plain, residential
from fgmae_bench.worlds.folder import already_there, encode_any, fingerprinted, require_amount
from fgmae_bench.worlds.scene import MARGIN, Array, farmland, forest, meander, observe, smooth, water

VERSION = 1
BIOMASS_SIZE, SPACENET_SIZE, FUSAR_SIZE = 256, 900, 1024
INNER = slice(MARGIN, -MARGIN)
CITIES = ("JiuJiang_01", "JiuJiang_02", "HeFei_01", "HeFei_02")
COLOURS = {
    "Other": (0, 0, 0),
    "Building": (255, 0, 0),
    "Vegetation": (0, 255, 0),
    "Water": (0, 0, 255),
    "Road": (255, 255, 0),
}
STRIPS = ("20190823075124_20190823075442", "20190823080000_20190823080330", "20190823144405_20190823144711")


def write_biomassters(
    root: Path, *, chips: int = 48, size: int = BIOMASS_SIZE, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Write `{train,test}_features/<chip>_S1_<mm>.tif` of two months and `{train,test}_agbm/<chip>_agbm.tif`; returns
    the marker. Every fourth chip is of test; of every tenth the descending orbit is missing, -9999.
    """
    require_amount("chips", chips, 8, size)
    root = Path(root).resolve()
    marker = fingerprinted("biomassters", VERSION, seed, {"chips": chips}, size)
    if already_there(root, marker):
        return marker
    with appearing(root) as partial:
        for number in tqdm(range(chips), unit="chip", disable=None if progress else True):
            rng = generator(seed, "biomassters", number)
            canvas = size + 2 * MARGIN
            density = np.clip(0.5 + 0.35 * smooth(rng, canvas / 8, canvas), 0, 1)
            ground = plain(rng, "bare", canvas) + density * (
                forest(rng, canvas) - plain(rng, "bare", canvas, texture_db=0)
            )
            part, name = "test" if number % 4 == 3 else "train", f"{number:08x}"
            for month in ("05", "10"):
                ascending, descending = observe(rng, ground), observe(rng, ground - np.float32(0.5))
                if number % 10 == 9:
                    descending[:] = -9999
                image = np.concatenate([ascending, descending])
                data = encode_any(image, "biomassters")
                write_bytes(partial / f"{part}_features" / f"{name}_S1_{month}.tif", data)
            agbm = (150 * density[INNER, INNER] ** 2).astype(np.float32)
            write_bytes(partial / f"{part}_agbm" / f"{name}_agbm.tif", encode_any(agbm[None], "biomassters"))
        write_json(partial / MARKER, marker)
    return marker


def write_spacenet6(
    root: Path, *, tiles: int = 48, size: int = SPACENET_SIZE, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Write `train/AOI_11_Rotterdam/{SAR-Intensity,geojson_buildings}` with tiles of HH, HV, VH, VV and outlines in
    EPSG:32631; returns the marker. Every sixth tile has no building, and a border of 0.
    """
    require_amount("tiles", tiles, 12, size)
    root = Path(root).resolve()
    marker = fingerprinted("spacenet6", VERSION, seed, {"tiles": tiles}, size)
    if already_there(root, marker):
        return marker
    with appearing(root) as partial:
        place = partial / "train" / "AOI_11_Rotterdam"
        for number in tqdm(range(tiles), unit="tile", disable=None if progress else True):
            rng = generator(seed, "spacenet6", number)
            image, boxes = _town(rng, size, count=0 if number % 6 == 5 else 8)
            if number % 6 == 5:
                image[:, :, : size // 8] = 0
            row, column = divmod(number, 8)
            transform = Affine(0.5, 0, 591_550 + 900 * column, 0, -0.5, 5_752_000 - 900 * row)
            tail = f"{STRIPS[number % len(STRIPS)]}_tile_{number + 1}"
            data = encode_any(image, "spacenet6", crs=CRS.from_epsg(32631), transform=transform, nodata=0)
            write_bytes(place / "SAR-Intensity" / f"SN6_Train_AOI_11_Rotterdam_SAR-Intensity_{tail}.tif", data)
            outlines = [_outline(transform, box) for box in boxes]
            held = {
                "type": "FeatureCollection",
                "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}},
                "features": [{"type": "Feature", "properties": {}, "geometry": each} for each in outlines],
            }
            write_text(
                place / "geojson_buildings" / f"SN6_Train_AOI_11_Rotterdam_Buildings_{tail}.geojson", json.dumps(held)
            )
        write_json(partial / MARKER, marker)
    return marker


def _town(rng: np.random.Generator, size: int, count: int) -> tuple[Array, list[tuple[int, int, int, int]]]:
    """(image (4, H, W) of a range near that of eight bits, boxes (row, column, height, width) of buildings)."""
    canvas = size + 2 * MARGIN
    ground = residential(rng, canvas, 0.2)
    boxes = []
    for _ in range(count):
        height, width = (int(value) for value in rng.integers(size // 16 + 2, size // 6 + 3, 2))
        row, column = (int(rng.integers(0, size - length)) for length in (height, width))
        ground[:, MARGIN + row : MARGIN + row + height, MARGIN + column : MARGIN + column + width] = [[[0.0]], [[-7.0]]]
        boxes.append((row, column, height, width))
    first, second = observe(rng, ground), observe(rng, ground)
    db = np.stack([first[0], first[1], second[1], second[0]])
    return np.clip((db + 30) * 4, 1, 255).astype(np.float32), boxes


def _outline(transform: Affine, box: tuple[int, int, int, int]) -> dict[str, Any]:
    row, column, height, width = box
    corners = [
        (column, row),
        (column + width, row),
        (column + width, row + height),
        (column, row + height),
        (column, row),
    ]
    return {"type": "Polygon", "coordinates": [[list(transform @ corner) for corner in corners]]}


def write_fusar_map(
    root: Path, *, tiles: int = 40, size: int = FUSAR_SIZE, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Write `Datasets/{sar_1024,lab_1024}/<City>_<image>_<region>_<row>_<col>_{SAR,Label}_<no>.tif` of eight bits,
    labels as colours; returns the marker. A few label pixels have a near-colour, as files that were saved again do.
    """
    require_amount("tiles", tiles, 10, size)
    root = Path(root).resolve()
    marker = fingerprinted("fusar_map", VERSION, seed, {"tiles": tiles}, size)
    if already_there(root, marker):
        return marker
    with appearing(root) as partial:
        for number in tqdm(range(tiles), unit="tile", disable=None if progress else True):
            rng = generator(seed, "fusar_map", number)
            db, classes = _country(rng, size)
            grey = np.clip((db[0] + 25) * 8, 0, 255).astype(np.uint8)
            label = np.array(list(COLOURS.values()), np.uint8)[classes].transpose(2, 0, 1).copy()
            label[:, 0, 0] = (250, 5, 3)
            name = f"{CITIES[number % len(CITIES)]}_01_{number // 8 + 1:02d}_{number % 8 + 1:02d}"
            for folder, word, values in (("sar_1024", "SAR", grey[None]), ("lab_1024", "Label", label)):
                file = partial / "Datasets" / folder / f"{name}_{word}_{number + 1:03d}.tif"
                write_bytes(file, encode_any(values, "fusar_map"))
        write_json(partial / MARKER, marker)
    return marker


def _country(rng: np.random.Generator, size: int) -> tuple[Array, NDArray[np.intp]]:
    """(image (2, H, W) dB, class numbers (H, W) in the order of COLOURS)."""
    canvas = size + 2 * MARGIN
    relief, river, road = smooth(rng, canvas / 8, canvas), meander(rng, canvas / 12, canvas), meander(rng, 0, canvas)
    classes = np.where(relief > 0.3, 2, 0)
    classes[relief < -0.8] = 1
    classes[np.abs(road) < max(1.5, canvas / 60)] = 4
    classes[np.abs(river) < canvas / 16] = 3
    lands = (
        farmland(rng, 1.0, canvas),
        residential(rng, canvas, 1.2),
        forest(rng, canvas),
        water(rng, canvas),
        plain(rng, "asphalt", canvas),
    )
    ground = np.choose(classes, [land[0] for land in lands]), np.choose(classes, [land[1] for land in lands])
    return observe(rng, np.stack(ground).astype(np.float32)), classes[INNER, INNER]
