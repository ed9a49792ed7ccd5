"""Band order and invalid pixels: what a view makes of swapped bands, of holes and of what no sensor measured."""

import dataclasses
import warnings

import cv2
import numpy as np
import pytest
import rasterio
from test_views import MEAN, NATIVE, STD, chip, named, synthetic

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.signal import valid_mask
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import make_view
from fgmae_bench.views.normalizers import NORMALIZERS, UNITS, normalize

# --- bands


OF_DB = [name for name in NORMALIZERS if name not in UNITS]  # the others are for data in other units


@pytest.mark.parametrize(
    ("on_card", "flag"), [(("VH", "VV"), None), (("VV", "VH"), "VH,VV"), (("VV", "VH"), " vh, vv ")]
)
def test_swapped_bands_are_brought_into_the_contracts_order(card, on_card, flag):
    swapped = dataclasses.replace(card, signal=dataclasses.replace(card.signal, bands=on_card))
    images = synthetic(2)
    valid = np.ones((2, 64, 64), bool)
    valid[1, 5:9, 5:9] = False
    straight = make_view(card, NATIVE, None).batch([chip(images[0], valid), chip(images[1])], ["a", "b"])
    turned = make_view(swapped, NATIVE, flag).batch(
        [chip(images[0][::-1], valid[::-1]), chip(images[1][::-1])], ["a", "b"]
    )
    np.testing.assert_array_equal(turned, straight)
    assert (turned != turned[:, ::-1]).any()


@pytest.mark.parametrize("order", ["HH,HV", "VV", "VV,VV", "VV,VH,VV", "VVVH"])
def test_unknown_band_order_is_refused(card, order):
    with pytest.raises(BenchError, match="give VV,VH or VH,VV"):
        make_view(card, FGMAE_CONTRACT, order)


# --- invalid pixels


def holed(rng, image, share=0.1):
    """(image with NaN, inf and -99 in a tenth of its pixels, which pixels are valid)."""
    valid = rng.random(image.shape) > share
    broken = image.copy()
    broken[~valid] = rng.choice([np.nan, np.inf, -np.inf, -99], (~valid).sum())
    return broken, valid


@pytest.mark.parametrize("joint", [False, True])
def test_quantiles_ignore_invalid_pixels_and_the_fill_is_the_mean(joint):
    rng = np.random.default_rng(0)
    for image in synthetic(6):
        broken, valid = holed(rng, image)
        got = normalize(broken[None].copy(), valid[None], named("fgmae_joint" if joint else "fgmae"))[0]
        for band in range(2):
            pool = image[valid] if joint else image[band][valid[band]]
            x = np.clip(image[band], np.quantile(pool, 0.01), np.quantile(pool, 0.99))
            low, high = MEAN[band] - 2 * STD[band], MEAN[band] + 2 * STD[band]
            expected = np.clip((x - low) / (high - low) * 255.0, 0, 255).astype(np.uint8)
            np.testing.assert_array_equal(got[band], np.where(valid[band], expected, 127))


def test_invalid_pixels_would_have_moved_the_quantiles():
    """Control of the test above: -99 within the quantiles changes the image."""
    broken, valid = holed(np.random.default_rng(0), synthetic(1)[0])
    filled = np.where(valid, broken, -99).astype(np.float32)
    a = normalize(filled[None].copy(), valid[None], NATIVE)[0]
    b = normalize(filled[None].copy(), None, NATIVE)[0]
    assert (a[valid] != b[valid]).any()


def test_fill_is_the_band_mean_after_normalisation():
    images, valid = synthetic(2), np.ones((2, 2, 64, 64), bool)
    valid[0, :, :5] = False
    images[0, :, :5] = np.nan
    hole = (0, slice(None), slice(0, 5))
    fills = {
        "fgmae": [127, 127],
        "fgmae_joint": [127, 127],
        "zscore": [0, 0],
        "clip25": [1 - 12.59 / 25, 1 - 20.26 / 25],
    }
    for name, fill in fills.items():
        got = normalize(images.copy(), valid, named(name))
        np.testing.assert_allclose(
            got[hole], np.broadcast_to(np.array(fill)[:, None, None], (2, 5, 64)), rtol=1e-6, err_msg=name
        )
        mean = np.array(MEAN, np.float32)[None, :, None, None] + np.zeros((1, 2, 64, 64), np.float32)
        if not name.startswith("fgmae"):
            np.testing.assert_allclose(
                normalize(mean, None, named(name))[0, :, 0, 0], fill, rtol=1e-6, atol=1e-7, err_msg=name
            )
    assert np.isnan(normalize(images.copy(), valid, named("db"))[hole]).all()


@pytest.mark.parametrize("name", sorted(OF_DB))
def test_images_without_invalid_pixels_are_unchanged_by_their_neighbours(card, name):
    images = synthetic(3)
    broken, valid = holed(np.random.default_rng(1), images[1])
    view = make_view(card, named(name, geometry="native"), None)
    mixed = view.batch([chip(images[0]), chip(broken, valid), chip(images[2])], list("abc"))
    clean = view.batch([chip(image) for image in images], list("abc"))
    np.testing.assert_array_equal(mixed[[0, 2]], clean[[0, 2]])
    assert not np.array_equal(mixed[1], clean[1])


def test_nan_under_the_mask_is_no_warning():
    """A cast of NaN to uint8 is undefined and warned of once for each run."""
    broken, valid = holed(np.random.default_rng(2), synthetic(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in OF_DB:
            normalize(broken[None].copy(), valid[None], named(name))


def write_tiff(path, db, nodata=None):
    with rasterio.open(
        path, "w", driver="GTiff", dtype="float32", count=2, height=64, width=64, nodata=nodata
    ) as target:
        target.write(db)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -99.0])
def test_single_pixels_without_measurement_are_invalid(card, tmp_path, value):
    db = synthetic(1)[0]
    db[0, 3, 4] = value
    read = read_chip(write_tiff(tmp_path / "a.tif", db), card)
    expected = np.ones((2, 64, 64), bool)
    expected[0, 3, 4] = False
    np.testing.assert_array_equal(read.valid, expected)
    assert read.invalid_fraction == pytest.approx(1 / 8192)


def test_declared_nodata_tag_is_invalid(card, tmp_path):
    db = synthetic(1)[0]
    db[1, 10, 10:13] = -32768
    assert (
        read_chip(write_tiff(tmp_path / "tag.tif", db, nodata=-32768), card).valid[1, 10, 10:13].tolist() == [False] * 3
    )
    assert read_chip(write_tiff(tmp_path / "none.tif", db), card).valid is None  # the same value, undeclared


def test_a_run_of_exact_zeros_is_invalid_and_a_single_zero_is_0_db(card, tmp_path):
    db = synthetic(1)[0]
    db[db == 0] = 0.5
    db[0, 5, 5] = 0  # alone
    db[0, 7, 7] = db[0, 8, 8] = 0  # diagonal neighbours are no run
    db[0, 20, 20:23] = 0  # across
    db[1, 30:32, 40] = 0  # down
    db[1, 20, 20] = 0  # alone in its own band
    expected = np.ones((2, 64, 64), bool)
    expected[0, 20, 20:23] = expected[1, 30:32, 40] = False
    np.testing.assert_array_equal(read_chip(write_tiff(tmp_path / "a.tif", db), card).valid, expected)


def test_runs_of_zeros_agree_with_an_image_morphology_oracle(card):
    """A zero is in a run where its 4-neighbourhood component has two pixels or more."""
    rng = np.random.default_rng(0)
    db = np.where(rng.random((2, 40, 40)) < 0.3, 0, -10).astype(np.float32)
    for band in range(2):
        _, label, stats, _ = cv2.connectedComponentsWithStats((db[band] == 0).astype(np.uint8), connectivity=4)
        expected = ~((db[band] == 0) & (stats[label, cv2.CC_STAT_AREA] > 1))
        np.testing.assert_array_equal(valid_mask(db, card.signal)[band], expected)


def test_chip_without_invalid_pixels_has_no_mask(card, tmp_path):
    read = read_chip(write_tiff(tmp_path / "a.tif", synthetic(1)[0]), card)
    assert read.valid is None
    assert read.invalid_fraction == 0
    np.testing.assert_array_equal(read.db, synthetic(1)[0])


def test_a_constant_band_is_an_error_that_names_the_file(card, tmp_path):
    db = synthetic(1)[0]
    db[1] = -7
    with pytest.raises(BenchError, match=r"void\.tif: band 2 is constant \(-7\)"):
        read_chip(write_tiff(tmp_path / "void.tif", db), card)


@pytest.mark.parametrize("fill", [np.nan, -99.0, 0.0])
def test_an_image_with_a_band_that_holds_nothing_counts_as_invalid_throughout(card, tmp_path, fill):
    """So that it is left out and counted, in place of ending the run; and no normaliser stumbles over it."""
    db = synthetic(1)[0]
    db[1] = fill
    chip = read_chip(write_tiff(tmp_path / "void.tif", db), card)
    assert chip.invalid_fraction == 1
    for name in OF_DB:
        seen = make_view(card, named(name, size=64), None).before_geometry([chip])[0]
        assert seen.shape == (2, 64, 64)
        assert len(np.unique(seen[1])) == 1


def test_a_band_with_a_few_scattered_measurements_keeps_some_when_it_is_resized():
    """Half of the pixels are valid, so that the image counts; in VH four lie apart, each touched by invalid ones at 128
    pixels.
    """
    card = load_card("bigearthnet")
    db = np.stack([np.full((120, 120), value, np.float32) for value in (-12, -19)])
    db += np.random.default_rng(0).normal(0, 1, db.shape).astype(np.float32)
    valid = np.ones((2, 120, 120), bool)
    valid[1] = False
    valid[1, [10, 10, 90, 90], [20, 70, 20, 70]] = True
    view = make_view(card, FGMAE_CONTRACT, None).before_geometry([Chip(db=db, valid=valid, synthetic=False)])[0]
    measured = view[1] != 127
    assert 4 <= measured.sum() <= 16
    assert measured[11, 22], "pixel (10, 20) is the nearest of pixel (11, 22) at 128"
    assert (view[0] != 127).mean() > 0.9
