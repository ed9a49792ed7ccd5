"""The bank of features: computed once, found again, repaired where it is damaged, and never mistaken for another."""

import dataclasses
import os

import numpy as np
import pytest
import rasterio
import torch
from tiny_bank import Tiny, banks, features_by_hand, fill, make_extractor

from fgmae_bench.errors import BenchError, RunFailed
from fgmae_bench.features.bank import bank_key
from fgmae_bench.features.extract import Spent, extract
from fgmae_bench.views.classification import Augmentation, make_view

pytest_plugins = ("tiny_bank",)


# --- filled once


def test_bank_holds_the_features_of_each_row(extractor, cache):
    rows = np.array([3, 77, 5, 119, 0, 41])
    bank, _, _ = fill(extractor, rows, cache)
    np.testing.assert_allclose(bank.features[rows], features_by_hand(extractor, rows), atol=1e-6)
    assert len(np.unique(bank.features[rows], axis=0)) == 6
    assert bank.features.shape == (120, 6)


def test_second_fill_computes_nothing(extractor, cache, module):
    rows = np.random.default_rng(0).permutation(120)
    first, computed, steps = fill(extractor, rows, cache)
    assert (computed, module.seen, sum(steps)) == (120, 120, 120)
    again, computed, steps = fill(extractor, rows[::-1], cache)
    assert (computed, module.seen, sum(steps)) == (0, 120, 120)
    np.testing.assert_array_equal(again.features, first.features)


def test_a_few_more_rows_compute_only_those(extractor, cache, module):
    """As for another few-label fraction of the same data."""
    fill(extractor, np.arange(0, 120, 2), cache)
    bank, computed, _ = fill(extractor, np.arange(0, 70), cache)
    assert (computed, module.seen) == (35, 95)
    np.testing.assert_allclose(bank.features[:70], features_by_hand(extractor, range(70)), atol=1e-6)
    assert len(banks(cache)) == 1


def test_features_do_not_depend_on_batch_order_or_workers(card, world, extractor, cache, tmp_path):
    rows = np.random.default_rng(1).permutation(120)
    whole, _, _ = fill(extractor, rows, cache)
    for number, workers in enumerate((0, 1, 3)):
        other = make_extractor(card, world, cache, Tiny(), workers=workers)
        place = tmp_path / f"other{number}"
        fill(other, rows[:7], place)
        bank, _, _ = fill(other, rows, place)
        np.testing.assert_allclose(bank.features, whole.features, atol=1e-6)


def test_extraction_yields_rows_in_their_order(extractor):
    rows = np.random.default_rng(2).permutation(120)[:71]
    parts = list(extract(extractor, rows, None, Spent()))
    assert [len(chunk) for chunk, _, _ in parts] == [32, 32, 7]
    np.testing.assert_array_equal(np.concatenate([chunk for chunk, _, _ in parts]), rows)
    np.testing.assert_allclose(np.concatenate([x for _, x, _ in parts]), features_by_hand(extractor, rows), atol=1e-6)


def test_vit_features_are_found_again_by_a_backbone_built_anew(card, world, cache):
    for expected in (20, 0):
        made = make_extractor(card, world, cache, model="test_vit", weights="random")
        assert fill(made, np.arange(20), cache)[1] == expected


def test_other_process_finds_the_bank(extractor, card, world, cache, module):
    """Equal weights in another module object are the same backbone."""
    fill(extractor, np.arange(30), cache)
    twin = Tiny()
    assert fill(make_extractor(card, world, cache, twin), np.arange(30), cache)[1] == 0
    assert twin.seen == 0


# --- damage


def flip_byte(folder):
    with open(folder / "features.f32", "r+b") as stream:
        stream.seek(17 * 6 * 4 + 5)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 0x40]))


def flip_mark(folder):
    with open(folder / "marks.u32", "r+b") as stream:
        stream.seek(17 * 4 + 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 0x40]))


DAMAGE = {
    "flipped byte": (flip_byte, 1),
    "flipped mark": (flip_mark, 1),
    "truncated features": (lambda folder: os.truncate(folder / "features.f32", 1000), 120),
    "truncated marks": (lambda folder: os.truncate(folder / "marks.u32", 100), 120),
    "features grown": (lambda folder: os.truncate(folder / "features.f32", 120 * 24 + 8), 120),
    "features wiped": (lambda folder: (folder / "features.f32").write_bytes(bytes(120 * 24)), 120),
    "marks wiped": (lambda folder: (folder / "marks.u32").write_bytes(bytes(120 * 4)), 120),
    "marks lost": (lambda folder: (folder / "marks.u32").unlink(), 120),
    "features lost": (lambda folder: (folder / "features.f32").unlink(), 120),
    "one row torn": (
        lambda folder: np.memmap(folder / "features.f32", np.float32, "r+", shape=(120, 6)).__setitem__(
            (60, slice(3)), 0
        ),
        1,
    ),
    "two rows swapped": (
        lambda folder: (m := np.memmap(folder / "features.f32", np.float32, "r+", shape=(120, 6))).__setitem__(
            [4, 9], m[[9, 4]]
        ),
        2,
    ),
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_damaged_rows_are_computed_again_and_only_those(extractor, cache, kind):
    spoil, lost = DAMAGE[kind]
    rows = np.arange(120)
    whole = np.array(fill(extractor, rows, cache)[0].features)
    spoil(cache / "features" / banks(cache)[0])
    bank, computed, _ = fill(extractor, rows, cache)
    assert computed == lost
    np.testing.assert_array_equal(bank.features, whole)
    assert fill(extractor, rows, cache)[1] == 0


def test_extraction_that_dies_half_way_keeps_what_it_had(extractor, cache, module, monkeypatch):
    def dying(images, forward=module.conv.forward):
        if module.seen > 64:
            raise KeyboardInterrupt
        return forward(images)

    with monkeypatch.context() as patch:
        patch.setattr(module.conv, "forward", dying)
        with pytest.raises(KeyboardInterrupt):
            fill(extractor, np.arange(120), cache)
    bank, computed, _ = fill(extractor, np.arange(120), cache)
    assert computed == 120 - 64
    np.testing.assert_allclose(bank.features, features_by_hand(extractor, range(120)), atol=1e-6)


# --- distinguished


@pytest.mark.parametrize(
    "change",
    ["weights", "normalizer", "size", "order", "amp", "view", "seed", "epoch", "crop", "limit", "nodata"],
)
def test_whatever_changes_features_changes_the_bank(extractor, card, world, cache, change):
    made, augmentation = extractor, None
    at = Augmentation(seed=1, epoch=0, crop_scale=0.08)
    if change == "weights":
        made = make_extractor(card, world, cache, Tiny(seed=1))
    elif change == "normalizer":
        made = make_extractor(card, world, cache, Tiny(), normalizer="zscore")
    elif change == "size":
        made = make_extractor(card, world, cache, Tiny(), input_size=40)
    elif change == "order":
        made = dataclasses.replace(extractor, view=make_view(card, extractor.backbone.contract, "VH,VV"))
    elif change == "amp":
        made = dataclasses.replace(extractor, amp="bf16")
    elif change in ("limit", "nodata"):
        new = {"max_invalid_fraction": 0.1} if change == "limit" else {"nodata": (-99.0, -50.0)}
        other = dataclasses.replace(card, signal=dataclasses.replace(card.signal, **new))
        made = dataclasses.replace(extractor, dataset=dataclasses.replace(extractor.dataset, card=other))
    else:
        augmentation = dataclasses.replace(
            at, **{"seed": {"seed": 2}, "epoch": {"epoch": 1}, "crop": {"crop_scale": 0.2}}.get(change, {})
        )
        if change != "view":
            fill(extractor, np.arange(4), cache, at)
    before, _, _ = fill(extractor, np.arange(4), cache, at if change in ("seed", "epoch", "crop") else None)
    count = len(banks(cache))
    bank, computed, _ = fill(made, np.arange(4), cache, augmentation)
    assert computed == 4
    assert len(banks(cache)) == count + 1
    if change not in ("limit", "nodata"):
        assert np.abs(bank.features[:4] - before.features[:4]).max() > 1e-5


def test_touched_file_alone_is_computed_again(card, own_world, cache):
    """The time of modification counts, not only name and size: a file replaced in place is noticed."""
    fill(make_extractor(card, own_world, cache, Tiny()), np.arange(50), cache)
    path = own_world / "River" / "River_2.tif"
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    assert fill(make_extractor(card, own_world, cache, Tiny()), np.arange(50), cache)[1] == 1
    assert len(banks(cache)) == 1


def test_labels_and_split_do_not_count(extractor, cache):
    """Another split of the same files shares the bank."""
    fill(extractor, extractor.dataset.parts.train, cache)
    key = bank_key(extractor, None)
    other = dataclasses.replace(extractor, dataset=dataclasses.replace(extractor.dataset, parts=None), workers=0)
    assert bank_key(other, None) == key


# --- images without enough pixels


def spoil_image(root, name, share):
    """Write -99 over a share of the rows of both bands; the file stays a TIFF."""
    path = root / name
    with rasterio.open(path) as source:
        db, profile = source.read(), source.profile
    db[:, : round(64 * share)] = -99
    with rasterio.open(path, "w", **profile) as target:
        target.write(db)


def test_images_above_the_cards_share_of_invalid_pixels_are_left_out(card, own_world, cache, module):
    """At the limit of one half an image stays, above it goes; what is left out is remembered and not computed again."""
    assert card.signal.max_invalid_fraction == 0.5
    for name, share in {
        "River/River_1.tif": 0.75,
        "Forest/Forest_2.tif": 0.5,
        "SeaLake/SeaLake_3.tif": 33 / 64,
    }.items():
        spoil_image(own_world, name, share)
    made = make_extractor(card, own_world, cache, module)
    rows = np.random.default_rng(0).permutation(50)
    bank, computed, _ = fill(made, rows, cache)
    kept = bank.usable(rows)
    ids = made.dataset.index.ids
    assert {ids[row] for row in set(rows) - set(kept)} == {"River/River_1", "SeaLake/SeaLake_3"}
    np.testing.assert_array_equal(kept, [row for row in rows if ids[row] not in ("River/River_1", "SeaLake/SeaLake_3")])
    assert computed == 50
    assert fill(made, rows, cache)[1] == 0
    np.testing.assert_allclose(bank.features[kept], features_by_hand(made, kept), atol=1e-6)


def test_extraction_marks_unusable_images_without_dropping_rows(card, own_world, cache, module):
    spoil_image(own_world, "AnnualCrop/AnnualCrop_2.tif", 0.9)
    made = make_extractor(card, own_world, cache, module)
    ((chunk, values, usable),) = extract(made, np.arange(30), None, Spent())
    assert len(chunk) == len(values) == len(usable) == 30
    assert [made.dataset.index.ids[row] for row in chunk[~usable]] == ["AnnualCrop/AnnualCrop_2"]


def test_features_that_are_not_finite_are_an_error_that_names_the_image(extractor, cache, module, monkeypatch):
    def third_is_nan(images, forward=module.conv.forward):
        out = forward(images)
        out[2:3] = torch.nan
        return out

    monkeypatch.setattr(module.conv, "forward", third_is_nan)
    with pytest.raises(RunFailed, match=extractor.dataset.index.ids[2]):
        fill(extractor, np.arange(8), cache)


def test_module_that_gives_nothing_but_nan_is_an_error_in_words(extractor, cache, module):
    with torch.no_grad():
        module.conv.bias[2] = float("nan")
    with pytest.raises(RunFailed, match="not finite"):
        fill(extractor, np.arange(8), cache)


def test_code_of_a_users_module_counts_and_not_only_its_tensors(extractor, card, world, cache):
    class Other(Tiny):
        def forward(self, images):
            return super().forward(images) * 2

    Other.__name__ = Other.__qualname__ = "Tiny"
    fill(extractor, np.arange(4), cache)
    bank, computed, _ = fill(make_extractor(card, world, cache, Other()), np.arange(4), cache)
    assert computed == 4
    assert np.abs(bank.features[:4]).max() > 0


def test_broken_image_is_named_and_what_came_before_is_kept(card, own_world, cache, module):
    """The last of 50 images cannot be read: the first batch of 32 stays, and is not computed again once the file is
    repaired.
    """
    path = own_world / "SeaLake" / "SeaLake_5.tif"
    made = make_extractor(card, own_world, cache, module)
    made.dataset.samples.let_go(range(50))  # what the audit read already
    whole, status = path.read_bytes(), path.stat()
    path.write_bytes(b"II*\0 this is not an image")
    with pytest.raises(BenchError, match=r"SeaLake_5\.tif cannot be read"):
        fill(made, np.arange(50), cache)
    path.write_bytes(whole)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fill(made, np.arange(50), cache)[1] == 18


def test_cache_that_is_a_file_is_an_error_in_words(extractor, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="choose another folder"):
        fill(extractor, np.arange(3), tmp_path / "file")
