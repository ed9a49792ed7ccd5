"""Every card that is shipped, and every way a card can be wrong: named with its file, its key and what to do."""

import dataclasses
import re

import numpy as np
import pytest

from fgmae_bench.config.cards import card_names, load_card
from fgmae_bench.config.compose import compose, named_recipe
from fgmae_bench.config.recipes import NAMED_RECIPES
from fgmae_bench.config.run import EFFECTIVE, field_sections
from fgmae_bench.data.index import check_counts
from fgmae_bench.data.layouts import LAYOUTS, build_index
from fgmae_bench.errors import BenchError

MINIMAL = """
name = "tiny"
title = "Tiny"
version = 1
task = "single_label"
layout = "class_folders"
label_scheme = "tiny2"
classes = ["A", "B"]
default_split = "reference"
recommended_split = "reference"
[signal]
bands = ["VV", "VH"]
units = "dB"
calibration = "sigma0"
size = [64, 64]
dtype = "float32"
[splits.reference]
kind = "stratified"
train = 0.8
[splits.spatial]
kind = "spatial"
train = 0.6
val = 0.2
block_km = 20.0
buffer_m = 1000.0
[splits.listed]
kind = "lists"
files = { train = "train.txt", test = "test.txt" }
[counts]
total = 5
[counts.per_class]
A = 2
B = 3
[recipes.linear.published]
lr = 0.5
[origin]
url = "example.org"
licence = "MIT"
"""


@pytest.fixture
def write(tmp_path):
    """Write MINIMAL with one replacement; returns the path."""

    def writer(old="", new=""):
        assert old in MINIMAL
        path = tmp_path / "card.toml"
        path.write_text(MINIMAL.replace(old, new, 1), encoding="utf-8")
        return path

    return writer


@pytest.mark.parametrize("name", card_names())
def test_shipped_card_loads_and_is_named_as_its_folder(name):
    card = load_card(name)
    assert card.name == name == card.path.parent.name
    assert card.origin.url
    assert card.origin.licence
    assert card.origin.get or card.synthetic
    assert card.layout in LAYOUTS or card.task != "single_label"


@pytest.mark.parametrize("name", card_names())
def test_recipes_of_a_shipped_card_compose(name):
    card = load_card(name)
    for module, recipes in NAMED_RECIPES.items():
        for recipe in {*recipes, *card.recipes.get(module, {})}:
            for model in ("vit_small_patch16", *card.recipes.get(module, {}).get(recipe, {}).get("by_model", {})):
                (run,) = compose(module, {"dataset": name, "recipe": recipe, "model": model}, card)
                for key, value in named_recipe(module, recipe, card, model)[1].items():
                    if key == EFFECTIVE:
                        assert run.recipe.batch_size * run.recipe.accum_iter == value
                        continue
                    wanted = tuple(value) if isinstance(value, list) else value
                    assert getattr(getattr(run, field_sections(module)[key]), key) == wanted
    assert set(card.recipes) <= set(NAMED_RECIPES)


@pytest.mark.parametrize("name", card_names())
def test_classes_of_class_folders_are_sorted_as_the_reference_numbers_them(name):
    """Class numbers of published heads and predictions come from sorted folder names."""
    card = load_card(name)
    if card.layout != "class_folders":
        pytest.skip(f"{name} has layout {card.layout}")
    assert list(card.classes) == sorted(card.classes)


@pytest.mark.parametrize("name", card_names())
def test_random_splits_of_shipped_cards_are_marked_leaky_and_spatial_ones_are_not(name):
    for split in load_card(name).splits.values():
        if split.kind == "stratified":
            assert split.leaky
        if split.kind == "spatial":
            assert not split.leaky


def test_eurosats_facts():
    """EuroSAT's own class counts (Helber et al. 2019, table) and the published recipe."""
    card = load_card("eurosat")
    counts = dict(zip(card.classes, [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000], strict=True))
    assert card.counts.per_class == counts
    assert card.counts.total == 27000
    assert card.signal.bands == ("VV", "VH")
    assert card.splits["reference"].train == 0.8
    assert card.splits["reference"].val == 0


def test_genuine_chips_match_their_card(chips_root):
    card = load_card("terramesh_chips")
    index = build_index(card, chips_root)
    assert check_counts(card, index) is None
    assert np.bincount(index.labels).tolist() == [14, 10, 8, 11]
    assert index.synthetic is None


def test_card_that_disagrees_with_the_data_is_noticed(chips_root):
    card = load_card("terramesh_chips")
    wrong = dataclasses.replace(
        card, counts=dataclasses.replace(card.counts, per_class={**card.counts.per_class, "Lulc4": 9}, total=44)
    )
    assert re.search(
        r"Lulc4 holds 8 images where the card says 9", check_counts(wrong, build_index(wrong, chips_root)).text
    )


def test_users_own_card_is_a_path(write, tmp_path):
    for given in (str(write()), str(tmp_path)):
        card = load_card(given)
        assert (card.name, card.signal.size, card.splits["spatial"].buffer_m) == ("tiny", (64, 64), 1000)
        assert card.data_path == tmp_path / "data"
        assert compose("linear", {"dataset": given}, card)[0].recipe.lr == 0.5


def test_unknown_dataset_offers_the_closest():
    with pytest.raises(BenchError, match="unknown dataset 'eurosta'; did you mean 'eurosat'"):
        load_card("eurosta")


def test_missing_card_file_is_named(tmp_path):
    with pytest.raises(BenchError, match=r"absent\.toml does not exist"):
        load_card(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Tiny"', 'titel = "Tiny"', r"card\.toml: unknown key 'titel'; did you mean 'title'"),
        ('units = "dB"', 'unit = "dB"', r"card\.toml: signal: unknown key 'unit'; did you mean 'units'"),
        (
            "buffer_m = 1000.0",
            "bufer_m = 1000.0",
            r"card\.toml: splits\.spatial: unknown key 'bufer_m'; did you mean 'buffer_m'",
        ),
        ('licence = "MIT"', 'license = "MIT"', r"card\.toml: origin: unknown key 'license'; did you mean 'licence'"),
        ('path = "/x"', "", None),
        ('title = "Tiny"\n', "", r"card\.toml: key 'title' is missing"),
        ('calibration = "sigma0"\n', "", r"card\.toml: signal: key 'calibration' is missing"),
        ("version = 1", 'version = "1"', r"card\.toml: version is '1'; give a value of type int"),
        ("version = 1", "version = true", r"card\.toml: version is True"),
        ("size = [64, 64]", "size = [64, 64.5]", r"card\.toml: signal: size\[1\] is 64\.5"),
        ("size = [64, 64]", "size = 64", r"card\.toml: signal: size is 64; give a list"),
        ("size = [64, 64]", "size = [64]", r"card\.toml: signal\.size"),
        ('units = "dB"', 'units = "db"', r"card\.toml: signal: units is 'db'; did you mean 'dB'"),
        ('task = "single_label"', 'task = "classification"', r"card\.toml: task is 'classification'.*choose from"),
        ('bands = ["VV", "VH"]', "bands = []", r"card\.toml: signal\.bands is \[\]"),
        ('bands = ["VV", "VH"]', 'bands = ["VV", "VV"]', r"card\.toml: signal\.bands"),
        ('bands = ["VV", "VH"]', 'bands = ["VV", "XX"]', r"card\.toml: signal\.bands"),
        ('dtype = "', 'index = [1]\ndtype = "', r"card\.toml: signal\.index is \[1\]; give one for each of VV, VH"),
        ('dtype = "', 'index = [0, 1]\ndtype = "', r"card\.toml: signal\.index is \[0, 1\]; count bands from 1"),
        ('dtype = "', 'index = [1, 2]\ndescribed = ["a", "b"]\ndtype = "', r"index and described; keep one of the two"),
        ('dtype = "', 'scale = 0.0\ndtype = "', r"card\.toml: signal\.scale, offset or floor; give finite numbers"),
        ('dtype = "', 'fill = [[-1.0, -2.0]]\ndtype = "', r"card\.toml: signal\.fill holds \(-1\.0, -2\.0\)"),
        ("total = 5", "total = 6", r"card\.toml: counts\.per_class does not add up to counts\.total"),
        ("B = 3\n", "C = 3\n", r"card\.toml: counts\.per_class does not name exactly the classes"),
        ("B = 3\n", "", r"card\.toml: counts\.per_class does not name exactly the classes"),
        ('classes = ["A", "B"]', 'classes = ["A", "A"]', r"card\.toml: classes; give two or more different names"),
        ('classes = ["A", "B"]', 'classes = ["A"]', r"card\.toml: classes; give two or more"),
        ('name = "tiny"', 'name = "Tiny One"', r"card\.toml: name 'Tiny One'; use lower-case"),
        ('name = "tiny"', 'name = "../tiny"', r"card\.toml: name '\.\./tiny'"),
        (
            'default_split = "reference"',
            'default_split = "referenz"',
            r"split 'referenz' is not defined.*did you mean 'reference'",
        ),
        ('recommended_split = "reference"', 'recommended_split = "best"', r"split 'best' is not defined"),
        ("train = 0.8", "train = 1.0", r"card\.toml: splits\.reference: fractions"),
        ("train = 0.8", "train = 0.0", r"card\.toml: splits\.reference: fractions"),
        ("train = 0.8", "val = 0.8", r"card\.toml: splits\.reference: fractions"),
        ("train = 0.6\nval = 0.2", "train = 0.6\nval = 0.5", r"card\.toml: splits\.spatial: fractions"),
        ("block_km = 20.0\n", "", r"card\.toml: splits\.spatial: block_km or buffer_m is missing"),
        ("buffer_m = 1000.0\n", "", r"card\.toml: splits\.spatial: block_km or buffer_m is missing"),
        ('test = "test.txt"', 'tset = "test.txt"', r"card\.toml: splits\.listed\.files; name train and test"),
        ('kind = "lists"', 'kind = "list"', r"card\.toml: splits\.listed: kind is 'list'; did you mean 'lists'"),
        ("[signal]", "[signal", r"card\.toml: not valid TOML"),
    ],
)
def test_mistake_in_a_card_is_named_with_file_and_key(write, old, new, message):
    if message is None:  # what the loader derives cannot be given
        path = write('title = "Tiny"', 'title = "Tiny"\npath = "/x"')
        message = r"card\.toml: unknown key 'path'"
    else:
        path = write(old, new)
    with pytest.raises(BenchError, match=message) as caught:
        load_card(str(path))
    assert str(path) in str(caught.value)


def test_share_of_invalid_pixels_must_leave_some(write):
    with pytest.raises(BenchError, match="max_invalid_fraction"):
        load_card(str(write('dtype = "float32"', 'dtype = "float32"\nmax_invalid_fraction = 1.0')))


def test_mistake_in_a_recipe_of_a_card_is_named_when_it_is_used(write):
    card = load_card(str(write("lr = 0.5", "learning_rate = 0.5")))
    with pytest.raises(BenchError, match="learning_rate"):
        compose("linear", {"dataset": "tiny"}, card)


def test_cards_cannot_be_changed_after_loading():
    card = load_card("eurosat")
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.version = 2
