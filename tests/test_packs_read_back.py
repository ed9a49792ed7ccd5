"""Packs: what is read back is what was written, in any band order, with holes, by processes and threads."""

import dataclasses
import json
import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from commands import rewrite
from pack_files import copied, entries, verify
from safetensors.numpy import load

from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.data.audit import audit
from fgmae_bench.data.index import Index, check_counts
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs import write
from fgmae_bench.data.packs.read import open_index, open_pack
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.errors import BenchError
from fgmae_bench.views.classification import Augmentation, make_view

pytest_plugins = ("pack_files",)


RANDOM = Augmentation(seed=3, epoch=2, crop_scale=0.2)


# --- what is written


def test_float32_pack_is_read_back_bit_by_bit_with_lmdb_and_safetensors(packs, index):
    held = entries(packs / "float32.lmdb")
    assert set(held) == {*index.ids, "__meta__", "__labels__"}
    for row, sample in enumerate(index.ids):
        with rasterio.open(index.path(row)) as source:
            expected = source.read()
        tensors = load(held[sample])
        assert sorted(tensors) == ["VH", "VV"]
        assert np.stack([tensors["VV"], tensors["VH"]]).tobytes() == expected.tobytes()


def test_facts_name_what_is_inside(packs, card, index):
    meta = json.loads(entries(packs / "uint8.lmdb")["__meta__"])
    assert (meta["format"], meta["kind"], meta["card"], meta["card_version"]) == (1, "uint8", "eurosat", card.version)
    assert (meta["bands"], meta["units"], meta["count"]) == (["VV", "VH"], "dB", 120)
    assert meta["contract"] == {
        "bands": ["VV", "VH"],
        "normalizer": "fgmae",
        "mean": [-12.59, -20.26],
        "std": [5.26, 5.91],
        "input_resize": None,
    }
    assert meta["classes"] == list(card.classes)
    assert meta["synthetic"] == index.synthetic is not None
    assert json.loads(entries(packs / "float32.lmdb")["__meta__"])["contract"] is None


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pack_has_the_same_bytes_however_many_read(packs, card, index, view, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "MOST_IN_BATCH", 512)
    write_pack(card, index, tmp_path / "p.lmdb", view=view, workers=workers)
    assert entries(tmp_path / "p.lmdb") == entries(packs / "uint8.lmdb")
    assert (tmp_path / "p.lmdb/data.mdb").read_bytes() == (packs / "uint8.lmdb/data.mdb").read_bytes()


def test_index_of_a_pack_is_that_of_its_files(packs, card, index):
    for name in ("float32", "uint8"):
        packed = open_index(card, packs / f"{name}.lmdb")
        assert (packed.ids, packed.files, packed.synthetic, packed.groups) == (
            index.ids,
            index.files,
            index.synthetic,
            None,
        )
        np.testing.assert_array_equal(packed.labels, index.labels)
        assert packed.labels.dtype == index.labels.dtype
        assert check_counts(card, packed) is None
        verdict, synthetic = audit(card, packed)
        assert verdict.refusal is None
        assert synthetic


def test_chips_of_a_float32_pack_are_those_of_the_files(packs, card, index):
    packed = open_pack(card, packs / "float32.lmdb")
    for row in range(0, 120, 7):
        ours, theirs = packed.read(row, card), index.read(row, card)
        assert ours.db.tobytes() == theirs.db.tobytes()
        assert ours.valid is None
        assert ours.synthetic


@pytest.mark.parametrize("augmentation", [None, RANDOM])
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_views_from_packs_are_those_from_files_bit_by_bit(packs, card, index, view, kind, augmentation):
    packed = open_pack(card, packs / f"{kind}.lmdb")
    rows, ids = range(0, 120, 5), list(index.ids[::5])
    expected = view.batch([index.read(row, card) for row in rows], ids, augmentation)
    np.testing.assert_array_equal(view.batch([packed.read(row, card) for row in rows], ids, augmentation), expected)


# --- invalid pixels, band order, several labels


@pytest.fixture
def spoilt(world, card, tmp_path):
    """A world with NaN, a run of zeros, and a nodata value that only its file declares."""
    root = Path(shutil.copytree(world, tmp_path / "world"))
    files = sorted(root.rglob("*.tif"))

    def spoil(value):
        def change(pixels):
            pixels[:, 3:9, 4:20] = value
            return pixels

        return change

    rewrite(files[0], spoil(np.nan))
    rewrite(files[1], spoil(0))
    rewrite(files[2], spoil(-31.5), nodata=-31.5)
    return build_index(card, root)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_invalid_pixels_are_known_again(spoilt, card, view, kind, tmp_path):
    write_pack(card, spoilt, tmp_path / "p.lmdb", view=view if kind == "uint8" else None)
    packed = open_pack(card, tmp_path / "p.lmdb")
    for row in range(4):
        theirs, ours = spoilt.read(row, card), packed.read(row, card)
        assert (ours.valid is None) == (theirs.valid is None) == (row == 3)
        assert ours.invalid_fraction == theirs.invalid_fraction
        if kind == "float32":
            assert ours.db.tobytes() == theirs.db.tobytes()
    ids = list(spoilt.ids[:4])
    expected = view.batch([spoilt.read(row, card) for row in range(4)], ids, RANDOM)
    np.testing.assert_array_equal(view.batch([packed.read(row, card) for row in range(4)], ids, RANDOM), expected)
    audit(card, packed)
    verify(card, tmp_path / "p.lmdb", spoilt)


def test_bands_are_named_as_the_user_states_them(card, index, tmp_path):
    """Files in the order VH,VV: packed with that statement, the pack gives the card's order, with and without the flag."""
    order = ("VH", "VV")
    write_pack(card, index, tmp_path / "p.lmdb", bands=order)
    chip = index.read(5, card)
    np.testing.assert_array_equal(open_pack(card, tmp_path / "p.lmdb").read(5, card).db, chip.db[::-1])
    stated = make_view(card, FGMAE_CONTRACT, "VH,VV")
    expected = stated.batch([chip], [index.ids[5]])
    for given, packed_view in ((None, make_view(card, FGMAE_CONTRACT, None)), (order, stated)):
        read = open_pack(card, tmp_path / "p.lmdb", given).read(5, card)
        np.testing.assert_array_equal(packed_view.batch([read], [index.ids[5]]), expected)
    with pytest.raises(BenchError, match=r"names its bands.*leave --band_order out"):
        open_pack(card, tmp_path / "p.lmdb", ("VV", "VH"))
    write_pack(card, index, tmp_path / "u.lmdb", bands=order, view=stated)
    for given, packed_view in ((None, make_view(card, FGMAE_CONTRACT, None)), (order, stated)):
        read = open_pack(card, tmp_path / "u.lmdb", given).read(5, card)
        np.testing.assert_array_equal(packed_view.batch([read], [index.ids[5]]), expected)
    with pytest.raises(BenchError, match="--band_order cannot change a uint8 pack"):
        stated.batch([open_pack(card, tmp_path / "u.lmdb").read(5, card)], [index.ids[5]])


def test_several_labels_groups_and_other_names_are_kept(card, index, tmp_path):
    several = dataclasses.replace(card, task="multi_label")
    hot = (np.random.default_rng(0).random((120, 10)) < 0.3).astype(np.uint8)
    tiles, names = tuple(f"T{row % 7}" for row in range(120)), tuple(f"S2 {row}" for row in range(120))
    rich = dataclasses.replace(index, labels=hot, groups=tiles, aliases=names, left_out=4)
    write_pack(several, rich, tmp_path / "p.lmdb")
    packed = open_pack(several, tmp_path / "p.lmdb")
    np.testing.assert_array_equal(packed.labels, hot)
    assert (packed.groups, packed.aliases, packed.left_out, packed.labels.dtype) == (tiles, names, 4, np.uint8)
    with pytest.raises(BenchError, match="are none of 10 classes"):
        open_pack(card, tmp_path / "p.lmdb")


def test_files_that_say_they_are_synthetic_make_a_pack_that_says_so(card, index, tmp_path):
    unmarked = dataclasses.replace(index, synthetic=None)
    write_pack(card, unmarked, tmp_path / "p.lmdb")
    packed = open_pack(card, tmp_path / "p.lmdb")
    assert packed.synthetic == "tagged"
    assert packed.read(0, card).synthetic
    assert write_pack(card, unmarked, tmp_path / "p.lmdb").new == 0


@pytest.mark.parametrize("name", ["__x", "a/" * 300, "süß"])
def test_names_that_cannot_be_keys_are_refused(card, index, name, tmp_path):
    odd = Index(root=index.root, files=(name,), labels=index.labels[:1], stamps=index.stamps[:1], synthetic=None)
    with pytest.raises(BenchError, match="cannot be a key"):
        write_pack(card, odd, tmp_path / "p.lmdb")


# --- processes and threads


def read_digest(card, packed, rows):
    return b"".join(packed.read(row, card).db.tobytes() for row in rows)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_readers_in_other_processes(packs, card, index, method):
    packed = open_pack(card, packs / "float32.lmdb")
    expected = read_digest(card, packed, range(40))  # so that the parent's environment is open when it forks
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(read_digest, [(card, packed, range(40))] * 4)
    assert found == [expected] * 4
    assert read_digest(card, packed, range(40)) == expected


def test_readers_in_threads(packs, card):
    packed = open_pack(card, packs / "float32.lmdb")
    expected = [packed.read(row, card).db.tobytes() for row in range(120)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: packed.read(row % 120, card).db.tobytes(), range(480))) == expected * 4


def test_a_pack_replaced_in_use_is_told_and_opened_anew(packs, card, index, view, tmp_path):
    out = copied(packs / "float32.lmdb", tmp_path)
    old = open_pack(card, out)
    old.read(0, card)
    shutil.rmtree(out)
    write_pack(card, index, out, view=view)
    assert open_pack(card, out).read(0, card).ready is not None
    with pytest.raises(BenchError, match="was replaced while it was in use"):
        old.read(0, card)
