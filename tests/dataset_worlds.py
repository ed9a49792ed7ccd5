"""Tiny synthetic worlds of the datasets that are read by general layouts, each written once a session.

A test file takes the fixture with `pytest_plugins = ("dataset_worlds",)`.
"""

import importlib
import shutil

import pytest

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.groups import with_groups
from fgmae_bench.data.layouts import build_index

SIDE = 48
# name -> (module of fgmae_bench.worlds, writer, its keywords), as small as the audit's 30 images and the splits allow
WORLDS = {
    "sen1floods11": ("floods", "write_sen1floods11", {"chips": 36, "size": SIDE}),
    "kuro_siwo": ("floods", "write_kuro_siwo", {"patches": 32, "size": SIDE}),
    "copernicus_flood": ("floods", "write_kuro_siwo", {"patches": 16, "size": SIDE, "world": "copernicus_flood"}),
    "copernicus_eurosat": ("copernicus", "write_copernicus_eurosat", {"per_class": 5}),
    "copernicus_bigearthnet": ("copernicus", "write_copernicus_bigearthnet", {"patches": 32}),
    "copernicus_dfc2020": ("copernicus", "write_copernicus_dfc2020", {"tiles": 32, "size": SIDE}),
    "sen12ms_scenes": ("scenes", "write_scenes", {"tiles": 60, "size": SIDE}),
    "sen12ms_multilabel": ("scenes", "write_scenes", {"tiles": 60, "size": SIDE, "world": "sen12ms_multilabel"}),
    "biomassters": ("survey", "write_biomassters", {"chips": 32, "size": SIDE}),
    "spacenet6": ("survey", "write_spacenet6", {"tiles": 36, "size": SIDE}),
    "fusar_map": ("survey", "write_fusar_map", {"tiles": 32, "size": SIDE}),
}


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    """A function from a name to the root of its world, which is not to be changed."""
    place, made = tmp_path_factory.mktemp("datasets"), {}

    def root(name):
        if name not in made:
            module, writer, how = WORLDS[name]
            made[name] = place / name
            getattr(importlib.import_module(f"fgmae_bench.worlds.{module}"), writer)(made[name], **how)
        return made[name]

    return root


@pytest.fixture
def spoilt(worlds, tmp_path):
    """A function from a name to a copy of its world, to be changed."""
    return lambda name: shutil.copytree(worlds(name), tmp_path / name)


def opened(name, root, cache):
    """(card, index with groups) of a world."""
    card = load_card(name)
    return card, with_groups(card, build_index(card, root), cache)
