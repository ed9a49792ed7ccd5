"""BigEarthNet v2 (reBEN): scenes of patches with tables beside them, from raw files to index, split, pack and run."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import rasterio
from commands import call, linear, only_record, said

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.bigearthnet.labels import nomenclature
from fgmae_bench.data.bigearthnet.metadata import CLEAR, COVERED
from fgmae_bench.data.bigearthnet.raw import bigearthnet_v1, bigearthnet_v2
from fgmae_bench.data.bigearthnet.table import read_table
from fgmae_bench.data.index import check_counts
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.data.splits import make_split
from fgmae_bench.data.tiff import read_place
from fgmae_bench.errors import BenchError
from fgmae_bench.worlds import bigearthnet_v2 as world_module
from fgmae_bench.worlds.bigearthnet import chip
from fgmae_bench.worlds.bigearthnet_v2 import SCHEMA, patches_of, s2_name, write_bigearthnet_v2

PATCHES = 60
GENUINE = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48"
ROW = {
    "patch_id": "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_70_48",
    "labels": ["Pastures", "Arable land"],
    "split": "validation",
    "country": "Austria",
    "s1_name": GENUINE,
    "s2v1_name": "S2A_MSIL2A_20170613T101031_70_48",
    "contains_seasonal_snow": False,
    "contains_cloud_or_shadow": False,
}


@pytest.fixture(scope="module")
def card():
    return load_card("bigearthnet_v2")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """PATCHES patches; not to be changed."""
    root = tmp_path_factory.mktemp("v2") / "data"
    write_bigearthnet_v2(root, patches=PATCHES)
    return root


@pytest.fixture(scope="module")
def rows(world):
    """Rows of both tables by S1 name."""
    return {row["s1_name"]: row for name in (CLEAR, COVERED) for row in pq.read_table(world / name).to_pylist()}


def usable(row):
    return not row["contains_seasonal_snow"] and not row["contains_cloud_or_shadow"]


def write_metadata(folder, rows, name=CLEAR, schema=SCHEMA):
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / name)


@pytest.fixture
def genuine(realdata, tmp_path):
    """The genuine patch with a table of one row beside it."""
    shutil.copytree(realdata / "bigearthnet_v2_rico_hdl" / "BigEarthNet-S1", tmp_path / "data" / "BigEarthNet-S1")
    write_metadata(tmp_path / "data", [ROW])
    return tmp_path / "data"


# ---- the genuine patch


def test_the_genuine_patch_is_a_sample_with_what_its_table_says(genuine, card):
    index = bigearthnet_v2(card, genuine)
    assert (index.ids, index.groups, index.aliases, index.parts) == (
        (GENUINE,),
        ("33UUP",),
        (ROW["patch_id"],),
        ("val",),
    )
    assert [card.classes[k] for k in np.flatnonzero(index.labels[0])] == ["Arable land", "Pastures"]
    folder = genuine / "BigEarthNet-S1" / GENUINE.rsplit("_", 3)[0] / GENUINE
    for band, values in zip(("VV", "VH"), index.read(0, card).db, strict=True):
        with rasterio.open(folder / f"{GENUINE}_{band}.tif") as source:
            assert source.read(1).tobytes() == values.tobytes()


def test_places_are_read_as_gdal_reads_them(realdata, tmp_path):
    files = [
        *(realdata / "bigearthnet_v2_rico_hdl").rglob("*_V?.tif"),
        *(realdata / "bigearthnet_s1_v1").rglob("*.tif"),
    ]
    for path in files:
        with rasterio.open(path) as source:
            assert read_place(path) == (tuple(source.bounds[i] for i in (0, 3, 2, 1)), source.crs.to_epsg())
    content = files[0].read_bytes()
    for length in (0, 3, 100, 300):
        (tmp_path / "cut.tif").write_bytes(content[:length])
        assert read_place(tmp_path / "cut.tif") is None
    assert read_place(tmp_path / "absent.tif") is None


def test_the_command_indexes_the_genuine_patch(genuine, tmp_path):
    done = call("prepare", "index", "bigearthnet_v2", "--data_path", genuine, "--workers", 1, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "1 patches in" in done.out
    assert "0 train, 1 val, 0 test, 0 in no metadata table" in done.out
    (row,) = read_table(genuine / "BigEarthNet-S1" / "index.parquet", 2).to_pylist()
    assert (row["s1_name"], row["s2_name"], row["s2v1_name"], row["country"]) == (
        GENUINE,
        ROW["patch_id"],
        ROW["s2v1_name"],
        "Austria",
    )
    assert (row["scene"], row["tile"], row["col"], row["row"], row["split"]) == (
        "S1A_IW_GRDH_1SDV_20170613T165043",
        "33UUP",
        70,
        48,
        "val",
    )
    assert (row["acquisition_time"], row["orbit_direction"]) == ("2017-06-13T16:50:43", "ascending")
    assert (row["epsg"], row["lrx"] - row["ulx"], row["uly"] - row["lry"], row["snow"], row["problem"]) == (
        32633,
        1200,
        1200,
        False,
        None,
    )


# ---- the synthetic world


def test_the_world_has_the_layout_of_the_archive(world, rows, realdata):
    assert {path.name for path in world.iterdir()} == {"BigEarthNet-S1", CLEAR, COVERED, "SYNTHETIC.json"}
    folders = {path.name: path for path in (world / "BigEarthNet-S1").glob("S1*/*")}
    assert len(folders) == PATCHES
    assert set(folders) == set(rows)
    assert all(name.startswith(f"{path.parent.name}_") for name, path in folders.items())
    assert all(
        {file.name for file in path.iterdir()} == {f"{name}_VV.tif", f"{name}_VH.tif"} for name, path in folders.items()
    )
    theirs = next((realdata / "bigearthnet_v2_rico_hdl" / "BigEarthNet-S1").rglob("*_VV.tif"))
    ours = next(path for path in (world / "BigEarthNet-S1").rglob("*_VV.tif") if "_33UUP_" in path.name)
    with rasterio.open(theirs) as genuine, rasterio.open(ours) as source:
        for fact in ("count", "dtypes", "shape", "crs", "res", "nodata", "driver"):
            assert getattr(source, fact) == getattr(genuine, fact), fact
        assert source.tags()["FGMAE_BENCH_SYNTHETIC"] == "bigearthnet_v2"


def test_the_tables_say_what_the_patches_are(world, rows):
    assert pq.read_schema(world / CLEAR).names == list(ROW)
    assert all(usable(row) for row in pq.read_table(world / CLEAR).to_pylist())
    assert not any(usable(row) for row in pq.read_table(world / COVERED).to_pylist())
    assert 0 < pq.read_table(world / COVERED).num_rows < PATCHES / 4
    assert {row["split"] for row in rows.values()} == {"train", "validation", "test"}
    classes = set(nomenclature().classes_19)
    assert all(row["labels"] and set(row["labels"]) <= classes for row in rows.values())
    for patch, row in zip(patches_of(0), pq.read_table(world / CLEAR).to_pylist(), strict=False):
        assert s2_name(patch).endswith(f"_T{patch.tile.name}_{patch.col:02d}_{patch.row:02d}")
        assert row["s2v1_name"] == rows[row["s1_name"]]["s2v1_name"]


def test_pixels_are_those_of_the_first_world(world):
    patch = next(patches_of(0))
    with rasterio.open(next(world.rglob(f"{patch.s1_name}_VH.tif"))) as source:
        np.testing.assert_array_equal(source.read(1), chip(0, patch)[1])


def test_the_same_world_is_left_and_another_is_refused(tmp_path):
    first = write_bigearthnet_v2(tmp_path / "w", patches=2)
    assert write_bigearthnet_v2(tmp_path / "w", patches=2) == first
    with pytest.raises(BenchError, match="is not empty"):
        write_bigearthnet_v2(tmp_path / "w", patches=3)
    with pytest.raises(BenchError, match="ask for 1 to"):
        write_bigearthnet_v2(tmp_path / "v", patches=world_module.MAX_PATCHES + 1)


# ---- the index


@pytest.mark.parametrize("place", [".", "BigEarthNet-S1", ".."])
def test_each_way_to_name_the_folder_gives_the_same_index(world, card, rows, place):
    index = bigearthnet_v2(card, world / place)
    expected = sorted(name for name, row in rows.items() if usable(row))
    assert list(index.ids) == expected
    assert index.left_out == PATCHES - len(expected) > 0
    assert check_counts(card, index) is None
    assert index.aliases == tuple(rows[name]["patch_id"] for name in expected)
    assert index.parts == tuple(rows[name]["split"].replace("idation", "") for name in expected)
    for name, hot in zip(expected, index.labels, strict=True):
        assert {card.classes[k] for k in np.flatnonzero(hot)} == set(rows[name]["labels"])


def test_the_other_order_of_classes_gets_its_columns(world, card):
    other = dataclasses.replace(card, classes=nomenclature("alphabetical").classes_19)
    ours, theirs = bigearthnet_v2(card, world).labels, bigearthnet_v2(other, world).labels
    np.testing.assert_array_equal(ours[:, [card.classes.index(name) for name in other.classes]], theirs)


def test_the_default_split_is_the_one_of_the_tables_and_tears_no_neighbours_apart(world, card, rows, tmp_path):
    from fgmae_bench.data.bigearthnet.official import Named, grid_of_names
    from fgmae_bench.data.multilabel_splits import adjacency

    index = bigearthnet_v2(card, world)
    parts = make_split(card, index, Data(dataset="bigearthnet_v2"), tmp_path)
    for part, said_part in (("train", "train"), ("val", "validation"), ("test", "test")):
        ids = [index.ids[row] for row in getattr(parts, part)]
        assert set(ids) == {name for name, row in rows.items() if row["split"] == said_part and usable(row)}
    assert (parts.leaky, parts.left_out) == (False, 0)
    grid = grid_of_names([Named(s2=None, s1=name) for name in index.ids])
    assert adjacency(grid, parts.train, parts.test).touching == 0


def test_patches_that_no_table_names_are_left_out_and_counted(world, card, tmp_path, caplog):
    root = Path(shutil.copytree(world, tmp_path / "w", copy_function=os.link))
    whole = bigearthnet_v2(card, root)
    (root / COVERED).unlink()
    caplog.set_level("INFO", "fgmae_bench")
    index = bigearthnet_v2(card, root)
    assert (index.ids, index.signature) == (whole.ids, whole.signature)
    assert f"{PATCHES - len(index.ids)} patches in no metadata table" in caplog.text
    done = call("prepare", "index", "bigearthnet_v2", "--data_path", root, "--workers", 1, cwd=tmp_path)
    assert f"{PATCHES - len(index.ids)} in no metadata table" in done.out


def test_a_list_of_covered_patches_without_a_row_is_an_empty_list(card, tmp_path):
    write_bigearthnet_v2(tmp_path / "w", patches=12)
    assert pq.read_table(tmp_path / "w" / COVERED).num_rows == 0
    assert len(bigearthnet_v2(card, tmp_path / "w").ids) == 12


def test_patches_of_the_tables_that_are_not_there_are_counted_and_contradict_the_world(world, card, tmp_path, caplog):
    root = Path(shutil.copytree(world, tmp_path / "w"))
    shutil.rmtree(next((root / "BigEarthNet-S1").glob("S1*/*")))
    index = bigearthnet_v2(card, root)
    assert f"names 1 of {PATCHES} patches that are not there" in caplog.text
    assert check_counts(card, index).text.endswith(f"holds {PATCHES - 1} images where SYNTHETIC.json says {PATCHES}")


def test_another_label_or_part_is_another_index(genuine, card):
    before = bigearthnet_v2(card, genuine).signature
    write_metadata(genuine, [{**ROW, "labels": ["Pastures"]}])
    labels = bigearthnet_v2(card, genuine).signature
    write_metadata(genuine, [{**ROW, "split": "test"}])
    assert len({before, labels, bigearthnet_v2(card, genuine).signature}) == 3


def test_the_kept_table_follows_the_metadata_and_the_files(genuine, card, tmp_path):
    call("prepare", "index", "bigearthnet_v2", "--data_path", genuine, "--workers", 1, cwd=tmp_path)
    write_metadata(genuine, [{**ROW, "split": "test"}])
    assert bigearthnet_v2(card, genuine).parts == ("test",)
    (next(genuine.rglob("*_VH.tif"))).write_bytes(b"")
    with pytest.raises(BenchError, match="no whole patch that the metadata knows"):
        bigearthnet_v2(card, genuine)


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([{**ROW, "labels": ["Pasture"]}], r"metadata\.parquet: unknown label 'Pasture'; did you mean 'Pastures'"),
        ([{**ROW, "split": "valid"}], r"metadata\.parquet: unknown split 'valid'; did you mean 'validation'"),
        ([ROW, ROW], f"1 S1 patches have several rows, first {GENUINE}"),
        ([ROW, {**ROW, "s1_name": GENUINE + "1"}], f"1 S2 patches have several rows, first {ROW['patch_id']}"),
        ([{**ROW, "labels": None}], "labels is empty in some rows"),
        ([{**ROW, "contains_seasonal_snow": None}], "contains_seasonal_snow is empty in some rows"),
    ],
    ids=["label", "split", "S1 twice", "S2 twice", "no labels", "no flag"],
)
def test_a_table_that_cannot_be_right_is_refused_by_name(genuine, card, rows, fault):
    write_metadata(genuine, rows)
    with pytest.raises(BenchError, match=fault):
        bigearthnet_v2(card, genuine)


def test_tables_that_are_missing_cut_or_of_other_columns_are_refused(genuine, card):
    content = (genuine / CLEAR).read_bytes()
    (genuine / CLEAR).write_bytes(content[:-100])
    with pytest.raises(BenchError, match=r"metadata\.parquet cannot be read as a table"):
        bigearthnet_v2(card, genuine)
    write_metadata(genuine, [ROW], schema=pa.schema([field for field in SCHEMA if field.name != "split"]))
    with pytest.raises(BenchError, match=r"metadata\.parquet (has no column split|cannot be read as a table .*split)"):
        bigearthnet_v2(card, genuine)
    numbers = pa.schema([field if field.name != "labels" else pa.field("labels", pa.int64()) for field in SCHEMA])
    write_metadata(genuine, [{**ROW, "labels": 3}], schema=numbers)
    with pytest.raises(BenchError, match="a column is of another type"):
        bigearthnet_v2(card, genuine)
    (genuine / CLEAR).unlink()
    with pytest.raises(BenchError, match=r"metadata\.parquet is neither in it nor next to it; put metadata\.parquet"):
        bigearthnet_v2(card, genuine)


def test_the_versions_are_told_apart(world, card, realdata, tmp_path):
    with pytest.raises(BenchError, match="layout of BigEarthNet v1; give it to --dataset bigearthnet"):
        bigearthnet_v2(card, realdata / "bigearthnet_s1_v1")
    with pytest.raises(BenchError, match="give it to --dataset bigearthnet_v2"):
        bigearthnet_v1(load_card("bigearthnet"), world / "BigEarthNet-S1")
    with pytest.raises(BenchError, match=r"no scene of BigEarthNet-S1 v2 is there"):
        bigearthnet_v2(card, tmp_path)
    call(
        "prepare",
        "index",
        "bigearthnet_v2",
        "--data_path",
        world,
        "--out",
        tmp_path / "i.parquet",
        "--workers",
        1,
        cwd=tmp_path,
    )
    with pytest.raises(BenchError, match="is not a patch table of format bigearthnet_s1_v1/1"):
        read_table(tmp_path / "i.parquet")


def test_a_patch_in_the_folder_of_another_scene_is_refused(genuine, card):
    scene = genuine / "BigEarthNet-S1" / "S1A_IW_GRDH_1SDV_20170613T165043"
    scene.rename(scene.with_name("S1A_IW_GRDH_1SDV_20170613T165044"))
    with pytest.raises(BenchError, match="is not a patch of the scene that its folder names"):
        bigearthnet_v2(card, genuine)


def test_broken_patches_are_listed_and_do_not_stop_the_rest(world, card, tmp_path):
    root = Path(shutil.copytree(world, tmp_path / "w"))
    first, second = sorted(path for path in root.rglob("*_VH.tif"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-10])
    done = call("prepare", "index", "bigearthnet_v2", "--data_path", root, "--workers", 2, cwd=tmp_path)
    assert "2 broken" in done.out
    assert f"{first.name} is missing" in done.err
    assert f"{second.name} is truncated" in done.err
    names = {first.name[:-7], second.name[:-7]}
    assert not names & set(bigearthnet_v2(card, root).ids)
    strict = call(
        "prepare", "index", "bigearthnet_v2", "--data_path", root, "--strict", "--out", "s.parquet", cwd=tmp_path
    )
    assert strict.code == 2


# ---- the commands


@pytest.mark.slow
def test_prepare_goes_from_nothing_to_a_verified_pack(card, tmp_path):
    data, pack = tmp_path / "data", tmp_path / "p.lmdb"
    for command in (
        ("synth", "bigearthnet_v2", "--patches", 40, "--data_path", data),
        ("index", "bigearthnet_v2", "--data_path", data, "--workers", 1),
        (
            "split",
            "bigearthnet_v2",
            "--kind",
            "official",
            "--index",
            data / "BigEarthNet-S1/index.parquet",
            "--out",
            "official",
        ),
        ("pack", "bigearthnet_v2", "--data_path", data, "--out", pack, "--workers", 0),
        ("verify", pack, "--data_path", data, "--workers", 0),
        ("inspect", pack, "--out", "p.png"),
        ("inspect", "bigearthnet_v2", "--data_path", data, "--out", "d.png"),
    ):
        done = call("prepare", *command, cwd=tmp_path)
        assert done.code == 0, (command, done.err)
        assert "synthetic" in done.out or command[0] == "index", command
        assert "549" not in done.out, command
    packed, raw = open_index(card, pack), bigearthnet_v2(card, data)
    assert (packed.ids, packed.groups, packed.aliases, packed.parts) == (raw.ids, raw.groups, raw.aliases, raw.parts)
    assert packed.read(3, card).db.tobytes() == raw.read(3, card).db.tobytes()
    facts = json.loads((tmp_path / "official" / "split.json").read_text())
    assert (facts["leaky"], facts["synthetic"], facts["adjacency"]["touching"]) == (False, True, 0)
    names = {part: (tmp_path / "official" / f"{part}.txt").read_text().split() for part in ("train", "val", "test")}
    assert {part: set(listed) for part, listed in names.items()} == {
        part: {name for name, said_part in zip(raw.ids, raw.parts, strict=True) if said_part == part} for part in names
    }


def test_the_genuine_counts_are_printed_only_against_genuine_data(genuine, tmp_path):
    call(
        "prepare", "index", "bigearthnet_v2", "--data_path", genuine, "--out", "i.parquet", "--workers", 1, cwd=tmp_path
    )
    done = call(
        "prepare", "split", "bigearthnet_v2", "--kind", "official", "--index", "i.parquet", "--out", "s", cwd=tmp_path
    )
    assert "1 patches (card: 549,488)" in done.out
    assert "synthetic" not in done.out


def test_what_the_first_version_needs_is_refused(world, tmp_path):
    for flags, fault in (
        (
            ("index", "bigearthnet_v2", "--data_path", world, "--lists", tmp_path),
            "--lists means nothing for BigEarthNet-S1 v2",
        ),
        (("split", "bigearthnet_v2", "--kind", "official", "--out", "s"), "needs --index"),
        (
            ("split", "bigearthnet_v2", "--kind", "official", "--lists", tmp_path, "--out", "s"),
            "--lists means nothing for",
        ),
    ):
        assert fault in said(call("prepare", *flags, cwd=tmp_path))


def test_tiles_are_divided_with_places_from_the_files(world, tmp_path):
    call("prepare", "index", "bigearthnet_v2", "--data_path", world, "--out", "i.parquet", "--workers", 1, cwd=tmp_path)
    flags = ("--seed", 1, "--fractions", 0.5, 0.25, 0.25, "--index", "i.parquet", "--out", "s")
    done = call("prepare", "split", "bigearthnet_v2", "--kind", "tile", *flags, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "0 of " in done.out
    assert "places are known within" not in done.out
    assert pc.all(pc.is_valid(read_table(tmp_path / "i.parquet", 2)["epsg"])).as_py()


def test_a_probe_on_files_and_on_a_pack_is_the_same_run(world, tmp_path):
    assert (
        call("prepare", "pack", "bigearthnet_v2", "--data_path", world, "--out", tmp_path / "p.lmdb", cwd=tmp_path).code
        == 0
    )
    records = {}
    for name, data in (("files", world), ("pack", tmp_path / "p.lmdb")):
        (tmp_path / name).mkdir()
        done = linear(data, "--batch_size", 16, dataset="bigearthnet_v2", cwd=tmp_path / name)
        assert done.code == 0, done.err
        records[name] = only_record(tmp_path / name / "results")
    files, pack = records["files"], records["pack"]
    assert files["dataset"] == pack["dataset"]
    assert files["metrics"] == pack["metrics"]
    assert (files["dataset"]["split"], files["dataset"]["name"]) == ("official", "bigearthnet_v2")
    assert files["dataset"]["label_scheme"] == {"train": "bigearthnet19_original", "eval": "bigearthnet19_original"}
    assert "leaky_split" not in {note["code"] for note in files["notes"]}
    assert files["dataset"]["n_val"] > 0


# ---- read by others


def test_configilm_reads_our_pack(world, rows, tmp_path):
    """The BENv2 reader of the package configilm, the reference for rico-hdl packs, with the tables of the archive."""
    utils = pytest.importorskip("configilm.extra.BENv2_utils", reason="the package configilm is not installed")
    assert (
        call("prepare", "pack", "bigearthnet_v2", "--data_path", world, "--out", tmp_path / "p.lmdb", cwd=tmp_path).code
        == 0
    )
    reader = utils.BENv2LDMBReader(
        image_lmdb_file=tmp_path / "p.lmdb",
        metadata_file=world / CLEAR,
        metadata_snow_cloud_file=world / COVERED,
        bands="S1",
    )
    assert reader.S1_keys() == {name for name, row in rows.items() if usable(row)}
    for name, row in rows.items():
        if not usable(row):
            continue
        bands, labels = reader[row["patch_id"]]
        assert list(labels) == row["labels"]
        for band in ("VV", "VH"):
            with rasterio.open(next(world.rglob(f"{name}_{band}.tif"))) as source:
                assert bands[band].tobytes() == source.read(1).tobytes()
