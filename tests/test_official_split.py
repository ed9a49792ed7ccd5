"""The published split of BigEarthNet from its genuine lists: counts, and how it leaks."""

import json
import re

import numpy as np
import pytest
from test_multilabel_splits import FRACTIONS, rows_of

from fgmae_bench.data.bigearthnet import official as lists_of
from fgmae_bench.data.bigearthnet import universe
from fgmae_bench.data.bigearthnet.official import read_exclusions, read_parts
from fgmae_bench.data.bigearthnet.universe import from_lists
from fgmae_bench.data.multilabel_splits import (
    adjacency,
    random_parts,
    tile_parts,
)
from fgmae_bench.prepare import split

pytestmark = pytest.mark.slow  # 590,326 names


@pytest.fixture(scope="module")
def lists(realdata):
    return realdata / "official_lists"


@pytest.fixture(scope="module")
def parts(lists):
    return read_parts(lists)


@pytest.fixture(scope="module")
def left_out(lists):
    return read_exclusions(lists)


@pytest.fixture(scope="module")
def official(parts, left_out):
    return from_lists(parts, left_out)


def test_official_counts(official, parts):
    assert [len(names) for names in parts.values()] == [269_695, 123_723, 125_866]
    assert official.excluded() == {"seasonal snow": 61_707, "cloud or shadow": 9_280, "none of the 19 classes": 55}
    assert (len(official.names), len(official.usable)) == (590_326, 519_284)


def test_nearly_every_official_test_patch_touches_a_training_patch(official):
    touch = adjacency(official.grid, np.arange(269_695), np.arange(269_695 + 123_723, 519_284))
    assert (touch.tested, touch.touching) == (125_866, 125_358)
    assert round(touch.share, 3) == 0.996
    assert round(touch.mean_neighbours, 2) == 4.37


def test_random_leaks_like_the_official_split_and_blocks_with_a_buffer_do_not(official):
    chosen = official.take(official.usable)
    random = rows_of(random_parts([named.name for named in chosen.names], fractions=(0.52, 0.24, 0.24), seed=0))
    assert 0.98 < adjacency(chosen.grid, random[0], random[2]).share < 1
    part = tile_parts(chosen.grid, None, fractions=FRACTIONS, seed=0, block=20)
    tiles = rows_of(part)
    assert adjacency(chosen.grid, tiles[0], tiles[2]).touching == 0
    assert [len(rows) / len(part) for rows in tiles] == pytest.approx([0.56, 0.19, 0.2], abs=0.02)
    without = rows_of(tile_parts(chosen.grid, None, fractions=FRACTIONS, seed=0, block=20, buffer=0))
    assert 0.05 < adjacency(chosen.grid, without[0], without[2]).share < 0.2


def test_command_prints_official_facts_from_names_alone(
    lists, parts, left_out, official, tmp_path, capsys, monkeypatch
):
    # what the command reads of the folder is read above
    monkeypatch.setattr(lists_of, "read_parts", {lists: parts}.__getitem__)
    monkeypatch.setattr(lists_of, "read_exclusions", {lists: left_out}.__getitem__)
    monkeypatch.setattr(
        universe, "from_lists", lambda *given: {(id(parts), id(left_out)): official}[tuple(map(id, given))]
    )
    split.main({"dataset": "bigearthnet", "kind": "official", "lists": str(lists), "out": str(tmp_path / "s")})
    out = capsys.readouterr().out
    for part, count in (("train", "269,695"), ("val", "123,723"), ("test", "125,866"), ("excluded", "71,042")):
        assert re.search(rf"{part} +{count} \(card: {count}\)", out)
    assert "61,707 seasonal snow, 9,280 cloud or shadow, 55 none of the 19 classes" in out
    assert "125,358 of 125,866 test patches (99.6%) touch a training patch; 4.37 training neighbours on average" in out
    assert (tmp_path / "s" / "val.txt").read_text().splitlines() == [named.s2 for named in parts["val"]]
    assert json.loads((tmp_path / "s" / "split.json").read_text())["leaky"] is True
