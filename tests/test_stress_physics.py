"""Stresses do what the radar does: means, looks, correlations and constants against closed forms."""

import math

import numpy as np
import pytest
from scipy import ndimage, stats

from fgmae_bench.config.stress import STRESS_NAMES
from fgmae_bench.errors import BenchError
from fgmae_bench.views import stress
from fgmae_bench.views.stress import BLUR, LOOKS, Scene, correlated, to_db, to_power
from fgmae_bench.views.stress_table import STRESSES, apply, require_severity

SIDE = 256


def flat(level=-12.0, looks=LOOKS, seed=0, side=SIDE, bands=2):
    """A field of constant backscatter with white Gamma speckle of `looks` looks, from numpy's own generator."""
    draw = np.random.default_rng(seed)
    return to_db(10 ** (level / 10) * draw.gamma(looks, 1 / looks, (bands, side, side)))


def enl(power):
    return power.mean() ** 2 / power.var()


def lag1(field):
    return np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1]


def smoothed(power):
    """Stands for a learned filter."""
    return np.stack([ndimage.uniform_filter(band, 3) for band in power])


def power_after(name, db, severity, **scene):
    changed, valid = apply(name, db, None, severity, Scene(sample="a", **scene))
    assert valid is None
    return to_power(changed)


@pytest.mark.parametrize("name", STRESSES)
def test_the_clean_severity_returns_the_very_arrays(name):
    db, valid = flat(side=8), np.ones((2, 8, 8), bool)
    changed, kept = apply(name, db, valid, STRESSES[name].clean, Scene(sample="a"))
    assert changed is db
    assert kept is valid


@pytest.mark.parametrize("name", STRESSES)
def test_seeds_reproduce_inputs_stay_and_other_draws_differ(name):
    db = flat(side=32)
    valid = np.ones(db.shape, bool)
    valid[:, :3, :4] = False
    before, severity = db.copy(), STRESSES[name].ladder[-1]
    first, again, other = (
        apply(name, db, valid, severity, Scene(sample="a", group="g", seed=1, draw=draw, angle=31, despeckle=smoothed))
        for draw in (0, 0, 1)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(db, before)
    assert first[0].dtype == np.float32
    assert first[0].shape == db.shape
    assert np.isnan(first[0][:, :3, :3]).all() or name in ("shift", "resampling")  # an invalid pixel stays so
    if STRESSES[name].draws and name not in ("border", "border_low"):  # a strip is on one of two sides
        assert not np.array_equal(first[0], other[0], equal_nan=True)
    elif not STRESSES[name].draws:
        np.testing.assert_array_equal(first[0], other[0])


@pytest.mark.parametrize("name", ["speckle", "speckle_white"])
@pytest.mark.parametrize("lost", [1.0, 3.4, 6.4])
def test_speckle_of_fewer_looks_is_gamma_of_those_looks_and_keeps_the_mean(name, lost):
    target = LOOKS * 10 ** (-lost / 10)
    after = power_after(name, flat(side=512), lost)
    level = 10**-1.2
    # correlated draws hold fewer independent values: a fifth of the pixels bounds both errors
    spread = math.sqrt(1 / target / (after.size / 5))
    assert after.mean() == pytest.approx(level, rel=4 * spread)
    assert enl(after) == pytest.approx(target, rel=0.03)
    sample = after[0, ::4, ::4].ravel() / level
    assert stats.kstest(sample, stats.gamma(target, scale=1 / target).cdf).statistic < 1.63 / math.sqrt(sample.size)


def test_the_mean_of_speckle_holds_pixel_by_pixel():
    db = np.linspace(-30, 0, 64, dtype=np.float32).reshape(1, 8, 8).repeat(2, 0)
    total = sum(power_after("speckle", db, 5.0, draw=draw) for draw in range(600)) / 600
    deviation = math.sqrt((1 + 1 / (LOOKS * 10**-0.5)) / (1 + 1 / LOOKS) - 1) / math.sqrt(600)
    np.testing.assert_allclose(total / to_power(db), 1, atol=4.5 * deviation)


def test_speckle_keeps_the_correlation_of_neighbours_and_tells_bands_apart():
    draw = np.random.default_rng(3)
    z = np.stack([correlated(draw, (SIDE, SIDE), BLUR) for _ in range(2)])
    world = to_db(0.06 * stats.gamma(LOOKS, scale=1 / LOOKS).ppf(stats.norm.cdf(z)))
    before, after = lag1(to_power(world)[0]), lag1(power_after("speckle", world, 3.4)[0])
    assert before == pytest.approx(0.6, abs=0.08)
    assert after == pytest.approx(0.6, abs=0.08)
    assert lag1(power_after("speckle_white", world, 3.4)[0]) < 0.4
    constant = np.full((2, SIDE, SIDE), -12, np.float32)
    factors = to_power(apply("speckle", constant, None, 3.4, Scene(sample="a"))[0])
    assert abs(np.corrcoef(factors[0].ravel(), factors[1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("blur", [0, 0.7, 2.0])
def test_correlated_fields_have_unit_variance_by_construction(blur):
    fields = [correlated(np.random.default_rng(i), (16, 12), blur) for i in range(800)]
    stack = np.stack(fields)
    assert stack.shape == (800, 16, 12)
    np.testing.assert_allclose(stack.std(0), 1, atol=0.15)  # at the edges as well
    assert stack.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("snr", [10.0, 0.0, -5.0])
def test_noise_raises_the_mean_by_itself_and_keeps_the_looks_of_a_flat_field(snr):
    level = -22 + snr
    after = power_after("noise", flat(level, side=512), -22.0)
    wanted = 10 ** (level / 10) + 10**-2.2
    assert after.mean() == pytest.approx(wanted, rel=0.005)
    assert enl(after) == pytest.approx(LOOKS, rel=0.03)


def test_noise_has_the_law_of_a_noncentral_chi_square():
    power, level = 0.02, 10**-1.9
    db = np.full((1, 512, 512), 10 * math.log10(power), np.float32)
    sample = power_after("noise", db, -19.0)[0, ::4, ::4].ravel()
    law = stats.ncx2(2 * LOOKS, 2 * LOOKS * power / level, scale=level / (2 * LOOKS))
    assert stats.kstest(sample, law.cdf).statistic < 1.63 / math.sqrt(sample.size)
    assert sample.var() == pytest.approx(level**2 / LOOKS + 2 * power * level / LOOKS, rel=0.05)


def test_noise_moves_dark_pixels_and_leaves_bright_ones():
    rise = [power_after("noise", np.full((1, 128, 128), level, np.float32), -22.0).mean() for level in (-25.0, -3.0)]
    assert 10 * math.log10(rise[0]) + 25 == pytest.approx(10 * math.log10(1 + 10**0.3), abs=0.1)
    assert abs(10 * math.log10(rise[1]) + 3) < 0.1


@pytest.mark.parametrize(("snr", "share"), [(3.0, 0.0378), (0.0, 0.1279), (-3.0, 0.2631)])
def test_denoising_leaves_the_published_share_without_power(snr, share):
    changed, valid = apply("noise_denoised", flat(-22 + snr, side=512), None, -22.0, Scene(sample="a"))
    assert 1 - valid.mean() == pytest.approx(share, abs=0.006)
    assert np.isnan(changed[~valid]).all()
    assert np.isfinite(changed[valid]).all()


def test_constants_are_exact():
    db = flat(side=16)
    scene = Scene(sample="a", angle=46.0)
    for name, severity, wanted in [
        ("offset", 1.0, 1.0),
        ("offset_down", 1.0, -1.0),
        ("gamma0", 1.0, 1.582),
        ("slope", 0.25, -2.0),
    ]:
        difference = apply(name, db, None, severity, scene)[0] - db
        np.testing.assert_allclose(difference, wanted, atol=5e-4, err_msg=name)
    for angle, wanted in [(30.0, 0.625), (38.0, 1.035), (43.0, 1.359)]:
        difference = apply("gamma0", db, None, 1.0, Scene(sample="a", angle=angle))[0] - db
        np.testing.assert_allclose(difference, wanted, atol=1e-3)
        np.testing.assert_allclose(difference, -10 * np.log10(np.cos(np.deg2rad(angle))), atol=1e-5)
    changed = apply("imbalance", db, None, 1.0, scene)[0]
    np.testing.assert_allclose(changed[0] - changed[1] - (db[0] - db[1]), 1, atol=1e-5)
    np.testing.assert_allclose(changed.sum(0), db.sum(0), atol=1e-5)


def test_an_acquisition_has_one_offset_that_scales_with_the_severity():
    db = flat(side=4)

    def shift(group, severity=1.0, sample="a", draw=0):
        scene = Scene(sample=sample, group=group, draw=draw)
        return float((apply("offset_acquisition", db, None, severity, scene)[0] - db).mean())

    assert shift("g") == pytest.approx(shift("g", sample="b"), abs=1e-6)
    assert shift("g", 2.0) == pytest.approx(2 * shift("g"), abs=1e-5)
    drawn = [shift(f"g{i}") for i in range(400)]
    assert np.mean(drawn) == pytest.approx(0, abs=0.2)
    assert np.std(drawn) == pytest.approx(1, abs=0.12)


def test_whole_shifts_are_exact_and_parts_of_a_pixel_keep_speckle():
    db = flat(side=64)
    moved = apply("shift", db, None, 4.0, Scene(sample="a"))[0]
    np.testing.assert_array_equal(moved[:, :, 4:], db[:, :, :-4])
    ramp = np.cos(np.arange(64) * 2 * np.pi * 3 / 64) * 0.01 + 0.05  # a wave that the mirror continues
    wave = to_db(np.broadcast_to(ramp, (1, 64, 64)))
    half = to_power(apply("shift", wave, None, 0.5, Scene(sample="a"))[0])[0, 0, 8:-8]
    wanted = np.cos((np.arange(64) - 0.5) * 2 * np.pi * 3 / 64) * 0.01 + 0.05
    np.testing.assert_allclose(half, wanted[8:-8], atol=4e-4)
    quarter, power = power_after("resampling", db, 0.25), to_power(db)
    np.testing.assert_allclose(quarter[..., 1:], 0.75 * power[..., 1:] + 0.25 * power[..., :-1], rtol=1e-5)
    white = flat(side=256)
    assert enl(power_after("shift", white, 0.5)) == pytest.approx(enl(to_power(white)), rel=0.1)
    assert enl(power_after("resampling", white, 0.5)) == pytest.approx(2 * LOOKS, rel=0.05)  # (1-d)^2 + d^2 = 1/2


def test_resolution_keeps_the_mean_of_power_and_not_that_of_decibels():
    db = flat(side=96)
    for cell in (2.0, 3.0, 4.0):
        after = power_after("resolution", db, cell)
        assert after.mean() == pytest.approx(to_power(db).mean(), rel=1e-6)
        assert enl(after) == pytest.approx(LOOKS * cell**2, rel=0.1)
    block = to_power(db)[:, :2, :2].mean((1, 2))
    np.testing.assert_allclose(power_after("resolution", db, 2.0)[:, 1, 1], block, rtol=1e-5)
    odd = apply("resolution", flat(side=7), None, 4.0, Scene(sample="a"))[0]
    np.testing.assert_allclose(to_power(odd)[:, 6, 6], to_power(flat(side=7))[:, 4:, 4:].mean((1, 2)), rtol=1e-5)


def test_windows_average_looks_and_lee_follows_its_formula():
    db = flat(side=128)
    assert enl(power_after("boxcar", db, 3.0)) == pytest.approx(9 * LOOKS, rel=0.1)
    power = to_power(db)
    window = power[0, 10:15, 20:25]
    mean, variance = window.mean(), window.var()
    weight = max(0.0, 1 - (1 / LOOKS) / (variance / mean**2))
    wanted = mean + weight * (power[0, 12, 22] - mean)
    assert power_after("lee", db, 5.0)[0, 12, 22] == pytest.approx(wanted, rel=1e-5)
    assert enl(power_after("lee", db, 5.0)) > 3 * LOOKS


def test_invalid_pixels_stay_out_of_filters():
    db, valid = flat(side=32), np.ones((2, 32, 32), bool)
    valid[:, 10:14, 10:14] = False
    poisoned = np.where(valid, db, np.float32(60.0))
    for name in STRESSES:
        severity, scene = STRESSES[name].ladder[0], Scene(sample="a", group="g", angle=30, despeckle=smoothed)
        one, kept = apply(name, db, valid, severity, scene)
        other, also = apply(name, poisoned, valid, severity, scene)
        np.testing.assert_array_equal(kept, also)
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_pixels_that_an_invalid_one_is_mixed_into_are_invalid():
    db, valid = flat(side=16), np.ones((2, 16, 16), bool)
    valid[:, :, 5] = False
    for name, severity, columns in (("shift", 0.5, [5, 6]), ("shift", 2.0, [7]), ("resampling", 0.25, [5, 6])):
        _, kept = apply(name, db, valid, severity, Scene(sample="a"))
        assert np.flatnonzero(~kept[0, 0]).tolist() == columns, name


def test_an_image_without_any_valid_pixel_stays_empty():
    db, valid = np.full((2, 16, 16), np.nan, np.float32), np.zeros((2, 16, 16), bool)
    for name in STRESSES:
        if name.startswith("missing"):
            continue
        _changed, kept = apply(
            name, db, valid, STRESSES[name].ladder[-1], Scene(sample="a", group="g", despeckle=smoothed)
        )
        assert not kept.any(), name


def test_coarsened_values():
    db = np.array([[[-12.34, -26.0], [-40.0, 3.0]]], np.float32)
    scene = Scene(sample="a", bands=("VV",))
    np.testing.assert_allclose(apply("quantised", db, None, 0.5, scene)[0], [[[-12.5, -26], [-40, 3]]])
    np.testing.assert_allclose(apply("floor", db, None, -25.0, scene)[0], [[[-12.34, -25], [-25, 3]]], rtol=1e-6)
    eight = apply("eight_bit", db, None, -25.0, scene)[0]
    assert eight[0, 1, 0] == -25
    ends = np.array([[[-25.0, 5.0, 9.0]]], np.float32)
    np.testing.assert_allclose(apply("eight_bit", ends, None, -25.0, scene)[0], [[[-25, 5, 5]]], atol=1e-5)
    assert np.abs(eight - db)[0, 0, 0] <= 30 / 255 / 2 + 1e-5
    error = apply("eight_bit", flat(side=128), None, -45.0, Scene(sample="a"))[0] - flat(side=128)
    assert np.sqrt(np.square(error).mean()) == pytest.approx(0.0566, rel=0.05)  # q / sqrt(12)


def test_borders_and_stripes_cover_what_they_say():
    db = flat(side=40)
    for severity in (0.05, 0.25, 0.5):
        _, valid = apply("border", db, None, severity, Scene(sample="a"))
        assert (~valid).mean() == severity
        low, all_valid = apply("border_low", db, None, severity, Scene(sample="a"))
        assert all_valid is None
        assert (low == -50).mean() == severity
    _, tiny = apply("border", flat(side=8), None, 0.05, Scene(sample="a"))
    assert (~tiny).mean() == 1 / 8  # a share of less than half a column was none: a rung without any effect
    _, valid = apply("stripes", db, None, 4.0, Scene(sample="a"))
    assert (~valid).all(2).sum(1).tolist() == [4, 4]
    _, fewer = apply("stripes", db, None, 2.0, Scene(sample="a"))
    assert (valid <= fewer).all()  # the same draw serves all severities


def test_bands_missing_and_swapped():
    db = flat(side=8)
    scene = Scene(sample="a", bands=("VH", "VV"), means=(-20.0, -12.0))
    assert (apply("missing_vv", db, None, 1.0, scene)[0][1] == -12).all()
    assert (apply("missing_vh", db, None, 1.0, scene)[0][0] == -20).all()
    np.testing.assert_array_equal(apply("swapped", db, None, 1.0, scene)[0], db[::-1])


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("speckel", 1.0, "unknown stress"),
        ("speckle", -1.0, "severity from 0 to 10"),
        ("speckle", float("nan"), "severity from"),
        ("noise", 3.0, "severity from -60 to 0"),
        ("resolution", 2.5, "whole number"),
        ("offset", float("inf"), "severity from"),
    ],
)
def test_bad_severities_are_refused(name, severity, message):
    with pytest.raises(BenchError, match=message):
        require_severity(name, severity)


def test_stresses_of_two_bands_refuse_one():
    for name in ("imbalance", "swapped", "missing_vh"):
        with pytest.raises(BenchError, match="two bands"):
            apply(name, flat(side=8, bands=1), None, 1.0, Scene(sample="a", bands=("VV",)))


@pytest.mark.parametrize("name", STRESSES)
def test_ladders_rise_within_their_range_and_positions_turn_back(name):
    axis = STRESSES[name]
    positions = [axis.position(severity) for severity in axis.ladder]
    assert axis.position(axis.clean) == 0
    assert positions == sorted(positions)
    assert positions[0] > 0
    for severity, position in zip(axis.ladder, positions, strict=True):
        require_severity(name, severity)
        assert axis.severity(position) == pytest.approx(severity)


def test_looks_of_the_card_are_those_that_thinning_and_noise_begin_with():
    for looks, target in ((9.0, 4.5), (2.0, 1.0)):
        db = flat(looks=looks, side=400)
        after = power_after("speckle_white", db, 10 * math.log10(looks / target), looks=looks)
        assert enl(after) == pytest.approx(target, rel=0.03)
        assert after.mean() == pytest.approx(10**-1.2, rel=0.01)
        noisy = power_after("noise", db, -12.0, looks=looks)
        assert enl(noisy) == pytest.approx(looks, rel=0.04)
        assert noisy.mean() == pytest.approx(2 * 10**-1.2, rel=0.01)


def test_tables_are_looked_up_as_numpy_interpolates():
    scores = np.random.default_rng(0).standard_normal(5000) * 3  # some beyond the table
    table = stress._beta_table(4.4, 2.0)
    wanted = np.interp(scores, np.linspace(-6, 6, len(table)), table)
    np.testing.assert_allclose(stress._looked_up(scores, table), wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["quantised", "eight_bit", "floor", "contrast", "lost", "border_low"])
def test_a_higher_rung_does_more_harm(name):
    """The range of eight bits was a rung by its width: the widest, which harms least, stood last."""
    db, axis = flat(-30), STRESSES[name]
    scene = Scene(sample="a", means=(-30.0, -30.0))
    harm = []
    for severity in axis.ladder:
        changed, kept = apply(name, db, None, severity, scene)
        kept = np.ones(db.shape, bool) if kept is None else kept
        harm.append((~kept).mean() + np.abs(np.where(kept, changed - db, 0)).mean())
    assert harm == sorted(harm)
    assert harm[0] < harm[-1]


def test_lost_pixels_and_contrast_are_what_they_say():
    db = np.full((2, 200, 200), -12, np.float32)
    _, some = apply("lost", db, None, 0.05, Scene(sample="a"))
    _, more = apply("lost", db, None, 0.2, Scene(sample="a"))
    assert (~some).mean() == pytest.approx(0.05, abs=0.005)
    assert (some | ~more).all()  # what is lost stays lost
    changed, _ = apply("contrast", db, None, 0.25, Scene(sample="a", means=(-10.0, -20.0)))
    np.testing.assert_allclose(changed[:, 0, 0], [-12.5, -10.0], rtol=1e-6)


def test_the_names_that_tables_and_files_may_use_are_those_of_the_registry():
    assert tuple(STRESSES) == STRESS_NAMES


def test_a_pixel_without_power_is_invalid_afterwards():
    db = flat(side=8)
    db[0, 2, 3] = -np.inf
    changed, valid = apply("speckle", db, None, 1, Scene(sample="a"))
    assert np.argwhere(~valid).tolist() == [[0, 2, 3]]
    assert np.isnan(changed[0, 2, 3])
