"""Splits that leave out one group, or one country, at a time."""

import dataclasses

import numpy as np
import pytest
from commands import codes, genuine, linear, only_record, refused, shared_world

from fgmae_bench.config.card import Groups
from fgmae_bench.config.cards import Split, load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.index import Index
from fgmae_bench.data.splits import make_split
from fgmae_bench.errors import BenchError

LAND = ("Ghana", "Ghana", "Spain", "Spain", "USA", "USA")


@pytest.fixture
def index(tmp_path):
    ids = tuple(f"a/{land}_{i}_{i}_0" for i, land in enumerate(LAND))
    groups = tuple(f"{land}_{i}" for i, land in enumerate(LAND))
    labels = np.array([0, 1, 0, 1, 0, 1])
    return _index(tmp_path, ids, labels, groups)


def _index(root, ids, labels, groups):
    stamps = np.zeros(len(ids), np.uint64)
    return Index(root=root, files=ids, labels=labels, stamps=stamps, synthetic=None, groups=groups, group_kind="scene")


@pytest.fixture
def card():
    one = load_card("eurosat")
    return dataclasses.replace(
        one,
        classes=("A", "B"),
        splits=one.splits
        | {
            "countries": Split(kind="leave_out", by=Groups(pattern="{country}_#_#_#")),
        },
    )


@pytest.mark.parametrize(
    ("split", "test"),
    [
        ("leave_out@Ghana_0", [0]),
        ("leave_out@Ghana_*", [0, 1]),
        ("countries@Spain", [2, 3]),
        ("countries@[SU]*", [2, 3, 4, 5]),
    ],
)
def test_what_is_named_is_tested_and_all_else_is_trained_on(card, index, tmp_path, split, test):
    parts = make_split(card, index, Data(dataset="eurosat", split=split), tmp_path)
    assert parts.test.tolist() == test
    assert sorted([*parts.train, *parts.test]) == list(range(6))
    assert not len(parts.val)


def test_countries_may_stand_in_a_table(card, index, tmp_path):
    lines = ["sample,land", *(f"{id},{land}" for id, land in zip(index.ids, LAND, strict=True))]
    (tmp_path / "lands.csv").write_text("\n".join(lines))
    by = Groups(file="lands.csv", column="land")
    card = dataclasses.replace(card, splits={**card.splits, "table": Split(kind="leave_out", by=by)})
    assert make_split(card, index, Data(dataset="eurosat", split="table@USA"), tmp_path).test.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("leave_out@France", "unknown unit 'France'"),
        ("countries", "leaves out one unit"),
        ("countries@*", "nothing to train on"),
        ("nowhere@Spain", "unknown split 'nowhere@Spain'"),
    ],
)
def test_units_that_are_unknown_or_all_are_refused(card, index, tmp_path, split, words):
    with pytest.raises(BenchError, match=words.replace("*", r"\*")):
        make_split(card, index, Data(dataset="eurosat", split=split), tmp_path)


def test_without_groups_nothing_is_left_out(tmp_path):
    card = load_card("eurosat")
    bare = _index(tmp_path, ("a",), np.zeros(1, int), None)
    with pytest.raises(BenchError, match="no groups are known"):
        make_split(card, bare, Data(dataset="eurosat", split="leave_out@a"), tmp_path)


def test_a_run_tests_another_country_alone(tmp_path):
    data = genuine("s1f_chips") / "data"
    flags = ("--split", "leave_out@Spain_*", "--probe", "knn")
    backbone = ("--model", "backscatter_stats", "--weights", "random")
    done = linear(data, *flags, cwd=tmp_path, backbone=backbone, dataset="s1f_chips")
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["dataset"]["split"] == "leave_out@Spain_*"
    assert record["dataset"]["n_train"] + record["dataset"]["n_test"] == 514
    assert record["dataset"]["groups"]["test"] < record["dataset"]["groups"]["train"]
    assert "torn_groups" not in codes(record)


def test_an_unknown_group_is_refused_in_one_line(tmp_path):
    line = refused(shared_world(), "--split", "leave_out@nowhere", cwd=tmp_path, cache_filled=True)
    assert "unknown unit 'nowhere'" in line or "no groups are known" in line
