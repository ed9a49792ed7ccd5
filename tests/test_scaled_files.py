"""What a file states of its numbers is applied wherever it is read: GDAL's scale, offset and mask inside the file."""

import numpy as np
import pytest
import rasterio
from commands import call

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.content import content_of
from fgmae_bench.data.gather import Found, read_image
from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.tiff import read_plain
from fgmae_bench.errors import BenchError

CARD = load_card("eurosat")


def pixels(seed=0):
    return np.random.default_rng(seed).normal((-12, -19), 2, (64, 64, 2)).transpose(2, 0, 1).astype(np.float32)


def write(path, values, *, scales=None, offsets=None, mask=None, nodata=None, **profile):
    facts = {
        "driver": "GTiff",
        "count": len(values),
        "height": 64,
        "width": 64,
        "dtype": values.dtype,
        "nodata": nodata,
    }
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **facts | profile) as target:
        target.write(values)
        if scales is not None:
            target.scales = scales
        if offsets is not None:
            target.offsets = offsets
        if mask is not None:
            target.write_mask(mask)
    return path


def by_inspect(path):
    return read_image(Found("x", "x", (path,)))


@pytest.mark.parametrize("read", [lambda path: read_chip(path, CARD), by_inspect], ids=["run", "inspect"])
def test_a_chip_stored_3_db_low_with_offset_3_is_read_as_it_is_meant(tmp_path, read):
    values = pixels()
    shifted = write(tmp_path / "a.tif", values - np.float32(3), offsets=(3, 3))
    assert read_plain(shifted) is None
    np.testing.assert_allclose(read(shifted).db, values, atol=1e-5)


@pytest.mark.parametrize("read", [lambda path: read_chip(path, CARD), by_inspect], ids=["run", "inspect"])
def test_scaled_integers_are_decibels_and_nodata_is_of_the_stored_numbers(tmp_path, read):
    values = np.round(pixels() * 100).astype(np.int16)
    values[:, :8, :8] = -32768
    path = write(tmp_path / "a.tif", values, scales=(0.01, 0.01), nodata=-32768)
    chip = read(path)
    assert not chip.valid[:, :8, :8].any()
    assert chip.valid[:, 8:, 8:].all()
    np.testing.assert_allclose(chip.db[:, 8:, 8:], values[:, 8:, 8:] / 100, atol=1e-5)


@pytest.mark.parametrize("read", [lambda path: read_chip(path, CARD), by_inspect], ids=["run", "inspect"])
def test_the_mask_inside_a_file_takes_pixels_out(tmp_path, read):
    mask = np.full((64, 64), 255, np.uint8)
    mask[10:20, 30:50] = 0
    values = pixels()
    values[:, 10:20, 30:50] = -5  # looks like backscatter
    chip = read(write(tmp_path / "a.tif", values, mask=mask))
    assert not chip.valid[:, 10:20, 30:50].any()
    assert chip.valid.mean() == pytest.approx(1 - 200 / 4096)
    np.testing.assert_array_equal(chip.db[:, 20:], values[:, 20:])


def test_the_content_is_that_of_the_numbers_that_are_meant(tmp_path):
    values = np.round(pixels() * 4) / 4  # exact in float32, whatever the offset
    plain = read_chip(write(tmp_path / "a.tif", values), CARD)
    shifted = read_chip(write(tmp_path / "b.tif", values - np.float32(3), offsets=(3, 3)), CARD)
    other = read_chip(write(tmp_path / "c.tif", values - np.float32(3)), CARD)
    assert content_of(plain) == content_of(shifted) != content_of(other)


@pytest.mark.parametrize(("scales", "offsets"), [((0, 1), (0, 0)), ((np.nan, 1), (0, 0)), ((1, 1), (np.inf, 0))])
def test_a_scale_that_means_nothing_is_refused(tmp_path, scales, offsets):
    path = write(tmp_path / "a.tif", pixels(), scales=scales, offsets=offsets)
    with pytest.raises(BenchError, match="states a scale of"):
        read_chip(path, CARD)


def test_a_file_that_states_nothing_is_read_as_before(tmp_path):
    values = pixels()
    path = write(tmp_path / "a.tif", values)
    assert read_plain(path) is not None
    assert np.array_equal(read_chip(path, CARD).db, values)
    tiled = write(tmp_path / "b.tif", values, compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    assert read_plain(tiled) is None
    assert np.array_equal(read_chip(tiled, CARD).db, values)


def test_inspect_sees_the_meant_level(tmp_path):
    folder = tmp_path / "chips"
    folder.mkdir()
    for i in range(3):
        write(folder / f"{i}.tif", pixels(i) - np.float32(30), offsets=(30, 30))
    done = call("prepare", "inspect", folder, "--out", tmp_path / "x.png", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "backscatter in dB" in done.out
