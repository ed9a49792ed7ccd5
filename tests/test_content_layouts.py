"""One changed pixel is another dataset on every layout that is read; a copy and a pack are the same one."""

import dataclasses
import json

import numpy as np
import pytest
from commands import FOLDERS, call, only_record, records, said
from dataset_worlds import WORLDS
from layout_worlds import LAYOUTS, copied, flip, nudge, nudge_tiff
from test_legacy_packs import five, images, three

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.data.dataset import only_usable, open_dataset
from fgmae_bench.data.dfc.ready import with_labels
from fgmae_bench.data.groups import to_pack
from fgmae_bench.data.layouts import LAYOUTS as READERS
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.data.targets import with_targets
from fgmae_bench.errors import BenchError
from fgmae_bench.system.distributed import World
from fgmae_bench.train.labelled import before_facts, label_maps, with_before
from fgmae_bench.worlds.bigearthnet import write_bigearthnet
from fgmae_bench.worlds.bigearthnet_v2 import write_bigearthnet_v2
from fgmae_bench.worlds.dfc import write_dfc

pytest_plugins = ("dataset_worlds",)


def opened(card, root, cache, **flags):
    """The dataset of a run, read."""
    flags = {"dataset": str(card.path), "partial": True, **flags}
    run = compose("segment" if card.per_pixel else "linear", flags, card)[0]
    run = dataclasses.replace(run, execution=dataclasses.replace(run.execution, data_path=str(root), num_workers=0))
    dataset = only_usable(open_dataset(card, run, cache), run, cache)
    if card.task == "segmentation":
        dataset = with_labels(dataset, *label_maps(run, card), cache, workers=0)
    elif card.per_pixel:
        dataset, _ = with_targets(dataset, card.label_source, cache, workers=0)
    return dataset


def facts(card, root, cache, **flags):
    """What of the data enters the run id."""
    return opened(card, root, cache, **flags).facts


def only_train_differs(before, after):
    assert after["samples_sha256"] == before["samples_sha256"]
    assert after["content_sha256"]["train"] != before["content_sha256"]["train"]
    assert after["content_sha256"]["test"] == before["content_sha256"]["test"]
    assert {k: v for k, v in after.items() if k != "content_sha256"} == {
        k: v for k, v in before.items() if k != "content_sha256"
    }


def packed(card, root, out):
    write_pack(card, to_pack(card, open_index(card, root), out.parent / "cache"), out)
    return out


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_copy_and_a_pack_are_the_same_and_one_changed_pixel_is_not(name, tmp_path):
    card, root, of = LAYOUTS[name](tmp_path)
    cache = tmp_path / "cache"
    before = opened(card, root, cache)
    assert facts(card, copied(root, tmp_path / "copy"), cache) == before.facts
    assert facts(card, packed(card, root, tmp_path / "p.lmdb"), cache) == before.facts
    row = int(before.parts.train[0])
    nudge(of(root)[row] if name.startswith("zarr") else before.index.path(row))
    only_train_differs(before.facts, facts(card, root, cache))


@pytest.mark.parametrize("name", ["paired_folders", "paired_folders of a number"])
def test_one_changed_pixel_of_a_label_map_is_another_dataset(name, tmp_path):
    card, root, _ = LAYOUTS[name](tmp_path)
    before = opened(card, root, tmp_path / "cache")
    image = before.index.path(int(before.parts.train[0]))
    labels = next(
        path for path in root.rglob("*.tif") if path.parent != image.parent and path.name[:2] == image.name[:2]
    )
    nudge(labels)
    only_train_differs(before.facts, facts(card, root, tmp_path / "cache"))


# name of a card -> flags of its run
OWN = {
    "dfc2020": {"split": "community"},
    "bigearthnet": {"split": "official"},
    "bigearthnet_v2": {},
    **{name: {} for name in WORLDS},
}
SLOW = {*WORLDS, "bigearthnet"} - {"kuro_siwo", "sen12ms_scenes"}


@pytest.fixture
def world(tmp_path, spoilt):
    """A function from a dataset's name to a world of it that may be changed."""

    def make(name):
        if name in WORLDS:
            return spoilt(name)
        root = tmp_path / "world"
        if name == "dfc2020":
            write_dfc(root, tiles=24, size=32)
        elif name == "bigearthnet":
            write_bigearthnet(root, patches=156)
        else:
            write_bigearthnet_v2(root, patches=34)
        return root

    return make


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in OWN])
def test_the_same_holds_for_every_dataset_that_ships(name, world, tmp_path):
    card, root, cache = load_card(name), world(name), tmp_path / "cache"
    before = opened(card, root, cache, **OWN[name])
    assert facts(card, copied(root, tmp_path / "copy"), cache, **OWN[name]) == before.facts
    if not OWN[name]:
        pack, split = packed(card, root, tmp_path / "p.lmdb"), card.splits[card.default_split]
        if split.kind == "spatial":  # which a pack cannot be divided by
            with pytest.raises(BenchError, match="holds no georeferenced file a sample"):
                facts(card, pack, cache)
        elif split.kind == "lists":  # they stand beside the files, and a pack has none
            for part in ("train", "val", "test"):
                (tmp_path / f"{part}.txt").write_text("".join(f"{id}\n" for id in before.ids(part)))
            held = facts(card, pack, cache, split=str(tmp_path))
            same = ("content_sha256", "samples_sha256")
            assert {key: held[key] for key in same} == {key: before.facts[key] for key in same}
        else:
            assert facts(card, pack, cache) == before.facts
    place = before.index.path(int(before.parts.train[0]))
    nudge_tiff(place if place.is_file() else next(root.rglob(f"{place.name}_VV.tif")))
    only_train_differs(before.facts, facts(card, root, cache, **OWN[name]))


def test_every_layout_and_every_card_is_tried():
    tried = {name.split()[0] for name in LAYOUTS} | {load_card(name).layout for name in OWN}
    assert tried == {*READERS}


def lists(folder, count):
    folder.mkdir()
    (folder / "train.txt").write_text("".join(f"{n}\n" for n in range(count // 2)))
    (folder / "test.txt").write_text("".join(f"{n}\n" for n in range(count // 2, count)))
    return {"split": str(folder)}


@pytest.mark.parametrize("write", [three, five], ids=lambda write: write.__name__)
def test_packs_of_others_are_what_their_own_pack_is_and_one_bit_makes_another(write, tmp_path):
    card, (db, targets) = load_card("bigearthnet"), images(34)
    targets[:19] = np.eye(19)
    db = db[:, :120, :120, :: -1 if write is three else 1]  # the known writers of three stored VH first
    root, flags = write(tmp_path / "theirs.lmdb", db, targets), lists(tmp_path / "lists", 34)
    before = facts(card, root, tmp_path / "cache", **flags)
    assert facts(card, copied(root, tmp_path / "copy.lmdb"), tmp_path / "cache", **flags) == before
    ours = facts(card, packed(card, root, tmp_path / "ours.lmdb"), tmp_path / "cache", **flags)
    assert ours == before
    flip(root, "3", -400)  # the last pixels of the image stand before its shape and targets
    only_train_differs(before, facts(card, root, tmp_path / "cache", **flags))


def test_a_pack_that_no_run_could_read_is_not_written(tmp_path):
    """Samples of a legacy pack that its makers have resized; a run takes that pack as it is."""
    db, targets = images(34)
    three(tmp_path / "theirs.lmdb", db[..., ::-1], targets)
    words = ("bigearthnet", "--data_path", "theirs.lmdb", "--out", "ours.lmdb", "--workers", 0, "--partial")
    line = said(call("prepare", "pack", *words, cwd=tmp_path))
    assert "is 128x128 pixels, BigEarthNet-S1 states 120x120: no run could read the pack" in line
    assert not (tmp_path / "ours.lmdb").exists()


def test_a_pack_of_rico_hdl_is_its_files_and_one_bit_makes_another(tmp_path):
    from safetensors.numpy import save
    from test_legacy_packs import fill

    card, root = load_card("bigearthnet_v2"), tmp_path / "world"
    write_bigearthnet_v2(root, patches=34)
    files = opened(card, root, tmp_path / "cache")
    bands = {"VV": 0, "VH": 1}
    values = {}
    for row, name in enumerate(files.index.ids):
        chip = files.index.read(row, card)
        values[name.rpartition("/")[2]] = save({band: chip.db[at].copy() for band, at in bands.items()})
    pack = fill(tmp_path / "rico.lmdb", values)
    (pack / "metadata.parquet").write_bytes(next(root.rglob("metadata.parquet")).read_bytes())
    before = facts(card, pack, tmp_path / "cache")
    assert before["content_sha256"] == files.facts["content_sha256"]
    row = int(files.parts.train[0])
    flip(pack, files.index.ids[row].rpartition("/")[2], -3)
    only_train_differs(before, facts(card, pack, tmp_path / "cache"))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_bit_of_our_own_pack_is_refused(dtype, tmp_path):
    from fgmae_bench.config.contract import FGMAE_CONTRACT
    from fgmae_bench.views.classification import make_view

    card, root, _ = LAYOUTS["class_folders tif"](tmp_path)
    view = make_view(card, FGMAE_CONTRACT, None) if dtype == "uint8" else None
    write_pack(card, open_index(card, root), tmp_path / "p.lmdb", view=view)
    before = opened(card, tmp_path / "p.lmdb", tmp_path / "cache")
    flip(tmp_path / "p.lmdb", before.index.ids[0], -3)
    with pytest.raises(BenchError, match="the sample does not have its checksum"):
        facts(card, tmp_path / "p.lmdb", tmp_path / "cache")


def test_one_changed_pixel_of_an_earlier_image_is_another_dataset(spoilt, tmp_path):
    card, root = load_card("kuro_siwo"), spoilt("kuro_siwo")
    world = World()

    def seen():
        return before_facts(with_before(opened(card, root, tmp_path / "cache"), world))

    held, index = seen(), open_index(card, root)
    nudge_tiff(root / index.before[0])
    assert seen() != held


EXPERIMENT = """
title = "T"
module = "{module}"
protocol = "{protocol}"
[layout]
columns = ["run"]
[common]
dataset = "{card}"
data_path = "data"
model = "backscatter_stats"
weights = "random"
results_dir = "results"
cache_dir = "cache"
{more}
[[runs]]
label = "one"
"""
WHOLE = {
    "table parquet": ("linear", {"probe": "knn", "knn_k": 3}),
    "zarr 3": ("linear", {"probe": "knn", "knn_k": 3}),
    "paired_folders": ("segment", {"head": "otsu_vv", "freeze_backbone": True}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_commands_notice_a_pixel_and_know_a_copy_and_a_pack(name, tmp_path):
    """`linear` or `segment`, the plan of a suite, and `compare`."""
    _, root, of = LAYOUTS[name](tmp_path)
    module, flags = WHOLE[name]
    words = [word for key, value in flags.items() for word in (f"--{key}", *([] if value is True else [value]))]
    common = (
        "--dataset",
        tmp_path / "card.toml",
        "--model",
        "backscatter_stats",
        "--weights",
        "random",
        *words,
        *FOLDERS,
    )

    def run(data):
        done = call(module, *common, "--data_path", data, cwd=tmp_path)
        assert done.code == 0, done.err
        return done.err

    run("data")
    first = only_record(tmp_path / "results")
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in flags.items())
    (tmp_path / "mine.toml").write_text(
        EXPERIMENT.format(card=tmp_path / "card.toml", module=module, protocol=first["protocol"], more=lines)
    )
    assert "1 recorded, 0 to do" in call("suite.__main__", "plan", "mine.toml", cwd=tmp_path).out
    copied(root, tmp_path / "copy")
    done = call("prepare", "pack", "card.toml", "--data_path", "data", "--out", "p.lmdb", "--workers", 0, cwd=tmp_path)
    assert done.code == 0, done.err
    for same in ("copy", "p.lmdb"):
        assert "recorded already" in run(same)
    for image in of(root):
        nudge(image)
    assert "0 recorded, 1 to do" in call("suite.__main__", "plan", "mine.toml", cwd=tmp_path).out
    assert "recorded already" not in run("data")
    ids = [record["run_id"] for record in records(tmp_path / "results")]
    assert len(ids) == 2
    assert "were tested on other pixels or labels" in said(call("report", "compare", *ids, cwd=tmp_path))
