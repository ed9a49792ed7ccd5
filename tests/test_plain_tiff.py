"""Plain TIFF files read without GDAL: the same values as GDAL's, and every other file is left to it."""

import numpy as np
import pytest
import rasterio

from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.tiff import read_plain


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
