"""The bank of labels: the codes of the files with 255 under invalid pixels, written whole, found again, and nothing
else read in training.
"""

import dataclasses
import os
import shlex
import threading

import numpy as np
import preloaded
import pytest
import rasterio
from commands import FOLDERS, call, listing, only_record
from dfc_files import SIZE, dfc2020, image, tile, write
from same_run import essence

from fgmae_bench.ablate.sides import double_mapped
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.data.index import Index
from fgmae_bench.data.labels import Codes
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs.read import open_pack
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.data.schemes import card_map
from fgmae_bench.errors import BenchError
from fgmae_bench.features import label_bank
from fgmae_bench.features.label_bank import fill_label_bank
from fgmae_bench.train.segmentation import SegmentationJob
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import make_view

FROZEN = shlex.split(
    "--model test_vit --weights random --input_size 64 --epochs 2 --warmup_epochs 0 --batch_size 8 --num_workers "
    "0 --freeze_backbone --recipe corrected --features cached --panels 0"
)


pytest_plugins = ("segment_world",)


@pytest.fixture(scope="module")
def card():
    return load_card("dfc2020")


@pytest.fixture
def root(tmp_path):
    """Two and three tiles, one of them with invalid pixels."""
    dfc2020(tmp_path / "w")
    pixels = image(5)
    pixels[0, 10:20, 30:40] = np.nan
    pixels[1, 50:60, 70:80] = np.nan
    tile(tmp_path / "w", "ROIs0000_test", "0", 0, 101, pixels=pixels)
    return tmp_path / "w"


@pytest.fixture(scope="module")
def world(tiles):
    return tiles


def banks(cache):
    return sorted(path.name for path in (cache / "labels").iterdir())


# --- what it holds


@pytest.mark.parametrize("source", ["dfc", "igbp"])
@pytest.mark.parametrize("workers", [0, 3])
def test_codes_are_those_of_the_files_but_under_invalid_pixels(card, root, tmp_path, source, workers, monkeypatch):
    monkeypatch.setattr(label_bank, "CHUNK", 2)
    index, steps = build_index(card, root), []
    bank = fill_label_bank(card, index, source, tmp_path / "cache", workers=workers, step=steps.append)
    assert (bank.values.shape, bank.values.dtype, sum(steps)) == ((5, SIZE, SIZE), np.uint8, 5)
    holed = index.ids.index("ROIs0000_test/s1_0/ROIs0000_test_s1_0_p101")
    for row in range(5):
        expected = index.codes(row, source).values.copy()
        if row == holed:
            expected[10:20, 30:40] = expected[50:60, 70:80] = 255
        np.testing.assert_array_equal(bank.values[row], expected)
    assert [name.endswith(".npy") for name in banks(tmp_path / "cache")] == [True]


def test_rows_come_as_codes_that_every_map_takes(card, root, tmp_path):
    """The map of a scheme, and the published mistake, give what they give of single files."""
    index = build_index(card, root)
    rows = np.array([4, 0, 4, 2])
    codes = fill_label_bank(card, index, "dfc", tmp_path / "cache").codes(rows)
    chips = [index.read(row, card) for row in rows]
    for to_ids in (card_map(card, "dfc", "dfc10"), card_map(card, "dfc", "dfc8"), double_mapped):
        expected = np.stack(
            [
                to_ids(index.codes(int(row), "dfc").where(chip.valid)).values
                for row, chip in zip(rows, chips, strict=True)
            ]
        )
        np.testing.assert_array_equal(to_ids(codes).values, expected)
    with pytest.raises(BenchError, match="the map of igbp labels was given dfc labels"):
        card_map(card, "igbp", "dfc10")(codes)


def test_a_sample_without_labels_of_the_source_is_255(card, root, tmp_path):
    tile(root, "ROIs1158_spring", "1", 1, 7, kinds=("lc",))
    index = build_index(card, root)
    bank = fill_label_bank(card, index, "dfc", tmp_path / "cache")
    row = next(row for row, name in enumerate(index.ids) if "spring" in name)
    assert (bank.values[row] == 255).all()
    assert [bool((values == 255).all()) for values in bank.values].count(True) == 1


@pytest.mark.parametrize("ready", [False, True])
def test_banks_of_a_pack_and_of_its_files_are_the_same(card, root, tmp_path, ready):
    index = build_index(card, root)
    write_pack(card, index, tmp_path / "p.lmdb", view=make_view(card, FGMAE_CONTRACT, None) if ready else None)
    of_files, of_pack = (
        fill_label_bank(card, i, "dfc", tmp_path / "cache") for i in (index, open_pack(card, tmp_path / "p.lmdb"))
    )
    np.testing.assert_array_equal(of_pack.values, of_files.values)
    assert len(banks(tmp_path / "cache")) == 2


# --- filled once


def test_a_second_bank_reads_nothing(card, root, tmp_path, monkeypatch):
    index = build_index(card, root)
    first = fill_label_bank(card, index, "dfc", tmp_path / "cache")
    monkeypatch.setattr(Index, "read", None)
    monkeypatch.setattr(Index, "codes", None)
    steps = []
    again = fill_label_bank(card, index, "dfc", tmp_path / "cache", step=steps.append)
    np.testing.assert_array_equal(again.values, first.values)
    assert sum(steps) == 5


@pytest.mark.parametrize("change", ["label", "image", "nodata", "source"])
def test_another_file_or_rule_is_another_bank(card, root, tmp_path, change):
    index, source = build_index(card, root), "dfc"
    before = fill_label_bank(card, index, source, tmp_path / "cache").values.copy()
    if change in ("label", "image"):
        path = next(root.rglob(f"*_{'dfc' if change == 'label' else 's1'}_0_p100.tif"))
        with rasterio.open(path) as file:
            pixels = file.read()
        pixels[:, 3, 4] = np.nan if change == "image" else 1 + pixels[:, 3, 4] % 2
        path.unlink()
        write(path, pixels)
        index = build_index(card, root)
    elif change == "nodata":
        card = dataclasses.replace(
            card, signal=dataclasses.replace(card.signal, nodata=(float(index.read(0, card).db[0, 7, 7]),))
        )
    else:
        source = "lccs_use"
    after = fill_label_bank(card, index, source, tmp_path / "cache").values
    assert (after != before).any()
    assert len(banks(tmp_path / "cache")) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_file_that_is_not_whole_is_written_again(card, root, tmp_path, damage):
    index = build_index(card, root)
    before = fill_label_bank(card, index, "dfc", tmp_path / "cache").values.copy()
    (path,) = (tmp_path / "cache" / "labels").iterdir()
    if damage == "other":
        path.unlink()
        np.save(path, np.zeros((2, SIZE, SIZE), np.uint8))
    else:
        os.truncate(path, 0 if damage == "empty" else path.stat().st_size - 1)
    np.testing.assert_array_equal(fill_label_bank(card, index, "dfc", tmp_path / "cache").values, before)


def test_of_two_at_once_one_reads(card, root, tmp_path, monkeypatch):
    index, reads = build_index(card, root), []
    read = Index.read
    monkeypatch.setattr(Index, "read", lambda self, row, card: reads.append(row) or read(self, row, card))
    threads = [
        threading.Thread(target=fill_label_bank, args=(card, index, "dfc", tmp_path / "cache")) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reads) == list(range(5))
    assert len(banks(tmp_path / "cache")) == 1


# --- what stands in its way


def test_images_of_several_sizes_are_not_banked(card, root, tmp_path, monkeypatch):
    index = build_index(card, root)
    codes = Index.codes
    monkeypatch.setattr(
        Index, "read", lambda self, row, card: Chip(db=np.zeros((2, 8, 8), np.float32), valid=None, synthetic=False)
    )
    monkeypatch.setattr(Index, "codes", lambda self, row, name: cut(codes(self, row, name), 8 * (row + 1)))
    assert fill_label_bank(card, index, "dfc", tmp_path / "cache") is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("fault", ["label", "image"])
def test_a_broken_file_is_one_line_and_leaves_nothing(card, root, tmp_path, fault):
    path = next(root.rglob(f"*_{'dfc' if fault == 'label' else 's1'}_0_p102.tif"))
    os.truncate(path, 3000)
    with pytest.raises(BenchError, match=path.name) as error:
        fill_label_bank(card, build_index(card, root), "dfc", tmp_path / "cache")
    assert str(error.value).count("\n") == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_is_taken_for_a_bank(card, root, tmp_path):
    code = f"""
import os, sys
from pathlib import Path
from fgmae_bench.features import label_bank
from fgmae_bench.config.cards import load_card
from fgmae_bench.data.layouts import build_index
label_bank.CHUNK = 1
card = load_card("dfc2020")
seen = []
def step(count):
    seen.append(count)
    if len(seen) == 3:
        os.kill(os.getpid(), 9)
label_bank.fill_label_bank(card, build_index(card, Path({str(root)!r})), "dfc", Path({str(tmp_path / "cache")!r}), workers=0, step=step)
"""
    assert preloaded.run(["-c", code]).returncode == -9
    index = build_index(card, root)
    bank = fill_label_bank(card, index, "dfc", tmp_path / "cache")
    np.testing.assert_array_equal(bank.values[0], index.codes(0, "dfc").values)


def test_a_cache_that_cannot_be_written_is_one_line(card, root, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(BenchError, match="cache"):
        fill_label_bank(card, build_index(card, root), "dfc", tmp_path / "cache")


# --- in training


@pytest.mark.parametrize("evaluated", [(), ("--train_labels", "igbp", "--eval_labels", "dfc")])
def test_training_on_frozen_maps_reads_no_file(world, tmp_path, monkeypatch, evaluated):
    busy, calls, seen = threading.local(), [], {"read": 0, "_prepare": 0}

    def watched(name, inner):
        def outer(self, *args):
            busy.now, seen[name] = True, seen[name] + 1
            try:
                return inner(self, *args)
            finally:
                busy.now = False

        return outer

    for name in seen:
        monkeypatch.setattr(SegmentationJob, name, watched(name, getattr(SegmentationJob, name)))
    for name in ("read", "codes"):
        inner = getattr(Index, name)
        monkeypatch.setattr(
            Index,
            name,
            lambda self, *args, inner=inner: (
                (calls.append(args) if getattr(busy, "now", False) else None) or inner(self, *args)
            ),
        )
    done = call("segment", "--dataset", "dfc2020", "--data_path", world, *FROZEN, *evaluated, *FOLDERS, cwd=tmp_path)
    assert done.code == 0, done.err
    assert min(seen.values()) > 0
    assert calls == []
    assert len(banks(tmp_path / "cache")) == (2 if evaluated else 1)


def test_a_run_with_and_without_the_bank_is_the_same(world, tmp_path, monkeypatch):
    """Without it masks are read from the files, sample by sample."""
    found = []
    for name in ("with", "without"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "without":
            monkeypatch.setattr(label_bank, "fill_label_bank", lambda *args, **settings: None)
        done = call("segment", "--dataset", "dfc2020", "--data_path", world, *FROZEN, *FOLDERS, cwd=folder)
        assert done.code == 0, done.err
        assert (folder / "cache" / "labels").exists() == (name == "with")
        found.append(essence(only_record(folder / "results")))
    assert found[0] == found[1]


def test_streamed_runs_fill_no_bank(world, tmp_path):
    flags = [flag if flag != "cached" else "stream" for flag in FROZEN]
    done = call("segment", "--dataset", "dfc2020", "--data_path", world, *flags, *FOLDERS, cwd=tmp_path)
    assert done.code == 0, done.err
    assert not [path for path in listing(tmp_path / "cache") if path.startswith("labels")]


def cut(codes, side):
    """The upper left corner of some codes."""
    return Codes(values=codes.values[:side, :side], source=codes.source)
