"""Names and labels of BigEarthNet against every published name and the shared table of classes."""

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from bigearthnet_raw import SCENE

from fgmae_bench.data.bigearthnet import labels, metadata
from fgmae_bench.data.bigearthnet.official import find_list, s2_names
from fgmae_bench.errors import BenchError

pytest_plugins = ("bigearthnet_raw",)
OFFICIAL = {"train": 269_695, "val": 123_723, "test": 125_866}
LISTS = {
    "patches_with_seasonal_snow": 61_707,
    "patches_with_cloud_and_shadow": 9_280,
    "patches_with_no_19_class_targets": 57,
}


@pytest.fixture(scope="module")
def official(realdata):
    """Names of each published list."""
    folder = realdata / "official_lists"
    return {stem: s2_names(find_list(folder, stem)) for stem in (*OFFICIAL, *LISTS)}


def test_s1_name_carries_scene_time_tile_column_and_row():
    name = labels.parse_s1("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_9")
    assert (name.scene, name.tile, name.col, name.row) == (SCENE, "33UUP", 61, 9)
    assert name.acquired == "2017-06-13T16:50:43"


@pytest.mark.parametrize(
    ("name", "acquired", "tile", "place"),
    [
        ("S2A_MSIL2A_20170613T101031_87_48", "2017-06-13T10:10:31", None, (87, 48)),
        ("S2B_MSIL2A_20170924T93020_69_24", "2017-09-24T09:30:20", None, (69, 24)),
        ("S2B_MSIL2A_20180204T94161_57_38", "2018-02-04T09:42:01", None, (57, 38)),
        ("S2B_MSIL2A_20180204T94160_57_38", "2018-02-04T09:42:00", None, (57, 38)),
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_07", "2017-06-13T10:10:31", "33UUP", (26, 7)),
    ],
)
def test_s2_names_of_both_versions_with_short_times_and_seconds_past_59(name, acquired, tile, place):
    found = labels.parse_s2(name)
    assert (found.acquired, found.tile, (found.col, found.row)) == (acquired, tile, place)


@pytest.mark.parametrize(
    "name", ["S2A_MSIL2A_20170613T1010_87_48", "S2A_MSIL2A_20170613T101031_87", "x", "", f"{SCENE}_33UUP_1_2", "../a"]
)
def test_other_names_are_refused(name):
    with pytest.raises(BenchError, match="is not an S2 patch name"):
        labels.parse_s2(name)


@pytest.mark.slow
def test_every_published_name_is_read_and_its_odd_times_are_as_many_as_known(official):
    union = [name for part in OFFICIAL for name in official[part]]
    assert len(set(union)) == sum(OFFICIAL.values())
    short = sum(1 for name in union if len(re.search(r"T(\d+)_", name)[1]) == 5)
    late = sum(1 for name in union if labels.parse_s2(name).clock[2] >= 60)
    assert (short, late) == (51_410, 2_199)
    assert {labels.parse_s2(name).clock[0] for name in union} == {9, 10, 11}


@pytest.mark.slow  # 590,326 names
def test_published_counts_and_what_they_leave_out(official):
    assert {part: len(set(official[part])) for part in OFFICIAL} == OFFICIAL
    assert {stem: len(set(official[stem])) for stem in LISTS} == LISTS
    left_out = set().union(*(official[stem] for stem in LISTS))
    assert len(left_out) == 71_042 == 590_326 - sum(OFFICIAL.values())
    assert not left_out & set().union(*(official[part] for part in OFFICIAL))


def test_all_43_labels_in_both_orders_are_as_in_the_shared_table(shared_data):
    with open(shared_data / "bigearthnet_43_to_19.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 43
    for order, column in (("original", "index_19_original_order"), ("alphabetical", "index_19_alphabetical_order")):
        for row in rows:
            hot = labels.multi_hot([row["class_43"]], "here", order)
            assert np.flatnonzero(hot).tolist() == ([int(row[column])] if row[column] else [])
            if row["class_19"]:
                assert labels.nomenclature(order).classes_19[int(row[column])] == row["class_19"]
    assert labels.nomenclature().classes_43 == tuple(row["class_43"] for row in rows)


def test_the_card_is_in_the_original_order_and_the_other_is_sorted(ben):
    assert labels.order_of(ben) == "original"
    alphabetical = labels.nomenclature("alphabetical").classes_19
    assert list(alphabetical) == sorted(ben.classes)
    assert labels.order_of(dataclasses.replace(ben, classes=alphabetical)) == "alphabetical"
    with pytest.raises(BenchError, match="no known order"):
        labels.order_of(dataclasses.replace(ben, classes=ben.classes[::-1]))


def test_two_labels_of_one_class_count_once_and_dropped_ones_not():
    hot = labels.multi_hot(["Sea and ocean", "Estuaries", "Airports"], "here")
    assert np.flatnonzero(hot).tolist() == [18]
    assert hot.dtype == np.uint8


def test_the_43_and_the_19_spell_shrub_differently():
    assert labels.multi_hot(["Transitional woodland/shrub"], "here")[13]
    with pytest.raises(
        BenchError,
        match=r"here: unknown label 'Transitional woodland, shrub'; did you mean 'Transitional woodland/shrub'",
    ):
        labels.multi_hot(["Transitional woodland, shrub"], "here")
    read = metadata._multi_hot  # of the tables of v2, which hold names of the 19
    assert read(pa.array([["Transitional woodland, shrub"]]), Path("here"))[0, 13]
    with pytest.raises(BenchError, match="did you mean 'Transitional woodland, shrub'"):
        read(pa.array([["Transitional woodland/shrub"]]), Path("here"))


def test_reordering_moves_columns_with_their_names():
    hot = np.eye(19, dtype=np.uint8)
    moved = labels.reorder(hot, "original", "alphabetical")
    before, after = (labels.nomenclature(order).classes_19 for order in ("original", "alphabetical"))
    assert [after[column] for column in moved.argmax(1)] == list(before)
    assert np.array_equal(labels.reorder(moved, "alphabetical", "original"), hot)
