"""What a card states of its signal: bands of the file, units, scale, fill; and how a missing polarisation is fed."""

import dataclasses

import numpy as np
import pytest
import rasterio
from pyproj import Geod, Transformer
from scipy import ndimage

from fgmae_bench.config.cards import Signal, load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT, RAW_CONTRACT, feed
from fgmae_bench.data.content import content_of
from fgmae_bench.data.raster import ground_resolution, open_tiff, read_chip
from fgmae_bench.data.signal import floored, to_db
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import make_view
from fgmae_bench.views.normalizers import NORMALIZERS
from fgmae_bench.views.normalizers import UNITS as UNITS_READ

CARD = load_card("eurosat")


def stated(**facts):
    facts = {"nodata": ()} | facts
    return dataclasses.replace(CARD, signal=dataclasses.replace(CARD.signal, **facts))


def decibels(seed=0, bands=2):
    level = np.array([-12, -19, -11, -18])[:bands, None, None]
    return np.random.default_rng(seed).normal(level, 2, (bands, 64, 64)).astype(np.float32)


def write(path, values, descriptions=(), nodata=None, compress=None):
    facts = {"driver": "GTiff", "count": len(values), "height": 64, "width": 64, "dtype": values.dtype}
    with rasterio.open(path, "w", nodata=nodata, compress=compress, **facts) as target:
        target.write(values)
        for number, text in enumerate(descriptions, 1):
            target.set_band_description(number, text)
    return path


UNITS = {
    "linear_power": lambda db: 10 ** (db.astype(np.float64) / 10),
    "amplitude": lambda db: 10 ** (db.astype(np.float64) / 20),
}
FACTOR = {"linear_power": 10, "amplitude": 20}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("units", UNITS)
def test_converted_on_reading_equals_converted_before_to_the_last_bit(tmp_path, units, dtype):
    stored = UNITS[units](decibels()).astype(dtype)
    read = read_chip(write(tmp_path / "a.tif", stored), stated(units=units))
    before = (FACTOR[units] * np.log10(stored.astype(np.float64))).astype(np.float32)
    kept = read_chip(write(tmp_path / "b.tif", before), stated())
    assert read.db.tobytes() == before.tobytes() == kept.db.tobytes()
    assert content_of(read) == content_of(kept)
    assert np.abs(read.db - decibels()).max() < 1e-5


@pytest.mark.parametrize("units", UNITS)
def test_scenes_of_many_blocks_are_converted_as_numbers_one_by_one(units):
    """Odd sizes, bands chosen from others, a scale, and pixels without a logarithm: against numpy on whole arrays."""
    side = 131  # 17,161 pixels: blocks end within rows, and in another band than they begin
    stored = np.random.default_rng(1).gamma(4.4, 0.02, (3, side, side)).astype(np.float32)
    stored[:, 40, 7], stored[:, 60, 9], stored[:, 80, 11] = 0, -1e-3, np.nan
    facts = {"bands": ("VV", "VH"), "calibration": "", "size": (side, side), "dtype": "float32", "units": units}
    for scale, offset in ((1.0, 0.0), (0.25, 0.001)):
        signal = Signal(scale=scale, offset=offset, **facts)
        db, valid = to_db(stored[[2, 0]], signal)
        strided, _ = to_db(stored[::2][::-1], signal)
        values = stored[[2, 0]].astype(np.float64) * scale + offset
        with np.errstate(all="ignore"):
            expected = (FACTOR[units] * np.log10(values)).astype(np.float32)
        expected[values <= 0] = signal.floor
        assert db.tobytes() == expected.tobytes() == strided.tobytes()
        np.testing.assert_array_equal(valid, ~np.isnan(stored[[2, 0]]))


def test_power_beyond_all_numbers_is_not_lifted_to_the_darkest():
    stored = np.full((1, 8, 8), 0.1, np.float64)
    stored[0, 4, 4], stored[0, 2, 2] = 1e300, 0
    signal = Signal(bands=("VV",), units="linear_power", calibration="", size=(8, 8), dtype="float64", scale=1e30)
    db, _ = to_db(stored, signal)
    assert db[0, 4, 4] == np.inf
    assert db[0, 2, 2] == signal.floor


def test_a_band_is_constant_only_where_no_row_says_otherwise(tmp_path):
    values = np.full((2, 64, 64), -12.0, np.float32)
    values[1] = decibels()[1]
    with pytest.raises(BenchError, match=r"band 1 is constant \(-12\)"):
        read_chip(write(tmp_path / "a.tif", values), stated())
    values[0, 50, 3] = -13
    assert read_chip(write(tmp_path / "b.tif", values), stated()).valid is None


@pytest.mark.parametrize("compress", [None, "deflate"])
@pytest.mark.parametrize(
    ("facts", "store"),
    [
        ({"scale": 0.01}, lambda db: np.round(db * 100).astype(np.int16)),
        ({"scale": 0.25, "offset": -50.0}, lambda db: np.round((db + 50) * 4).astype(np.uint8)),
        # openEO-GFMap: DN = 10^((dB + 83) / 20)
        (
            {"units": "amplitude", "scale": 10 ** (-83 / 20)},
            lambda db: np.round(10 ** ((db + 83) / 20)).astype(np.uint16),
        ),
        ({"offset": 1.5}, lambda db: db - np.float32(1.5)),
    ],
    ids=["hundredths", "eight_bit", "gfmap", "offset"],
)
def test_scale_and_offset_of_the_card(tmp_path, facts, store, compress):
    stored = store(decibels())
    chip = read_chip(write(tmp_path / "a.tif", stored, compress=compress), stated(**facts))
    assert chip.valid is None
    assert np.abs(chip.db - decibels()).max() < 0.13


def test_a_scale_in_the_file_and_another_on_the_card_are_refused_the_same_is_applied_once(tmp_path):
    path = write(tmp_path / "a.tif", np.round(decibels() * 100).astype(np.int16))
    with rasterio.open(path, "r+") as target:
        target.scales = (0.01, 0.01)
    assert np.array_equal(read_chip(path, stated(scale=0.01)).db, read_chip(path, stated()).db)
    with pytest.raises(
        BenchError, match=r"a scale of \[0.01, 0.01\] .* the card 0.1 and 0; leave them out of the card"
    ):
        read_chip(path, stated(scale=0.1))


def test_nodata_and_fill_are_of_stored_values(tmp_path):
    values = UNITS["linear_power"](decibels())
    values[:, 0, :8], values[:, 1, :8], values[:, 2, :8] = -9999, 32769, 60
    card = stated(units="linear_power", nodata=(-9999.0,), fill=(32769.0, (50.0, 60.0)))
    chip = read_chip(write(tmp_path / "a.tif", values.astype(np.float32)), card)
    expected = np.ones((2, 64, 64), bool)
    expected[:, :3, :8] = False
    np.testing.assert_array_equal(chip.valid, expected)
    assert np.isnan(chip.db[~expected]).all()


def test_power_that_noise_subtraction_left_without_sign_is_dark_water_but_for_regions_at_the_edge():
    """Against scipy's labels: regions of two pixels or more that touch the edge go, all others get the floor."""
    rng = np.random.default_rng(3)
    power = np.where(rng.random((2, 40, 40)) < 0.35, rng.choice([0.0, -1e-3], (2, 40, 40)), 0.05)
    signal = Signal(
        bands=("VV", "VH"), units="linear_power", calibration="", size=(40, 40), dtype="float32", floor=-37.0
    )
    db, valid = to_db(power, signal)
    for band in range(2):
        labels, _ = ndimage.label(power[band] <= 0)
        edge = set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])) - {0}
        gone = np.isin(labels, [one for one in edge if (labels == one).sum() > 1])
        np.testing.assert_array_equal(valid[band], ~gone)
        assert (db[band][(power[band] <= 0) & ~gone] == -37).all()
    assert floored(Chip(db=db, valid=valid, synthetic=False), signal) == (valid & (power <= 0)).sum() > 100


def test_runs_of_0_db_in_data_clipped_at_0_are_its_brightest_targets():
    scene = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (2, 64, 64)), (0, 1.5, 1.5))
    bright = np.minimum(scene * 40 - 10, 0).astype(np.float32)
    assert (bright == 0).mean() > 0.05
    assert to_db(bright, CARD.signal)[1].all()
    infinite = decibels()
    infinite[0, 3, 4] = np.inf
    assert np.argwhere(~to_db(infinite, CARD.signal)[1]).tolist() == [[0, 3, 4]]
    missing = decibels()
    missing[:, :, :9] = 0
    np.testing.assert_array_equal(to_db(missing, CARD.signal)[1], missing != 0)
    both = bright.copy()
    both[0, 5, 5] = 0.5  # what is above 0 was not clipped there: zeros of that band are missing again
    assert not to_db(both, CARD.signal)[1][0].all()
    for zeros, kept in (("measured", True), ("missing", False)):
        signal = dataclasses.replace(CARD.signal, zeros=zeros)
        assert to_db(bright, signal)[1].all() == to_db(missing, signal)[1].all() == kept


THREE = ("VV", "VH", "angle")


@pytest.mark.parametrize("compress", [None, "deflate"])
def test_bands_by_index_and_by_description(tmp_path, compress):
    values = decibels(bands=3)
    path = write(tmp_path / "a.tif", values, THREE, compress=compress)
    np.testing.assert_array_equal(read_chip(path, stated(index=(1, 2))).db, values[:2])
    np.testing.assert_array_equal(read_chip(path, stated(index=(2, 1))).db, values[1::-1])
    np.testing.assert_array_equal(read_chip(path, stated(described=("VH", "VV"))).db, values[1::-1])
    np.testing.assert_array_equal(read_chip(path, stated(bands=("VH",), described=("VH",))).db, values[1:2])


@pytest.mark.parametrize("compress", [None, "deflate"])
@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {},
            r"has 3 bands, EuroSAT-SAR has 2; .* index under \[signal\]; the file describes its bands as VV, VH, angle",
        ),
        ({"described": ("HH", "HV")}, r"no band that is described as HH or HV; the file describes .* VV, VH, angle"),
        ({"index": (4, 5)}, r"has 3 bands, signal.index names band 4 and 5; correct index"),
    ],
)
def test_three_bands_and_a_card_that_names_two_that_are_not_there(tmp_path, facts, message, compress):
    path = write(tmp_path / "a.tif", decibels(bands=3), THREE, compress=compress)
    with pytest.raises(BenchError, match=message):
        read_chip(path, stated(**facts))


@pytest.mark.parametrize(
    ("crs", "transform", "across", "down"),
    [
        # degrees at 60 N: a degree of longitude is 55,800 m there, of latitude 111,412 m (tables of the WGS84 ellipsoid)
        ("EPSG:4326", (1e-4, 0, 10, 0, -1e-4, 60.0032), 5.580, 11.1412),
        ("EPSG:4326", (1e-4, 0, 10, 0, -1e-4, 0.0032), 11.1320, 11.0574),
        ("EPSG:3857", (20, 0, 0, 0, -20, 8_399_737.9 + 640), 10.0, 10.0),  # 60 N: half of what the grid says
        ("EPSG:32632", (10, 0, 500_000, 0, -10, 5_500_000), 10.004, 10.004),  # the central meridian: 0.9996
    ],
    ids=["degrees", "equator", "web_mercator", "utm"],
)
def test_ground_resolution_is_metres_on_the_ground(tmp_path, crs, transform, across, down):
    path = tmp_path / "a.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=64,
        width=64,
        dtype="float32",
        crs=crs,
        transform=rasterio.Affine(*transform),
    ):
        pass
    with open_tiff(path) as source:
        found = ground_resolution(source)
    assert found == pytest.approx((across, down), rel=3e-3)
    to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
    here, right, below = (
        to_degrees.transform(*(rasterio.Affine(*transform) @ place)) for place in ((32, 32), (33, 32), (32, 33))
    )
    oracle = [Geod(ellps="WGS84").inv(*here, *other)[2] for other in (right, below)]
    assert found == pytest.approx(oracle, rel=1e-5)


# --- one polarisation of a two-band contract


def fed(name, bands, contract=FGMAE_CONTRACT, **asked):
    card = stated(bands=bands)
    view = make_view(card, dataclasses.replace(contract, normalizer=name, size=64), None, **asked)
    return view, view.before_geometry([Chip(db=decibels(bands=len(bands)), valid=None, synthetic=False)])[0]


@pytest.mark.parametrize("name", sorted(set(NORMALIZERS) - set(UNITS_READ)))
def test_a_missing_band_is_what_the_normaliser_makes_of_invalid_pixels(name):
    view, got = fed(name, ("VV",))
    assert view.words == ("VH is missing: fed as its mean after the normaliser",)
    valid = np.ones((2, 64, 64), bool)
    valid[1] = False
    full = make_view(stated(), view.contract, None)
    whole = np.concatenate([decibels(bands=1), np.full((1, 64, 64), np.nan, np.float32)])
    wanted = full.before_geometry([Chip(db=whole, valid=valid, synthetic=False)])[0]
    if name == "fgmae_joint":  # there the clip is over both bands
        wanted[0] = fed("fgmae", ("VV",))[1][0]
    if name == "db":  # statistics of a band that is not there would be NaN
        wanted[1] = RAW_CONTRACT.mean[1]
    np.testing.assert_array_equal(got, wanted)
    assert np.isfinite(got).all()


@pytest.mark.parametrize(("band", "missing", "shift"), [("VH", "VV", 7.7), ("VV", "VH", -7.7)])
def test_the_other_band_stands_in_7_7_db_away_where_asked(band, missing, shift):
    view, got = fed("decibels", (band,), missing_band="offset")
    own, other = (("VV", "VH").index(name) for name in (band, missing))
    np.testing.assert_array_equal(got[own], decibels(bands=1)[0])
    np.testing.assert_allclose(got[other], decibels(bands=1)[0] + shift, atol=1e-5)
    assert view.words == (f"{missing} is missing: fed as {band} {shift:+.1f} dB",)


def test_one_band_is_normalised_by_its_own_statistics():
    got = fed("zscore", ("VH",))[1]
    np.testing.assert_allclose(got[1], (decibels(bands=1)[0] + np.float32(20.26)) / np.float32(5.91), rtol=1e-5)
    assert (got[0] == 0).all()


def test_an_encoder_with_a_mask_of_its_own_gets_nan_unless_the_mean_is_asked_for():
    masks = dataclasses.replace(FGMAE_CONTRACT, missing_band="mask")
    view, got = fed("zscore", ("VH",), masks)
    assert np.isnan(got[0]).all()
    assert np.isfinite(got[1]).all()
    assert view.words == ("VV is missing: masked by the encoder",)
    assert (fed("zscore", ("VH",), masks, missing_band="mean")[1][0] == 0).all()


def test_hh_and_hv_stand_for_vv_and_vh_only_where_asked():
    with pytest.raises(BenchError, match="holds HH and HV, the backbone expects VV, VH; pass --bands_as HH=VV,HV=VH"):
        fed("zscore", ("HH", "HV"))
    view, got = fed("decibels", ("HH", "HV"), bands_as="HH=VV,HV=VH")
    np.testing.assert_array_equal(got, decibels())
    assert view.words == ("HH stands for VV, as asked", "HV stands for VH, as asked")
    view, got = fed("decibels", ("HV", "HH"), bands_as="hh=vv, hv=vh")
    np.testing.assert_array_equal(got, decibels()[::-1])
    assert fed("decibels", ("VH", "HH", "VV", "HV"))[0].order == (2, 0)


@pytest.mark.parametrize("text", ["HH", "HH=HV", "VV=VH", "XX=VV", "HH=VV,HV=VV"])
def test_bands_that_cannot_stand_for_others_are_refused(text):
    with pytest.raises(BenchError, match="--bands_as is"):
        feed(("HH", "HV") if "VV=" not in text else ("VV", "VH"), FGMAE_CONTRACT, None, text)
