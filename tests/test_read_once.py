"""An image is read once: one decode serves audit, usability and view, a second run decodes nothing, and no number
depends on what was held.
"""

import dataclasses
import hashlib
import threading

import numpy as np
import pytest
import rasterio
from commands import FOLDERS, TINY_VIT, call, linear, only_record, shared_world, small_world
from segment_world import FROZEN, TINY, segment

from fgmae_bench.config.cards import load_card
from fgmae_bench.data import audit, samples
from fgmae_bench.data import index as index_room
from fgmae_bench.data.dfc import maps
from fgmae_bench.data.folders import class_folders
from fgmae_bench.data.index import read_chip as read_file
from fgmae_bench.data.packs.read import PackReader
from fgmae_bench.data.sample_cache import cached_arrays
from fgmae_bench.data.samples import NONE, Held, Samples, sample_facts
from fgmae_bench.views.chip import Chip

pytest_plugins = ("segment_world", "pack_files")
IMAGES, SAMPLED = 120, 64


class Counter:
    """Counts the calls of a function, threads included."""

    def __init__(self, monkeypatch, place, name):
        self.count, self.lock, real = 0, threading.Lock(), getattr(place, name)

        def counted(*args):
            with self.lock:
                self.count += 1
            return real(*args)

        monkeypatch.setattr(place, name, counted)

    def since(self):
        """Calls since the last question."""
        found, self.count = self.count, 0
        return found


@pytest.fixture
def decodes(monkeypatch):
    """Images that are decoded from the files of a folder of classes."""
    return Counter(monkeypatch, index_room, "read_chip")


@pytest.fixture
def folder(tmp_path):
    return class_folders(load_card("eurosat"), shared_world()), load_card("eurosat"), tmp_path / "cache"


def done(said):
    assert said.code == 0, said.err


# --- how often


@pytest.mark.parametrize("flags", [("--lr", "0.1"), ("--probe", "knn"), ("--features", "stream", "--epochs", "1")])
def test_a_first_run_decodes_each_image_once_and_a_second_none(tmp_path, decodes, flags):
    for expected in (IMAGES, 0):
        done(linear(shared_world(), *flags, cwd=tmp_path, backbone=TINY_VIT))
        assert decodes.since() == expected


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_samples_of_a_pack_are_decoded_once(tmp_path, packs, monkeypatch, kind):
    counter = Counter(monkeypatch, PackReader, "__call__")
    for expected in (IMAGES, 0):
        done(linear(packs / f"{kind}.lmdb", cwd=tmp_path, backbone=TINY_VIT))
        assert counter.since() == expected


def test_fine_tuning_reads_the_first_epoch_from_what_is_held(tmp_path, decodes):
    flags = (*TINY_VIT[:4], "--weights", "random", "--epochs", 1, "--warmup_epochs", 0, "--batch_size", 16)
    done(call("finetune", "--dataset", "eurosat", "--data_path", shared_world(), *flags, *FOLDERS, cwd=tmp_path))
    assert decodes.since() == IMAGES


@pytest.mark.parametrize(("backbone", "epochs"), [(FROZEN, 0), (TINY, 1)])
def test_segmentation_decodes_images_and_label_maps_once(tmp_path, tiles, monkeypatch, backbone, epochs):
    """On frozen maps each once, else once more for each epoch after the first and the test; panels draw 2 again."""
    images, labels = Counter(monkeypatch, index_room, "read_chip"), Counter(monkeypatch, maps, "read_band")
    again = 20 * epochs + 4 * epochs + 2 * (1 + epochs) if epochs else 2
    flags = ("--panels", "2", *(("--features", "cached") if not epochs else ()))
    done(segment(tiles, *flags, cwd=tmp_path, backbone=backbone))
    assert (images.since(), labels.since()) == (24 + again, 24 + again)


# --- what is held changes no number


def test_no_number_depends_on_what_was_held(tmp_path, decodes, monkeypatch):
    records, banks, counts = [], [], []
    for budget in (1 << 30, 30 * (2 * 64 * 64 * 4), 0):
        monkeypatch.setattr(samples, "IMAGE_BYTES", budget)
        place = tmp_path / str(budget)
        place.mkdir()
        done(linear(shared_world(), cwd=place, backbone=TINY_VIT))
        records.append(only_record(place / "results"))
        banks.append(next((place / "cache/features").glob("*/features.f32")).read_bytes())
        counts.append(decodes.since())
    assert counts == [IMAGES, SAMPLED + 2 * IMAGES - 2 * 30, SAMPLED + 2 * IMAGES]
    assert banks[0] == banks[1] == banks[2]
    for name in ("run_id", "config", "metrics"):
        assert records[0][name] == records[1][name] == records[2][name]


def test_images_left_out_are_the_same_on_both_runs(tmp_path, decodes):
    world = small_world(tmp_path)
    path = world / "River" / "River_2.tif"
    with rasterio.open(path, "r+") as target:
        values = target.read()
        values[:, :40] = np.nan  # 62.5 % of the pixels; the card allows half
        target.write(values)
    done(linear(world, cwd=tmp_path))
    first = only_record(tmp_path / "results")
    assert decodes.since() == 50
    assert any("1 images with more than 50% invalid pixels were left out" in note["text"] for note in first["notes"])
    done(linear(world, "--seed", 3, cwd=tmp_path))
    assert decodes.since() == 0


def test_what_was_trusted_once_is_refused_in_the_same_words_again(tmp_path, decodes):
    """The kept audit is judged anew: the refusal names the cues that were measured, and nothing is decoded."""
    world = small_world(tmp_path)
    for path in world.rglob("*.tif"):
        with rasterio.open(path, "r+") as target:
            target.write(10 ** (target.read() / 10))
    before = linear(world, cwd=tmp_path)
    assert "looks like linear power" in before.err
    done(linear(world, "--trust_data", cwd=tmp_path))
    decodes.since()
    again = linear(world, cwd=tmp_path)
    assert (again.code, again.err) == (2, before.err)
    assert decodes.since() == 0


# --- facts, by independent means


def test_facts_are_those_of_the_pixels(folder):
    index, card, cache = folder
    found = sample_facts(Samples(card=card, index=index), ("invalid", "quadrants"), cache)
    for row in (0, 57, 119):
        with rasterio.open(index.path(row)) as source:
            db = source.read()
        corners = [db[:, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)]
        expected = [int.from_bytes(hashlib.blake2b(c.tobytes(), digest_size=8).digest()) for c in corners]
        assert found["quadrants"][row].tolist() == expected
        assert found["invalid"][row] == 0


def test_facts_of_holes():
    db = np.random.default_rng(0).normal(-15, 2, (2, 8, 8)).astype(np.float32)
    valid = np.ones(db.shape, bool)
    valid[0, :2], db[:, 4:, 4:], db[:, :4, 4:] = False, -30, np.nan
    chip = Chip(db=db, valid=valid, synthetic=False)
    assert samples.FACTS["invalid"](chip) == 16 / 128
    assert (samples.FACTS["quadrants"](chip) == NONE).tolist() == [False, True, False, True]


def test_audit_statistics_are_those_of_all_pixels_together():
    rng = np.random.default_rng(1)
    chips = []
    for i in range(5):
        db = rng.normal((-11, -18), 3, (8, 8, 2)).transpose(2, 0, 1).astype(np.float32).round(i % 3)
        valid = rng.random(db.shape) > 0.1 if i % 2 else None
        chips.append(Chip(db=db, valid=valid, synthetic=False))
    kept = [chip.db.astype(np.float64)[... if chip.valid is None else chip.valid] for chip in chips]
    pooled = np.concatenate([values.ravel() for values in kept])
    masked = [np.where(True if c.valid is None else c.valid, c.db.astype(np.float64), np.nan) for c in chips]
    medians = [[np.median(band[np.isfinite(band)]) for band in image] for image in masked]
    found = audit.measure(chips, ("VV", "VH"))
    assert found.images == 5
    assert found.median == tuple(np.median(medians, axis=0))
    assert found.ratio == np.median([a / b for a, b in medians])
    assert found.first_minus_second == np.median([np.nanmedian(image[0] - image[1]) for image in masked])
    assert (found.minimum, found.maximum) == (pooled.min(), pooled.max())
    assert found.negative == (pooled < 0).mean()
    assert found.whole == (pooled == np.round(pooled)).mean()
    assert found.invalid == 1 - pooled.size / (5 * 128)


# --- the cache of arrays


def test_an_array_is_computed_once_and_again_when_it_is_damaged(folder):
    index, _, cache = folder
    asked = []

    def compute(missing):
        asked.append(missing)
        return {kind: np.arange(IMAGES) * (1 + len(kind)) for kind in missing}

    expected = {"a": np.arange(IMAGES) * 2, "bc": np.arange(IMAGES) * 3}
    for kinds in ({"a": ""}, {"a": "", "bc": ""}, {"a": "", "bc": ""}, {"a": "other"}):
        found = cached_arrays(cache, index, kinds, compute)
        assert {kind: values.tolist() for kind, values in found.items()} == {k: expected[k].tolist() for k in kinds}
    assert asked == [("a",), ("bc",), ("a",)]
    (path,) = (cache / "index").glob("bc-*.npz")
    whole = path.read_bytes()
    for spoilt in (b"", whole[: len(whole) // 2], b"\0" * len(whole), whole[:-40] + bytes(40)):
        path.write_bytes(spoilt)
        asked.clear()
        assert cached_arrays(cache, index, {"bc": ""}, compute)["bc"].tolist() == expected["bc"].tolist()
        assert asked == [("bc",)]
    np.savez_compressed(path, values=np.arange(3))
    assert len(cached_arrays(cache, index, {"bc": ""}, compute)["bc"]) == IMAGES


def test_a_card_that_reads_pixels_otherwise_has_other_facts(folder, decodes):
    index, card, cache = folder
    plain = sample_facts(Samples(card=card, index=index), ("invalid",), cache)["invalid"]
    with rasterio.open(index.path(0)) as source:
        value = float(source.read(1)[5, 5])
    other = dataclasses.replace(card, signal=dataclasses.replace(card.signal, nodata=(value,)))
    found = sample_facts(Samples(card=other, index=index), ("invalid",), cache)["invalid"]
    assert plain[0] == 0
    assert found[0] >= 1 / (2 * 64 * 64)
    assert decodes.since() == 2 * IMAGES


# --- what is held


def test_held_values_stay_within_the_budget_and_are_freed():
    held = Held(100, len)
    decoded = []

    def value(size, key):
        return lambda: decoded.append(key) or b"x" * size

    assert len(held.get("a", value(60, "a"))) == 60
    held.get("b", value(60, "b"))  # does not fit
    held.get("c", value(40, "c"))
    assert held.bytes == 100
    held.get("a", value(60, "a"))
    assert decoded == ["a", "b", "c"]
    assert len(held.take("a", value(60, "a"))) == 60
    assert (held.bytes, decoded) == (40, ["a", "b", "c"])
    held.take("a", value(60, "a"))
    assert decoded[-1] == "a"
    assert held.drop("c") == b"x" * 40
    assert held.drop("c") is None
    assert (held.bytes, held.values) == (0, {})


def test_a_run_ends_with_nothing_held(tmp_path, monkeypatch):
    made = []
    real = samples.Samples.__init__

    def seen(self, **given):
        real(self, **given)
        made.append(self)

    monkeypatch.setattr(samples.Samples, "__init__", seen)
    done(linear(shared_world(), "--split", "random_60_20_20", "--train_frac", "0.5", cwd=tmp_path))
    assert made
    assert all(one.images.bytes == 0 and not one.images.values for one in made)


def test_rows_are_read_as_files_are(folder):
    index, card, _ = folder
    one = Samples(card=card, index=index)
    for row in (3, np.int64(3)):
        assert one.chip(row).db.tobytes() == read_file(index.path(3), card).db.tobytes()
    assert len(one.images.values) == 1
