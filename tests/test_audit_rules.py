"""What the medians of many images allow to be said of units and band order."""

import dataclasses

import numpy as np
import pytest

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.audit import judge, measure
from fgmae_bench.views.chip import Chip

CARD = load_card("eurosat")


def images(gap, count=40, bands=("VV", "VH")):
    """Statistics of images in dB whose bands are `gap` dB apart, the first above the second."""
    random = np.random.default_rng(0)
    db = [random.normal(-14, 2, (2, 16, 16)) + np.array([gap / 2, -gap / 2])[:, None, None] for _ in range(count)]
    return measure([Chip(db=one.astype(np.float32), valid=None, synthetic=False) for one in db], bands)


@pytest.mark.parametrize(("gap", "warned"), [(1.7, True), (2.3, False), (6.0, False), (11.7, False), (12.3, True)])
def test_bands_2_to_12_db_apart_are_usual(gap, warned):
    verdict = judge(CARD, images(gap), "here")
    assert verdict.refusal is None
    assert [note["code"] for note in verdict.warnings] == ["band_difference"] * warned


def test_the_order_of_the_bands_is_judged_by_which_is_brighter():
    assert judge(CARD, images(6.0), "here", ("VV", "VH")).refusal is None
    assert "median of VV-VH is -6.0 dB over 40 images" in judge(CARD, images(6.0), "here", ("VH", "VV")).refusal.what
    assert judge(CARD, images(-6.0), "here", ("VH", "VV")).refusal is None
    assert judge(CARD, images(-6.0), "here", ("VV", "VH")).refusal is not None


@pytest.mark.parametrize(("count", "judged"), [(29, False), (30, True)])
def test_30_images_are_enough_to_judge(count, judged):
    verdict = judge(CARD, images(-6.0, count), "here")
    assert (verdict.refusal is not None) == judged
    assert [note["code"] for note in verdict.warnings] == ["too_few_to_judge"] * (not judged)


def test_units_follow_from_levels_and_the_ratio_of_the_bands():
    linear = [10 ** (np.random.default_rng(i).normal([[[-10]], [[-17]]], 2, (2, 32, 32)) / 10) for i in range(40)]
    for values, units in ((linear, "linear_power"), (np.sqrt(linear), "amplitude")):
        chips = [Chip(db=np.asarray(one, np.float32), valid=None, synthetic=False) for one in values]
        verdict = judge(CARD, measure(chips, ("VV", "VH")), "here")
        assert verdict.units == units
        assert f'state units = "{units}" under [signal]' in verdict.refusal.todo


def test_invalid_pixels_do_not_count():
    valid = np.ones((2, 8, 8), bool)
    valid[:, :4] = False
    db = np.where(valid, -12.0, 99.0).astype(np.float32)
    db[0, 4, 0] = -11.0
    found = measure([Chip(db=db, valid=valid, synthetic=False)], ("VV", "VH"))
    assert found.median == (-12.0, -12.0)
    assert (found.maximum, found.minimum, found.invalid) == (-11.0, -12.0, 0.5)
    assert dataclasses.asdict(found)["images"] == 1
