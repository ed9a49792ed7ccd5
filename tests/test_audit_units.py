"""The audit on genuine and synthetic chips changed every way that data arrives in (experiments/audit_table.py, reduced)."""

import dataclasses
import sys

import numpy as np
import pytest
from commands import REPOSITORY
from scipy import ndimage

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.audit import FIELDS, image_statistics, judge, measure, reduced
from fgmae_bench.data.recognise import homogeneous, recognise_units, repeated_fill
from fgmae_bench.views.chip import Chip
from fgmae_bench.worlds.eurosat import CLASSES
from fgmae_bench.worlds.eurosat import chip as synthetic_chip

sys.path.append(str(REPOSITORY / "experiments"))
from audit_table import CHANGES, audited

SHIPPED = load_card("eurosat")
CARD = dataclasses.replace(SHIPPED, signal=dataclasses.replace(SHIPPED.signal, nodata=()))


@pytest.fixture(scope="module")
def synthetic():
    """36 synthetic chips (2, 64, 64) dB."""
    return [synthetic_chip(5, name, number).astype(np.float64) for number in range(4) for name in CLASSES][:36]


@pytest.fixture(scope="module")
def genuine(chips):
    return [chip.astype(np.float64) for chip in chips[:31]]


def check(pixels, name):
    change, units, wanted = CHANGES[name]
    found, refusal = audited(pixels, change, CARD)
    assert found == units
    assert wanted in refusal if wanted else not refusal, refusal


@pytest.mark.parametrize("name", CHANGES)
def test_genuine_chips_changed_every_way_are_recognised_and_told_what_to_do(genuine, name):
    check(genuine, name)


@pytest.mark.parametrize("name", [name for name in CHANGES if "fill" not in name])
def test_synthetic_chips_changed_every_way_are_never_taken_for_something_else(synthetic, name):
    change, units, wanted = CHANGES[name]
    found, refusal = audited(synthetic, change, CARD)
    assert found in (units, "ask")
    if found == units:
        assert wanted in refusal if wanted else not refusal, refusal


def test_the_ruler_is_the_spread_of_speckle_in_homogeneous_blocks():
    """Against scipy's zoom of nothing: blocks by hand, their fifth from below."""
    band = np.random.default_rng(0).normal(-12, 2, (64, 48))
    blocks = [band[y : y + 8, x : x + 8].std() for y in range(0, 64, 8) for x in range(0, 48, 8)]
    assert homogeneous(band) == pytest.approx(np.quantile(blocks, 0.2))
    band[0, 0] = np.nan  # a block with a gap is none
    assert homogeneous(band) == pytest.approx(np.quantile(blocks[1:], 0.2))
    assert np.isnan(homogeneous(np.full((64, 64), np.nan)))


def test_speckle_that_was_averaged_is_no_half_dB():
    """dB of Sentinel-1 smoothed by a boxcar of 5 keeps its level and the gap of its bands."""
    level = np.array([-11, -18])[:, None, None]
    chips = []
    for seed in range(36):
        power = np.random.default_rng(seed).gamma(4.4, 1 / 4.4, (2, 64, 64)) * 10 ** (level / 10)
        power = ndimage.uniform_filter(ndimage.gaussian_filter(power, (0, 0.7, 0.7)), (0, 3, 3))
        chips.append(Chip(db=(10 * np.log10(power)).astype(np.float32), valid=None, synthetic=False))
    verdict = judge(CARD, measure(chips, ("VV", "VH")), "here")
    assert verdict.units in ("dB", "ask")
    assert verdict.refusal is None


def test_power_of_filtered_data_asks_and_takes_the_cards_word():
    """Lee-filtered power spreads as amplitude does: the level of its bands says otherwise, so that nobody can tell."""
    level = np.array([-11, -18])[:, None, None]
    chips = []
    for seed in range(36):
        power = np.random.default_rng(seed).gamma(17, 1 / 17, (2, 64, 64)) * 10 ** (level / 10)
        chips.append(Chip(db=power.astype(np.float32), valid=None, synthetic=False))
    statistics = measure(chips, ("VV", "VH"))
    assert recognise_units(statistics).units == "ask"
    for units, refused in (("linear_power", False), ("amplitude", False), ("dB", True)):
        card = dataclasses.replace(CARD, signal=dataclasses.replace(CARD.signal, units=units))
        verdict = judge(card, statistics, "here")
        assert (verdict.refusal is not None) == refused
        if not refused:
            assert "units_not_told" in [note["code"] for note in verdict.warnings]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (("VH", "VV"), "describe their bands as VH, VV, not VV,VH; pass --band_order VH,VV"),
        (("HH", "HV"), 'describe their bands as HH, HV, not VV,VH; state bands = ["HH", "HV"] under [signal]'),
        (("Sigma0_VV_db", "Sigma0_VH_db"), None),
        (("", ""), None),
        (("band 1", "band 2"), None),
    ],
)
def test_descriptions_of_bands_are_held_against_the_card(synthetic, described, message):
    chips = [Chip(db=chip.astype(np.float32), valid=None, synthetic=False) for chip in synthetic]
    refusal = judge(CARD, measure(chips, ("VV", "VH")), "here", None, None, [described]).refusal
    assert (message is None) == (refusal is None)
    if message:
        assert message in str(refusal)


def in_order(values):
    return repeated_fill(np.sort(values))


def test_a_repeated_value_far_from_the_others_is_fill_and_the_end_of_a_clipped_range_is_none():
    values = np.random.default_rng(0).normal(-12, 3, 4096)
    for value in (-9999.0, -99.0, -50.0, 45.0):
        assert in_order(np.append(values, [value] * 40)) == (value, 40)
        assert in_order(np.append(values, [value] * 16)) == (value, 16)
        assert in_order(np.append(values, [value] * 15)) is None
    assert in_order(np.clip(values, -15, None)) is None
    assert in_order(np.clip(values, None, -9)) is None
    assert in_order(np.append(values, [-12.0] * 40)) is None


def test_an_image_without_a_valid_pixel_changes_no_statistic(synthetic):
    from fgmae_bench.data.audit import image_statistics

    chips = [Chip(db=chip.astype(np.float32), valid=None, synthetic=False) for chip in synthetic]
    empty = Chip(db=chips[0].db, valid=np.zeros(chips[0].db.shape, bool), synthetic=False)
    table = np.array([image_statistics(chip) for chip in [*chips, empty]])
    with_empty, without = reduced(table, ("VV", "VH")), reduced(table[:-1], ("VV", "VH"))
    assert (with_empty.median, with_empty.minimum, with_empty.fills) == (without.median, without.minimum, ())
    assert recognise_units(with_empty).units == "dB"


def test_a_value_that_one_image_repeats_far_away_and_others_come_close_to_is_the_end_of_a_range():
    rng = np.random.default_rng(0)
    clipped = [np.clip(rng.normal(-26, 3, (2, 64, 64)), -30, None) for _ in range(30)]
    bright = rng.normal(-12, 1.5, (2, 64, 64))
    bright[:, :20, :20] = -30
    chips = [Chip(db=db.astype(np.float32), valid=None, synthetic=False) for db in (bright, *clipped)]
    assert measure(chips, ("VV", "VH")).fills == ()
    assert measure(chips[:1], ("VV", "VH")).fills == ((-30.0, pytest.approx(400 / 4096)),)


@pytest.mark.parametrize("kind", ["speckle", "whole", "even", "constant", "holes", "nothing"])
def test_statistics_of_a_band_are_numpys(kind):
    """By passes over unsorted values, where the code reads them off a sorted band."""
    random = np.random.default_rng(3)
    band = random.normal(-1, 3, (40, 33)).astype(np.float32)
    band = {
        "whole": np.round(band),  # zeros among them, which are not negative
        "even": band[:, :32],
        "constant": np.full_like(band, -7),
        "holes": np.where(random.random(band.shape) < 0.3, np.nan, band),
        "nothing": np.full_like(band, np.nan),
    }.get(kind, band)
    found = dict(zip(FIELDS, image_statistics(Chip(db=band[None], valid=None, synthetic=False))[0], strict=True))
    seen = band[np.isfinite(band)].astype(np.float64)
    low, high = seen.min(initial=np.inf), seen.max(initial=-np.inf)
    expected = {
        "median": np.median(seen) if seen.size else np.nan,
        "valid": seen.size,
        "negative": (seen < 0).sum(),
        "whole": (seen == np.round(seen)).sum(),
        "minimum": low,
        "maximum": high,
        "above": seen[seen > low].min(initial=np.inf),
        "below": seen[seen < high].max(initial=-np.inf),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)
