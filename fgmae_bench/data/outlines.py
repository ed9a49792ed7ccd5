"""Outlines of objects as GeoJSON, drawn as label maps on the grids of their images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize

from fgmae_bench.data.raster import open_tiff
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import read_bounded

OUTLINES = ".geojson"
MOST_BYTES, MOST_POINTS = 64 << 20, 5_000_000  # of one file
TODO = "replace the file, or remove the image"
Ring = list[tuple[float, float]]


def drawn(path: Path, image: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A map (H, W) that is 1 in the polygons of a GeoJSON file, 0 elsewhere, on the grid of `image`.

    A pixel belongs to a polygon where its centre is inside; holes are holes. A file without a `crs` is in that of the
    image. Raises BenchError naming the file: no GeoJSON, other geometries than polygons, another reference system, an
    image without a place.
    """
    polygons, stated = read_polygons(path)
    with open_tiff(image) as source:
        held, transform, shape = source.crs, source.transform, source.shape
    if shape != size:
        wanted = f"{size[0]}x{size[1]}"
        todo = f"crop or resample it to {wanted}, or take it out of the data"
        raise BenchError(f"{image} is {shape[0]}x{shape[1]} pixels, {wanted} are stated", todo)
    if polygons and (held is None or transform.is_identity):
        raise BenchError(f"{image} has no place on the ground, which the outlines of {path.name} need", TODO)
    if stated is not None and held is not None and _system(path, stated) != held:
        raise BenchError(f"{path} is in {stated}, its image in {held.to_string()}", "give both in one system")
    shapes = [{"type": "Polygon", "coordinates": rings} for rings in polygons]
    if not shapes:
        return np.zeros(size, np.uint8)
    made: NDArray[np.uint8] = rasterize(
        shapes, out_shape=size, transform=transform, fill=0, default_value=1, dtype="uint8"
    )
    return made


def read_polygons(path: Path) -> tuple[list[list[Ring]], str | None]:
    """(rings of each polygon, the first the outer one; name of the reference system, None where none is stated)."""
    try:
        held = json.loads(read_bounded(path, MOST_BYTES))
        features = held["features"]
        named = held.get("crs")
        stated = named["properties"]["name"] if named is not None else None
        geometries = [feature["geometry"] for feature in features]
        rings = [polygon for geometry in geometries if geometry for polygon in _polygons(geometry)]
        polygons = [[[_point(point) for point in ring] for ring in polygon] for polygon in rings if polygon]
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror or error})", TODO) from error
    except (ValueError, LookupError, OverflowError, TypeError, AttributeError, RecursionError) as error:
        raise BenchError(
            f"{path} is not a GeoJSON of polygons ({type(error).__name__}: {str(error)[:80]})", TODO
        ) from error
    if sum(len(ring) for polygon in polygons for ring in polygon) > MOST_POINTS:
        raise BenchError(f"{path} has more than {MOST_POINTS} points", TODO)
    if any(len(ring) < 4 for polygon in polygons for ring in polygon):
        raise BenchError(f"{path} has a ring of fewer than four points", TODO)
    if stated is not None and not isinstance(stated, str):
        raise BenchError(f"{path} states a reference system that is not a name", TODO)
    return polygons, stated


def _polygons(geometry: Any) -> list[Any]:
    """The polygons of one geometry; raises ValueError on one of another kind."""
    if geometry["type"] == "Polygon":
        return [geometry["coordinates"]]
    if geometry["type"] == "MultiPolygon":
        return list(geometry["coordinates"])
    raise ValueError(f"a geometry is a {str(geometry['type'])[:40]}")


def _point(point: Any) -> tuple[float, float]:
    x, y = float(point[0]), float(point[1])
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError("a coordinate is not finite")
    return x, y


def _system(path: Path, named: str) -> CRS:
    try:
        return CRS.from_string(named.replace("urn:ogc:def:crs:EPSG::", "EPSG:"))
    except CRSError as error:
        raise BenchError(f"{path} names a reference system that is not known: {named[:80]}", TODO) from error
