"""Baselines of segmentation: Otsu's threshold, the random forest, the U-Net; measures of floods."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import t

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import class_intervals, per_class, per_group
from fgmae_bench.models.unet import UNet
from fgmae_bench.train.rules import (
    boxcar_features,
    log_ratio_vh,
    log_ratio_vv,
    otsu_threshold,
    otsu_vh,
    otsu_vv,
    random_forest,
)

RNG = np.random.default_rng(5)


def test_otsus_threshold_is_opencvs():
    grey = np.concatenate([RNG.normal(70, 12, 4000), RNG.normal(160, 25, 2000)]).clip(0, 255).astype(np.uint8)
    wanted, _ = cv2.threshold(grey[None], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    found = otsu_threshold(np.bincount(grey, minlength=256).astype(float), np.arange(-0.5, 256))
    assert found == wanted + 0.5  # OpenCV's is the last level of the darker side
    with pytest.raises(BenchError, match="fewer than two levels"):
        otsu_threshold(np.array([0.0, 5, 0]), np.arange(4.0))


def flood(number, side=32):
    """Water (1) below land (0) in both bands; a border without labels, some pixels without backscatter."""
    rng = np.random.default_rng(number)
    mask = (np.indices((side, side))[1] < side // 3).astype(np.uint8)
    image = np.where(mask, -20.0, -10.0) + rng.normal(0, 1.5, (2, side, side)) - np.array([0, 6])[:, None, None]
    mask[0], image[:, 5, 5] = 255, np.nan
    return f"e{number}", image.astype(np.float32), mask


@pytest.mark.parametrize("fit", [otsu_vv, otsu_vh, random_forest], ids=["otsu_vv", "otsu_vh", "random_forest"])
def test_rules_find_dark_water(fit):
    rule = fit(lambda: map(flood, range(4)), ("Land", "Water"), 42)
    _, image, mask = flood(9)
    predicted = rule.predict(image)
    kept = (mask != 255) & np.isfinite(image).all(0)
    assert (predicted == mask)[kept].mean() > 0.97
    again = fit(lambda: map(flood, range(4)), ("Land", "Water"), 42)
    assert np.array_equal(again.predict(image), predicted)


@pytest.mark.parametrize(("fit", "band"), [(log_ratio_vv, 0), (log_ratio_vh, 1)], ids=["vv", "vh"])
def test_the_ratio_of_two_dates_finds_what_became_dark_and_no_water_that_was_there(fit, band):
    def twice(number):
        name, after, flooded = flood(number, side=48)
        before = (RNG.normal(-10, 1, after.shape) - np.array([0, 6])[:, None, None]).astype(np.float32)
        after[:, :, 40:] = before[:, :, 40:] = -22  # a lake, dark on both dates
        before[:, 20, 20] = np.nan
        return name, np.concatenate([after, before]), flooded

    rule = fit(lambda: map(twice, range(4)), ("Dry", "Flood"), 42)
    assert rule.words.startswith(f"Flood where {('VV', 'VH')[band]} after / before is below")
    _, image, mask = twice(9)
    threshold = float(rule.words.split("below ")[1].split()[0])
    power = [
        uniform_filter(10 ** (np.nan_to_num(image[k].astype(float)) / 10), 5, mode="mirror") for k in (band, band + 2)
    ]
    wanted = 10 * np.log10(power[0] / power[1]) < threshold
    kept = np.ones(mask.shape, bool)
    kept[3:8, 3:8] = kept[18:23, 18:23] = False  # windows with pixels that were not measured
    away = np.abs(10 * np.log10(power[0] / power[1]) - threshold) > 0.1  # the threshold is printed to a tenth
    assert np.array_equal(rule.predict(image)[kept & away], wanted[kept & away])
    assert (rule.predict(image)[:, 42:] == 0).all()
    assert (rule.predict(image) == mask)[mask != 255].mean() > 0.9


def test_a_threshold_divides_two_classes():
    with pytest.raises(BenchError, match="for 3 classes"):
        otsu_vv(lambda: iter([]), ("a", "b", "c"), 0)


def test_the_boxcar_averages_power():
    image = RNG.normal(-12, 3, (2, 20, 24)).astype(np.float32)
    power = [uniform_filter(10 ** (band.astype(float) / 10), 5, mode="mirror") for band in image]
    wanted = 10 * np.log10(power)
    found = boxcar_features(image)
    assert found[:2] == pytest.approx(wanted, abs=1e-4)
    assert found[2] == pytest.approx(wanted[0] - wanted[1], abs=1e-4)
    image[0, 3:9, 3:9] = np.nan  # the middle has no measured pixel around it
    held = boxcar_features(image)
    assert np.isfinite(held).all()
    assert held[0, 0, 20] == found[0, 0, 20]


def test_the_unet_keeps_the_size_and_learns():
    torch.manual_seed(0)
    model = UNet()
    assert model(torch.zeros(2, 2, 48, 32)).shape == (2, UNet.channels, 48, 32)
    model(torch.randn(1, 2, 32, 32)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


MATRICES = RNG.integers(1, 500, (7, 2, 2))
CLASSES = ("Land", "Water")


def iou(matrix):
    hits = np.diag(matrix)
    return hits / (matrix.sum(0) + matrix.sum(1) - hits)


def test_what_is_missed_and_what_is_wrong():
    matrix = np.array([[80, 20], [5, 15]])  # reference by prediction
    water = per_class(matrix, CLASSES)["Water"]
    assert water["omission"] == pytest.approx(5 / 20)
    assert water["commission"] == pytest.approx(20 / 35)
    assert water["area_bias"] == pytest.approx(35 / 20 - 1)


def test_events_are_scored_apart():
    found = per_group(MATRICES[:3], CLASSES, ["b", "a", "b"])
    assert found["a"]["iou"] == pytest.approx(dict(zip(CLASSES, iou(MATRICES[1]), strict=True)))
    assert found["b"]["iou"] == pytest.approx(dict(zip(CLASSES, iou(MATRICES[0] + MATRICES[2]), strict=True)))
    assert found["b"]["pixels"] == MATRICES[0].sum() + MATRICES[2].sum()
    assert per_group(MATRICES, CLASSES, None) == {}


def test_intervals_of_a_class_leave_out_each_scene():
    found = class_intervals(MATRICES, CLASSES, None)
    without = np.array([iou(np.delete(MATRICES, n, axis=0).sum(0)) for n in range(7)])
    error = np.sqrt(6 / 7 * ((without - without.mean(0)) ** 2).sum(0))
    half = t.ppf(0.975, 6) * error
    for k, name in enumerate(CLASSES):
        value = iou(MATRICES.sum(0))[k]
        assert found[name] == pytest.approx([max(0, value - half[k]), min(1, value + half[k])])
    assert class_intervals(MATRICES[:4], CLASSES, None) == dict.fromkeys(CLASSES)  # too few
    paired = class_intervals(np.repeat(MATRICES, 2, axis=0), CLASSES, [f"g{n // 2}" for n in range(14)])
    assert paired["Water"] == pytest.approx(found["Water"])
