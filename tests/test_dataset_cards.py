"""Facts on the cards of floods, Copernicus-Bench, scene labels, biomass and the survey: counts, lists, splits, groups."""

import csv
import tomllib
from collections import Counter

import numpy as np
import pytest
from commands import REPOSITORY
from dataset_worlds import WORLDS, opened

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.index import check_counts
from fgmae_bench.data.splits import PARTS, make_split
from fgmae_bench.prepare import synth

pytest_plugins = ("dataset_worlds",)

LISTS = {"train": 252, "valid": 89, "test": 90, "bolivia": 15}
# Chips of train, valid and test by event, as counted in the published lists.
EVENTS = {
    "Ghana": (31, 11, 11),
    "India": (40, 14, 14),
    "Mekong": (18, 6, 6),
    "Nigeria": (10, 4, 4),
    "Pakistan": (16, 6, 6),
    "Paraguay": (39, 14, 14),
    "Somalia": (15, 5, 6),
    "Spain": (18, 6, 6),
    "Sri-Lanka": (24, 9, 9),
    "USA": (41, 14, 14),
}
# Published sizes of train, val and test.
SIZES = {
    "copernicus_eurosat": (16200, 5400, 5400),
    "copernicus_bigearthnet": (11894, 6117, 5991),
    "copernicus_dfc2020": (3156, 986, 986),
    "copernicus_flood": (3000, 1000, 1000),
    "sen1floods11": (252, 89, 90),
}
# The first split of each tiny world: samples of train, val and test, and what is in none.
MADE = {
    "sen1floods11": ("official", (18, 6, 6), 6, ("event", 7)),
    "kuro_siwo": ("official", (20, 4, 8), 0, ("activation", 8)),
    "copernicus_flood": ("copernicus", (10, 2, 4), 0, ("activation", 6)),
    "copernicus_eurosat": ("copernicus", (30, 10, 10), 0, None),
    "copernicus_bigearthnet": ("copernicus", (20, 6, 6), 0, ("scene", 2)),
    "copernicus_dfc2020": ("copernicus", (20, 6, 6), 0, ("scene", 1)),
    "sen12ms_scenes": ("holdout", (40, 0, 20), 0, ("scene", 6)),
    "sen12ms_multilabel": ("holdout", (40, 0, 20), 0, ("scene", 6)),
    "biomassters": ("official", (24, 0, 8), 0, None),
    "spacenet6": ("random", (22, 7, 7), 0, ("strip", 3)),
    "fusar_map": ("random", (19, 7, 6), 0, ("scene", 4)),
}


def listed(part):
    with open(REPOSITORY / "datasets" / "sen1floods11" / f"flood_{part}_data.csv", newline="") as stream:
        return [tuple(row) for row in csv.reader(stream)]


def test_the_official_lists_of_sen1floods11_have_their_published_counts_and_events():
    rows = {part: listed(part) for part in LISTS}
    assert {part: len(found) for part, found in rows.items()} == LISTS
    names = [image for found in rows.values() for image, _ in found]
    assert len(set(names)) == 446 == load_card("sen1floods11").counts.total
    assert all(image.replace("_S1Hand", "_LabelHand") == label for found in rows.values() for image, label in found)
    counted = {part: Counter(image.split("_")[0] for image, _ in found) for part, found in rows.items()}
    assert {event: tuple(counted[part][event] for part in ("train", "valid", "test")) for event in EVENTS} == EVENTS
    assert counted["bolivia"] == {"Bolivia": 15}
    assert not {"Bolivia"} & {event for part in ("train", "valid", "test") for event in counted[part]}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_stand_on_the_card_and_add_up(name):
    card = load_card(name)
    counts = card.splits[card.default_split].counts
    assert tuple(counts[part] for part in PARTS) == SIZES[name]
    if name != "sen1floods11":  # there 15 chips are apart
        assert sum(SIZES[name]) == card.counts.total


def test_the_activations_of_kuro_siwo_are_in_one_part_each():
    groups = load_card("kuro_siwo").splits["official"].groups
    assert {part: len(groups[part]) for part in PARTS} == {"train": 27, "val": 7, "test": 10}
    assert len({name for part in PARTS for name in groups[part]}) == 44


def test_bolivia_is_tested_apart_on_what_official_trains_on():
    splits = load_card("sen1floods11").splits
    assert splits["official"].files["train"] == splits["bolivia"].files["train"]
    assert splits["official"].leaky
    assert not splits["bolivia"].leaky
    assert splits["bolivia"].counts["test"] == 15


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_read_by_its_card_with_its_splits_and_groups(name, worlds, tmp_path):
    card, index = opened(name, worlds(name), tmp_path)
    split, sizes, left_out, groups = MADE[name]
    assert check_counts(card, index) is None
    assert index.synthetic
    parts = make_split(card, index, Data(dataset=name, split=split), tmp_path)
    assert (tuple(len(getattr(parts, part)) for part in PARTS), parts.left_out) == (sizes, left_out)
    if groups:
        assert (index.group_kind, len(set(index.groups))) == groups
    chip = index.read(0, card)
    assert chip.synthetic
    assert chip.db.shape[0] == len(card.signal.bands)
    if index.before is not None:
        assert index.read_before(0, card).db.shape == chip.db.shape
        assert not np.array_equal(index.read_before(0, card).db, chip.db)


def test_every_card_with_a_layout_of_its_own_has_a_world():
    assert set(WORLDS) < set(synth.WORLDS)


@pytest.mark.parametrize(
    "name", ["copernicus_eurosat", "copernicus_bigearthnet", "copernicus_dfc2020", "copernicus_flood"]
)
def test_downloads_state_a_checksum(name):
    download = load_card(name).download
    assert download.repo == "wangyi111/Copernicus-Bench"
    assert len(download.md5) == 32
    assert int(download.md5, 16)


@pytest.mark.parametrize("name", ["opensarurban", "fusar_map2"])
def test_what_is_not_established_is_a_draft_that_does_not_run_as_it_is(name):
    """Every line that its publishers do not say is marked, and no shipped card has the name."""
    text = (REPOSITORY / "datasets" / name / "draft.toml").read_text()
    assert text.count("EDIT") >= 3
    assert tomllib.loads(text)["name"] == name
    assert not (REPOSITORY / "datasets" / name / "card.toml").exists()
