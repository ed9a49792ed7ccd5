"""The spatial split: whole blocks of georeferenced chips go to one part, and a buffer keeps the parts apart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from fgmae_bench.data.index import Index, Rows
from fgmae_bench.data.raster import open_tiff
from fgmae_bench.data.sample_cache import cached_arrays
from fgmae_bench.data.tiff import Grid, read_grid
from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import generator

EARTH_RADIUS_M = 6_371_008.8
PAIRS = 1 << 15  # of chips whose outlines are compared at a time
CHUNK = 256  # files whose places are found together
Place = list[tuple[float, float]]  # longitude and latitude of the centre and the four corners


def chip_places(index: Index, cache: Path) -> NDArray[np.float64]:
    """Longitude and latitude (N, 5, 2) in degrees of each chip's centre and four corners, in order around it: as a
    table states them, else from the files, read once and kept in the cache folder.

    Raises BenchError where a sample is not a file of its own, as in packs, or a file has no georeference.
    """
    if index.places is not None:
        return index.places

    def compute(missing: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
        paths = [index.image(index.path(row)) for row in range(len(index.files))]
        if not paths[0].is_file():
            what = f"{index.root} holds no georeferenced file a sample, which a spatial split reads"
            raise BenchError(what, "give the files with --data_path, or a folder of lists with --split DIR")
        chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
        with ThreadPoolExecutor(4) as pool:
            return {"places": np.array([place for places in pool.map(_places, chunks) for place in places])}

    return cached_arrays(cache, index, {"places": ""}, compute)["places"]


def chip_centres(index: Index, cache: Path) -> NDArray[np.float64]:
    """Longitude and latitude (N, 2) in degrees of each chip's centre, see `chip_places`."""
    return chip_places(index, cache)[:, 0]


def _places(paths: list[Path]) -> list[Place]:
    """The place of each file: those in a UTM zone by their headers and one transformation a zone, as opening a file by
    GDAL takes longer than decoding its pixels; all others by GDAL, which says what is wrong with them.
    """
    grids = [read_grid(path) for path in paths]
    found: dict[int, Place] = {}
    for epsg in {grid.epsg for grid in grids if grid is not None}:
        of_zone = {row: grid for row, grid in enumerate(grids) if grid is not None and grid.epsg == epsg}
        found |= dict(zip(of_zone, _of_zone(epsg, list(of_zone.values())), strict=False))
    return [found[row] if row in found else _place(path) for row, path in enumerate(paths)]


def _place(path: Path) -> Place:
    with open_tiff(path) as source:
        if source.crs is None or source.transform.is_identity:
            raise BenchError(f"{path} has no georeference", "a spatial split needs one; choose another split")
        xs, ys = _outline(source.transform, source.width, source.height)
        lon, lat = transform(source.crs, "EPSG:4326", xs, ys)
    if not np.isfinite((lon, lat)).all():
        raise BenchError(f"{path} has a georeference that is nowhere on Earth", "correct it, or choose another split")
    return list(zip(lon, lat, strict=True))


def _of_zone(epsg: int, grids: list[Grid]) -> list[Place]:
    """Places of grids of one zone; none where any of them is nowhere on Earth."""
    matrices = [(Affine(grid.across, 0, grid.left, 0, -grid.down, grid.top), grid.width, grid.height) for grid in grids]
    xs, ys = (np.concatenate(values) for values in zip(*(_outline(*each) for each in matrices), strict=True))
    try:
        degrees = np.array(transform(CRS.from_epsg(epsg), "EPSG:4326", xs, ys))  # (2, 5n)
    except (CRSError, CPLE_BaseError):
        return []
    if not np.isfinite(degrees).all():
        return []
    return [list(map(tuple, five)) for five in degrees.T.reshape(-1, 5, 2).tolist()]


def _outline(matrix: Affine, w: int, h: int) -> tuple[list[float], list[float]]:
    """Coordinates (x, y) of the centre and the four corners of an image."""
    xs, ys = zip(*(matrix @ pixel for pixel in ((w / 2, h / 2), (0, 0), (w, 0), (w, h), (0, h))), strict=True)
    return list(xs), list(ys)


def spatial_parts(
    index: Index, cache: Path, *, train: float, val: float, block_km: float, buffer_m: float, seed: int
) -> tuple[Rows, Rows, Rows]:
    """(train, val, test) rows: blocks dealt out so that each class comes near its shares, then the buffer applied.

    A chip is left out when a chip of a part that comes later in (train, val, test) is nearer than `buffer_m`, from edge
    to edge.
    """
    places = chip_places(index, cache)
    shares = np.array([train, val, 1 - train - val])
    part = deal_blocks(block_numbers(places[:, 0], block_km), counted(index), shares, seed)
    keep = np.ones(len(part), bool)
    for earlier in (0, 1):
        # the earlier part gives way, so that test keeps every chip it was dealt
        near = nearer_than(buffer_m, places, part == earlier, part > earlier)
        keep[near] = False
    return tuple(np.flatnonzero(keep & (part == k)) for k in range(3))  # type: ignore[return-value]


def block_numbers(centres: NDArray[np.float64], block_km: float) -> NDArray[np.int64]:
    """Block number (N,) of each centre."""
    return np.unique(block_cells(centres, block_km), axis=0, return_inverse=True)[1].reshape(-1)


def block_cells(centres: NDArray[np.float64], block_km: float) -> NDArray[np.int64]:
    """Row and column (N, 2) of each centre's block: cells of `block_km` in latitude, and in longitude at the cell's own
    latitude.
    """
    height = np.degrees(block_km * 1000 / EARTH_RADIUS_M)
    row = np.floor(centres[:, 1] / height)
    # a degree of longitude shrinks with latitude: blocks stay about square
    width = height / np.cos(np.radians((row + 0.5) * height))
    return np.stack([row, np.floor(centres[:, 0] / width)], axis=1).astype(np.int64)


def counted(index: Index) -> NDArray[Any]:
    """What parts are balanced by: the labels of an index; where it has targets, the number of samples alone."""
    return np.zeros((len(index.labels), 0)) if index.labels.dtype.kind == "f" else index.labels


def deal_blocks(
    blocks: NDArray[np.int64], labels: NDArray[Any], shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    """Part (N,) of each sample: blocks, largest first in a keyed order, go where the labels they hold are missed most.

    `labels` are class numbers (N,), or how much of each class a sample holds (N, C). Where samples have none (N, 0), as
    in segmentation, each counts one.
    """
    if labels.ndim == 2 and labels.shape[1] == 0:
        labels = np.ones((len(labels), 1))
    histogram = np.zeros((blocks.max() + 1, labels.shape[1] if labels.ndim == 2 else labels.max() + 1))
    np.add.at(histogram, blocks if labels.ndim == 2 else (blocks, labels), labels if labels.ndim == 2 else 1)
    # large blocks first, while every part still has room for them; the stable sort keeps the seed's order among equals
    order = generator(seed, "spatial_blocks").permutation(len(histogram))
    order = order[np.argsort(-histogram[order].sum(axis=1), kind="stable")]
    missing = shares[:, None] * histogram.sum(axis=0)[None, :]  # (parts, classes)
    # shares of what a part wants, so that small parts and rare classes count as much as large ones
    scale = np.maximum(missing, 1e-9)
    assigned = np.zeros(len(histogram), np.int64)
    for block in order:
        gain = (histogram[block] * missing / scale).sum(axis=1)
        # a part that is to be empty gets nothing
        gain[shares == 0] = -np.inf
        assigned[block] = int(gain.argmax())
        missing[assigned[block]] -= histogram[block]
    return assigned[blocks]


def nearer_than(
    distance_m: float, places: NDArray[np.float64], of: NDArray[np.bool_], others: NDArray[np.bool_]
) -> Rows:
    """Rows of `of` whose chip is nearer than `distance_m` to that of any row of `others`, from edge to edge; `places`
    (N, 5, 2) as of `chip_places`. Chips that overlap are 0 m apart.
    """
    from sklearn.neighbors import BallTree

    rows, targets = np.flatnonzero(of), np.flatnonzero(others)
    if not len(rows) or not len(targets) or distance_m <= 0:
        return rows[:0]
    # haversine wants latitude first
    radians = np.radians(places[:, 0, ::-1])
    # Only chips whose circles come that near are looked at exactly.
    radius = np.linalg.norm(_metres(places[:, 1:], places[:, 0]), axis=-1).max(axis=1)
    reach = (distance_m + radius[rows] + radius[targets].max()) * 1.001 / EARTH_RADIUS_M
    hits = BallTree(radians[targets], metric="haversine").query_radius(radians[rows], reach)
    of_row, other = np.repeat(rows, [len(found) for found in hits]), targets[np.concatenate(hits).astype(np.int64)]
    near: list[NDArray[np.int64]] = [rows[:0]]
    for at in range(0, len(other), PAIRS):
        pair = slice(at, at + PAIRS)
        centre = places[of_row[pair], 0]
        outlines = (_metres(places[each[pair], 1:], centre) for each in (of_row, other))  # (K, 4, 2)
        near.append(of_row[pair][gaps(*outlines) < distance_m])
    return np.unique(np.concatenate(near))


def _metres(points: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (N, K, 2) in degrees as metres east and north of an origin (2,) or (N, 2), for a few kilometres."""
    origin = np.broadcast_to(origin, (len(points), 2))[:, None]
    east = (points[..., 0] - origin[..., 0] + 180) % 360 - 180  # across the date line too
    flat = np.stack([east * np.cos(np.radians(origin[..., 1])), points[..., 1] - origin[..., 1]], axis=-1)
    return np.radians(flat) * EARTH_RADIUS_M


def gaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances (K,) between outlines of convex quadrilaterals, both (K, 4, 2), corners in order around; 0 where they
    overlap.
    """
    to_edges = np.minimum(_corners_to_edges(a, b), _corners_to_edges(b, a))
    return np.where(_apart(a, b) | _apart(b, a), to_edges, 0.0)


def _corners_to_edges(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest distance (K,) of a corner of `a` from an edge of `b`, both (K, 4, 2)."""
    start, along = b[:, None], (np.roll(b, -1, axis=1) - b)[:, None]  # (K, 1, 4, 2)
    offset = a[:, :, None] - start  # (K, 4, 4, 2)
    length = np.maximum((along**2).sum(-1), 1e-12)
    share = np.clip((offset * along).sum(-1) / length, 0, 1)
    return np.linalg.norm(offset - share[..., None] * along, axis=-1).min(axis=(1, 2))


def _apart(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a line along an edge of `a` separates the two (K,): the test by separating axes of convex outlines."""
    edges = np.roll(a, -1, axis=1) - a
    normals = np.stack([-edges[..., 1], edges[..., 0]], axis=-1)  # (K, 4, 2)
    of_a, of_b = (np.einsum("kcx,knx->knc", corners, normals) for corners in (a, b))
    below, above = of_a.max(-1) < of_b.min(-1), of_b.max(-1) < of_a.min(-1)
    found: NDArray[np.bool_] = (below | above).any(axis=1)
    return found
