"""Known copies of datasets with faults: swapped bands and statistics, casts, other codes, other units, each by its name."""

import numpy as np
import pytest
import rasterio
from commands import rewrite
from dataset_worlds import opened

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Model
from fgmae_bench.data.audit import audit
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.water import check_water
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import resolve_contract
from fgmae_bench.worlds.bigearthnet_v2 import write_bigearthnet_v2

pytest_plugins = ("dataset_worlds",)


def refusal(name, root):
    card = load_card(name)
    found = audit(card, build_index(card, root))[0].refusal
    return "" if found is None else str(found)


def test_the_copy_of_bigearthnet_v2_whose_bands_are_swapped_is_refused_by_name(tmp_path):
    """As GEO-Bench-2 has it: what is called VV holds VH, and the other way round."""
    root = tmp_path / "v2"
    write_bigearthnet_v2(root, patches=34)
    assert refusal("bigearthnet_v2", root) == ""
    for path in list(root.rglob("*_VV.tif")):
        other = path.with_name(path.name.replace("_VV", "_VH"))
        spare = path.with_name("spare")
        path.rename(spare)
        other.rename(path)
        spare.rename(other)
    said = refusal("bigearthnet_v2", root)
    assert "VV,VH cannot be the order" in said
    assert "GEO-Bench-2's copy of BigEarthNet v2 (aialliance/benv2) stacks VH before VV and names them VV, VH" in said
    assert "--band_order VH,VV" in said


@pytest.mark.parametrize("name", ["copernicus_bigearthnet", "sen1floods11", "biomassters", "copernicus_eurosat"])
def test_a_file_with_vh_first_under_a_card_with_vv_first_is_refused(name, spoilt):
    root = spoilt(name)
    for path in root.rglob("*.tif"):
        with rasterio.open(path) as source:
            wanted = source.count in (2, 4) and source.dtypes[0] == "float32"
        if wanted:
            rewrite(path, lambda pixels: pixels[[1, 0, *range(2, len(pixels))]])
    said = refusal(name, root)
    assert "VV,VH cannot be the order" in said


@pytest.mark.parametrize("name", ["biomassters", "copernicus_bigearthnet"])
def test_a_cast_to_whole_numbers_is_refused_with_what_casts(name, spoilt):
    root = spoilt(name)
    for path in root.rglob("*.tif"):
        if "agbm" not in path.name:
            rewrite(path, np.trunc)
    said = refusal(name, root)
    assert "holds whole numbers of dB alone, as a reader that casts to integers leaves them: torchgeo's reader" in said


def test_linear_power_under_a_card_of_decibels_is_refused(spoilt):
    root = spoilt("sen1floods11")
    for path in root.rglob("*_S1Hand.tif"):
        rewrite(path, lambda pixels: np.power(10, pixels / 10).astype(np.float32))
    said = refusal("sen1floods11", root)
    assert "looks like linear power" in said
    assert "Sen1Floods11 is stated as backscatter in dB" in said


def test_decibels_under_a_card_of_linear_power_are_refused_with_what_is_known(spoilt):
    root = spoilt("kuro_siwo")
    for path in root.rglob("*_I*.tif"):
        rewrite(path, lambda pixels: (10 * np.log10(pixels)).astype(np.float32))
    said = refusal("kuro_siwo", root)
    assert "Kuro Siwo is stated as linear power: the publishers give linear power; a copy in dB was converted" in said


def remapped(path):
    """GEO-Bench-2's codes: 0 no data, 1 no water, 2 permanent water, 3 flood."""
    rewrite(path, lambda codes: np.array([1, 2, 3, 0], np.uint8)[codes])


def test_masks_with_the_codes_of_another_publisher_are_refused_by_name(worlds, spoilt, tmp_path):
    card, index = opened("kuro_siwo", worlds("kuro_siwo"), tmp_path)
    assert check_water(card, index, "flood") is None
    root = spoilt("kuro_siwo")
    for path in root.rglob("MK0_MLU_*.tif"):
        remapped(path)
    said = str(check_water(card, build_index(card, root), "flood"))
    assert "of the labelled pixels of 32 images are No water, as if the codes were another publisher's" in said
    assert "GEO-Bench-2's copy has 0 no data, 1 no water, 2 permanent water, 3 flood" in said


def test_water_that_is_brighter_than_land_is_refused_and_few_images_say_nothing(worlds, spoilt, tmp_path):
    card, index = opened("sen1floods11", worlds("sen1floods11"), tmp_path)
    assert check_water(card, index, "hand") is None
    root = spoilt("sen1floods11")
    for path in root.rglob("*_LabelHand.tif"):
        rewrite(path, lambda codes: np.where(codes < 0, codes, 1 - codes))
    whole = build_index(card, root)
    assert "pixels labelled Water are " in str(check_water(card, whole, "hand"))
    assert "dB brighter than Land" in str(check_water(card, whole, "hand"))
    from fgmae_bench.data.index import some_of

    assert check_water(card, some_of(whole, np.arange(9)), "hand") is None


def test_labels_of_genuine_water_are_dark(realdata, tmp_path):
    card = load_card("sen1floods11")
    place = tmp_path / "HandLabeled"
    place.mkdir()
    (place / "S1Hand").symlink_to(realdata / "sen1floods11_hand" / "S1")
    (place / "LabelHand").symlink_to(realdata / "sen1floods11_hand" / "Labels")
    index = build_index(card, tmp_path)
    assert len(index.ids) == 13
    assert check_water(card, index, "hand") is None


def test_statistics_of_vh_and_vv_are_refused_by_name():
    """GEO-Bench-2's statistics of BigEarthNet v2, named VV, VH."""
    swapped = Model(weights="random", mean=(-19.361, -12.63), std=(5.60, 5.09))
    with pytest.raises(
        BenchError, match="VV below VH: statistics of VH and VV, as GEO-Bench-2 names them for BigEarthNet v2"
    ):
        resolve_contract(swapped)
    right = Model(weights="random", mean=(-12.63, -19.361), std=(5.09, 5.60))
    assert resolve_contract(right).mean == (-12.63, -19.361)
