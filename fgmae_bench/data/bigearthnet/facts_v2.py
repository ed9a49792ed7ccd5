"""Everything that the two files of one raw patch of BigEarthNet v2 say, as a row of the patch table; pixels are not read.

Labels, split and flags stand in tables beside the patches: see `metadata`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fgmae_bench.data.bigearthnet.facts import BANDS, check_bands, pass_of, stamp_of, status_of
from fgmae_bench.data.bigearthnet.names import parse_s1
from fgmae_bench.data.bigearthnet.patch import band_file
from fgmae_bench.data.bigearthnet.tiff import read_place
from fgmae_bench.errors import BenchError


def describe_v2(root: Path, name: str, size: tuple[int, ...]) -> dict[str, Any]:
    """Row of the patch in `root/<scene>/<name>`; what is wrong with it stands under `problem`, its paths relative to `root`."""
    row: dict[str, Any] = {"s1_name": name, "stamp": stamp_v2(root, name)}
    try:
        place = parse_s1(name)
        folder = root / place.scene / name
        statuses = [status_of(band_file(folder, band)) for band in BANDS]
        row |= {f"{part}_bytes": status and status[0] for part, status in zip(("vv", "vh"), statuses, strict=True)}
        row |= {"tile": place.tile, "row": place.row, "col": place.col, "scene": place.scene}
        row |= {"acquisition_time": place.acquired, "orbit_direction": pass_of(place.clock[0])}
        check_bands(folder, size, statuses)
        ground = read_place(band_file(folder, BANDS[0]))
        if ground is not None:
            row |= dict(zip(("ulx", "uly", "lrx", "lry"), ground[0], strict=True)) | {"epsg": ground[1]}
    except BenchError as error:
        row["problem"] = error.what.replace(f"{root}{os.sep}", "")
    return row


def stamp_v2(root: Path, name: str) -> int:
    """Hash (64 bits) of sizes and modification times of a patch's two files; the folder's name says the scene."""
    folder = root / name.rsplit("_", 3)[0] / name
    return stamp_of([status_of(band_file(folder, band)) for band in BANDS])
