"""Whole runs on two dates: the earlier image is found, hashed and held against the card like the later one."""

import dataclasses

import numpy as np
import pytest
from commands import FOLDERS, call, only_record
from test_pixel_regression import CARD, NOTHING, SIDE, write

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.index import some_of
from fgmae_bench.data.layouts import build_index

BEFORE = '\n[before]\nfolder = "s1"\nimages = "*_pre.tif"\n'
CODES = 'codes = { 0 = "Dry", 1 = "Flood" }'


@pytest.fixture
def folder(tmp_path):
    """Ten places whose left third is flooded on the second date, beside a lake that is dark on both."""
    for n in range(10):
        rng = np.random.default_rng(n)
        before, after = (rng.normal(-10, 1.5, (2, SIDE, SIDE)) - [[[0]], [[6]]] for _ in range(2))
        after[:, :, : 8 + n % 3] -= 9
        for image in (before, after):
            image[:, :, 26:] -= 9
        flooded = (np.arange(SIDE) < 8 + n % 3) * np.ones((1, SIDE, 1))
        write(tmp_path / "data" / "s1" / f"a{n}_s1.tif", after.astype(np.float32))
        write(tmp_path / "data" / "s1" / f"a{n}_pre.tif", before.astype(np.float32))
        write(tmp_path / "data" / "maps" / f"a{n}_map.tif", flooded[..., :].reshape(1, SIDE, SIDE).astype(np.uint8))
    (tmp_path / "card.toml").write_text(CARD.format(task="segmentation", source=CODES, target=BEFORE))
    return tmp_path


def segment(folder, *flags, data="data"):
    return call("segment", "--dataset", "card.toml", "--data_path", data, *FOLDERS, *NOTHING, *flags, cwd=folder)


def test_a_flood_beside_a_lake_by_the_ratio_of_two_dates(folder):
    found = {}
    for head in ("otsu_vv", "log_ratio_vv", "log_ratio_vh"):
        done = segment(folder, "--head", head, "--results_dir", head)
        assert done.code == 0, done.err
        found[head] = only_record(folder / head)
    iou = {head: record["metrics"]["per_class"]["Flood"]["iou"] for head, record in found.items()}
    assert iou["otsu_vv"] < 0.75 < 0.85 < min(iou["log_ratio_vv"], iou["log_ratio_vh"])
    assert found["log_ratio_vv"]["protocol"] == "log_ratio_vv"
    card = load_card(str(folder / "card.toml"))
    index = build_index(card, folder / "data")
    assert index.before == tuple(f"s1/a{n}_pre.tif" for n in range(10))
    some = some_of(index, np.array([3, 5]))
    assert np.array_equal(some.read_before(1, card).db, index.read_before(5, card).db)
    write(folder / "data" / "s1" / "a4_pre.tif", index.read_before(4, card).db + np.float32(0.001))
    for head, same in (("otsu_vv", True), ("log_ratio_vv", False)):
        assert segment(folder, "--head", head, "--results_dir", f"{head}2").code == 0
        assert (only_record(folder / f"{head}2")["run_id"] == found[head]["run_id"]) is same


def test_what_has_no_earlier_image_is_refused_in_one_line(folder):
    done = call("prepare", "pack", "card.toml", "--data_path", "data", "--out", "p.lmdb", "--workers", "0", cwd=folder)
    assert done.code == 0, done.err
    assert segment(folder, "--head", "otsu_vv", data="p.lmdb").code == 0
    cases = {"p.lmdb": "holds one date a sample", "data": "a7_s1.tif has no earlier image"}
    (folder / "data" / "s1" / "a7_pre.tif").unlink()
    for data, message in cases.items():
        done = segment(folder, "--head", "log_ratio_vv", data=data)
        assert (done.code, done.err.count("error: ")) == (2, 1)
        assert message in done.err.splitlines()[-1]
    assert "a7_pre.tif was looked for" in done.err
    card = folder / "card.toml"
    text = card.read_text()
    card.write_text(text.replace(BEFORE, "").replace("version = 1", "version = 2"))
    done = segment(folder, "--head", "log_ratio_vh")
    assert (done.code, done.err.count("error: ")) == (2, 1)
    assert "name the earlier images under [before]" in done.err
    for wrong in ('folder = "s1"', 'folder = "../x"'):
        card.write_text(text.replace(BEFORE, f"\n[before]\n{wrong}\n"))
        assert segment(folder, "--head", "otsu_vv").code == 2


def test_the_field_changes_no_hash_of_cards_without_it(folder):
    from fgmae_bench.config.cards import facts_sha256

    card = load_card(str(folder / "card.toml"))
    alone = dataclasses.replace(card, before=None)
    (folder / "card.toml").write_text(CARD.format(task="segmentation", source=CODES, target=""))
    assert facts_sha256(load_card(str(folder / "card.toml"))) == facts_sha256(alone) != facts_sha256(card)
