"""A group with two splits: lists that put one into two parts are noted in the record and shown as leaking, a split by
groups that would is refused.
"""

import csv

import pytest
from commands import STATISTICS, call, codes, only_record, said
from make_records import make_record
from test_card_draft import backscatter, write

from fgmae_bench.report.columns import leaks

CARD = """name = "mine"
title = "Mine"
version = 1
task = "single_label"
layout = "class_folders"
classes = ["Ice", "Water"]
default_split = "{split}"
recommended_split = "{split}"
[signal]
bands = ["VV", "VH"]
units = "dB"
calibration = "sigma0"
size = [32, 32]
dtype = "float32"
[groups]
file = "scenes.csv"
column = "scene"
[splits.official]
kind = "lists"
files = {{ train = "train.txt", test = "test.txt" }}
{leaky}
[splits.patterns]
kind = "groups"
groups = {{ train = ["*/?_[0-3]"], test = ["*/?_[45]"] }}
[origin]
url = "mine"
licence = "mine"
"""
FLAGS = ("--dataset", "card.toml", "--data_path", "d", *STATISTICS, "--batch_size", "4", "--cache_dir", "c")


def world(root, torn, split="official", leaky=""):
    """Six images a class in scenes of two; `torn`: those of the image numbers 3 and 4 are of one scene."""
    names = [f"{name}/{name[0]}_{number}" for name in ("Ice", "Water") for number in range(6)]
    scene = {3: "B", 4: "B"} if torn else {3: "B", 4: "C"}
    with open(root / "scenes.csv", "w", newline="") as stream:
        rows = [(name, scene.get(int(name[-1]), "A" if int(name[-1]) < 3 else "C")) for name in names]
        csv.writer(stream).writerows([("image", "scene"), *rows])
    for name in names:
        write(root / "d" / f"{name}.tif", backscatter(int(name[-1])))
    for part, numbers in (("train", "0123"), ("test", "45")):
        (root / f"{part}.txt").write_text("".join(f"{name}.tif\n" for name in names if name[-1] in numbers))
    (root / "card.toml").write_text(CARD.format(split=split, leaky=leaky))


@pytest.mark.parametrize(
    ("torn", "leaky", "code"),
    [(True, "", "torn_groups"), (True, "leaky = true", "leaky_split"), (False, "", "")],
    ids=["torn", "said by the card", "whole"],
)
def test_official_lists_that_tear_a_group_are_noted_and_shown_as_leaking(tmp_path, torn, leaky, code):
    world(tmp_path, torn, leaky=leaky)
    done = call("linear", *FLAGS, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert [each for each in codes(record) if each in ("torn_groups", "leaky_split")] == [code] * bool(code)
    assert record["dataset"]["groups"]["kind"] == "scene"
    if code == "torn_groups":
        text = "split 'official' has samples of 1 scenes in more than one part, such as B"
        assert text in [note["text"] for note in record["notes"]]
        assert text in done.err


def test_the_column_of_leaks_knows_torn_groups():
    assert leaks(make_record(split="spatial")) is False
    assert leaks(make_record(split="spatial", notes=(("torn_groups", "torn"),))) is True
    assert leaks(make_record(notes=(("leaky_split", "torn"),))) is True


def test_a_split_by_groups_that_a_table_contradicts_is_refused_in_one_line(tmp_path):
    world(tmp_path, True, split="patterns")
    line = said(call("linear", *FLAGS, cwd=tmp_path))
    assert line == (
        "error: the split's patterns put samples of the scene B into two parts; let a pattern fit whole groups"
    )
    world(tmp_path, False, split="patterns")
    assert call("linear", *FLAGS, cwd=tmp_path).code == 0
