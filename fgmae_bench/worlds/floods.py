"""Synthetic floods in the layouts of Sen1Floods11 (dB), Kuro Siwo and Copernicus-Bench's Flood-S1 (linear power)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from tqdm import tqdm

from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.system.files import appearing, write_bytes, write_json, write_text
from fgmae_bench.system.randomness import generator
from fgmae_bench.worlds.covers import patchy
from fgmae_bench.worlds.folder import already_there, encode_any, fingerprinted, require_amount
from fgmae_bench.worlds.scene import MARGIN, Array, farmland, forest, meander, observe, pasture, smooth, water

VERSION = 1  # changes whenever a seed gives other pixels
S1F_SIZE, KURO_SIZE = 512, 224
EVENTS = ("Ghana", "India", "Mekong", "Nigeria", "Pakistan", "Paraguay", "Somalia", "Spain", "Sri-Lanka", "USA")
UNSEEN = "Bolivia"
DEGREES = 8.983152841195215e-05  # a pixel of Sen1Floods11
# Parts of the published split by activation, and dates of the two earlier images and the later one.
ACTIVATIONS = {"train": ("130", "470", "555"), "val": ("514", "559"), "test": ("321", "561", "445")}
TURNS = ("train", "test", "train", "val", "train", "test", "train", "train")
DATES = {"SL2": "20170410", "SL1": "20170422", "MS1": "20170504"}
EVENT_GAIN_DB, DATE_GAIN_DB = 0.6, 0.3
NO_LABEL = 3  # of Kuro Siwo


@dataclass(frozen=True, kw_only=True)
class Flood:
    """One place on three dates (2, H, W) in dB, and what is water: `permanent` and `flooded` (H, W)."""

    earliest: Array
    before: Array
    after: Array
    permanent: NDArray[np.bool_]
    flooded: NDArray[np.bool_]


def flood(seed: int, world: str, event: str, number: int, size: int) -> Flood:
    """Place `number` of an event: a river, and the low ground around it under water on the last date."""
    gain = generator(seed, world, "gain", event).normal(0, EVENT_GAIN_DB)
    rng = generator(seed, world, "place", event, number)
    canvas = size + 2 * MARGIN
    land = patchy(rng, farmland(rng, 1.5, canvas), forest(rng, canvas), rng.uniform(0.1, 0.4))
    land = patchy(rng, land, pasture(rng, canvas), rng.uniform(0.1, 0.4))
    distance = np.abs(meander(rng, canvas / 12, canvas))
    permanent = distance < rng.uniform(0.03, 0.06) * canvas
    low = distance / canvas + 0.12 * smooth(rng, canvas / 10, canvas)
    flooded = (low < np.quantile(low, rng.uniform(0.15, 0.45))) & ~permanent
    dates = []
    for wet in (permanent, permanent, permanent | flooded):
        ground = np.where(wet, water(rng, canvas), land) + np.float32(gain + rng.normal(0, DATE_GAIN_DB))
        dates.append(observe(rng, ground.astype(np.float32)))
    inner = slice(MARGIN, -MARGIN)
    kept = permanent[inner, inner], flooded[inner, inner]
    return Flood(earliest=dates[0], before=dates[1], after=dates[2], permanent=kept[0], flooded=kept[1])


def write_sen1floods11(
    root: Path, *, chips: int = 60, size: int = S1F_SIZE, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Write `data/flood_events/HandLabeled/{S1Hand,LabelHand,JRCWaterHand}` and the four lists; returns the marker.

    One chip in six is of Bolivia, the others go to train, valid and test in turn. Raises BenchError on fewer chips than
    are needed for each event and part, and a folder that holds anything else.
    """
    require_amount("chips", chips, 24, size)
    root = Path(root).resolve()
    marker = fingerprinted("sen1floods11", VERSION, seed, {"chips": chips}, size)
    if already_there(root, marker):
        return marker
    lists: dict[str, list[str]] = {name: [] for name in ("train", "valid", "test", "bolivia")}
    with appearing(root) as partial:
        for number in tqdm(range(chips), unit="chip", disable=None if progress else True):
            part = "bolivia" if number % 6 == 5 else ("train", "valid", "train", "test", "train")[number % 6]
            event = UNSEEN if part == "bolivia" else EVENTS[number // 6 % len(EVENTS)]
            name = f"{event}_{100_000 + 37 * number}"
            _write_chip(partial, name, number, flood(seed, "sen1floods11", event, number, size))
            lists[part].append(f"{name}_S1Hand.tif,{name}_LabelHand.tif\n")
        for part, lines in lists.items():
            write_text(partial / "splits" / "flood_handlabeled" / f"flood_{part}_data.csv", "".join(lines))
        write_json(partial / MARKER, marker)
    return marker


def _write_chip(root: Path, name: str, number: int, made: Flood) -> None:
    """Image float32 with NaN in a corner of every eighth chip, label int16 with -1 under a cloud, permanent water."""
    image, label = made.after.copy(), (made.permanent | made.flooded).astype(np.int16)
    size = label.shape[0]
    if number % 8 == 0:
        image[:, : size // 8, : size // 8] = np.nan
    label[-size // 8 :, : size // 6] = -1
    place = {"crs": CRS.from_epsg(4326), "transform": Affine(DEGREES, 0, 5 + number, 0, -DEGREES, 10)}
    folder = root / "data" / "flood_events" / "HandLabeled"
    files = {
        "S1Hand": encode_any(
            image, "sen1floods11", nodata=np.nan, descriptions=("VV", "VH"), compress="deflate", **place
        ),
        "LabelHand": encode_any(label[None], "sen1floods11", compress="deflate", **place),
        "JRCWaterHand": encode_any(made.permanent[None].astype(np.uint8), "sen1floods11", compress="deflate", **place),
    }
    for layer, data in files.items():
        write_bytes(folder / layer / f"{name}_{layer}.tif", data)


def write_kuro_siwo(
    root: Path,
    *,
    patches: int = 48,
    size: int = KURO_SIZE,
    seed: int = 0,
    world: str = "kuro_siwo",
    progress: bool = False,
) -> dict[str, Any]:
    """Write `KuroSiwo/data/<actid>/<aoi>/<hex>/` with three dates in linear power, labels and valid pixels; returns the
    marker.

    The world `copernicus_flood` is the same below `flood_s1/data`, with lists `grid_dict_{train,val,test}.json`.
    """
    require_amount("patches", patches, 16, size)
    root = Path(root).resolve()
    marker = fingerprinted(world, VERSION, seed, {"patches": patches}, size)
    if already_there(root, marker):
        return marker
    place = "flood_s1" if world == "copernicus_flood" else "KuroSiwo"
    lists: dict[str, dict[str, Any]] = {part: {} for part in ACTIVATIONS}
    with appearing(root) as partial:
        for number in tqdm(range(patches), unit="patch", disable=None if progress else True):
            part = TURNS[number % len(TURNS)]
            actid = ACTIVATIONS[part][number // len(TURNS) % len(ACTIVATIONS[part])]
            name = hashlib.md5(f"{seed} {number}".encode(), usedforsecurity=False).hexdigest()
            path = f"{actid}/01/{name}"
            _write_patch(partial / place / "data" / path, actid, number, flood(seed, world, actid, number, size), world)
            lists[part][name] = {"path": path, "info": {"actid": int(actid), "aoiid": 1, "datasets": {}}, "clz": 1}
        if world == "copernicus_flood":
            for part, entries in lists.items():
                write_json(partial / place / f"grid_dict_{part}.json", entries)
        write_json(partial / MARKER, marker)
    return marker


def _write_patch(folder: Path, actid: str, number: int, made: Flood, world: str) -> None:
    """Three dates of a file a band, the label with its code for none, valid pixels, and other files that are there."""
    size = made.permanent.shape[0]
    label = np.where(made.flooded, 2, made.permanent).astype(np.uint8)
    valid = np.ones((size, size), np.uint8)
    if number % 5 == 0:
        valid[: size // 6, :] = 0
        label[valid == 0] = NO_LABEL
    place = {"crs": CRS.from_epsg(3857), "transform": Affine(10, 0, 500_000 + 3_000 * number, 0, -10, 5_000_000)}

    def write(kind: str, date: str, pixels: NDArray[Any]) -> None:
        write_bytes(folder / f"{kind}_{actid}_01_{date}.tif", encode_any(pixels[None], world, **place))

    for kind, image in (("SL2", made.earliest), ("SL1", made.before), ("MS1", made.after)):
        for band, db in zip(("VV", "VH"), image, strict=True):
            power = np.where(valid == 1, filtered(db), np.nan).astype(np.float32)
            write(f"{kind}_I{band}", DATES[kind], power)
    write("MK0_MLU", DATES["MS1"], label)
    write("MK0_MNA", DATES["MS1"], valid)
    write_json(folder / "info.json", {"actid": int(actid), "aoiid": 1})


def filtered(db: Array) -> Array:
    """dB as linear power under a 5x5 mean, as a speckle filter leaves homogeneous ground."""
    power = np.power(10.0, db / 10).astype(np.float32)
    return cv2.blur(power, (5, 5), borderType=cv2.BORDER_REFLECT).astype(np.float32)
