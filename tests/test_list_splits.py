"""Lists as Copernicus-Bench publishes them for BigEarthNet: a header, paths of files of its own, and columns that are
no names.
"""

import dataclasses

import pytest
from commands import linear, only_record

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.bigearthnet.raw import bigearthnet_v2
from fgmae_bench.data.splits import make_split
from fgmae_bench.errors import BenchError
from fgmae_bench.worlds.bigearthnet_v2 import write_bigearthnet_v2

HEADER = "s1_path,s2_path," + ",".join(f"class_{k}" for k in range(19))
PARTS = {"train": slice(0, 20), "val": slice(20, 26), "test": slice(26, 34)}


@pytest.fixture(scope="module")
def card():
    return load_card("bigearthnet_v2")


@pytest.fixture
def world(tmp_path):
    write_bigearthnet_v2(tmp_path / "data", patches=60)
    return tmp_path / "data"


def write(folder, names, header=HEADER):
    """The three lists, each patch as `<scene>/<patch>/<patch>_allbands.tif` with its Sentinel-2 file and 19 columns."""
    for part, rows in PARTS.items():
        lines = [
            f"{name[:32]}/{name}/{name}_allbands.tif,S2/{name}/x.tif,{','.join('01'[k % 2] for k in range(19))}"
            for name in names[rows]
        ]
        (folder / f"multilabel-{part}.csv").write_text("\n".join([header, *lines]) + "\n")


def divided(card, index, tmp_path, name="copernicus"):
    return make_split(card, index, Data(dataset="bigearthnet_v2", split=name), tmp_path)


def test_the_rows_are_the_listed_patches_in_their_order(card, world, tmp_path):
    index = bigearthnet_v2(card, world)
    names = list(index.ids)[::-1]
    write(world, names)
    parts = divided(card, index, tmp_path)
    for part, rows in PARTS.items():
        assert [index.ids[row] for row in getattr(parts, part)] == names[rows]
    assert parts.left_out == len(names) - 34
    assert parts.leaky is False


def test_a_probe_is_recorded_under_the_name_of_the_split(card, world, tmp_path):
    write(world, list(bigearthnet_v2(card, world).ids))
    done = linear(world, "--split", "copernicus", "--batch_size", 16, dataset="bigearthnet_v2", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")["dataset"]
    assert (record["split"], record["n_train"], record["n_val"], record["n_test"]) == ("copernicus", 20, 6, 8)


def test_what_is_not_as_the_card_says_is_refused(card, world, tmp_path):
    index = bigearthnet_v2(card, world)
    with pytest.raises(BenchError, match=r"split 'copernicus' needs multilabel-train\.csv, .*Copernicus-Bench"):
        divided(card, index, tmp_path)
    write(world, list(index.ids), header="patch,other")
    with pytest.raises(BenchError, match="names 1 of 21 images that are not in the data, first patch,other"):
        divided(card, index, tmp_path)
    split = dataclasses.replace(card.splits["copernicus"], suffix="")
    write(world, list(index.ids))
    with pytest.raises(BenchError, match="names 20 of 20 images"):
        divided(dataclasses.replace(card, splits={"copernicus": split}), index, tmp_path)


def test_a_number_behind_a_dot_belongs_to_the_name(tmp_path):
    """`River_12.5` is not `River_12`; an image's ending is none of the name."""
    from fgmae_bench.data.list_splits import _rows

    rows = {"River/River_12": [0], "River_12": [0], "River/River_7.5": [1], "River_7.5": [1]}
    assert [_rows(rows, name, "") for name in ("River_12.5", "River_7.5", "River_7.5.jpg", "River_12.tif")] == [
        [],
        [1],
        [1],
        [0],
    ]
