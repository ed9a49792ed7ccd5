"""Splits of multi-label patches: official lists in both forms, at random, disjoint on the ground; and how much each
leaks.
"""

import bz2
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fgmae_bench.config.cards import Split, load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.bigearthnet.labels import multi_hot
from fgmae_bench.data.bigearthnet.official import Named, grid_of_names, match, read_list, read_parts
from fgmae_bench.data.bigearthnet.table import from_rows, write_table
from fgmae_bench.data.bigearthnet.universe import from_table
from fgmae_bench.data.index import Index
from fgmae_bench.data.multilabel_splits import (
    LEFT_OUT,
    adjacency,
    grid_of,
    label_shares,
    neighbours,
    random_parts,
    tile_parts,
)
from fgmae_bench.data.spatial import deal_blocks
from fgmae_bench.data.splits import make_split
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare import split
from fgmae_bench.worlds.bigearthnet import metadata, patch_of

FRACTIONS = (0.6, 0.2, 0.2)


@pytest.fixture(scope="module")
def table():
    """Patch table of a synthetic world; its pixels are not needed."""
    rows = []
    for number in range(3000):
        patch = patch_of(0, number)
        facts = metadata(patch)
        hot = multi_hot(patch.labels, patch.s1_name)
        corners = {
            key: float(facts["coordinates"][name])
            for key, name in zip(("ulx", "uly", "lrx", "lry"), facts["coordinates"], strict=True)
        }
        rows.append(
            {
                "s1_name": patch.s1_name,
                "s2_name": patch.s2_name,
                "tile": patch.tile.name,
                "row": patch.row,
                "col": patch.col,
                **corners,
                "epsg": 32600 + patch.tile.zone,
                "labels_43": list(patch.labels),
                "labels_19": hot.tolist(),
                "no_19_class": not hot.any(),
            }
        )
    return from_rows(rows)


@pytest.fixture(scope="module")
def universe(table):
    whole = from_table(table, {})
    return whole.take(whole.usable)


def rows_of(part):
    return [np.flatnonzero(part == number) for number in range(3)]


def write(folder, *, s1=True, s2=True, packed=False, lines=None):
    """Lists of 100 patches of the world in one of the published forms."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, numbers in (("train", range(52)), ("val", range(52, 76)), ("test", range(76, 100))):
        names = [(patch.s2_name,) * s2 + (patch.s1_name,) * s1 for patch in (patch_of(0, number) for number in numbers)]
        text = "".join(f"{','.join(name)}\r\n" for name in names)
        text = text if lines is None or part != "train" else text + "".join(f"{line}\r\n" for line in lines)
        (folder / (f"{part}.csv.bz2" if packed else f"{part}.csv")).write_bytes(
            bz2.compress(text.encode()) if packed else text.encode()
        )
    return folder


# ---- lists in both forms


@pytest.mark.parametrize(
    ("form", "packed"), [({}, False), ({"s1": False}, False), ({"s1": False}, True), ({"s2": False}, False)]
)
def test_lists_in_each_form_name_the_same_patches(table, tmp_path, form, packed):
    whole = from_table(table, {})
    part, absent = match(whole.names, read_parts(write(tmp_path / "lists", packed=packed, **form)))
    assert absent == {"train": 0, "val": 0, "test": 0}
    assert [rows.tolist() for rows in rows_of(part)] == [list(range(52)), list(range(52, 76)), list(range(76, 100))]
    assert (part[100:] == LEFT_OUT).all()


def test_lists_are_found_beside_the_data(tmp_path):
    write(tmp_path / "data" / "splits")
    assert len(read_parts(tmp_path / "data")["train"]) == 52


def test_odd_times_are_names(tmp_path):
    names = ["S2B_MSIL2A_20180204T94161_57_38", "S2A_MSIL2A_20170613T101060_0_9", "S2B_MSIL2A_20170924T93020_69_24"]
    (tmp_path / "test.csv").write_text("\n".join(names))
    assert [named.s2 for named in read_list(tmp_path / "test.csv")] == names
    grid = grid_of_names([Named(s2=name, s1=None) for name in names])
    assert (grid.col.tolist(), grid.row.tolist(), len(set(grid.group))) == ([57, 0, 69], [38, 9, 24], 3)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("patch_id\n", "line 1: 'patch_id' is not an S2 patch name"),
        ("S2A_MSIL2A_20170613T101031_1_2,x\n", "line 1: 'x' is not an S1 patch name"),
        (
            "\nS2A_MSIL2A_20170613T101031_1_2\nS2A_MSIL2A_20170613T101031_1_2\n",
            "line 3: S2A_MSIL2A_20170613T101031_1_2 is listed twice",
        ),
    ],
)
def test_what_is_no_list_is_refused_by_line(tmp_path, text, fault):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(BenchError, match=fault):
        read_list(tmp_path / "train.csv")


def test_a_cut_archive_a_missing_list_and_a_patch_in_two_lists_are_refused(tmp_path):
    write(tmp_path / "two", lines=[f"{patch_of(0, 80).s2_name},{patch_of(0, 80).s1_name}"])
    with pytest.raises(BenchError, match="is in the lists for train and test"):
        read_parts(tmp_path / "two")
    (tmp_path / "two" / "val.csv").unlink()
    with pytest.raises(BenchError, match="holds no list for val"):
        read_parts(tmp_path / "two")
    write(tmp_path / "cut", packed=True)
    (tmp_path / "cut" / "test.csv.bz2").write_bytes((tmp_path / "cut" / "test.csv.bz2").read_bytes()[:-20])
    with pytest.raises(BenchError, match=r"test.csv.bz2: cannot be read as a list"):
        read_parts(tmp_path / "cut")


def test_absent_names_are_counted_and_refused_above_the_tolerance(table, tmp_path):
    whole = from_table(table, {})
    lists = read_parts(write(tmp_path / "one", lines=["S2A_MSIL2A_20170613T101031_1_2"]))
    with pytest.raises(
        BenchError,
        match="the list for train names 1 of 53 patches that are not in the data, first S2A_MSIL2A_20170613T101031_1_2",
    ):
        match(whole.names, lists)
    part, absent = match(whole.names, lists, tolerance=0.02)
    assert absent == {"train": 1, "val": 0, "test": 0}
    assert np.bincount(part + 1).tolist() == [2900, 52, 24, 24]


# ---- pure functions


def test_random_depends_on_seed_and_names_not_on_their_order():
    ids = [f"patch {number}" for number in range(1000)]
    part = random_parts(ids, fractions=FRACTIONS, seed=1)
    assert np.bincount(part).tolist() == [600, 200, 200]
    assert (random_parts(ids[::-1], fractions=FRACTIONS, seed=1)[::-1] == part).all()
    assert (random_parts(ids, fractions=FRACTIONS, seed=2) != part).any()
    assert np.bincount(random_parts(ids, fractions=(0.8, 0, 0.2), seed=1)).tolist() == [800, 0, 200]
    with pytest.raises(BenchError, match="1 of 2 names repeat"):
        random_parts(["a", "a"], fractions=FRACTIONS, seed=0)


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.1), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5), (1.2, -0.4, 0.2)])
def test_fractions_that_are_none_are_refused(fractions):
    with pytest.raises(BenchError, match="that add up to 1"):
        random_parts(["a", "b"], fractions=fractions, seed=0)


def test_neighbours_equal_counting_by_hand():
    rng = np.random.default_rng(0)
    cells = np.unique(rng.integers(0, [3, 12, 9], (150, 3)), axis=0)
    grid = grid_of([f"tile {group}" for group in cells[:, 0]], cells[:, 1], cells[:, 2])
    order = rng.permutation(len(cells))
    test, train = order[:40], order[40:90]
    for reach in (0, 1, 2):
        near = (np.abs(cells[test, None] - cells[None, train]) <= [0, reach, reach]).all(axis=-1)
        assert (neighbours(grid, test, train, reach) == near.sum(axis=1)).all()
    touch = adjacency(grid, train, test)
    near = (np.abs(cells[test, None] - cells[None, train]) <= [0, 1, 1]).all(axis=-1).sum(axis=1)
    assert (touch.touching, touch.tested, touch.mean_neighbours) == ((near > 0).sum(), 40, near.mean())
    assert adjacency(grid, train[:0], test).touching == 0


@pytest.mark.parametrize("buffer", [0, 1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_blocks_are_disjoint_with_a_buffer(universe, buffer, seed):
    part = tile_parts(
        universe.grid, universe.labels, fractions=FRACTIONS, seed=seed, block=6, buffer=buffer, centres=universe.centres
    )
    rows = rows_of(part)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert neighbours(universe.grid, rows[one], rows[other], buffer).max() == 0
    if buffer:
        assert adjacency(universe.grid, rows[0], rows[2], universe.centres).touching == 0
    else:
        assert (part != LEFT_OUT).all()
    again = tile_parts(
        universe.grid, universe.labels, fractions=FRACTIONS, seed=seed, block=6, buffer=buffer, centres=universe.centres
    )
    assert (part == again).all()


def test_whole_tiles_stay_whole(universe):
    part = tile_parts(universe.grid, universe.labels, fractions=FRACTIONS, seed=0)
    assert all(len(set(part[universe.grid.group == group])) == 1 for group in range(12))
    assert set(part.tolist()) == {0, 1, 2}


def test_labels_are_balanced(universe):
    part = tile_parts(universe.grid, universe.labels, fractions=FRACTIONS, seed=0, block=5, buffer=0)
    share = label_shares(part, universe.labels)
    assert share.sum(axis=0) == pytest.approx(np.ones(19))
    assert np.abs(share - np.array(FRACTIONS)[:, None]).max() < 0.12
    assert [len(rows) / len(part) for rows in rows_of(part)] == pytest.approx(FRACTIONS, abs=0.04)
    blind = tile_parts(universe.grid, None, fractions=FRACTIONS, seed=0, block=5, buffer=0)
    spread = np.abs(label_shares(blind, universe.labels) - np.array(FRACTIONS)[:, None]).mean()
    assert np.abs(share - np.array(FRACTIONS)[:, None]).mean() < 0.5 * spread


def test_tiles_that_overlap_on_the_ground_are_kept_apart():
    """Two tiles share a strip; only the places on the ground tell."""
    place = np.arange(40)
    grid = grid_of(["a"] * 40 + ["b"] * 40 + ["c"] * 40, [*place // 10] * 3, [*place % 10] * 3)
    step = 1200 / 111_195  # degrees of a patch at the equator
    east = np.concatenate([place % 10, place % 10 + 8, place % 10 + 100]) * step
    centres = np.stack([east, -np.tile(place // 10, 3) * step], axis=1)
    blind = tile_parts(grid, None, fractions=(1 / 3, 1 / 3, 1 / 3), seed=0)
    assert (blind != LEFT_OUT).all()
    part = tile_parts(grid, None, fractions=(1 / 3, 1 / 3, 1 / 3), seed=0, centres=centres)
    first, second = rows_of(blind)[min(blind[0], blind[40])], rows_of(blind)[max(blind[0], blind[40])]
    assert adjacency(grid, first, second).touching == 0
    assert adjacency(grid, first, second, centres).touching > 0
    kept_first, kept_second = (np.array([row for row in rows if part[row] != LEFT_OUT]) for rows in (first, second))
    assert len(kept_first) < len(first)
    assert len(kept_second) == len(second)
    apart = np.abs(centres[kept_first, None] - centres[None, kept_second]).max(axis=-1) / step
    assert apart.min() > 1.9
    assert adjacency(grid, kept_first, kept_second, centres).touching == 0


def test_multi_hot_blocks_are_dealt_as_single_labels_are():
    rng = np.random.default_rng(0)
    blocks, labels = rng.integers(0, 30, 600), rng.integers(0, 5, 600)
    shares = np.array(FRACTIONS)
    assert (deal_blocks(blocks, labels, shares, 3) == deal_blocks(blocks, np.eye(5)[labels], shares, 3)).all()


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        ({"buffer": -1}, "give buffer >= 0"),
        ({"block": 2, "buffer": 1}, "blocks wider than two buffers"),
    ],
)
def test_blocks_that_cannot_be_are_refused(universe, wanted, fault):
    with pytest.raises(BenchError, match=fault):
        tile_parts(universe.grid, None, fractions=FRACTIONS, seed=0, **wanted)


def test_one_tile_makes_no_three_parts():
    grid = grid_of(["a"] * 4, [0, 0, 1, 1], [0, 1, 0, 1])
    with pytest.raises(BenchError, match="1 tiles or blocks do not make 3 parts"):
        tile_parts(grid, None, fractions=FRACTIONS, seed=0)


# ---- the universe and the command


def test_reasons_come_from_table_and_lists(table):
    rows = table.slice(0, 60).to_pylist()
    rows[3]["snow"], rows[4]["cloud_shadow"], rows[5]["no_19_class"] = True, True, True
    rows[6] |= {"problem": "VH is missing", "labels_19": None}
    whole = from_table(from_rows(rows), {"cloud or shadow": {rows[7]["s2_name"]}})
    assert len(whole.names) == 59
    none = sum(bool(row["no_19_class"]) for row in rows)
    assert whole.excluded() == {"seasonal snow": 1, "cloud or shadow": 2, "none of the 19 classes": none}
    with pytest.raises(BenchError, match="holds no whole patch"):
        from_table(from_rows([rows[6]]), {})


def test_centres_are_where_the_tiles_are(table):
    """Oracle: the middle of Austria's tile 33UUP lies near 48.3 N, 13.0 E; its first patches at the upper left."""
    whole = from_table(table.slice(0, 1), {})
    assert whole.centres[0] == pytest.approx([12.28, 48.71], abs=0.03)


def write_stamped(path, table):
    """As `prepare index` leaves a table, with a stamp for each patch."""
    stamps = pa.array(np.zeros(len(table), np.uint64))
    write_table(path, table.set_column(table.schema.get_field_index("stamp"), "stamp", stamps))


@pytest.fixture
def index_file(table, tmp_path) -> Path:
    write_stamped(tmp_path / "index.parquet", table)
    return tmp_path / "index.parquet"


def test_command_from_an_index(index_file, tmp_path, capsys):
    given = {"dataset": "bigearthnet", "index": str(index_file), "seed": 3, "fractions": list(FRACTIONS)}
    split.main(given | {"kind": "random", "out": str(tmp_path / "random")})
    split.main(given | {"kind": "tile", "block": 10, "out": str(tmp_path / "tile")})
    out = capsys.readouterr().out
    assert "0 of " in out
    assert "in the buffer between parts" in out
    assert "farthest from that" in out
    assert "holds no patch of" not in out
    for kind, leaky in (("random", True), ("tile", False)):
        facts = json.loads((tmp_path / kind / "split.json").read_text())
        lines = [(tmp_path / kind / f"{part}.txt").read_text().splitlines() for part in ("train", "val", "test")]
        assert (facts["kind"], facts["seed"], facts["leaky"]) == (kind, 3, leaky)
        assert list(facts["counts"].values()) == [len(names) for names in lines]
        assert (
            len(set().union(*lines))
            == sum(map(len, lines))
            == 3000 - sum(facts["excluded"].values()) - facts["elsewhere"]
        )
        assert all(name.startswith("S1") for name in lines[0])


def test_command_names_the_labels_that_a_part_lacks(table, tmp_path, capsys):
    write_stamped(tmp_path / "index.parquet", table.slice(0, 300))
    given = {
        "dataset": "bigearthnet",
        "kind": "tile",
        "index": str(tmp_path / "index.parquet"),
        "seed": 0,
        "fractions": list(FRACTIONS),
    }
    split.main(given | {"out": str(tmp_path / "s")})
    assert re.search("test holds no patch of .*: choose another seed, or smaller blocks", capsys.readouterr().out)


def test_command_from_names_alone_does_not_call_a_tile_split_tight(tmp_path):
    """S2 names omit the tile: acquisitions may overlap on the ground unseen."""
    lists = write(tmp_path / "lists", s1=False)
    given = {
        "dataset": "bigearthnet",
        "kind": "tile",
        "lists": str(lists),
        "seed": 0,
        "fractions": list(FRACTIONS),
        "block": 3,
    }
    split.main(given | {"out": str(tmp_path / "s")})
    facts = json.loads((tmp_path / "s" / "split.json").read_text())
    assert facts["adjacency"]["touching"] == 0
    assert facts["leaky"] is True


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"kind": "random"}, "a split of kind random needs --seed and --fractions"),
        ({"kind": "random", "seed": 1}, "needs --fractions"),
        ({"kind": "tile", "fractions": [0.6, 0.2, 0.2]}, "needs --seed"),
        ({"kind": "official"}, "a split of kind official needs --lists"),
        ({"kind": "oficial", "lists": "x"}, "unknown kind of split 'oficial'; did you mean 'official'"),
        ({"kind": "official", "lists": "x", "seed": 1}, "--seed means nothing for a split of kind official"),
        ({"kind": "random", "seed": 1, "fractions": [0.6, 0.2, 0.2]}, "there is nothing to split; give --index FILE"),
        ({"kind": "official", "lists": "x", "dataset": "eurosat"}, "is not laid out as bigearthnet_v1"),
        ({"kind": "official", "lists": "nowhere"}, "nowhere holds no list for train"),
    ],
)
def test_command_refuses_what_it_would_have_to_guess(tmp_path, given, fault):
    with pytest.raises(BenchError, match=fault):
        split.main({"dataset": "bigearthnet", "out": str(tmp_path / "s")} | given)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_anything_is_not_written_over(tmp_path, index_file):
    given = {
        "dataset": "bigearthnet",
        "kind": "random",
        "index": str(index_file),
        "seed": 0,
        "fractions": [0.6, 0.2, 0.2],
    }
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "train.txt").write_text("mine")
    with pytest.raises(BenchError, match="is not empty"):
        split.main(given | {"out": str(tmp_path / "s")})
    assert (tmp_path / "s" / "train.txt").read_text() == "mine"


# ---- as a run reads them


@pytest.fixture
def index(table, tmp_path):
    whole = table.filter(pa.compute.invert(table["no_19_class"]))
    return Index(
        root=tmp_path,
        files=tuple(whole["s1_name"].to_pylist()),
        labels=np.array(whole["labels_19"].to_pylist()),
        stamps=np.zeros(len(whole), np.uint64),
        synthetic="x",
        groups=tuple(whole["tile"].to_pylist()),
        aliases=tuple(whole["s2_name"].to_pylist()),
    )


def test_a_run_reads_the_folder_that_the_command_wrote(index, index_file, tmp_path):
    given = {
        "dataset": "bigearthnet",
        "kind": "tile",
        "index": str(index_file),
        "seed": 0,
        "fractions": [0.6, 0.2, 0.2],
        "block": 10,
    }
    split.main(given | {"out": str(tmp_path / "s")})
    parts = make_split(
        load_card("bigearthnet"), index, Data(dataset="bigearthnet", split=str(tmp_path / "s")), tmp_path
    )
    assert [index.ids[row] for row in parts.test] == (tmp_path / "s" / "test.txt").read_text().splitlines()
    assert parts.leaky is False
    (tmp_path / "s" / "split.json").write_text("{")
    with pytest.raises(BenchError, match=r"split\.json is broken"):
        make_split(load_card("bigearthnet"), index, Data(dataset="bigearthnet", split=str(tmp_path / "s")), tmp_path)


@pytest.mark.parametrize(("s1", "packed"), [(True, False), (False, False), (False, True)])
def test_a_run_reads_published_lists_in_both_forms(index, tmp_path, s1, packed):
    write(tmp_path, s1=s1, packed=packed)
    usable = {patch.s1_name for patch in (patch_of(0, number) for number in range(100)) if patch.in_19}
    card = load_card("bigearthnet")
    card.splits["official"] = Split(kind="lists", files=card.splits["official"].files, absent_tolerance=0.1, leaky=True)
    parts = make_split(card, index, Data(dataset="bigearthnet", split="official"), tmp_path)
    assert {index.ids[row] for rows in (parts.train, parts.val, parts.test) for row in rows} == usable
    card.splits["official"] = Split(kind="lists", files=card.splits["official"].files)
    with pytest.raises(BenchError, match="images that are not in the data"):
        make_split(card, index, Data(dataset="bigearthnet", split="official"), tmp_path)


@pytest.mark.parametrize("kind", ["random", "tile"])
def test_a_card_may_ask_for_both_kinds(index, tmp_path, kind):
    card = load_card("bigearthnet")
    card.splits["mine"] = Split(kind=kind, train=0.6, val=0.2, block_patches=6, buffer_patches=1)
    parts = make_split(card, index, Data(dataset="bigearthnet", split="mine", split_seed=1), tmp_path)
    assert len(set(np.concatenate([parts.train, parts.val, parts.test]))) + parts.left_out == len(index.files)
    grid = grid_of_names([Named(s2=None, s1=name) for name in index.ids])
    assert (adjacency(grid, parts.train, parts.test).share == 0) == (kind == "tile")
