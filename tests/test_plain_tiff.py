"""Plain TIFF files read without GDAL: the same values as GDAL's, and every other file is left to it."""

import struct

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.crs import CRS

from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.spatial import _place, _places
from fgmae_bench.data.tiff import read_grid, read_plain
from fgmae_bench.errors import BenchError


def test_plain_files_are_read_as_gdal_reads_them(card, world, realdata, tmp_path):
    usual = {*sorted(world.rglob("*.tif"))[::10], *(realdata / "eurosat_layout_chips").rglob("*.tif")}
    plain = 0
    for path in usual | set(realdata.rglob("*.tif")):
        found = read_plain(path)
        if found is not None:
            with rasterio.open(path) as source:
                assert found.db.tobytes() == source.read().tobytes(), path
                assert set(found.nodata) == {value for value in source.nodatavals if value is not None}
            plain += path in usual
    assert plain == len(usual)


@pytest.mark.parametrize(
    "profile",
    [
        {"compress": "deflate"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"interleave": "pixel"},
        {"interleave": "band"},
        {"nodata": -99.0},
        {"nodata": float("nan")},
        {"blockysize": 7},
    ],
    ids=str,
)
def test_other_files_are_left_to_gdal_or_read_alike(card, world, profile, tmp_path):
    path = tmp_path / "a.tif"
    pixels = index_pixels = np.linspace(-30, 0, 2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64)
    with rasterio.open(path, "w", driver="GTiff", count=2, height=64, width=64, dtype="float32", **profile) as target:
        target.write(pixels)
    chip = read_chip(path, card)
    np.testing.assert_array_equal(chip.db, index_pixels)
    left = any(key in profile for key in ("compress", "tiled", "BIGTIFF", "ENDIANNESS"))
    assert (read_plain(path) is None) == left
    whole = path.read_bytes()
    for length in (0, 3, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert read_plain(path) is None


def test_places_in_a_zone_are_those_that_gdal_gives_to_the_last_bit(world, realdata):
    paths = [*sorted(world.rglob("*.tif"))[::10], *(realdata / "eurosat_layout_chips").rglob("*.tif")]
    assert all(read_grid(path) is not None for path in paths)
    others = [*(realdata / "s1f_chips").rglob("*.tif")][:5]  # degrees
    assert all(read_grid(path) is None for path in others)
    assert _places([*others, *paths]) == [_place(path) for path in [*others, *paths]]


NORTH = Affine(10, 0, 384_000.5, 0, -10, 5_342_400)


@pytest.mark.parametrize(
    ("crs", "matrix", "tags", "plain"),
    [
        ("EPSG:32633", NORTH, {}, True),
        ("EPSG:32733", Affine(9.895, 0, 384_000.1, 0, -9.787, 5_342_400), {}, True),
        ("EPSG:32633", NORTH, {"AREA_OR_POINT": "Point"}, False),
        ("EPSG:32633", Affine(10, 1, 384_000, 1, -10, 5_342_400), {}, False),
        ("EPSG:32633", Affine(10, 0, 384_000, 0, 10, 5_342_400), {}, False),
        ("EPSG:25833", NORTH, {}, False),
        ("EPSG:3035", Affine(10, 0, 4_321_000, 0, -10, 3_210_000), {}, False),
        ("EPSG:4326", Affine(1e-4, 0, 13, 0, -1e-4, 48), {}, False),
        ("+proj=utm +zone=33 +ellps=bessel +towgs84=598,73,418 +units=m", NORTH, {}, False),
        ("+proj=utm +zone=33 +datum=WGS84 +units=us-ft", NORTH, {}, False),
    ],
    ids=["utm", "south", "points", "turned", "upwards", "etrs89", "laea", "degrees", "bessel", "feet"],
)
def test_only_a_plain_grid_is_read_without_gdal(tmp_path, crs, matrix, tags, plain):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "width": 8, "height": 6}
    with rasterio.open(path, "w", **profile, crs=CRS.from_string(crs), transform=matrix) as target:
        target.write(np.ones((1, 6, 8), np.float32))
        target.update_tags(**tags)
    assert (read_grid(path) is not None) == plain
    assert _places([path, path]) == [_place(path)] * 2


def test_a_grid_that_is_nowhere_or_absent_is_said_as_before(tmp_path):
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "width": 8, "height": 6, "crs": "EPSG:32633"}
    places = {"good": NORTH, "far": Affine(10, 0, 1e30, 0, -10, 1e30)}
    for name, matrix in places.items():
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile, transform=matrix) as target:
            target.write(np.ones((1, 6, 8), np.float32))
    good, far = tmp_path / "good.tif", tmp_path / "far.tif"
    with pytest.raises(BenchError, match=r"far\.tif"):
        _places([good, far])
    assert read_grid(tmp_path / "absent.tif") is None
    whole = good.read_bytes()
    for length in (0, 3, 8, 100):
        far.write_bytes(whole[:length])
        assert read_grid(far) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_corner_that_is_not_finite_is_nowhere_and_spares_its_neighbours(value, tmp_path):
    """PROJ makes infinity of it without an error, in one call with grids that are somewhere."""
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "width": 8, "height": 6, "crs": "EPSG:32633"}
    for name in ("good", "far"):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile, transform=NORTH) as target:
            target.write(np.ones((1, 6, 8), np.float32))
    good, far = tmp_path / "good.tif", tmp_path / "far.tif"
    far.write_bytes(far.read_bytes().replace(struct.pack("<d", NORTH.c), struct.pack("<d", value)))
    assert read_grid(far) is not None
    with pytest.raises(BenchError, match=r"far\.tif has a georeference that is nowhere on Earth; correct it"):
        _places([good, far])
    assert _places([good]) == [_place(good)]


def key(number, value):
    """A GeoTIFF key that holds its value, as it stands in the file."""
    return struct.pack("<4H", number, 0, 1, value)


def entry(tag, kind):
    """How an entry of the directory begins."""
    return struct.pack("<2H", tag, kind)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (key(2054, 9102), key(2054, 9101)),  # angles in radian
        (key(2054, 9102), key(3075, 1)),  # a projection defined by its parameters
        (key(3076, 9001), key(3076, 9003)),  # feet of the US survey
        (key(1024, 1), key(1024, 2)),  # geographic
        (key(1025, 1), key(1025, 2)),  # pixels are points
        (struct.pack("<3d", 10, 10, 0), struct.pack("<3d", 10, -10, 0)),
        (struct.pack("<3d", 10, 10, 0), struct.pack("<3d", -10, 10, 0)),
        (struct.pack("<3d", 10, 10, 0), struct.pack("<3d", 0, 10, 0)),
        (entry(42113, 2), entry(34264, 12)),  # a matrix beside corner and scale
    ],
    ids=["radian", "parameters", "feet", "geographic", "points", "upwards", "leftwards", "no width", "matrix"],
)
def test_one_unusual_number_leaves_the_grid_to_gdal(tmp_path, old, new):
    """Each is changed in the bytes of a file whose grid is read, so that nothing else is unusual in it."""
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "width": 8, "height": 6, "nodata": -99.0}
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=NORTH) as target:
        target.write(np.ones((1, 6, 8), np.float32))
    whole, found = path.read_bytes(), read_grid(path)
    assert (found.epsg, found.left, found.top, found.across, found.down) == (32633, 384_000.5, 5_342_400, 10, 10)
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))
    assert read_grid(path) is None
