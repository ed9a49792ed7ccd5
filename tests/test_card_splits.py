"""Splits of a drafted card of which the first deal leaves a class without training images."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from test_card_draft import backscatter, card, write

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.groups import with_groups
from fgmae_bench.data.layouts import build_index
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare import card_splits
from fgmae_bench.prepare.card_folders import Plan
from fgmae_bench.prepare.card_splits import dealt, holding_all
from fgmae_bench.prepare.card_text import Draft

FIRST = "a split 'groups' cannot be made: split 'groups' leaves no training samples of Water"


def scenes(root, held):
    """Images by class in scenes: (scene, class) -> how many."""
    for (scene, name), count in held.items():
        for tile in range(count):
            write(root / name / f"{scene}_r{tile}c0.tif", backscatter(tile))


def test_a_class_of_one_scene_is_trained_on_and_scenes_stay_whole(tmp_path):
    held = {(f"S_{n}", "Ice"): count for n, count in enumerate((6, 6, 2, 2, 2))} | {("S_9", "Water"): 3}
    scenes(tmp_path / "d", held)
    done = card("d", cwd=tmp_path)
    assert done.code == 0, done.err
    made = load_card(str(tmp_path / "card.toml"))
    assert made.recommended_split == "groups"
    parts = made.splits["groups"].groups
    assert "S_9" in parts["train"]
    assert sorted(sum(parts.values(), ())) == [*(f"S_{n}" for n in range(5)), "S_9"]
    assert f"split    {FIRST}; made instead with whole scenes, by names, dealt so that train holds" in done.out
    index = with_groups(made, build_index(made, tmp_path / "d"), tmp_path, read=False)
    trained = {label for label, group in zip(index.labels, index.groups, strict=True) if group in parts["train"]}
    assert trained == {0, 1}


def test_where_no_scenes_can_hold_every_class_the_reason_is_printed(tmp_path):
    scenes(tmp_path / "d", {("S_0", "Ice"): 6, ("S_1", "Water"): 7, ("S_2", "Sand"): 8})
    done = card("d", cwd=tmp_path)
    assert done.code == 0, done.err
    assert load_card(str(tmp_path / "card.toml")).recommended_split == "random"
    line = next(line for line in done.out.splitlines() if "cannot be made" in line)
    assert line.startswith("split    a split 'groups' cannot be made: split 'groups' leaves no training samples of ")
    assert "made instead" not in line


def test_blocks_are_tried_with_more_for_training_and_smaller_before_images_at_random(monkeypatch):
    tried = []

    def attempt(draft, name, split):
        tried.append((name, split[0].get("train"), split[0].get("block_km")))
        if name == "spatial" and split[0]["block_km"] > 5:
            raise BenchError("split 'spatial' leaves no training samples of Water", "choose another split")
        return 9

    plan = Plan(
        root=Path("d"),
        task="single_label",
        kind="table",
        images=[SimpleNamespace(name=str(n)) for n in range(9)],
        options={"place": ["x", "y"]},
    )
    signal = SimpleNamespace(georeferenced=True)
    monkeypatch.setattr(card_splits, "_try", attempt)
    monkeypatch.setattr("fgmae_bench.data.groups.by_name", lambda names: None)
    found = card_splits.splits_of(Draft(plan=plan, signal=signal, name="d"))
    assert list(found) == ["random", "spatial"]
    assert found["spatial"][0]["block_km"] == 5.0
    assert tried[1:] == [
        ("spatial", *each) for each in ((0.6, 20.0), (0.7, 20.0), (0.8, 20.0), (0.6, 10.0), (0.8, 10.0), (0.6, 5.0))
    ]
    assert "made instead with blocks of 5 km" in plan.remarks["splits"][0]


def test_few_groups_hold_all_classes_and_the_rest_is_dealt():
    groups = ["a", "a", "b", "b", "c", "d", "e", "f", "g"]
    assert holding_all(groups, [0, 0, 0, 1, 0, 0, 2, 2, 2]) == ["b", "e"]
    parts = dealt(groups, [], ["b", "e"])
    assert {"b", "e"} <= set(parts["train"])
    assert sorted(group for part in parts.values() for group in part) == sorted(set(groups))
    assert parts["val"]
    assert parts["test"]


@pytest.mark.parametrize("train", [["a"], ["a", "b"], ["a", "b", "c"]], ids=len)
def test_what_is_left_of_few_groups_is_tested(train):
    parts = dealt(list("aabbccdd"), [], train)
    assert set(train) <= set(parts["train"])
    assert parts["test"]
