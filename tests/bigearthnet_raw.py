"""Raw BigEarthNet-S1 patches written by hand in the published layout, for tests to spoil, and fixtures around them.

A test file takes the fixtures with `pytest_plugins = ("bigearthnet_raw",)`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.flags import dispatch

SCENE = "S1A_IW_GRDH_1SDV_20170613T165043"
PRODUCT = f"{SCENE}_20170613T165108_017018_01C579_7EEC"


def metadata(col: int, row: int, labels: list[str], scene: str = PRODUCT) -> dict[str, Any]:
    """What `<S1>_labels_metadata.json` holds; `lly` is the publishers' spelling."""
    left, top = 300_000 + 1200 * col, 5_400_000 - 1200 * row
    return {
        "labels": labels,
        "coordinates": {"ulx": left, "uly": top, "lrx": left + 1200, "lly": top - 1200},
        "projection": CRS.from_epsg(32633).to_wkt(),
        "corresponding_s2_patch": f"S2B_MSIL2A_20180204T94161_{col}_{row}",
        "scene_source": scene,
        "acquisition_time": "2017-06-13T16:50:43",
    }


def write_band(path: Path, pixels: np.ndarray, **profile: Any) -> None:
    """One band (H, W) as a GeoTIFF of the published kind: uncompressed float32, UTM, 10 m."""
    height, width = pixels.shape
    facts = {
        "dtype": pixels.dtype,
        "crs": "EPSG:32633",
        "transform": from_origin(404_400, 5_342_400, 10, 10),
        **profile,
    }
    with rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=1, **facts) as target:
        target.write(pixels, 1)


def write_patches(
    root: Path, count: int, labels: list[list[str]] | None = None, scenes: tuple[str, ...] = (PRODUCT,)
) -> list[str]:
    """`count` patches of one tile, all with the same pixels (hard links); returns their names in order of writing."""
    root.mkdir(parents=True, exist_ok=True)
    store = root / ".pixels"
    store.mkdir()
    random = np.random.default_rng(0)
    for band, level in (("VV", -11.0), ("VH", -18.0)):
        write_band(store / band, random.normal(level, 2, (120, 120)).astype(np.float32))
    names = []
    given = labels or [["Pastures"], ["Sea and ocean", "Transitional woodland/shrub"], ["Airports"]]
    for number in range(count):
        col, row = number % 90, number // 90
        name = f"{SCENE}_33UUP_{col}_{row}"
        folder = root / name
        folder.mkdir()
        for band in ("VV", "VH"):
            os.link(store / band, folder / f"{name}_{band}.tif")
        facts = metadata(col, row, given[number % len(given)], scenes[number % len(scenes)])
        (folder / f"{name}_labels_metadata.json").write_text(json.dumps(facts))
        names.append(name)
    return names


def replace(path: Path, content: bytes) -> None:
    """Other content for a file that may be a hard link."""
    path.unlink()
    path.write_bytes(content)


@pytest.fixture(scope="session")
def ben():
    """The card."""
    return load_card("bigearthnet")


@pytest.fixture
def raw_root(tmp_path):
    """Six patches: two of Pastures, two of sea and shrub, two with none of the 19."""
    write_patches(tmp_path / "raw", 6)
    return tmp_path / "raw"


@pytest.fixture
def run_index(capsys):
    """Run `prepare index bigearthnet` with flags in this process; what it printed."""

    def run(*flags):
        dispatch(
            "fgmae_bench.prepare",
            {"index": ""},
            "",
            print,
            ["index", "bigearthnet", "--workers", "1", *map(str, flags)],
        )
        return capsys.readouterr()

    return run
