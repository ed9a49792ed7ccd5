"""Folders of a sample each: three dates, labels, valid pixels; what is lacking or in another order is refused by name."""

import datetime

import numpy as np
import pytest
import rasterio
from commands import said
from dataset_worlds import SIDE, opened

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.sample_folders import _date
from fgmae_bench.errors import BenchError

pytest_plugins = ("dataset_worlds",)


def read(path):
    with rasterio.open(path) as source:
        return source.read(1)


def write(path, values):
    with rasterio.open(path, "w", driver="GTiff", count=1, height=SIDE, width=SIDE, dtype=values.dtype) as to:
        to.write(values, 1)


def test_pixels_are_decibels_of_the_power_where_both_maps_say_so(worlds, tmp_path):
    card, index = opened("kuro_siwo", worlds("kuro_siwo"), tmp_path)
    row = next(row for row in range(len(index.files)) if index.read(row, card).valid is not None)
    folder = index.path(row).parent
    chip = index.read(row, card)
    for k, band in enumerate(("VV", "VH")):
        power = read(next(folder.glob(f"MS1_I{band}_*.tif"))).astype(np.float64)
        measured = (read(next(folder.glob("MK0_MNA_*.tif"))) == 1) & np.isfinite(power)
        assert np.array_equal(chip.valid[k], measured)
        np.testing.assert_allclose(chip.db[k][measured], 10 * np.log10(power[measured]), rtol=1e-6)
        first = read(next(folder.glob(f"SL1_I{band}_*.tif"))).astype(np.float64)
        np.testing.assert_allclose(
            index.read_before(row, card).db[k][measured], 10 * np.log10(first[measured]), rtol=1e-6
        )
    codes = index.codes(row, "flood").values
    label = read(next(folder.glob("MK0_MLU_*.tif")))
    assert np.array_equal(codes == 255, label == 3)
    assert np.array_equal(codes[label != 3], label[label != 3])


def test_a_map_of_valid_pixels_alone_takes_pixels_out(spoilt):
    card, root = load_card("kuro_siwo"), spoilt("kuro_siwo")
    index = build_index(card, root)
    row = next(row for row in range(len(index.files)) if index.read(row, card).valid is None)
    path = next(index.path(row).parent.glob("MK0_MNA_*.tif"))
    kept = np.ones((SIDE, SIDE), np.uint8)
    kept[3, 4:9] = 0
    write(path, kept)
    assert np.array_equal(build_index(card, root).read(row, card).valid, np.stack([kept == 1] * 2))


LACKING = {
    "MS1_IV*": "has no later image: MS1_I{band}_*.tif was looked for",
    "SL1_IV*": "has no earlier image: SL1_I{band}_*.tif was looked for",
    "MK0_MLU*": "has no label map: MK0_MLU_*.tif was looked for",
    "MK0_MNA*": "has no map of valid pixels: MK0_MNA_*.tif was looked for",
    "MS1_IVH*": "has no file of band VH",
    "SL1_IVV*": "has no file of band VV",
}


@pytest.mark.parametrize("pattern", LACKING)
def test_a_folder_that_is_half_unpacked_is_refused_by_name(pattern, spoilt):
    root = spoilt("kuro_siwo")
    folder = sorted(path for path in root.rglob("*") if (path / "info.json").is_file())[3]
    for path in folder.glob(pattern):
        path.unlink()
    with pytest.raises(BenchError) as caught:
        build_index(load_card("kuro_siwo"), root)
    assert str(folder) in str(caught.value)
    assert LACKING[pattern] in str(caught.value)


def test_the_image_before_that_may_be_absent(spoilt):
    root = spoilt("kuro_siwo")
    for path in root.rglob("SL2_*"):
        path.unlink()
    assert len(build_index(load_card("kuro_siwo"), root).files) == 32


@pytest.mark.parametrize(
    ("old", "new", "known"),
    [
        ("SL1", "SL2", "GEO-Bench-2's copy calls the earlier of the two pre_event_1"),
        ("SL1", "MS1", "which is stated to be the later one"),
    ],
)
def test_dates_in_another_order_are_refused_with_what_is_known_of_them(old, new, known, spoilt):
    root = spoilt("kuro_siwo")
    folder = sorted(path for path in root.rglob("*") if (path / "info.json").is_file())[0]
    dates = {kind: next(folder.glob(f"{kind}_IVV_*")).stem.rpartition("_")[2] for kind in (old, new)}
    for kind, other in ((old, new), (new, old)):
        for path in folder.glob(f"{kind}_*"):
            path.rename(path.with_name("x" + path.name.replace(dates[kind], dates[other])))
    for path in folder.glob("x*"):
        path.rename(path.with_name(path.name[1:]))
    with pytest.raises(BenchError, match="which is stated to be the later one") as caught:
        build_index(load_card("kuro_siwo"), root)
    assert known in str(caught.value)


def test_dates_of_names():
    assert _date("MS1_IVV_1111002_01_20170504.tif") == datetime.date(2017, 5, 4)
    assert _date("SL1_IVV_130_01_20171399.tif") is None
    assert _date("a_2017050412.tif") is None


def test_a_second_file_of_a_kind_and_an_empty_place_are_refused(spoilt, tmp_path):
    root = spoilt("kuro_siwo")
    path = sorted(root.rglob("MK0_MLU_*"))[0]
    path.with_name(path.name.replace("20170504", "20170505")).write_bytes(path.read_bytes())
    with pytest.raises(BenchError, match=r"has 2 files named as MK0_MLU_\*\.tif"):
        build_index(load_card("kuro_siwo"), root)
    (tmp_path / "empty" / "x").mkdir(parents=True)
    with pytest.raises(BenchError, match="no folder of a sample is there"):
        build_index(load_card("kuro_siwo"), tmp_path / "empty")


def test_lists_are_the_keys_of_json_objects(spoilt, tmp_path):
    from commands import call

    root = spoilt("copernicus_flood")
    (root / "flood_s1" / "grid_dict_val.json").write_text('["a"]')
    flags = ["--model", "backscatter_stats", "--weights", "random", "--head", "otsu_vv", "--cache_dir", "c"]
    done = call("segment", "--dataset", "copernicus_flood", "--data_path", root, *flags, cwd=tmp_path)
    assert "grid_dict_val.json: cannot be read as a list (it is not a JSON object" in said(done)
