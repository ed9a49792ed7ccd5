"""The spatial split: whole blocks of georeferenced chips go to one part, and a buffer keeps the parts apart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform

from fgmae_bench.data.index import Index, Rows
from fgmae_bench.data.raster import open_tiff
from fgmae_bench.data.sample_cache import cached_arrays
from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import generator

EARTH_RADIUS_M = 6_371_008.8


def chip_centres(index: Index, cache: Path) -> NDArray[np.float64]:
    """Longitude and latitude (N, 2) in degrees of each chip's centre; read once and kept in the cache folder.

    Raises BenchError where a sample is not a file of its own, as in packs, or a file has no georeference.
    """

    def compute(missing: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
        if not index.path(0).is_file():
            what = f"{index.root} holds no georeferenced file a sample, which a spatial split reads"
            raise BenchError(what, "give the files with --data_path, or a folder of lists with --split DIR")
        with ThreadPoolExecutor(4) as pool:
            return {"centres": np.array(list(pool.map(_centre, map(index.path, range(len(index.files))))))}

    return cached_arrays(cache, index, {"centres": ""}, compute)["centres"]


def _centre(path: Path) -> tuple[float, float]:
    with open_tiff(path) as source:
        if source.crs is None or source.transform.is_identity:
            raise BenchError(f"{path} has no georeference", "a spatial split needs one; choose another split")
        x, y = source.transform @ (source.width / 2, source.height / 2)
        lon, lat = transform(source.crs, "EPSG:4326", [x], [y])
    if not np.isfinite((lon[0], lat[0])).all():
        raise BenchError(f"{path} has a georeference that is nowhere on Earth", "replace the file")
    return lon[0], lat[0]


def spatial_parts(
    index: Index, cache: Path, *, train: float, val: float, block_km: float, buffer_m: float, seed: int
) -> tuple[Rows, Rows, Rows]:
    """(train, val, test) rows: blocks dealt out so that each class comes near its shares, then the buffer applied.

    A chip is left out when a chip of a part that comes later in (train, val, test) is within `buffer_m` of it.
    """
    centres = chip_centres(index, cache)
    shares = np.array([train, val, 1 - train - val])
    part = deal_blocks(block_numbers(centres, block_km), index.labels, shares, seed)
    keep = np.ones(len(part), bool)
    for earlier in (0, 1):
        near = within(centres, part == earlier, part > earlier, buffer_m)
        keep[near] = False
    return tuple(np.flatnonzero(keep & (part == k)) for k in range(3))  # type: ignore[return-value]


def block_numbers(centres: NDArray[np.float64], block_km: float) -> NDArray[np.int64]:
    """Block number (N,) of each centre: cells of `block_km` in latitude, and in longitude at the cell's own
    latitude.
    """
    height = np.degrees(block_km * 1000 / EARTH_RADIUS_M)
    row = np.floor(centres[:, 1] / height)
    width = height / np.cos(np.radians((row + 0.5) * height))
    cells = np.stack([row, np.floor(centres[:, 0] / width)], axis=1)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


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
    order = generator(seed, "spatial_blocks").permutation(len(histogram))
    order = order[np.argsort(-histogram[order].sum(axis=1), kind="stable")]
    missing = shares[:, None] * histogram.sum(axis=0)[None, :]  # (parts, classes)
    scale = np.maximum(missing, 1e-9)
    assigned = np.zeros(len(histogram), np.int64)
    for block in order:
        gain = (histogram[block] * missing / scale).sum(axis=1)
        gain[shares == 0] = -np.inf
        assigned[block] = int(gain.argmax())
        missing[assigned[block]] -= histogram[block]
    return assigned[blocks]


def within(centres: NDArray[np.float64], of: NDArray[np.bool_], others: NDArray[np.bool_], distance_m: float) -> Rows:
    """Rows of `of` within `distance_m` (great circle) of any row of `others`."""
    from sklearn.neighbors import BallTree

    rows = np.flatnonzero(of)
    if not len(rows) or not others.any():
        return rows[:0]
    radians = np.radians(centres[:, ::-1])
    tree = BallTree(radians[others], metric="haversine")
    nearest = tree.query(radians[rows], k=1)[0][:, 0] * EARTH_RADIUS_M
    return rows[nearest <= distance_m]
