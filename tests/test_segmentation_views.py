"""Image and mask move together, labels are never mixed, and a transform that is recorded is applied."""

import dataclasses

import cv2
import numpy as np
import pytest
from scipy import ndimage

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import make_view
from fgmae_bench.views.segmentation import (
    JointAugmentation,
    mask_invalid,
    segmentation_batch,
    training_pair,
    whole_geometry,
)

SIZE = 64


def blobs(seed=0, side=96, classes=5):
    """A mask of smooth areas and an image whose first band is 40 x class, second its row and column."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 8)
    mask = np.digitize(noise, np.quantile(noise, np.linspace(0, 1, classes + 1)[1:-1])).astype(np.uint8)
    return np.stack(
        [mask * np.float32(40), np.add.outer(np.arange(side) * 100.0, np.arange(side)).astype(np.float32)]
    ), mask


@pytest.mark.parametrize("crop", ["resized", "plain"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_image_and_mask_stay_aligned(crop, dtype):
    image, mask = blobs()
    image = np.repeat(image[:1], 2, axis=0).astype(dtype)
    for epoch in range(30):
        how = JointAugmentation(seed=1, epoch=epoch, crop=crop, vflip=True)
        view, label = training_pair(image, mask, SIZE, how, "a")
        assert view.shape == (2, SIZE, SIZE)
        assert view.dtype == dtype
        assert label.shape == (SIZE, SIZE)
        assert label.dtype == np.uint8
        assert set(np.unique(label)) <= set(range(5)), "labels are never mixed"
        drift = np.abs(view[0].astype(float) - label * 40.0)
        inside = ndimage.binary_erosion(
            ndimage.grey_dilation(label, 3) == ndimage.grey_erosion(label, 3), border_value=1
        )
        assert inside.mean() > 0.2
        assert drift[inside].max() == 0 if crop == "plain" else drift[inside].max() < 1e-3
        assert drift.mean() < 4, "off by half a pixel at most at the edges"


def test_resized_masks_are_centred_as_images_are():
    """A ramp in the image names the place of each pixel; the mask's must be within half a pixel of it, without bias."""
    side = 90
    columns = np.tile(np.arange(side, dtype=np.float32), (side, 1))
    offsets = []
    for epoch in range(40):
        how = JointAugmentation(seed=0, epoch=epoch, hflip=False)
        view, label = training_pair(np.stack([columns, columns.T]), columns.astype(np.uint8), SIZE, how, "a")
        offsets.append(label.astype(float) - view[0])
    assert np.abs(np.concatenate(offsets)).max() <= 0.5 + 1e-3
    assert abs(np.mean(offsets)) < 0.03, "OpenCV's plain nearest is off to one side by more"


@pytest.mark.parametrize("crop", ["resized", "plain"])
def test_the_view_changes_pixels_and_is_keyed_by_seed_epoch_and_sample(crop):
    image, mask = blobs()
    base = JointAugmentation(seed=0, epoch=0, crop=crop)
    still = whole_geometry(image, SIZE)
    view, label = training_pair(image, mask, SIZE, base, "a")
    again, label_again = training_pair(image, mask, SIZE, base, "a")
    np.testing.assert_array_equal(view, again)
    np.testing.assert_array_equal(label, label_again)
    assert not np.array_equal(view, still)
    others = [
        training_pair(image, mask, SIZE, dataclasses.replace(base, epoch=1), "a"),
        training_pair(image, mask, SIZE, dataclasses.replace(base, seed=1), "a"),
        training_pair(image, mask, SIZE, base, "b"),
    ]
    assert all(not np.array_equal(other, view) for other, _ in others)


def test_flips_happen_half_of_the_time_and_only_where_asked():
    image, mask = blobs(side=SIZE)

    def flips(**flags):
        counts = np.zeros(2, int)
        for epoch in range(200):
            how = JointAugmentation(seed=0, epoch=epoch, crop="plain", **flags)
            view, label = training_pair(image, mask, SIZE, how, "a")
            across, down = view[1, 0, 0] > view[1, 0, -1], view[1, 0, 0] > view[1, -1, 0]
            counts += [across, down]
            np.testing.assert_array_equal(label, mask[:: -1 if down else 1, :: -1 if across else 1])
        return counts.tolist()

    for got, expected in (
        (flips(), (True, False)),
        (flips(vflip=True), (True, True)),
        (flips(hflip=False), (False, False)),
    ):
        assert [60 < count < 140 if on else count == 0 for count, on in zip(got, expected, strict=True)] == [True, True]


def test_padding_is_255_in_the_mask_and_the_mean_in_the_image():
    image, mask = blobs(side=40)
    view, label = training_pair(image, mask, SIZE, JointAugmentation(seed=0, epoch=0, crop="plain", hflip=False), "a")
    np.testing.assert_array_equal(label[:40, :40], mask)
    outside = np.ones((SIZE, SIZE), bool)
    outside[:40, :40] = False
    assert (label[outside] == 255).all()
    np.testing.assert_allclose(view[0][outside], image[0].mean(), rtol=1e-6)


def test_evaluation_keeps_the_image_where_sizes_meet_and_resizes_the_whole_otherwise():
    image, _ = blobs()
    assert whole_geometry(image, 96) is image
    expected = np.stack([cv2.resize(band, (84, 84), interpolation=cv2.INTER_LINEAR) for band in image])
    np.testing.assert_array_equal(whole_geometry(image, 84), expected)


def test_pixels_without_backscatter_are_not_labelled():
    mask = np.zeros((4, 4), np.uint8)
    valid = np.ones((2, 4, 4), bool)
    valid[0, 1, 1] = valid[1, 2, 2] = False
    marked = mask_invalid(mask, valid)
    assert np.argwhere(marked == 255).tolist() == [[1, 1], [2, 2]]
    assert mask.max() == 0, "the caller's mask stays"
    assert mask_invalid(mask, None) is mask


def test_sizes_that_differ_are_refused():
    image, mask = blobs()
    with pytest.raises(BenchError, match="96x96 px, its mask 95x96"):
        training_pair(image, mask[1:], SIZE, JointAugmentation(seed=0, epoch=0), "a")


def test_a_batch_goes_through_the_contract_and_names_a_bad_sample():
    view = make_view(load_card("eurosat"), dataclasses.replace(FGMAE_CONTRACT, size=64), None)
    rng = np.random.default_rng(0)
    db = rng.normal(-15, 3, (2, 96, 96)).astype(np.float32)
    valid = np.ones((2, 96, 96), bool)
    valid[:, :20] = False
    chips = [Chip(db=np.where(valid, db, np.nan), valid=valid, synthetic=True), Chip(db=db, valid=None, synthetic=True)]
    _, mask = blobs()
    images, masks = segmentation_batch(view, chips, [mask, mask], ["a", "b"])
    assert images.shape == (2, 2, 64, 64)
    assert images.dtype == np.uint8
    assert (masks[0][:20] == 255).all()
    np.testing.assert_array_equal(masks[1], mask)
    images, masks = segmentation_batch(view, chips, [mask, mask], ["a", "b"], JointAugmentation(seed=0, epoch=0))
    assert images.shape == (2, 2, 64, 64)
    assert [m.shape for m in masks] == [(64, 64)] * 2
    with pytest.raises(BenchError, match="b: image has 96x96 px, its mask 10x10"):
        segmentation_batch(view, chips, [mask, mask[:10, :10]], ["a", "b"])
