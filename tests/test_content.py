"""A run is its pixels and labels: what is changed in place is noticed everywhere, and where files lie says nothing."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from commands import FOLDERS, MAIN, call, genuine, only_record, records, said, shared_world
from make_records import make_record

from fgmae_bench.config.cards import facts_sha256, load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.data.content import codes_of, content_of, part_sha256
from fgmae_bench.data.dataset import only_usable, open_dataset
from fgmae_bench.data.labels import Codes
from fgmae_bench.data.schemes import DFC
from fgmae_bench.records import problem_of, seal, store
from fgmae_bench.report.table import current
from fgmae_bench.system.stamps import remember, remembered, tree_stamp
from fgmae_bench.views.chip import Chip
from fgmae_bench.worlds.bigearthnet import write_bigearthnet
from fgmae_bench.worlds.dfc import write_dfc

MAIN.setdefault("suite", "fgmae_bench.suite.__main__")
QUICK = ("--model", "backscatter_stats", "--features", "cached", "--epochs", "1", "--batch_size", "16")
SHORT = ("--dataset", "eurosat", *QUICK, *FOLDERS)


def chip(values, valid=None):
    return Chip(db=np.asarray(values, np.float32), valid=valid, synthetic=False)


def test_the_hash_follows_pixels_and_not_what_stands_for_a_hole():
    draw = np.random.default_rng(0)
    values = draw.normal(-12, 3, (2, 8, 8)).astype(np.float32)
    hole = np.ones(values.shape, bool)
    hole[0, 3, 3] = False
    filled = [np.where(hole, values, fill) for fill in (np.nan, -99.0, -np.inf)]
    assert len({content_of(chip(each, hole)) for each in filled}) == 1
    assert content_of(chip(values, hole)) != content_of(chip(values))
    other = values.copy()
    other[1, 7, 7] = np.nextafter(other[1, 7, 7], 0)
    assert content_of(chip(other)) != content_of(chip(values))
    assert content_of(chip(values.reshape(2, 4, 16))) != content_of(chip(values))
    assert content_of(chip(np.full((2, 4, 4), 0.0))) == content_of(chip(np.full((2, 4, 4), -0.0)))


def test_the_hash_of_a_part_follows_images_labels_and_maps_and_not_their_order():
    content, labels = np.array([5, 6, 7], np.uint64), np.array([0, 1, 1])
    whole = part_sha256(content, labels, np.array([2, 0]))
    assert part_sha256(content, labels, np.array([0, 2])) == whole
    assert part_sha256(content, labels, np.array([0, 1])) != whole
    assert part_sha256(content, labels[::-1].copy(), np.array([0, 2])) != whole
    maps = np.array([1, 2, 3], np.uint64)
    assert len({whole, *(part_sha256(content, labels, np.array([0, 2]), each) for each in (maps, maps[::-1]))}) == 3


def test_the_hash_of_a_label_map_follows_its_codes_and_source():
    values = np.array([[1, 2], [3, 4]], np.uint8)
    assert codes_of(Codes(values=values, source=DFC)) == codes_of(Codes(values=values.copy(), source=DFC))
    assert codes_of(Codes(values=values[::-1].copy(), source=DFC)) != codes_of(Codes(values=values, source=DFC))
    other = dataclasses.replace(DFC, name="another")
    assert codes_of(Codes(values=values, source=other)) != codes_of(Codes(values=values, source=DFC))


def test_a_file_that_is_written_into_and_has_its_times_set_back_is_noticed(tmp_path):
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "a.bin"
    path.write_bytes(b"12345678")
    before, status = tree_stamp(tmp_path / "d"), os.stat(path)
    remember(tmp_path / "cache", tmp_path / "d", {"test": "x"})
    assert tree_stamp(tmp_path / "d") == before
    with open(path, "r+b") as stream:
        stream.write(b"9")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = os.stat(path)
    assert (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert tree_stamp(tmp_path / "d") != before
    assert remembered(tmp_path / "cache", tmp_path / "d") == []
    assert remembered(tmp_path / "cache", tmp_path / "nowhere") is None


def test_what_two_processes_remember_at_once_is_all_kept(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.bin").write_bytes(b"1")
    parts = [{"test": f"{number}"} for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: remember(tmp_path / "cache", tmp_path / "d", each), parts))
    held = remembered(tmp_path / "cache", tmp_path / "d")
    assert sorted(held, key=str) == sorted(parts, key=str)
    assert not list((tmp_path / "cache").rglob("*.lock"))


def change_one_pixel(path, row=5, column=7, by=0.25):
    """One pixel written in place; size and modification time as before, metadata untouched."""
    status = os.stat(path)
    with rasterio.open(path, "r+") as source:
        band = source.read(1)
        band[row, column] += by
        source.write(band, 1)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def world(tmp_path):
    shutil.copytree(shared_world(5), tmp_path / "world")
    return tmp_path / "world"


def test_one_changed_pixel_is_noticed_by_linear_its_bank_the_suite_and_compare(tmp_path, world):
    flags = (*SHORT, "--data_path", "world")
    assert call("linear", *flags, cwd=tmp_path).code == 0
    first = only_record(tmp_path / "results")
    assert "recorded already" in call("linear", *flags, cwd=tmp_path).err
    for image in sorted((world / "River").glob("*.tif")):
        change_one_pixel(image, by=6.0)
    again = call("linear", *flags, cwd=tmp_path)
    assert "recorded already" not in again.err
    found = records(tmp_path / "results")
    assert len(found) == 2
    second = next(record for record in found if record["run_id"] != first["run_id"])
    assert second["dataset"]["sample_ids_sha256"] == first["dataset"]["sample_ids_sha256"]
    assert second["dataset"]["content_sha256"]["train"] != first["dataset"]["content_sha256"]["train"]
    assert second["metrics"]["test"]["loss"] != first["metrics"]["test"]["loss"]  # the bank was not the old one
    line = said(call("report", "compare", first["run_id"], second["run_id"], cwd=tmp_path))
    assert "were tested on other pixels or labels" in line


@pytest.mark.parametrize("linked", ["class folder", "image", "whole dataset"])
def test_a_pixel_that_changes_behind_a_link_is_noticed(tmp_path, world, linked):
    image = sorted((world / "River").glob("*.tif"))[0]
    moved = {"class folder": world / "River", "image": image, "whole dataset": world}[linked]
    shutil.move(moved, tmp_path / "store")
    moved.symlink_to(tmp_path / "store")
    flags = (*SHORT, "--data_path", "world")
    assert call("linear", *flags, cwd=tmp_path).code == 0
    assert "recorded already" in call("linear", *flags, cwd=tmp_path).err
    change_one_pixel(image.resolve())
    assert call("linear", *flags, cwd=tmp_path).code == 0
    assert len(records(tmp_path / "results")) == 2


def test_links_in_a_circle_and_to_nowhere_end_and_where_a_link_leads_counts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "store" / name).mkdir(parents=True)
        (tmp_path / "store" / name / "x.bin").write_bytes(name.encode())
    root = tmp_path / "data"
    root.mkdir()
    (root / "round").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "self").symlink_to(root / "self")
    (root / "first").symlink_to(tmp_path / "store" / "a")
    (root / "second").symlink_to(tmp_path / "store" / "b")
    stamps = set()
    for target in ("a", "b"):  # both are looked into already: only where it leads tells
        (root / "third").unlink(missing_ok=True)
        (root / "third").symlink_to(tmp_path / "store" / target)
        stamps.add(tree_stamp(root))
    assert len(stamps) == 2


def test_a_folder_that_links_lead_into_again_is_listed_once(tmp_path, monkeypatch):
    """Two links back to the top, which lead on from one another for ever: the top by itself and by one link, `a` in
    both.
    """
    (tmp_path / "top" / "a").mkdir(parents=True)
    for name in ("up", "up_again"):
        (tmp_path / "top" / "a" / name).symlink_to(tmp_path / "top", target_is_directory=True)
    listed, scandir = [], os.scandir

    def counted(place):
        listed.append(str(place))
        assert len(listed) < 100
        return scandir(place)

    monkeypatch.setattr(os, "scandir", counted)
    tree_stamp(tmp_path / "top")
    assert [os.path.relpath(place, tmp_path) for place in listed] == ["top", "top/a", "top/a/up", "top/a/up/a"]


def test_a_copy_elsewhere_is_the_same_run(tmp_path, world):
    assert call("linear", *SHORT, "--data_path", "world", cwd=tmp_path).code == 0
    shutil.copytree(world, tmp_path / "elsewhere")
    copy = call("linear", *SHORT, "--data_path", "elsewhere", cwd=tmp_path)
    assert "recorded already" in copy.err
    assert len(records(tmp_path / "results")) == 1


def test_permuted_labels_are_another_run(tmp_path, world):
    assert call("linear", *SHORT, "--data_path", "world", cwd=tmp_path).code == 0
    first = only_record(tmp_path / "results")
    a, b = (sorted((world / name).glob("*.tif"))[0] for name in ("River", "Forest"))
    held = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(held)
    assert call("linear", *SHORT, "--data_path", "world", cwd=tmp_path).code == 0
    ids = {record["run_id"] for record in records(tmp_path / "results")}
    assert len(ids) == 2
    assert first["run_id"] in ids


def test_the_suite_sees_changed_pixels_and_says_where_it_cannot_look(tmp_path, world):
    (tmp_path / "mine.toml").write_text(
        'title = "T"\nmodule = "linear"\nprotocol = "linear_probe"\n[layout]\ncolumns = ["run", "oa"]\n'
        '[common]\ndataset = "eurosat"\ndata_path = "world"\nmodel = "backscatter_stats"\nfeatures = "cached"\n'
        'epochs = 1\nbatch_size = 16\nresults_dir = "results"\ncache_dir = "cache"\n[[runs]]\nlabel = "one"\n'
    )
    assert call("linear", *SHORT, "--data_path", "world", cwd=tmp_path).code == 0
    assert "1 recorded, 0 to do" in call("suite", "plan", "mine.toml", cwd=tmp_path).out
    change_one_pixel(sorted((world / "River").glob("*.tif"))[0])
    assert "0 recorded, 1 to do" in call("suite", "plan", "mine.toml", cwd=tmp_path).out
    shutil.rmtree(world)
    absent = call("suite", "plan", "mine.toml", cwd=tmp_path).out
    assert "content unknown" in absent
    assert "1 recorded, 0 to do" in absent


FLIP = """
import sys, lmdb
with lmdb.open(sys.argv[1], map_size=1 << 28) as pack, pack.begin(write=True) as writing:
    key = next(bytes(key) for key, _ in writing.cursor() if key.startswith(b"River"))
    value = bytearray(writing.get(key))
    value[-3] ^= 1
    writing.put(key, bytes(value))
"""


def test_a_pack_and_its_tiffs_are_one_run_and_a_changed_pixel_in_it_another(tmp_path, world):
    packed = call("prepare", "pack", "eurosat", "--data_path", "world", "--out", "p.lmdb", "--workers", 0, cwd=tmp_path)
    assert packed.code == 0, packed.err
    assert call("linear", *SHORT, "--data_path", "world", cwd=tmp_path).code == 0
    same = call("linear", *SHORT, "--data_path", "p.lmdb", cwd=tmp_path)
    assert "recorded already" in same.err, same.err
    path = tmp_path / "p.lmdb" / "data.mdb"
    status = os.stat(path)
    subprocess.run([sys.executable, "-c", FLIP, tmp_path / "p.lmdb"], check=True)  # LMDB opens a file once a process
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = call("linear", *SHORT, "--data_path", "p.lmdb", cwd=tmp_path)
    assert changed.code == 2
    assert "the sample does not have its checksum; restore the pack" in said(changed)


def test_records_of_another_version_are_told_apart(tmp_path):
    old, new = make_record(schema=1), make_record()
    assert problem_of(old) is None
    assert problem_of(new) is None
    assert problem_of({**new, "schema": 3}).startswith("made by a newer version")
    without = {**new, "dataset": {k: v for k, v in new["dataset"].items() if k != "content_sha256"}}
    with pytest.raises(ValueError, match="content_sha256"):
        seal(without)
    store(seal({**new, "run_id": "newer-published-0123456789"}), tmp_path)
    path = next(tmp_path.rglob("newer*.json"))
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 9'))
    line = call("report", "--validate", "--results_dir", tmp_path, cwd=tmp_path)
    assert "made by a newer version" in line.out + line.err


def test_a_newer_record_supersedes_that_of_the_same_run_in_tables():
    old, new, other = make_record(schema=1), make_record(), make_record(schema=1, seed=7)
    assert current([old, new, other]) == [new, other]
    assert current([old]) == [old]


def test_a_record_that_does_not_say_its_pixels_cannot_be_compared(tmp_path, world):
    """With predictions at hand, exit code 2 and one line."""
    ids = []
    for seed in (1, 2):
        flags = (*SHORT, "--data_path", "world", "--seed", seed, "--results_dir", f"r{seed}")
        assert call("linear", *flags, cwd=tmp_path).code == 0
        record = only_record(tmp_path / f"r{seed}")
        ids.append(record["run_id"])
        shutil.copytree(tmp_path / f"r{seed}", tmp_path / "results", dirs_exist_ok=True)
    assert call("report", "compare", *ids, cwd=tmp_path).code == 0
    body = {key: value for key, value in record.items() if key != "sha256"} | {"schema": 1}
    body["dataset"] = {k: v for k, v in body["dataset"].items() if k not in ("content_sha256", "card_sha256")}
    path = next((tmp_path / "results").rglob(f"{ids[1]}.json"))
    path.unlink()
    store(seal(body), tmp_path / "results")
    line = said(call("report", "compare", *ids, cwd=tmp_path))
    assert f"the record of {ids[1]} is of an older version and does not say of which pixels it is" in line
    assert "run it again" in line


def test_genuine_chips_give_another_run_once_one_of_them_has_changed(tmp_path):
    shutil.copytree(genuine("s1f_chips"), tmp_path / "chips")
    flags = ("--dataset", "chips/card.toml", *QUICK, *FOLDERS)
    assert call("linear", *flags, cwd=tmp_path).code == 0
    assert "recorded already" in call("linear", *flags, cwd=tmp_path).err
    change_one_pixel(tmp_path / "chips" / "data" / "Land" / "Ghana_53713_r0c0.tif")
    changed = call("linear", *flags, cwd=tmp_path)
    assert changed.code == 0, changed.err
    assert len({record["run_id"] for record in records(tmp_path / "results")}) == 2


def test_cards_are_their_facts():
    card = load_card("eurosat")
    assert facts_sha256(dataclasses.replace(card, title="other", notes=("x",))) == facts_sha256(card)
    assert facts_sha256(dataclasses.replace(card, version=9)) != facts_sha256(card)


def first_content(root, card_name, tmp_path, run_flags):
    """content_sha256 of a dataset as a run sees it."""
    card = load_card(card_name)
    run = compose("segment" if card.task == "segmentation" else "linear", {"dataset": card_name, **run_flags}, card)[0]
    run = dataclasses.replace(run, execution=dataclasses.replace(run.execution, data_path=str(root), num_workers=0))
    return only_usable(open_dataset(card, run, tmp_path / "cache"), run, tmp_path / "cache")


@pytest.mark.parametrize("layout", ["dfc2020", "bigearthnet"])
def test_one_changed_pixel_is_another_content_on_other_layouts(tmp_path, layout):
    root, flags = tmp_path / "world", {"partial": True}
    if layout == "dfc2020":
        write_dfc(root, tiles=24, size=32)
        flags["split"] = "community"
    else:
        write_bigearthnet(root, patches=60)
        flags["split"] = "official"
    before = first_content(root, layout, tmp_path, flags)
    assert first_content(root, layout, tmp_path, flags).facts["content_sha256"] == before.facts["content_sha256"]
    row = int(before.parts.train[0])
    place = before.index.path(row)
    change_one_pixel(place if place.is_file() else place / f"{place.name}_VV.tif")
    after = first_content(root, layout, tmp_path, flags)
    assert after.facts["samples_sha256"] == before.facts["samples_sha256"]
    assert after.facts["content_sha256"]["train"] != before.facts["content_sha256"]["train"]
    assert after.facts["content_sha256"]["test"] == before.facts["content_sha256"]["test"]


def test_permuted_labels_of_bigearthnet_are_another_content_of_the_same_samples(tmp_path):
    """The labels of two patches change places: files, names and pixels stay."""
    root, flags = tmp_path / "world", {"partial": True, "split": "official"}
    write_bigearthnet(root, patches=60)
    before = first_content(root, "bigearthnet", tmp_path, flags)
    labels = before.index.labels
    other = next(row for row in before.parts.train[1:] if (labels[row] != labels[before.parts.train[0]]).any())
    places = [before.index.path(int(row)) for row in (before.parts.train[0], other)]
    files = [place / f"{place.name}_labels_metadata.json" for place in places]
    held = [json.loads(file.read_text()) for file in files]
    for file, own, theirs in zip(files, held, held[::-1], strict=True):
        file.write_text(json.dumps(own | {"labels": theirs["labels"]}))
    after = first_content(root, "bigearthnet", tmp_path, flags)
    assert after.facts["samples_sha256"] == before.facts["samples_sha256"]
    assert after.facts["content_sha256"]["train"] != before.facts["content_sha256"]["train"]
    assert after.facts["content_sha256"]["test"] == before.facts["content_sha256"]["test"]
