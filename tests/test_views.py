"""The input of the published transfer code, pixel for pixel, and views that depend on nothing but seed, epoch and
sample.
"""

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import center_crop

from fgmae_bench.config.contract import FGMAE_CONTRACT, InputContract
from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import generator
from fgmae_bench.views import normalizers
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import Augmentation, evaluation_geometry, make_view, random_box, random_geometry
from fgmae_bench.views.normalizers import NORMALIZERS, limit_levels, normalize, row_quantiles
from fgmae_bench.worlds import eurosat

MEAN, STD = (-12.59, -20.26), (5.26, 5.91)  # of the transfer code, typed again on purpose
NATIVE = dataclasses.replace(FGMAE_CONTRACT, geometry="native")
DRAWS = 10_000


def published_uint8(image, joint=False):
    """The published input of one image (2, H, W) dB, written as its loader does it: band by band, one image at a time."""
    planes = []
    for band in range(2):
        source = image if joint else image[band]
        x = np.clip(image[band], np.quantile(source, 0.01), np.quantile(source, 0.99))
        low, high = MEAN[band] - 2 * STD[band], MEAN[band] + 2 * STD[band]
        x = (x - low) / (high - low) * 255.0
        planes.append(np.clip(x, 0, 255).astype(np.uint8))
    return np.stack(planes)


def named(normalizer, **changes):
    return dataclasses.replace(FGMAE_CONTRACT, normalizer=normalizer, **changes)


def chip(db, valid=None):
    return Chip(db=np.asarray(db, np.float32), valid=valid, synthetic=False)


def synthetic(count=12):
    """Up to 20 synthetic images (N, 2, 64, 64) dB."""
    return np.stack([eurosat.chip(3, name, number) for number in range(1, 3) for name in eurosat.CLASSES][:count])


@pytest.fixture
def view(card):
    return make_view(card, NATIVE, None)


# --- the eight-bit input


def test_uint8_view_of_the_genuine_chips_is_the_published_one_bit_by_bit(chips, view):
    assert chips.shape == (43, 2, 64, 64)
    got = view.batch([chip(image) for image in chips], [str(i) for i in range(43)])
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, [published_uint8(image) for image in chips])
    assert len(np.unique(got)) > 200


def test_uint8_view_of_other_genuine_scenes_is_the_published_one_bit_by_bit(scenes):
    for name, image in scenes.items():
        np.testing.assert_array_equal(
            normalize(image[None].copy(), None, NATIVE)[0], published_uint8(image), err_msg=name
        )


def test_uint8_view_of_synthetic_pixels_is_the_published_one_bit_by_bit(view):
    images = synthetic()
    got = view.batch([chip(image) for image in images], list("abcdefghijkl"))
    np.testing.assert_array_equal(got, [published_uint8(image) for image in images])


def test_joint_clip_shares_one_pair_of_quantiles_between_the_bands(scenes):
    for name, image in scenes.items():
        got = normalize(image[None].copy(), None, named("fgmae_joint"))[0]
        np.testing.assert_array_equal(got, published_uint8(image, joint=True), err_msg=name)
        assert (got != published_uint8(image)).any(), name


def test_eight_bits_are_the_truncated_z_score_window(scenes):
    """uint8 = floor(255 clip((z + 2) / 4, 0, 1)) of the quantile-clipped z-score, in float64 up to rounding at the step
    itself.
    """
    for image in scenes.values():
        clipped = np.stack([np.clip(band, *np.quantile(band.astype(np.float64), (0.01, 0.99))) for band in image])
        z = (clipped.astype(np.float64) - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
        level = 255 * np.clip((z + 2) / 4, 0, 1)
        got = normalize(image[None].copy(), None, NATIVE)[0]
        assert ((got == np.floor(level - 1e-3).clip(0)) | (got == np.floor(level + 1e-3).clip(0, 255))).all()
        assert (got != np.round(level)).mean() > 0.3  # rounding, a level up on half of the pixels, would not pass


def test_windows_are_those_of_the_protocol():
    """VV [-23.11, -2.07], VH [-32.08, -8.44] dB: the ends of the window are 0 and 255, and truncated in between."""
    assert (FGMAE_CONTRACT.mean, FGMAE_CONTRACT.std, FGMAE_CONTRACT.bands) == (MEAN, STD, ("VV", "VH"))
    ramp = np.linspace(-60, 20, 64 * 64, dtype=np.float32).reshape(64, 64)
    got = normalize(np.stack([ramp, ramp])[None].copy(), None, NATIVE)[0]
    for band, (low, high) in enumerate([(-23.11, -2.07), (-32.08, -8.44)]):
        assert (got[band][ramp < low] == 0).all()
        assert (got[band][ramp > high + 0.1] == 255).all()
        assert got[band][(ramp > low + 0.1) & (ramp < high - 0.1)].min() > 0
        assert got[band][(ramp > low + 0.1) & (ramp < high - 0.1)].max() < 255


def test_normalising_leaves_the_raw_image_alone():
    """An image is read once and seen by several views."""
    images, valid = synthetic(3), np.ones((3, 2, 64, 64), bool)
    valid[1, :, 5:9] = False
    before = images.copy()
    for name in NORMALIZERS:
        for mask in (None, valid):
            normalize(images, mask, named(name))
            np.testing.assert_array_equal(images, before, err_msg=name)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 50, 51, 99, 100, 101, 1000, 4096, 8192, 14400, 50176])
def test_row_quantiles_are_numpys_bit_by_bit(n):
    rng = np.random.default_rng(n)
    rows = (10 * np.log10(rng.gamma(4.4, size=(24, n))) - 12).astype(np.float32)
    rows[0] = np.round(rows[0])  # ties
    levels = (0.01, 0.25, 0.5, 0.75, 0.99)
    expected = np.array([[np.quantile(row, level) for level in levels] for row in rows])
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(row_quantiles(rows, levels), expected)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 10, 11, 64, 120, 224])
@pytest.mark.parametrize("holes", [0, 0.1])
def test_a_clip_on_the_levels_is_the_clip_of_the_values(side, holes):
    """Speckle, ties, planes of one and of two values, tails beyond the window on either side, infinities; some of it
    invalid.
    """
    rng = np.random.default_rng(side)
    shape = (side, side)
    speckle = lambda mean, spread: (mean + spread * 10 * np.log10(rng.gamma(4.4, size=shape) / 4.4)).astype(np.float32)  # noqa: E731
    planes = [
        speckle(-12, 1),
        speckle(-40, 1),
        speckle(5, 1),
        speckle(-15, 9),
        np.round(speckle(-12, 1)),
        speckle(-12, 0.01),
    ]
    planes += [np.full(shape, -13.3, np.float32), np.where(rng.random(shape) < 0.99, -13, -7).astype(np.float32)]
    planes += [np.where(rng.random(shape) < 0.03, np.float32(sign * np.inf), speckle(-12, 1)) for sign in (1, -1)]
    step = 3 if side > 64 else 1
    for first in planes[::step]:
        for second in planes[::step]:
            image = np.stack([first, second])
            valid = rng.random(image.shape) >= holes
            valid[:, 0, 0] = True
            other = np.float32(np.nan) if first is second else image + np.float32(0.02)
            broken = np.where(valid, image, other)
            with np.errstate(invalid="ignore"):  # between two infinities there is no quantile
                got = normalize(broken[None].copy(), valid[None] if holes else None, NATIVE)[0]
            for band in range(2):
                pool = image[band][valid[band]]
                with np.errstate(invalid="ignore"):
                    limits = [np.quantile(pool, level) for level in (0.01, 0.99)]
                if np.isfinite(limits).all():
                    low, high = MEAN[band] - 2 * STD[band], MEAN[band] + 2 * STD[band]
                    x = (np.clip(image[band], *limits) - np.float32(low)) / np.float32(high - low) * np.float32(255)
                    np.testing.assert_array_equal(
                        got[band], np.where(valid[band], np.clip(x, 0, 255).astype(np.uint8), 127)
                    )


def test_limits_are_told_from_levels_and_where_these_do_not_tell_from_the_two_values(scenes):
    """Against the sorted values; control: some quantiles are between two levels, most are not."""
    between = []
    for image in [*scenes.values(), *synthetic(20)]:
        levels = normalizers._to_bytes(image[None].copy(), NATIVE)
        expected = normalizers._to_bytes(row_quantiles(image.reshape(2, -1), (0.01, 0.99))[None, :, None], NATIVE)[
            0, :, 0
        ]
        np.testing.assert_array_equal(limit_levels(image[None], levels, None, NATIVE)[0], expected)
        ordered = np.sort(levels.reshape(2, -1), axis=1)
        ranks = [int((ordered.shape[1] - 1) * quantile) for quantile in (0.01, 0.99)]
        between += [ordered[band, rank] != ordered[band, rank + 1] for band in range(2) for rank in ranks]
    assert 0.05 < np.mean(between) < 0.7


# --- the other normalisers


def test_zscore_is_x_less_mean_over_deviation():
    images = synthetic()
    got = normalize(images.copy(), None, named("zscore"))
    expected = (images.astype(np.float64) - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert abs(got).max() > 2  # nothing is clipped


def test_zscore_uses_the_statistics_of_the_contract():
    contract = InputContract(normalizer="zscore", mean=(-10.0, -17.0), std=(2.0, 4.0))
    got = normalize(np.full((1, 2, 2, 2), -13, np.float32), None, contract)
    np.testing.assert_array_equal(got[0, :, 0, 0], [-1.5, 1.0])


def test_clip25_is_clipped_and_shifted_to_one():
    images = synthetic()
    images[0, 0, 0, :2] = 3, -40
    got = normalize(images.copy(), None, named("clip25"))
    np.testing.assert_allclose(got, np.clip(images.astype(np.float64), -25, 0) / 25 + 1, atol=1e-6)
    np.testing.assert_array_equal(got[0, 0, 0, :2], [1, 0])


def test_unknown_normalizer_offers_the_closest():
    with pytest.raises(BenchError, match="zscore"):
        normalize(synthetic(1), None, named("zscores"))


# --- geometry


def test_evaluation_view_is_opencvs_resize_to_256_and_the_centre(chips, card):
    view = make_view(card, FGMAE_CONTRACT, None)
    got = view.batch([chip(image) for image in chips], [str(i) for i in range(len(chips))])
    assert got.shape == (43, 2, 224, 224)
    assert got.dtype == np.uint8
    for image, view_of_it in zip(chips, got, strict=True):
        resized = cv2.resize(
            np.ascontiguousarray(published_uint8(image).transpose(1, 2, 0)), (256, 256), interpolation=cv2.INTER_LINEAR
        )
        np.testing.assert_array_equal(view_of_it, resized[16:240, 16:240].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [14, 31, 32, 33, 98, 224, 252])
def test_evaluation_view_crops_where_torchvision_does(size):
    side = round(size * 8 / 7)
    image = np.arange(2 * side * side, dtype=np.float32).reshape(
        2, side, side
    )  # resizing to its own size changes nothing
    np.testing.assert_array_equal(
        evaluation_geometry(image, size), center_crop(torch.from_numpy(image), [size, size]).numpy()
    )


def test_float_inputs_are_resized_in_float(card):
    """A z-score that went through eight bits on its way would lose its negative half."""
    images = synthetic(2)
    got = make_view(card, named("zscore", size=32), None).batch([chip(image) for image in images], ["a", "b"])
    assert got.dtype == np.float32
    z = ((images[0] - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]).astype(np.float32)
    expected = cv2.resize(np.ascontiguousarray(z.transpose(1, 2, 0)), (37, 37), interpolation=cv2.INTER_LINEAR)[
        2:34, 2:34
    ]
    np.testing.assert_allclose(got[0], expected.transpose(2, 0, 1), atol=1e-5)
    assert got.min() < -0.5


def test_random_views_do_not_depend_on_order_or_batch(card):
    view = make_view(card, named("fgmae", size=32), None)
    chips = [chip(image) for image in synthetic(6)]
    ids = [f"River/River_{i}" for i in range(6)]
    at = Augmentation(seed=42, epoch=3, crop_scale=0.08)
    together = view.batch(chips, ids, at)
    turned = view.batch(chips[::-1], ids[::-1], at)[::-1]
    alone = np.concatenate([view.batch([c], [id], at) for c, id in zip(chips, ids, strict=True)])
    np.testing.assert_array_equal(together, turned)
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, view.batch(chips, ids, at))


@pytest.mark.parametrize("change", [{"epoch": 4}, {"seed": 43}])
def test_random_views_differ_between_epochs_and_seeds(card, change):
    """Augmentation that is accepted and never applied was one of the published traps."""
    view = make_view(card, named("fgmae", size=32), None)
    chips, ids = [chip(image) for image in synthetic(6)], list("abcdef")
    at = Augmentation(seed=42, epoch=3, crop_scale=0.08)
    one, other, plain = (
        view.batch(chips, ids, at),
        view.batch(chips, ids, dataclasses.replace(at, **change)),
        view.batch(chips, ids),
    )
    assert all((a != b).any() for a, b in zip(one, other, strict=True))
    assert all((a != b).any() for a, b in zip(one, plain, strict=True))


def test_random_views_of_one_image_under_two_ids_differ(card):
    view = make_view(card, named("fgmae", size=32), None)
    image = chip(synthetic(1)[0])
    a, b = view.batch([image, image], ["a", "b"], Augmentation(seed=0, epoch=0, crop_scale=0.08))
    assert (a != b).any()


def test_random_view_is_opencvs_resize_of_its_box():
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    flipped = 0
    for i in range(40):
        at = Augmentation(seed=7, epoch=i, crop_scale=0.08)
        top, left, height, width = random_box(generator(7, "view", i, "x"), 64, 64, 0.08)
        crop = np.ascontiguousarray(image[:, top : top + height, left : left + width].transpose(1, 2, 0))
        expected = cv2.resize(crop, (28, 28), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
        got = random_geometry(image, 28, at, "x")
        straight, mirrored = (got == expected).all(), (got == expected[:, :, ::-1]).all()
        assert straight != mirrored
        flipped += mirrored
    assert 10 < flipped < 30


@pytest.fixture(scope="module")
def boxes():
    """Our crops of a 64x64 image and torchvision's, each (10000, 4): top, left, height, width."""
    ours = np.array([random_box(generator(42, "view", 0, i), 64, 64, 0.08) for i in range(DRAWS)])
    image = torch.zeros(1, 64, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)])
    return ours, theirs


def test_random_crops_stay_inside_and_above_the_smallest_share(boxes):
    top, left, height, width = boxes[0].T
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == (left + width).max() == 64
    share = height * width / 64**2
    assert 0.07 < share.min() < 0.1
    assert 0.98 < share.max() <= 1
    assert (width / height).max() < 4 / 3 * 1.1
    assert (width / height).min() > 3 / 4 / 1.1


def test_random_crops_are_distributed_as_torchvisions(boxes):
    """Two-sample Kolmogorov-Smirnov at 1 % (.023 for 10,000 draws each), on area share, aspect and place; then the
    moments.
    """
    limit = 1.63 * math.sqrt(2 / DRAWS)
    quantities = {
        "share": lambda b: b[:, 2] * b[:, 3] / 64**2,
        "aspect": lambda b: np.log(b[:, 3] / b[:, 2]),
        "down": lambda b: b[:, 0],
        "right": lambda b: b[:, 1],
    }
    for name, of in quantities.items():
        ours, theirs = of(boxes[0]), of(boxes[1])
        assert ks_2samp(ours, theirs).statistic < limit, name
        np.testing.assert_allclose(
            np.quantile(ours, (0.1, 0.5, 0.9)),
            np.quantile(theirs, (0.1, 0.5, 0.9)),
            atol=max(0.02 * np.ptp(theirs), name in ("down", "right")),
            err_msg=name,
        )
    share = quantities["share"](boxes[0])
    counts = np.histogram(share, bins=4, range=(0.08, 0.72))[0]  # uniform where any aspect fits
    np.testing.assert_allclose(counts, counts.mean(), rtol=0.08)


@pytest.mark.parametrize("shape", [(10, 100), (100, 10), (50, 50), (30, 40)])
def test_crop_that_cannot_be_had_falls_back_as_torchvisions(shape):
    """All of a very long image cannot be within the aspect range: the largest centre crop is taken."""
    ours = {random_box(generator(i), *shape, 1.0) for i in range(20)}
    theirs = {
        tuple(RandomResizedCrop.get_params(torch.zeros(1, *shape), [1.0, 1.0], [3 / 4, 4 / 3])) for _ in range(20)
    }
    assert ours & theirs
    if max(shape) > 2 * min(shape):
        assert ours == theirs
        assert len(ours) == 1


def test_half_of_the_views_are_flipped():
    ramp = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32), (2, 64, 64))
    flips = 0
    for i in range(DRAWS):
        view = random_geometry(ramp, 4, Augmentation(seed=1, epoch=0, crop_scale=0.5), str(i))
        flips += view[0, 0, 0] > view[0, 0, -1]
    assert abs(flips / DRAWS - 0.5) < 0.02
