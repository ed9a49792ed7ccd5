"""Resizing on reading: what stands under invalid pixels reaches no pixel that counts."""

import cv2
import numpy as np
import pytest

from fgmae_bench.views.classification import resized_db


@pytest.mark.parametrize("fill", [np.nan, -99.0, 1e4, np.inf])
def test_resized_pixels_do_not_depend_on_what_stands_under_the_mask(fill):
    random = np.random.default_rng(0)
    db = random.normal(-12, 3, (2, 2, 24, 24)).astype(np.float32)
    valid = np.ones(db.shape, bool)
    valid[0, 0, 3:14, 4:20] = valid[1, 1, 20:, :] = False
    plain, clean = resized_db(db, valid, 36)
    filled, also = resized_db(np.where(valid, db, np.float32(fill)), valid, 36)
    np.testing.assert_array_equal(clean, also)
    np.testing.assert_array_equal(plain, filled)
    assert np.isfinite(plain).all()
    assert 0 < clean[0, 0].mean() < 1
    assert clean[0, 1].all()


def test_a_pixel_that_an_invalid_one_touches_is_invalid():
    """Twice as large, linear weights of 1/4 and 3/4: every new pixel beside the one invalid pixel holds some of it."""
    valid = np.ones((1, 2, 8, 8), bool)
    valid[0, 0, 4, 4] = False
    _, clean = resized_db(np.zeros(valid.shape, np.float32), valid, 16)
    wanted = np.ones((16, 16), bool)
    wanted[7:11, 7:11] = False
    np.testing.assert_array_equal(clean[0, 0], wanted)


def test_bands_are_resized_by_opencvs_cubic_one_by_one():
    db = np.random.default_rng(1).normal(-12, 3, (3, 2, 10, 14)).astype(np.float32)
    resized, valid = resized_db(db, None, 25)
    assert valid is None
    for image, found in zip(db, resized, strict=True):
        for band, one in zip(image, found, strict=True):
            np.testing.assert_array_equal(one, cv2.resize(band, (25, 25), interpolation=cv2.INTER_CUBIC))
