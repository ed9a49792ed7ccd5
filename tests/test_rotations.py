"""Random rotations of image and mask, held against torch's grid_sample; as published they pad masks with the first class."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import named_recipe
from fgmae_bench.system.randomness import generator
from fgmae_bench.views.segmentation import JointAugmentation, training_pair

SIZE = 45
WHOLE = JointAugmentation(seed=3, epoch=0, crop_scale=1.0, rotate=90.0, rotate_fill="zero", vflip=True)


def pair(dtype=np.float32, side=SIZE):
    draw = np.random.default_rng(0)
    image, mask = draw.normal(5, 3, (4, side, side)), draw.integers(1, 4, (side, side)).astype(np.uint8)
    return (image * 10 if dtype == np.uint8 else image).clip(0, 255).astype(dtype), mask


def draws(sample, epoch=0):
    """Angle in degrees (None: not turned) and flips of a sample, from the generator of the view, of whole images."""
    draw = generator(3, "segmentation view", epoch, sample)
    draw.random(40)
    horizontal, vertical = draw.random(2) < 0.5
    turned, angle = draw.random(2)
    return (90 * (2 * angle - 1) if turned < 0.5 else None), horizontal, vertical


def turned_by_torch(x, degrees, mode):
    """(C, S, S) turned as kornia's RandomRotation(align_corners=True) turns it: zeros outside."""
    angle = np.deg2rad(degrees)
    at = torch.linspace(-1, 1, x.shape[-1], dtype=torch.float64)
    rows, columns = torch.meshgrid(at, at, indexing="ij")
    grid = torch.stack(
        [np.cos(angle) * columns + np.sin(angle) * rows, np.cos(angle) * rows - np.sin(angle) * columns], -1
    )
    return grid_sample(x[None].double(), grid[None], mode=mode, padding_mode="zeros", align_corners=True)[0].numpy()


def test_a_turn_is_that_of_grid_sample_and_half_of_the_images_are_turned():
    image, mask = pair()
    angles = []
    for i in range(60):
        degrees, horizontal, vertical = draws(str(i))
        view, labels = training_pair(image, mask, SIZE, WHOLE, str(i))
        wanted, classes = image.astype(np.float64), mask[None].astype(np.float64)
        if degrees is not None:
            angles.append(degrees)
            wanted = turned_by_torch(torch.from_numpy(image), degrees, "bilinear")
            classes = turned_by_torch(torch.from_numpy(mask[None]), degrees, "nearest")
        for axis, flipped in ((2, horizontal), (1, vertical)):
            wanted, classes = (np.flip(x, axis) if flipped else x for x in (wanted, classes))
        # the axes of rows point down: both turn the same way or the test fails
        np.testing.assert_allclose(view, wanted, atol=2e-5)
        assert (labels == classes[0]).mean() > 0.999  # ties between two pixels alone
    assert 20 <= len(angles) <= 40
    assert min(angles) < -60
    assert max(angles) > 60


def test_as_published_corners_are_the_first_class_and_else_they_are_not_learnt():
    image, mask = pair()
    image += 10
    sample = next(str(i) for i in range(99) if 30 < abs(draws(str(i))[0] or 0) < 60)
    zero, first = training_pair(image, mask, SIZE, WHOLE, sample)
    mean, none = training_pair(image, mask, SIZE, dataclasses.replace(WHOLE, rotate_fill="ignore"), sample)
    outside = none == 255
    assert 0.1 < outside.mean() < 0.25
    assert set(np.unique(first[outside])) == {0}
    np.testing.assert_array_equal(first[~outside], none[~outside])
    assert zero[:, 0, 0].tolist() == [0] * 4
    np.testing.assert_allclose(mean[:, 0, 0], image.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("fill", ["zero", "ignore"])
def test_targets_and_whole_numbers_are_turned_too(fill):
    how = dataclasses.replace(WHOLE, rotate_fill=fill)
    image, mask = pair(np.uint8)
    sample = next(str(i) for i in range(99) if 30 < abs(draws(str(i))[0] or 0) < 60)
    view, target = training_pair(image, mask.astype(np.float32), SIZE, how, sample)
    exact, _ = training_pair(image.astype(np.float32), mask, SIZE, how, sample)
    assert view.dtype == np.uint8
    assert np.abs(view - exact).max() <= 0.5 + (fill == "ignore")
    assert target.dtype == np.float32
    assert bool(np.isnan(target[0, 0])) == (fill == "ignore")


def test_without_a_rotation_every_other_draw_is_as_it_was():
    image, mask = pair(side=60)
    plain = JointAugmentation(seed=3, epoch=0, vflip=True)
    for i in range(40):
        degrees, _, _ = draws(str(i))
        before, labels = training_pair(image, mask, SIZE, plain, str(i))
        after, again = training_pair(image, mask, SIZE, dataclasses.replace(plain, rotate=20.0), str(i))
        if degrees is None:
            np.testing.assert_array_equal(before, after)
            np.testing.assert_array_equal(labels, again)
        else:
            assert not np.array_equal(before, after)


@pytest.mark.parametrize("name", ["copernicus_flood", "copernicus_dfc2020"])
@pytest.mark.parametrize(
    ("model", "blocks"), [("vit_base_patch16", [3, 5, 7, 11]), ("vit_base_patch14_dinov2", [4, 6, 10, 11])]
)
def test_the_published_recipe_is_that_of_the_benchmarks_code(name, model, blocks):
    """scripts/exp_config_vit.py and _sup.py, vit_wrapper.py, vit_seg.py, softcon_wrapper.py, cobench_floods1_wrapper.py."""
    for frozen, lr in ((True, 1e-3), (False, 1e-4)):
        general, own = named_recipe("segment", "published", load_card(name), model, frozen)
        wanted = {
            "lr": lr,
            "blocks": blocks,
            "auxiliary": True,
            "head_dropout": 0.1,
            "fpn_dim": 512,
            "rotate": 90.0,
            "rotate_fill": "zero",
            "crop_scale": 1.0,
            "vflip": True,
            "layer_decay": 1.0,
            "drop_path": 0.0,
            "epochs": 50,
            "effective_batch": 16,
        }
        assert {key: (general | own)[key] for key in wanted} == wanted
