"""Places of samples that a table states: columns of longitude and latitude, or geometries of a GeoParquet file."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform

from fgmae_bench.data.bigearthnet.parquet import THRIFT_LIMITS, read_parquet
from fgmae_bench.errors import BenchError

TODO = "correct the table"
DEEPEST = 8  # collections within collections
POINT, LINE, POLYGON, MULTI = 1, 2, 3, (4, 5, 6, 7)
Places = NDArray[np.float64]  # (N, 5, 2) longitude and latitude of each sample's centre and four corners


def places_of_columns(where: Sequence[str], lon: Sequence[str], lat: Sequence[str]) -> Places:
    """Points (N, 5, 2), all five alike, from texts in degrees. Raises BenchError, after `where`, on other values."""
    found = np.empty((len(where), 5, 2))
    for row, texts in enumerate(zip(lon, lat, strict=True)):
        try:
            place = [float(text) for text in texts]
        except ValueError:
            place = [np.nan, np.nan]
        if not (abs(place[0]) <= 180 and abs(place[1]) <= 90):
            shown = " and ".join(f"'{text[:40]}'" for text in texts)
            raise BenchError(f"{where[row]}: {shown} are not longitude and latitude in degrees", TODO)
        found[row] = place
    return found


def geometry_columns(path: Path) -> dict[str, Any]:
    """What a GeoParquet file states of its geometry columns, the primary one first; nothing of other Parquet files.

    Source: GeoParquet 1.1, file metadata.
    """
    try:
        held = json.loads((pq.ParquetFile(path, **THRIFT_LIMITS).schema_arrow.metadata or {}).get(b"geo", b"{}"))
        columns = held.get("columns", {})
        first = held.get("primary_column")
        return {name: columns[name] for name in sorted(columns, key=lambda name: name != first)}
    except (OSError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise BenchError(f"{path} cannot be read as GeoParquet ({str(error)[:120]})", TODO) from error


def places_of_geometry(path: Path, column: str) -> Places:
    """Centres and corners (N, 5, 2) of the envelope of each row's geometry in a GeoParquet file.

    Raises BenchError: no GeoParquet, other encodings than WKB, no or an unknown reference system, a damaged geometry.
    """
    stated = geometry_columns(path).get(column)
    if not isinstance(stated, dict):
        raise BenchError(f"{path} has no geometry column '{column}'", "name one under layout.place, or lon and lat")
    if stated.get("encoding") != "WKB":
        raise BenchError(f"{path}: '{column}' is encoded as {str(stated.get('encoding'))[:40]}", "write it as WKB")
    values = read_parquet(path, "table of samples", TODO, [column])[column].to_pylist()
    boxes = np.empty((len(values), 4))
    for row, value in enumerate(values):
        try:
            if not isinstance(value, bytes):
                raise ValueError("there is none")
            boxes[row] = envelope(value)
        except (ValueError, struct.error) as error:
            raise BenchError(f"{path}, line {row + 1}: its geometry cannot be read ({error})", TODO) from error
    west, south, east, north = boxes.T
    xs = np.stack([(west + east) / 2, west, east, east, west], 1)
    ys = np.stack([(south + north) / 2, north, north, south, south], 1)
    return _in_degrees(path, column, xs, ys, stated.get("crs", "OGC:CRS84"))


def _in_degrees(path: Path, column: str, xs: Places, ys: Places, crs: Any) -> Places:
    """(N, 5) coordinates of a reference system as longitude and latitude (N, 5, 2)."""
    try:
        if crs != "OGC:CRS84" and not isinstance(crs, dict):  # a text could name a file or an address
            raise ValueError("it states no reference system" if crs is None else "no PROJJSON")
        if crs != "OGC:CRS84":
            system = CRS.from_string(json.dumps(crs))
            flat = transform(system, "EPSG:4326", xs.ravel().tolist(), ys.ravel().tolist())
            xs, ys = (np.array(each).reshape(xs.shape) for each in flat)
    except (RasterioError, CPLE_BaseError, ValueError, TypeError) as error:
        raise BenchError(f"{path}: places of '{column}' cannot be used ({str(error)[:120]})", TODO) from error
    found = np.stack([xs, ys], axis=-1)
    if not (np.isfinite(found).all() and (np.abs(found[..., 0]) <= 360).all() and (np.abs(ys) <= 90).all()):
        raise BenchError(f"{path}: places of '{column}' are nowhere on Earth", TODO)
    return found


def envelope(wkb: bytes) -> tuple[float, float, float, float]:
    """(west, south, east, north) of a geometry as well-known binary, ISO or EWKB, with or without heights.

    Raises ValueError or struct.error where it is damaged or empty.
    """
    points: list[NDArray[np.float64]] = []
    if _walk(wkb, 0, points, 0) != len(wkb):
        raise ValueError("it has bytes behind its end")
    held = np.concatenate(points) if points else np.empty((0, 2))
    if not len(held) or not np.isfinite(held).all():
        raise ValueError("it is empty")
    (west, south), (east, north) = held.min(axis=0), held.max(axis=0)
    return float(west), float(south), float(east), float(north)


def _walk(data: bytes, at: int, points: list[NDArray[np.float64]], depth: int) -> int:
    """Append the points (K, 2) of the geometry that begins at `at`; returns where it ends."""
    if depth > DEEPEST or at >= len(data) or data[at] > 1:
        raise ValueError("it is not WKB")
    mark = "<" if data[at] else ">"
    (code,) = struct.unpack_from(f"{mark}I", data, at + 1)
    at += 9 if code & 0x20000000 else 5  # EWKB: a reference system stands before the rest
    kind, more = (code & 0xFFFF) % 1000, (code & 0xFFFF) // 1000
    heights = {0: 0, 1: 1, 2: 1, 3: 2}.get(more, 0) + bool(code & 0x80000000) + bool(code & 0x40000000)
    if kind in MULTI:
        (count,) = struct.unpack_from(f"{mark}I", data, at)
        at += 4
        for _ in range(count):  # each takes bytes or ends the walk
            at = _walk(data, at, points, depth + 1)
        return at
    if kind not in (POINT, LINE, POLYGON):
        raise ValueError(f"a geometry of type {kind}")
    rings = 1
    if kind == POLYGON:
        (rings,) = struct.unpack_from(f"{mark}I", data, at)
        at += 4
    for _ in range(rings):
        count = 1
        if kind != POINT:
            (count,) = struct.unpack_from(f"{mark}I", data, at)
            at += 4
        size = 8 * (2 + heights) * count
        if at + size > len(data):
            raise ValueError("it ends too early")
        points.append(np.frombuffer(data, f"{mark}f8", (2 + heights) * count, at).reshape(count, -1)[:, :2])
        at += size
    return at
