"""Which samples belong together: by the card, by names, by the layout, by the ground; and that nothing else is done."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from commands import (
    FOLDERS,
    STATISTICS,
    call,
    codes,
    edited_card,
    genuine,
    only_record,
    rewrite_all,
    shared_world,
    small_world,
)

from fgmae_bench.config.cards import Groups, Split, load_card
from fgmae_bench.data.groups import block_groups, by_name, pattern_of, torn, with_groups
from fgmae_bench.data.index import Index
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.data.splits import group_parts
from fgmae_bench.errors import BenchError


def made(ids, tmp_path, groups=None):
    """An index of names without files."""
    return Index(
        root=tmp_path,
        files=tuple(f"{name}.tif" for name in ids),
        labels=np.zeros(len(ids), np.int64),
        stamps=np.zeros(len(ids), np.uint64),
        synthetic=None,
        groups=groups,
    )


def stating(**stated):
    """EuroSAT's card with a [groups] table."""
    return dataclasses.replace(load_card("eurosat"), groups=Groups(**stated))


@pytest.mark.parametrize(
    ("names", "kind", "groups"),
    [
        (["a/Ghana_537_r0c0", "b/Ghana_537_r1c10", "a/Spain_7_r0c0"], "scene", ["Ghana_537", "Ghana_537", "Spain_7"]),
        (["ROIs1_s1_4_p1", "ROIs1_s1_4_p22"], "scene", ["ROIs1_s1_4"] * 2),
        (
            ["S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_39", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_40"],
            "scene",
            ["S1A_IW_GRDH_1SDV_20170613T165043"] * 2,
        ),
        (
            [
                "S1A_IW_GRDH_1SDV_20170613T165043_20170613T165108_017018_01C5B5_AB12_0",
                "S1A_IW_GRDH_1SDV_20170613T165108_20170613T165133_017018_01C5B5_CD34_1",
            ],
            "acquisition",
            ["S1A_01C5B5"] * 2,
        ),
        (["River_1", "River_2", "Forest_1"], None, None),  # a number alone says nothing
        (["a_1_2", "b"], None, None),  # not all say so
        (["a_1_2", "b_1_2"], None, None),  # each its own
    ],
    ids=["rows and columns", "p", "start of a scene", "datatake", "numbers", "some", "alone"],
)
def test_names_tell_groups(names, kind, groups):
    assert by_name(names) == (None if kind is None else (kind, tuple(groups)))


def test_a_cards_pattern_names_groups_and_what_does_not_fit_is_named(tmp_path):
    index = made(["Land/Ghana_5_1_2", "Land/Ghana_5_1_3", "Water/Spain_6_0_0"], tmp_path)
    found = with_groups(stating(pattern="{place}_#_#"), index, tmp_path)
    assert (found.group_kind, found.groups) == ("place", ("Ghana_5", "Ghana_5", "Spain_6"))
    assert with_groups(stating(pattern="{a}/*_{b}_#_#", unit="site"), index, tmp_path).groups == (
        "Land_5",
        "Land_5",
        "Water_6",
    )
    assert pattern_of("x.{scene}_#")[1] == r"x\.(.+)_[0-9]+"
    with pytest.raises(BenchError, match=r"groups.pattern 's_#_\{scene\}' does not fit the sample Land/Ghana_5_1_2"):
        with_groups(stating(pattern="s_#_{scene}"), index, tmp_path)


def test_a_column_of_a_table_names_groups(tmp_path):
    index = made(["Land/a", "Land/b"], tmp_path)
    card = stating(file="places.csv", column="city", unit="city")
    with pytest.raises(BenchError, match=r"groups\.file places\.csv is neither with the data nor next to the card"):
        with_groups(card, index, tmp_path)
    table = tmp_path / "places.csv"
    table.write_text("name,city\nLand/a,Rome\nb,Oslo\n")
    found = with_groups(card, index, tmp_path)
    assert (found.group_kind, found.groups) == ("city", ("Rome", "Oslo"))
    table.write_text("name,city\na,Rome\n")
    with pytest.raises(BenchError, match="names no city of 1 samples, first Land/b"):
        with_groups(card, index, tmp_path)
    table.write_text("name,town\na,Rome\n")
    with pytest.raises(BenchError, match="no column 'city'"):
        with_groups(card, index, tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('pattern = "{a}_#"\nblock_km = 5.0', "groups"),
        ('pattern = "#_#"', "groups.pattern"),
        ('file = "x.csv"', "groups.file and groups.column"),
        ('file = "../x.csv"\ncolumn = "c"', "groups.file"),
        ("block_km = 0.0", "groups.block_km"),
        ("", "groups"),
    ],
    ids=["two ways", "no name", "no column", "outside", "no size", "nothing"],
)
def test_what_a_card_states_of_groups_is_checked(table, message, tmp_path):
    card = edited_card(tmp_path / "c.toml", ("[counts]\n", f"[groups]\n{table}\n\n[counts]\n"))
    with pytest.raises(BenchError, match=message):
        load_card(str(card))


def test_the_hash_of_a_card_without_groups_is_what_it_was(tmp_path):
    from fgmae_bench.config.cards import facts_sha256

    assert '"groups"' not in json.dumps(facts_sha256(load_card("eurosat")))
    assert facts_sha256(stating(block_km=5.0)) != facts_sha256(load_card("eurosat"))


def test_layouts_know_scenes_but_not_images_that_are_each_their_own(tmp_path):
    card = load_card("dfc2020")
    folders = made(["a/s1_0/x", "a/s1_0/y"], tmp_path, groups=("a/s1_0",) * 2)
    assert with_groups(card, folders, tmp_path).groups == ("a/s1_0",) * 2
    alone = made(["x", "y"], tmp_path, groups=("x", "y"))
    assert with_groups(card, alone, tmp_path).groups is None


def test_georeferenced_chips_are_in_blocks_also_in_their_pack(tmp_path):
    world = shared_world(5)
    index = build_index(load_card("eurosat"), world)
    found = with_groups(load_card("eurosat"), index, tmp_path)
    assert found.group_kind == "20 km block"
    assert 1 < len(set(found.groups)) < len(found.groups)
    small = with_groups(stating(block_km=2.0), index, tmp_path)
    assert small.group_kind == "2 km block"
    assert len(set(small.groups)) > len(set(found.groups))
    call(
        "prepare", "pack", "eurosat", "--data_path", world, "--out", "p.lmdb", "--partial", "--workers", 0, cwd=tmp_path
    )
    packed = with_groups(load_card("eurosat"), open_index(load_card("eurosat"), tmp_path / "p.lmdb", None), tmp_path)
    assert (packed.group_kind, packed.groups) == (found.group_kind, found.groups)


def test_blocks_are_of_the_stated_side_on_the_ground():
    metres = np.degrees(1 / 6_371_008.8)
    centres = np.array([[0.5, 5.5], [0.5, 19.5], [0.5, 20.5], [25.0, 5.5]]) * 1000 * metres
    kind, groups = block_groups(centres, 20)
    assert kind == "20 km block"
    assert len(set(groups[:2])) == 1
    assert len(set(groups)) == 3


def test_a_split_by_groups_fits_any_layout_and_puts_no_group_into_two_parts(tmp_path):
    index = made(["Land/Ghana_5_1_2", "Water/Ghana_5_1_3", "Water/Spain_6_0_0"], tmp_path)
    index = with_groups(stating(pattern="{scene}_#_#"), index, tmp_path)
    split = Split(kind="groups", groups={"train": ("Ghana_*",), "test": ("*/Spain_*",)})
    assert {part: rows.tolist() for part, rows in group_parts(index, split).items()} == {
        "train": [0, 1],
        "val": [],
        "test": [2],
    }
    tearing = Split(kind="groups", groups={"train": ("Land/*",), "test": ("Water/*",)})
    with pytest.raises(BenchError, match="put samples of the scene Ghana_5 into two parts"):
        group_parts(index, tearing)
    assert torn(index, {"train": np.array([0]), "test": np.array([1, 2])}) == ["Ghana_5"]


def test_a_record_says_over_what_and_one_without_groups_says_so_loudly(tmp_path):
    call("linear", "--dataset", "eurosat", "--data_path", shared_world(5), *STATISTICS, *FOLDERS, cwd=tmp_path)
    record = only_record(tmp_path / "results")
    assert record["dataset"]["groups"]["kind"] == "20 km block"
    assert record["metrics"]["intervals"]["over"] == "groups"
    assert record["metrics"]["intervals"]["units"] == record["dataset"]["groups"]["test"]
    assert "no_groups" not in codes(record)


def test_chips_without_a_georeference_have_no_groups(tmp_path):
    world = rewrite_all(small_world(tmp_path), lambda pixels: pixels, crs=None, transform=None)
    assert with_groups(load_card("eurosat"), build_index(load_card("eurosat"), world), tmp_path).groups is None
    call("linear", "--dataset", "eurosat", "--data_path", world, *STATISTICS, *FOLDERS, cwd=tmp_path)
    record = only_record(tmp_path / "results")
    assert record["dataset"]["groups"] is None
    assert "no_groups" in codes(record)
    assert record["metrics"]["intervals"]["over"] == "samples"


def test_genuine_chips_are_in_the_scenes_that_their_names_tell(tmp_path):
    root = genuine("s1f_chips")
    card = load_card(str(root / "card.toml"))
    found = with_groups(card, build_index(card, root / "data"), tmp_path)
    assert found.group_kind == "scene"
    assert len(set(found.groups)) == 11
    tested = {name.rsplit("/", 1)[1].rsplit("_", 1)[0] for name in (root / "test.txt").read_text().split()}
    assert len(tested) == 5
    assert tested < set(found.groups)
