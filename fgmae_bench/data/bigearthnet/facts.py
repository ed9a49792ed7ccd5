"""Everything that the files of one raw patch say, as a row of the patch table; pixels are not read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from fgmae_bench.data.bigearthnet.labels import is_s1_product, multi_hot, parse_s1, parse_s2
from fgmae_bench.data.bigearthnet.patch import METADATA, band_file
from fgmae_bench.data.tiff import read_header, read_place
from fgmae_bench.errors import BenchError

BANDS = ("VV", "VH")
TODO = "restore it from the archive, or remove the patch"
# Hours (UTC) of Sentinel-1 over Europe: the node is crossed near 18:00 local time going up, near 6:00 coming down.
PASSES = {"descending": range(4, 9), "ascending": range(14, 21)}
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T(\d{2}):\d{2}:\d{2}")


def describe(root: Path, name: str, size: tuple[int, ...]) -> dict[str, Any]:
    """Row of the patch in `root/name`; a fault stands under `problem`, with paths relative to `root`."""
    folder = root / name
    statuses = [status_of(path) for path in files_of(folder)]
    row: dict[str, Any] = {"s1_name": name, "stamp": stamp_of(statuses)}
    row |= {f"{part}_bytes": status and status[0] for part, status in zip(("vv", "vh", "json"), statuses, strict=True)}
    try:
        place = parse_s1(name)
        row |= {"tile": place.tile, "row": place.row, "col": place.col}
        row |= read_metadata(folder / f"{name}{METADATA}")
        check_bands(folder, size, statuses)
    except BenchError as error:
        row["problem"] = error.what.replace(f"{root}{os.sep}", "")
    return row


def files_of(folder: Path) -> tuple[Path, Path, Path]:
    """The three files of a patch: VV, VH and metadata."""
    vv, vh = (band_file(folder, band) for band in BANDS)
    return vv, vh, folder / f"{folder.name}{METADATA}"


def stamp(folder: Path) -> int:
    """Hash (64 bits) of sizes and modification times of a patch's three files."""
    return stamp_of([status_of(path) for path in files_of(folder)])


def stamp_of(statuses: list[tuple[int, int] | None]) -> int:
    """The same of (bytes, modification time in ns) each, None where a file is missing."""
    return int.from_bytes(hashlib.blake2b(repr(statuses).encode(), digest_size=8).digest())


def check_bands(folder: Path, size: tuple[int, ...], statuses: list[tuple[int, int] | None]) -> None:
    """Raise BenchError unless both bands are there, whole by their header and of (height, width) `size`."""
    for band, status in zip(BANDS, statuses, strict=False):
        path = band_file(folder, band)
        if status is None:
            raise BenchError(f"{path} is missing", TODO)
        header = read_header(path, status[0])
        if header.bands != 1:
            raise BenchError(f"{path} has {header.bands} bands where one is expected", TODO)
        if (header.height, header.width) != tuple(size):
            raise BenchError(
                f"{path} is {header.height}x{header.width} pixels where {'x'.join(map(str, size))} is expected", TODO
            )


def read_metadata(path: Path) -> dict[str, Any]:
    """What `<S1>_labels_metadata.json` says, by column of the table. Raises BenchError naming the file and what is
    wrong in it.
    """
    facts = _Facts(path)
    labels = facts.take("labels", list)
    if not labels or not all(isinstance(label, str) for label in labels):
        raise BenchError(f"{path}: 'labels' is not a list of names", TODO)
    hot = multi_hot(labels, path)
    scene, s2_name, time = (
        facts.take(key, str) for key in ("scene_source", "corresponding_s2_patch", "acquisition_time")
    )
    match = _TIME.fullmatch(time)
    if match is None:
        raise BenchError(f"{path}: acquisition_time '{time}' is none", TODO)
    if not is_s1_product(scene):
        raise BenchError(f"{path}: scene_source '{scene}' is not a Sentinel-1 product", TODO)
    try:
        parse_s2(s2_name)
    except BenchError as error:
        raise BenchError(f"{path}: corresponding_s2_patch: {error.what}", error.todo) from error
    return {
        "s2_name": s2_name,
        "scene": scene,
        "acquisition_time": time,
        "orbit_direction": pass_of(int(match[1])),
        **facts.corners(),
        "epsg": facts.epsg(),
        "labels_43": labels,
        "labels_19": hot.tolist(),
        "no_19_class": not hot.any(),
    }


def pass_of(hour: int) -> str | None:
    """Direction of the orbit over Europe at an hour (UTC), None where it can be neither."""
    return next((name for name, hours in PASSES.items() if hour in hours), None)


class _Facts:
    """The content of a metadata file; every doubt is a BenchError naming it."""

    def __init__(self, path: Path):
        self.path = path
        try:
            content = path.read_bytes()
            self.content = json.loads(content)
        except FileNotFoundError as error:
            raise BenchError(f"{path} is missing", TODO) from error
        except OSError as error:
            raise BenchError(
                f"{path} cannot be read ({error.strerror})", "check the file and its permissions"
            ) from error
        except (ValueError, RecursionError) as error:
            reason = f"is broken or cut ({error})" if content else "is empty"
            raise BenchError(f"{path} {reason}", TODO) from error
        if not isinstance(self.content, dict):
            raise BenchError(f"{path} holds no table of facts", TODO)

    def take(self, key: str, kind: type) -> Any:
        """The value of `key`, of type `kind`."""
        value = self.content.get(key)
        if not isinstance(value, kind):
            raise BenchError(f"{self.path}: '{key}' is missing or no {kind.__name__}", TODO)
        return value

    def corners(self) -> dict[str, float]:
        """Corners in metres; the published files spell `lry` as `lly`."""
        given = self.take("coordinates", dict)
        given = {**given, "lry": given.get("lry", given.get("lly"))}
        corners = {key: given.get(key) for key in ("ulx", "uly", "lrx", "lry")}
        if not all(isinstance(value, int | float) for value in corners.values()):
            raise BenchError(f"{self.path}: coordinates lack one of ulx, uly, lrx, lly", TODO)
        return {key: float(value) for key, value in corners.items()}  # type: ignore[arg-type]

    def epsg(self) -> int:
        """EPSG code of the projection."""
        code = _epsg(self.take("projection", str))
        if code is None:
            raise BenchError(f"{self.path}: projection is none that EPSG knows", TODO)
        return code


@lru_cache(maxsize=256)
def _epsg(projection: str) -> int | None:
    """EPSG code of a projection in WKT, None where it has none; cached, as the archive holds few different ones."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        code = CRS.from_user_input(projection).to_epsg()
    except CRSError:
        return None
    return None if code is None else int(code)


def status_of(path: Path) -> tuple[int, int] | None:
    """(bytes, modification time in ns) of a file, None where it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def describe_v2(root: Path, name: str, size: tuple[int, ...]) -> dict[str, Any]:
    """Row of the patch in `root/<scene>/<name>`; what is wrong with it stands under `problem`, its paths relative to
    `root`.
    """
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
