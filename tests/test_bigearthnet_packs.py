"""BigEarthNet in packs: genuine patches and the genuine rico-hdl pack bit by bit, splits of packs, lists as people keep
them.
"""

import shutil
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from commands import Result, call, codes, linear, only_record
from safetensors.numpy import load, save
from test_bigearthnet_v2 import ROW

from fgmae_bench.config.cards import Split, load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.config.run import Data
from fgmae_bench.data.bigearthnet.official import read_list, s2_names
from fgmae_bench.data.bigearthnet.patch import _read_any, read_patch
from fgmae_bench.data.bigearthnet.raw import bigearthnet_v2
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.data.splits import make_split
from fgmae_bench.errors import BenchError
from fgmae_bench.views.classification import Augmentation, make_view
from fgmae_bench.worlds.bigearthnet import write_bigearthnet
from fgmae_bench.worlds.bigearthnet_v2 import SCHEMA, write_bigearthnet_v2


@pytest.fixture(scope="module")
def ben():
    return load_card("bigearthnet")


@pytest.fixture(scope="module")
def v2():
    return load_card("bigearthnet_v2")


@pytest.fixture(scope="module")
def ben_world(tmp_path_factory):
    """`data` and beside it `p.lmdb` of 60 patches; not to be changed."""
    root = tmp_path_factory.mktemp("ben")
    write_bigearthnet(root / "data", patches=60)
    done = call(
        "prepare",
        "pack",
        "bigearthnet",
        "--data_path",
        root / "data",
        "--out",
        root / "p.lmdb",
        "--workers",
        0,
        cwd=root,
    )
    assert done.code == 0, done.err
    return root


def said(result: Result) -> str:
    """The line that a refusal ends in; what was noted before it stands above."""
    assert (result.code, result.out) == (2, ""), result
    *_, line = result.err.splitlines()
    assert line.startswith("error: ")
    return line


def entries(pack, tmp_path):
    """Everything in a pack by plain lmdb, of a copy."""
    with (
        lmdb.open(str(shutil.copytree(pack, tmp_path / "seen")), readonly=True, lock=False) as environment,
        environment.begin() as reading,
    ):
        return {key.decode(): value for key, value in reading.cursor()}


# ---- genuine data


def test_genuine_patches_go_from_files_to_a_pack_and_back_bit_by_bit(realdata, ben, tmp_path):
    data = Path(shutil.copytree(realdata / "bigearthnet_s1_v1", tmp_path / "data"))
    for command in (
        ("index", "bigearthnet", "--data_path", data, "--workers", 1),
        ("pack", "bigearthnet", "--data_path", data, "--out", "p.lmdb", "--partial", "--workers", 0),
        ("verify", "p.lmdb", "--data_path", data, "--workers", 0),
        ("inspect", "p.lmdb", "--out", "p.png"),
    ):
        done = call("prepare", *command, cwd=tmp_path)
        assert done.code == 0, (command, done.err)
        assert "synthetic" not in done.out
    held = entries(tmp_path / "p.lmdb", tmp_path)
    names = sorted(path.name for path in data.iterdir() if path.is_dir())
    assert set(held) == {*names, "__meta__", "__labels__"}
    packed = open_index(ben, tmp_path / "p.lmdb")
    assert packed.groups == tuple(name.split("_")[5] for name in names)
    for row, name in enumerate(names):
        tensors = load(held[name])
        assert sorted(tensors) == ["VH", "VV"]
        for band, plane in zip(("VV", "VH"), packed.read(row, ben).db, strict=True):
            with rasterio.open(data / name / f"{name}_{band}.tif") as source:
                assert tensors[band].tobytes() == plane.tobytes() == source.read(1).tobytes()


def test_a_pack_without_trust_holds_no_part_of_the_archive(realdata, tmp_path):
    line = said(
        call(
            "prepare",
            "pack",
            "bigearthnet",
            "--data_path",
            realdata / "bigearthnet_s1_v1",
            "--out",
            tmp_path / "p.lmdb",
            cwd=tmp_path,
        )
    )
    assert "holds 4 images where the card says 590326" in line


@pytest.fixture
def rico(realdata, tmp_path):
    """The genuine rico-hdl pack with a table that states its patch."""
    (tmp_path / "rico").mkdir()
    shutil.copytree(realdata / "bigearthnet_v2_rico_hdl" / "lmdb", tmp_path / "rico" / "lmdb")
    pq.write_table(pa.Table.from_pylist([ROW], SCHEMA), tmp_path / "rico" / "metadata.parquet")
    return tmp_path / "rico" / "lmdb"


def test_the_genuine_rico_pack_with_its_table_is_a_dataset(rico, realdata, v2, tmp_path):
    index = open_index(v2, rico)
    name = ROW["s1_name"]
    assert (index.ids, index.groups, index.aliases, index.parts) == ((name,), ("33UUP",), (ROW["patch_id"],), ("val",))
    assert [v2.classes[k] for k in np.flatnonzero(index.labels[0])] == ["Arable land", "Pastures"]
    for band, plane in zip(("VV", "VH"), index.read(0, v2).db, strict=True):
        with rasterio.open(next((realdata / "bigearthnet_v2_rico_hdl").rglob(f"{name}_{band}.tif"))) as source:
            assert plane.tobytes() == source.read(1).tobytes()
    write_pack(v2, index, tmp_path / "ours.lmdb")
    assert open_index(v2, tmp_path / "ours.lmdb").read(0, v2).db.tobytes() == index.read(0, v2).db.tobytes()
    with pytest.raises(BenchError, match="names its bands; leave --band_order out"):
        open_index(v2, rico, ("VH", "VV"))
    (rico.parent / "metadata.parquet").unlink()
    with pytest.raises(BenchError, match=r"metadata\.parquet is neither in it nor beside it"):
        open_index(v2, rico)


def test_a_rico_pack_of_a_world_is_the_same_run_as_its_files(v2, tmp_path):
    write_bigearthnet_v2(tmp_path / "data", patches=60)
    files = bigearthnet_v2(v2, tmp_path / "data")
    with (
        lmdb.open(str(tmp_path / "data" / "r.lmdb"), map_size=1 << 26) as environment,
        environment.begin(write=True) as writing,
    ):
        for folder in (tmp_path / "data").glob("BigEarthNet-S1/S1*/*"):
            chip = read_patch(folder, v2)
            writing.put(folder.name.encode(), save({"VH": chip.db[1], "VV": chip.db[0]}))
        writing.put(b"S2A_MSIL2A_x", save({"B02": np.zeros((2, 2), np.uint16)}))
    rico = open_index(v2, tmp_path / "data" / "r.lmdb")
    assert (rico.ids, rico.groups, rico.aliases, rico.parts, rico.left_out) == (
        files.ids,
        files.groups,
        files.aliases,
        files.parts,
        files.left_out,
    )
    np.testing.assert_array_equal(rico.labels, files.labels)
    for row in (0, 20):
        assert rico.read(row, v2).db.tobytes() == files.read(row, v2).db.tobytes()


# ---- splits of packs


def test_the_official_split_of_a_pack_needs_its_lists_beside_it(ben_world, ben, tmp_path):
    pack = Path(shutil.copytree(ben_world / "p.lmdb", tmp_path / "p.lmdb"))
    line = said(linear(pack, dataset="bigearthnet", cwd=tmp_path))
    assert "split 'official' needs train.csv.bz2, val.csv.bz2, test.csv.bz2; put the lists into" in line
    assert str(tmp_path) in line
    assert "p.lmdb" not in line
    assert line.endswith("or name the folder that holds them with --split DIR")
    named = make_split(
        ben, open_index(ben, pack), Data(dataset="bigearthnet", split=str(ben_world / "data" / "splits")), tmp_path
    )
    for place in ("splits", "."):
        shutil.copytree(ben_world / "data" / "splits", tmp_path / place, dirs_exist_ok=True)
        parts = make_split(ben, open_index(ben, pack), Data(dataset="bigearthnet", split="official"), tmp_path)
        for part in ("train", "val", "test"):
            assert getattr(parts, part).tolist() == getattr(named, part).tolist() != []
        shutil.rmtree(tmp_path / "splits", ignore_errors=True)


def test_a_probe_on_a_pack_takes_a_folder_of_lists(ben_world, tmp_path):
    for name, data in (("files", ben_world / "data"), ("pack", ben_world / "p.lmdb")):
        (tmp_path / name).mkdir()
        done = linear(data, "--split", ben_world / "data" / "splits", dataset="bigearthnet", cwd=tmp_path / name)
        assert done.code == 0, done.err
    files, pack = (only_record(tmp_path / name / "results") for name in ("files", "pack"))
    assert files["metrics"] == pack["metrics"]
    assert "synthetic" in codes(pack)


def test_a_spatial_split_of_a_pack_is_one_clear_line(ben_world, card, index, ben, tmp_path):
    write_pack(card, index, tmp_path / "e.lmdb")
    line = said(linear(tmp_path / "e.lmdb", "--split", "spatial", cwd=tmp_path))
    assert (
        "e.lmdb holds no georeferenced file a sample, which a spatial split reads; give the files with --data_path"
        in line
    )
    ben.splits["spatial"] = Split(kind="spatial", train=0.6, val=0.2, block_km=5.0, buffer_m=100.0)
    with pytest.raises(BenchError, match="holds no georeferenced file"):
        make_split(ben, open_index(ben, ben_world / "p.lmdb"), Data(dataset="bigearthnet", split="spatial"), tmp_path)
    del ben.splits["spatial"]


def test_a_pack_that_does_not_say_the_parts_is_refused(ben_world, v2, tmp_path):
    with pytest.raises(
        BenchError, match="does not say in which part of split 'official' its samples are; give the raw data"
    ):
        make_split(
            v2, open_index(load_card("bigearthnet"), ben_world / "p.lmdb"), Data(dataset="bigearthnet_v2"), tmp_path
        )


def test_a_synthetic_index_is_not_held_against_the_genuine_counts(ben_world, tmp_path):
    for name in ("i.parquet", "i.csv"):
        place = ben_world / "data" if name.endswith("csv") else tmp_path
        done = call(
            "prepare",
            "index",
            "bigearthnet",
            "--data_path",
            ben_world / "data",
            "--out",
            place / name,
            "--workers",
            1,
            cwd=tmp_path,
        )
        assert done.code == 0, done.err
        lists = ben_world / "data" / "splits"
        out = tmp_path / f"s-{name}"
        done = call(
            "prepare",
            "split",
            "bigearthnet",
            "--kind",
            "official",
            "--lists",
            lists,
            "--index",
            place / name,
            "--out",
            out,
            cwd=tmp_path,
        )
        assert done.out.startswith("synthetic data: made by fgmae_bench, no real scene\n"), done
        assert "card:" not in done.out
    (ben_world / "data" / "i.csv").unlink()
    done = call(
        "prepare",
        "split",
        "bigearthnet",
        "--kind",
        "official",
        "--lists",
        ben_world / "data",
        "--out",
        tmp_path / "n",
        cwd=tmp_path,
    )
    assert done.out.startswith("synthetic data")


# ---- inspect


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_inspect_reads_packs_as_it_reads_files(ben_world, ben, tmp_path, kind):
    if kind == "uint8":
        pack = tmp_path / "u.lmdb"
        write_pack(ben, open_index(ben, ben_world / "data"), pack, view=make_view(ben, FGMAE_CONTRACT, None))
    else:
        pack = ben_world / "p.lmdb"
    direct = call("prepare", "inspect", pack, "--out", "b.png", cwd=tmp_path)
    named = call("prepare", "inspect", "bigearthnet", "--data_path", pack, "--out", "c.png", cwd=tmp_path)
    held = [direct, named]
    if kind == "float32":
        flags = ("--data_path", ben_world / "data", "--out", "a.png")
        held.append(call("prepare", "inspect", "bigearthnet", *flags, cwd=tmp_path))
        assert held[2].out.splitlines()[1:-3] == direct.out.splitlines()[1:-3]
    for done in held:
        assert done.code == 0, done.err
        assert "counts   as stated" in done.out
        assert "agrees with the card bigearthnet" in done.out
        assert "synthetic data" in done.out
        assert "tile  " in done.out
    assert direct.out.replace("b.png", "") == named.out.replace("c.png", "")


def test_inspect_of_a_pack_of_others_asks_for_its_dataset(realdata, tmp_path):
    pack = Path(shutil.copytree(realdata / "bigearthnet_v2_rico_hdl" / "lmdb", tmp_path / "lmdb"))
    assert "does not say which dataset it holds; name it: prepare inspect DATASET --data_path" in said(
        call("prepare", "inspect", pack, cwd=tmp_path)
    )


# ---- lists as people keep them

NAMES = ("S2B_MSIL2A_20180204T94161_57_38", "S2A_MSIL2A_20170613T101060_0_9")


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff{}\n{}\n",
        "{}\r\n{}\r\n",
        "{}\r{}",
        "  {}  \n\n\t{}\n   \n",
        "{} , {S1}\n{}\n",
    ],
    ids=["BOM", "CRLF", "CR", "spaces", "spaces around commas"],
)
def test_marks_line_ends_and_spaces_of_any_system_are_read(content, tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(content.format(*NAMES, S1=ROW["s1_name"]).encode())
    assert s2_names(path) == NAMES
    assert [named.s2 for named in read_list(path)] == list(NAMES)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            b"patch_id,s1_name\n" + NAMES[0].encode(),
            r"line 1: 'patch_id' is not an S2 patch name; remove the header line",
        ),
        (NAMES[0].encode() + b"\npatch\n", r"line 2: 'patch' is not an S2 patch name"),
        (b"S2A_\xff\xfe\n", r"cannot be read as a list \(no UTF-8 text.*save it as UTF-8"),
        ("\n".join(NAMES).encode("utf-16"), r"no UTF-8 text"),
        (b"\0\0\0\n", r"line 1: .* is not an S2 patch name"),
    ],
    ids=["header", "other line", "bytes", "UTF-16", "zeros"],
)
def test_what_is_no_list_is_one_line(content, fault, tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    for read in (read_list, s2_names):
        with pytest.raises(BenchError, match=fault):
            read(path)


@pytest.mark.parametrize(
    "change", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n"), lambda text: f" {text} \n\n"]
)
def test_a_run_reads_such_lists_too(ben_world, ben, tmp_path, change):
    index = open_index(ben, ben_world / "data")
    lists = ben_world / "data" / "splits"
    expected = make_split(ben, index, Data(dataset="bigearthnet", split=str(lists)), tmp_path)
    for path in lists.iterdir():
        (tmp_path / path.name).write_bytes(change(path.read_text()).encode())
    found = make_split(ben, index, Data(dataset="bigearthnet", split=str(tmp_path)), tmp_path)
    assert all(getattr(found, part).tolist() == getattr(expected, part).tolist() for part in ("train", "val", "test"))
    (tmp_path / "val.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(BenchError, match=r"val\.csv: cannot be read as a list"):
        make_split(ben, index, Data(dataset="bigearthnet", split=str(tmp_path)), tmp_path)


# ---- the quick ways are the usual ones, bit by bit


def test_patches_read_quickly_are_those_read_band_by_band(ben_world, ben, realdata):
    for folder in [*sorted((ben_world / "data").glob("S1*"))[:8], *(realdata / "bigearthnet_s1_v1").iterdir()]:
        quick, usual = read_patch(folder, ben), _read_any(folder, ben)
        assert quick.db.tobytes() == usual.db.tobytes()
        assert quick.db.flags.c_contiguous
        assert (
            (quick.valid, quick.synthetic)
            == (usual.valid, usual.synthetic)
            == (None, "S1" in folder.name and folder.parent.name == "data")
        )


@pytest.mark.parametrize("augmentation", [None, Augmentation(seed=3, epoch=2, crop_scale=0.8)])
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_views_of_packs_are_those_of_files(ben_world, ben, tmp_path, kind, augmentation):
    view, files = make_view(ben, FGMAE_CONTRACT, None), open_index(ben, ben_world / "data")
    pack = ben_world / "p.lmdb"
    if kind == "uint8":
        write_pack(ben, files, tmp_path / "u.lmdb", view=view)
        pack = tmp_path / "u.lmdb"
    packed, rows = open_index(ben, pack), range(0, 50, 7)
    ids = [files.ids[row] for row in rows]
    expected = view.batch([files.read(row, ben) for row in rows], ids, augmentation)
    np.testing.assert_array_equal(view.batch([packed.read(row, ben) for row in rows], ids, augmentation), expected)
