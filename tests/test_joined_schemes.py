"""Schemes of a card that join classes, such as water or not: as labels of a run, and as further scores of each record."""

import dataclasses

import numpy as np
import pytest
from commands import FOLDERS, call, only_record
from sklearn.metrics import jaccard_score

from fgmae_bench.config.cards import facts_sha256, load_card
from fgmae_bench.config.layout import heading
from fgmae_bench.data.schemes import card_map
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import image_confusion, joined_scores
from fgmae_bench.report.columns import COLUMNS

pytest_plugins = ("dataset_worlds",)

CLASSES = ("No water", "Permanent water", "Flood")
WATER = {"No water": ("No water",), "Water": ("Permanent water", "Flood")}
STATISTICS = ("--model", "backscatter_stats", "--weights", "random")


def pixels(seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 3, 4000)
    return reference, np.where(rng.random(4000) < 0.7, reference, rng.integers(0, 3, 4000))


def test_the_second_score_is_that_of_labels_joined_before_counting():
    reference, predicted = pixels()
    found = joined_scores(image_confusion(reference, predicted, 3), CLASSES, {"water": WATER})["water"]
    expected = jaccard_score(reference > 0, predicted > 0, average=None)
    assert found["miou"] == pytest.approx(expected.mean(), abs=1e-12)
    assert found["per_class"]["Water"]["iou"] == pytest.approx(expected[1], abs=1e-12)
    assert found["oa"] == pytest.approx(((reference > 0) == (predicted > 0)).mean(), abs=1e-12)


def test_a_class_that_a_scheme_leaves_out_is_not_scored_and_predicting_it_is_wrong():
    reference, predicted = pixels(1)
    alone = {"A": ("No water",), "B": ("Flood",)}
    found = joined_scores(image_confusion(reference, predicted, 3), CLASSES, {"alone": alone})["alone"]
    kept = reference != 1
    expected = jaccard_score(reference[kept], predicted[kept], average=None, labels=[0, 2])
    assert found["miou"] == pytest.approx(expected.mean(), abs=1e-12)


@pytest.mark.parametrize("name", ["kuro_siwo", "copernicus_flood"])
def test_labels_of_the_publishers_become_water_or_not_and_flood_or_not(name):
    card = load_card(name)
    water, flood = (card_map(card, None, scheme).table for scheme in ("water", "flood"))
    assert water[[0, 1, 2, 255]].tolist() == [0, 1, 1, 255]
    assert flood[[0, 1, 2, 255]].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('["Permanent water", "Flood"]', '["Permanent water", "Floods"]', "joins 'Floods'"),
        ('["Permanent water", "Flood"]', '["No water", "Flood"]', "joins 'No water' twice"),
        ('"Water" = ["Permanent water", "Flood"]\n', "", "has 1 class"),
        ("[schemes.water]", "[schemes.kuro_siwo2]", "has the name of the card's own scheme"),
        ('["Permanent water", "Flood"]', "[]", "joins none"),
    ],
    ids=["unknown", "twice", "one", "own_name", "empty"],
)
def test_a_scheme_that_cannot_be_is_named(tmp_path, old, new, message):
    text = load_card("kuro_siwo").path.read_text().replace('name = "kuro_siwo"', 'name = "kuro_siwo2"')
    assert old in text
    (tmp_path / "card.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(BenchError, match=message):
        load_card(str(tmp_path / "card.toml"))


def test_the_field_changes_no_hash_of_cards_without_it():
    card = load_card("sen1floods11")
    assert not card.schemes
    assert facts_sha256(card) == facts_sha256(dataclasses.replace(card, schemes={}))
    assert facts_sha256(card) != facts_sha256(dataclasses.replace(card, schemes={"all": WATER}))


@pytest.mark.parametrize(
    ("name", "scheme", "head", "classes"),
    [
        ("kuro_siwo", "water", "otsu_vh", {"No water", "Water"}),
        ("copernicus_flood", "flood", "log_ratio_vv", {"No flood", "Flood"}),
    ],
    ids=["water", "flood"],
)
def test_rules_of_two_classes_stand_in_tables_of_three(name, scheme, head, classes, worlds, tmp_path):
    flags = (*STATISTICS, "--head", head, "--train_scheme", scheme, *FOLDERS)
    done = call("segment", "--dataset", name, "--data_path", worlds(name), *flags, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert set(record["metrics"]["per_class"]) == classes
    assert "schemes" not in record["metrics"]
    assert record["dataset"]["label_scheme"]["eval"] == f"{scheme} of flood"
    assert record["metrics"]["test"]["miou"] > 0.5


def test_the_column_of_a_scheme_is_the_runs_own_score_where_it_is_scored_by_it():
    class Shown:
        records = ({"dataset": {"label_scheme": {"eval": "water of flood"}}, "metrics": {"test": {"miou": 0.25}}},)

    assert COLUMNS["miou:water"].value(Shown) == 0.25
    joined = {"test": {"miou": 0.1}, "schemes": {"water": {"miou": 0.75}}}
    Shown.records = ({"dataset": {"label_scheme": {"eval": "kuro_siwo of flood"}}, "metrics": joined},)
    assert COLUMNS["miou:water"].value(Shown) == 0.75
    assert COLUMNS["miou:flood"].value(Shown) is None
    assert heading("miou:water")[0] == "mIoU water"
