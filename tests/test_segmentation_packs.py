"""Packs of segmentation data: images and label maps come back as from the files, and a run on a pack is the run on the
files.
"""

import dataclasses
import json
import shutil

import lmdb
import numpy as np
import pytest
import rasterio
from commands import FOLDERS, call, edited_card, genuine, only_record, said
from dfc_files import dfc2020, image, tile, write
from safetensors.numpy import load
from same_run import essence

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.config.run import Data
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs import write as writing
from fgmae_bench.data.packs.check import check_source, check_values
from fgmae_bench.data.packs.format import META
from fgmae_bench.data.packs.read import open_pack, parse_meta
from fgmae_bench.data.packs.store import get, stamp_of
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.data.splits import make_split
from fgmae_bench.errors import BenchError
from fgmae_bench.views.classification import make_view
from fgmae_bench.worlds.dfc import write_dfc

SMALL = 64
TINY = (
    "--model",
    "test_vit",
    "--weights",
    "random",
    "--input_size",
    "64",
    "--epochs",
    "2",
    "--warmup_epochs",
    "0",
    "--batch_size",
    "8",
    "--num_workers",
    "2",
)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Root of small worlds of both layouts, one folder each."""
    place = tmp_path_factory.mktemp("worlds")
    write_dfc(place / "dfc2020", tiles=24, size=SMALL)
    write_dfc(place / "sen12ms", world="sen12ms", tiles=12, size=SMALL)
    return place


@pytest.fixture(scope="module")
def packs(worlds):
    """`<dataset>-float32.lmdb` and `<dataset>-uint8.lmdb` of both worlds; not to be changed."""
    for name in ("dfc2020", "sen12ms"):
        card = load_card(name)
        index = build_index(card, worlds / name)
        write_pack(card, index, worlds / f"{name}-float32.lmdb")
        write_pack(card, index, worlds / f"{name}-uint8.lmdb", view=make_view(card, FGMAE_CONTRACT, None))
    return worlds


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGMAE_BENCH_CACHE", str(tmp_path / "cache"))


def meta_of(pack):
    return parse_meta(get(pack.resolve(), stamp_of(pack), META), pack)


def verify(card, pack, source):
    meta = meta_of(pack)
    check_source(card, check_values(card, pack, meta, lambda n: None), meta, source, 0, lambda n: None)


def same_codes(packed, source):
    """Codes of every source and row are the same, bit by bit, and so is which of them there are."""
    assert set(packed.maps.sources) == set(source.maps.sources)
    for name in source.maps.sources:
        for row in range(len(source.files)):
            assert packed.maps.has(row, name) == source.maps.has(row, name)
            if source.maps.has(row, name):
                ours, theirs = packed.codes(row, name), source.codes(row, name)
                assert ours.source == theirs.source
                assert ours.values.dtype == np.uint8
                np.testing.assert_array_equal(ours.values, theirs.values)


def changed(pack, folder, key, value):
    """A copy of a pack with another value of one key."""
    copy = shutil.copytree(pack, folder / "copy.lmdb")
    with (
        lmdb.open(str(copy), lock=False, map_size=1 << 30) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(key, value)
    return copy


# --- what comes back


@pytest.mark.parametrize("name", ["dfc2020", "sen12ms"])
def test_pack_is_the_index_of_its_files(packs, name, tmp_path):
    card = load_card(name)
    source, packed = build_index(card, packs / name), open_pack(card, packs / f"{name}-float32.lmdb")
    for field in ("ids", "groups", "aliases", "parts", "size", "left_out", "synthetic"):
        assert getattr(packed, field) == getattr(source, field), field
    assert packed.labels.shape == (len(source.files), 0)
    for row in range(len(source.files)):
        np.testing.assert_array_equal(packed.read(row, card).db, source.read(row, card).db)
    same_codes(packed, source)
    verify(card, packs / f"{name}-float32.lmdb", source)
    verify(card, packs / f"{name}-uint8.lmdb", source)
    for split in [name for name, stated in card.splits.items() if stated.kind == "groups" and not stated.leaky]:
        of_files, of_pack = (
            make_split(card, index, Data(dataset=name, split=split), tmp_path) for index in (source, packed)
        )
        for part in ("train", "val", "test"):
            np.testing.assert_array_equal(getattr(of_pack, part), getattr(of_files, part))


def test_a_value_holds_bands_and_codes_under_names_that_any_reader_finds(packs):
    card = load_card("dfc2020")
    source, pack = build_index(card, packs / "dfc2020"), packs / "dfc2020-float32.lmdb"
    tensors = load(get(pack.resolve(), stamp_of(pack), source.ids[3].encode()))
    assert set(tensors) == {"VV", "VH", *(f"labels.{name}" for name in card.label_sources)}
    with rasterio.open(source.maps.root / source.maps.files["lc"][3]) as file:
        np.testing.assert_array_equal(tensors["labels.igbp"], file.read(1))
        np.testing.assert_array_equal(tensors["labels.lccs_hydrology"], file.read(4))
    stated = json.loads(get(pack.resolve(), stamp_of(pack), META))
    assert stated["label_sources"] == ["dfc", "igbp", "lccs_cover", "lccs_use", "lccs_hydrology"]
    assert stated["size"] == [SMALL, SMALL]


def test_genuine_scenes(tmp_path):
    card, root = load_card("terramesh_masks"), genuine("terramesh_s1rtc")
    source = build_index(card, root)
    write_pack(card, source, tmp_path / "p.lmdb", workers=1)
    packed = open_pack(card, tmp_path / "p.lmdb")
    same_codes(packed, source)
    for row in range(3):
        np.testing.assert_array_equal(packed.read(row, card).db, source.read(row, card).db)
    verify(card, tmp_path / "p.lmdb", source)


def test_a_sample_may_lack_a_source(tmp_path):
    """A folder without `dfc`, as the notes' seasons: the pack says so, and asking for it names the sample."""
    for patch in (0, 1):
        tile(tmp_path / "w", "ROIs0000_test", "0", 0, patch)
        tile(tmp_path / "w", "ROIs1158_spring", "1", 1, patch, kinds=("lc",))
    card = load_card("dfc2020")
    source = build_index(card, tmp_path / "w")
    write_pack(card, source, tmp_path / "p.lmdb")
    packed = open_pack(card, tmp_path / "p.lmdb")
    same_codes(packed, source)
    row = packed.ids.index("ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p0")
    with pytest.raises(BenchError, match=r"ROIs1158_spring_s1_1_p0 has no dfc labels.*there: igbp"):
        packed.codes(row, "dfc")
    with pytest.raises(BenchError, match="holds no modis labels; choose from dfc"):
        packed.codes(row, "modis")


def test_labels_under_invalid_pixels_are_255_in_a_uint8_pack_alone(tmp_path):
    """A uint8 pack keeps no backscatter that a run could tell validity by."""
    pixels = image(7)
    pixels[0, 10:20, 30:40] = np.nan
    tile(tmp_path / "w", "ROIs0000_test", "0", 0, 0, pixels=pixels)
    tile(tmp_path / "w", "ROIs0000_validation", "validation", 0, 1)
    card = load_card("dfc2020")
    source = build_index(card, tmp_path / "w")
    write_pack(card, source, tmp_path / "f.lmdb")
    write_pack(card, source, tmp_path / "u.lmdb", view=make_view(card, FGMAE_CONTRACT, None))
    same_codes(open_pack(card, tmp_path / "f.lmdb"), source)
    row, hole = source.ids.index("ROIs0000_test/s1_0/ROIs0000_test_s1_0_p0"), np.s_[10:20, 30:40]
    ours, theirs = open_pack(card, tmp_path / "u.lmdb").codes(row, "dfc").values, source.codes(row, "dfc").values.copy()
    assert not (theirs[hole] == 255).any()
    theirs[hole] = 255
    np.testing.assert_array_equal(ours, theirs)
    verify(card, tmp_path / "u.lmdb", source)


@pytest.mark.parametrize(
    "values", [(np.nan,), (np.inf,), (-np.inf,), (-99.0,), (0.0, 0.0), (0.0,), (-0.0, -0.0), (3.0,), ()]
)
def test_validity_is_that_of_the_files(tmp_path, values):
    """One zero is a measurement, two side by side are none; a look at the extremes must not miss either."""
    pixels = image(7)
    pixels[1, 40, 50 : 50 + len(values)] = values
    tile(tmp_path / "w", "ROIs0000_test", "0", 0, 0, pixels=pixels)
    card = load_card("dfc2020")
    card = dataclasses.replace(card, signal=dataclasses.replace(card.signal, nodata=(-99.0,)))
    source = build_index(card, tmp_path / "w")
    write_pack(card, source, tmp_path / "f.lmdb")
    ours, theirs = open_pack(card, tmp_path / "f.lmdb").read(0, card), source.read(0, card)
    assert (ours.valid is None) == (theirs.valid is None) == (values in ((0.0,), (3.0,), ()))
    np.testing.assert_array_equal(ours.db, theirs.db)
    if theirs.valid is not None:
        np.testing.assert_array_equal(ours.valid, theirs.valid)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_packing_goes_on_with_its_labels(worlds, tmp_path, monkeypatch, workers):
    card = load_card("dfc2020")
    source = build_index(card, worlds / "dfc2020")
    monkeypatch.setattr(writing, "MOST_IN_BATCH", 5)
    done = []

    def stop(count):
        done.append(count)
        if sum(done) >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pack(card, source, tmp_path / "p.lmdb", workers=workers, step=stop)
    written = write_pack(card, source, tmp_path / "p.lmdb", workers=workers)
    assert (written.count, written.new) == (24, 14)
    same_codes(open_pack(card, tmp_path / "p.lmdb"), source)
    verify(card, tmp_path / "p.lmdb", source)


def test_a_float32_pack_is_packed_as_uint8_like_the_files(packs, tmp_path):
    card = load_card("dfc2020")
    view = make_view(card, FGMAE_CONTRACT, None)
    write_pack(card, open_pack(card, packs / "dfc2020-float32.lmdb"), tmp_path / "u.lmdb", view=view, workers=1)
    same_codes(open_pack(card, tmp_path / "u.lmdb"), open_pack(card, packs / "dfc2020-uint8.lmdb"))


# --- what is refused


def test_verify_finds_labels_that_are_not_those_of_the_files(packs, tmp_path):
    """One label of one tile differs: the name of the sample is in the line."""
    shutil.copytree(packs / "dfc2020", tmp_path / "other")
    path = next((tmp_path / "other").rglob("*_dfc_0_p4.tif"))
    with rasterio.open(path) as file:
        pixels = file.read()
    pixels[0, 0, 0] = 1 + pixels[0, 0, 0] % 10
    path.unlink()
    write(path, pixels)
    done = call(
        "prepare",
        "verify",
        packs / "dfc2020-float32.lmdb",
        "--data_path",
        tmp_path / "other",
        "--workers",
        0,
        cwd=tmp_path,
    )
    assert done.code == 2
    assert "1 of 24 samples" in done.err
    assert f"{path.stem.replace('_dfc_', '_s1_')}; write the pack again" in done.err


def test_codes_outside_the_source_are_refused_when_packing(tmp_path):
    dfc2020(tmp_path / "w")
    tile(tmp_path / "w", "ROIs0000_test", "0", 0, 100, dfc=np.full((1, 256, 256), 17))
    card = load_card("dfc2020")
    with pytest.raises(BenchError, match=r"ROIs0000_test_dfc_0_p100.tif: 17 is not a code of DFC2020"):
        write_pack(card, build_index(card, tmp_path / "w"), tmp_path / "p.lmdb")
    assert not (tmp_path / "p.lmdb").exists()


def test_labels_of_another_size_than_the_pack_states_are_refused(packs, tmp_path):
    card, pack = load_card("dfc2020"), packs / "dfc2020-float32.lmdb"
    facts = json.loads(get(pack.resolve(), stamp_of(pack), META))
    copy = changed(pack, tmp_path, META, json.dumps({**facts, "size": [32, 32]}).encode())
    with pytest.raises(BenchError, match="its igbp labels are not 32x32 codes of 8 bits; write the pack again"):
        open_pack(card, copy).codes(0, "igbp")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"label_sources": []}, "holds no label maps; write the pack again from the files"),
        ({"label_sources": ["dfc", "modis"]}, "holds labels of modis, which DFC2020 has not"),
        ({"label_sources": ["dfc"]}, "does not say which samples have labels"),
    ],
)
def test_a_pack_without_the_labels_of_its_card_is_refused(packs, tmp_path, change, line):
    pack = packs / "dfc2020-float32.lmdb"
    facts = json.loads(get(pack.resolve(), stamp_of(pack), META))
    copy = changed(pack, tmp_path, META, json.dumps({**facts, **change}).encode())
    with pytest.raises(BenchError, match=line):
        open_pack(load_card("dfc2020"), copy)


def test_a_resize_before_the_view_would_part_pixels_and_labels(worlds, tmp_path):
    card = load_card("dfc2020")
    card = dataclasses.replace(card, signal=dataclasses.replace(card.signal, input_resize=128))
    with pytest.raises(
        BenchError, match="resized to 128 pixels in a uint8 pack, its label maps are not; write a float32 pack"
    ):
        write_pack(
            card, build_index(card, worlds / "dfc2020"), tmp_path / "p.lmdb", view=make_view(card, FGMAE_CONTRACT, None)
        )
    assert list(tmp_path.iterdir()) == []


# --- commands


def test_pack_and_verify_as_a_user_types_them(worlds, tmp_path):
    done = call(
        "prepare", "pack", "sen12ms", "--data_path", worlds / "sen12ms", "--out", "p.lmdb", "--workers", 0, cwd=tmp_path
    )
    assert done.code == 0, done.err
    done = call(
        "prepare",
        "verify",
        "p.lmdb",
        "--dataset",
        "sen12ms",
        "--data_path",
        worlds / "sen12ms",
        "--workers",
        0,
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert "12 samples of sen12ms as float32, all there, every checksum agrees" in done.out
    assert "are the same, bit by bit" in done.out


@pytest.mark.slow
def test_a_run_on_a_pack_is_the_run_on_the_files(packs, tmp_path):
    """The same record but for time and place, run id included; from eight bits the same scores, of another dataset."""
    found = {}
    for name in ("dfc2020", "dfc2020-float32.lmdb", "dfc2020-uint8.lmdb"):
        folder = tmp_path / name
        folder.mkdir()
        done = call("segment", "--dataset", "dfc2020", "--data_path", packs / name, *TINY, *FOLDERS, cwd=folder)
        assert done.code == 0, done.err
        found[name] = essence(only_record(folder / "results"))
    assert found["dfc2020-float32.lmdb"] == found["dfc2020"]
    assert found["dfc2020-uint8.lmdb"]["run_id"] != found["dfc2020"]["run_id"]
    assert found["dfc2020-uint8.lmdb"]["metrics"] == found["dfc2020"]["metrics"]


def test_a_run_on_a_pack_of_other_labels_is_refused(packs, tmp_path):
    card, later = (
        edited_card(tmp_path / f"{n}.toml", ("version = 1", f"version = {n}"), source=load_card("dfc2020").path)
        for n in (1, 2)
    )
    flags = ("--data_path", packs / "dfc2020", "--out", "p.lmdb", "--workers", 0)
    assert call("prepare", "pack", card, *flags, cwd=tmp_path).code == 0
    done = call("segment", "--dataset", later, "--data_path", "p.lmdb", *TINY, *FOLDERS, cwd=tmp_path)
    assert "was written for version 1 of the card own_dfc2020, which is at 2; write the pack again" in said(done)
