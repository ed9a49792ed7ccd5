"""Whole runs on a card of one's own: targets of pixels, baselines that are fitted at once, trials on a few samples."""

import csv
import json
import shlex

import numpy as np
import pytest
from commands import FOLDERS, call, only_record
from rasterio import open as open_raster
from scipy.ndimage import uniform_filter

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.layouts import build_index
from fgmae_bench.report.predictions import find_predictions, read_predictions

SIDE = 32
CARD = """
name = "mine"
title = "Mine"
version = 1
task = "{task}"
default_split = "own"
recommended_split = "own"
[layout]
kind = "paired_folders"
images = "*_s1.tif"
masks = "*_map.tif"
[signal]
bands = ["VV", "VH"]
units = "dB"
calibration = "sigma0"
size = [32, 32]
dtype = "float32"
folder = "s1"
[label_sources.map]
folder = "maps"
{source}
[splits.own]
kind = "random"
train = 0.5
{target}
[origin]
url = "mine"
licence = "mine"
"""
TINY = shlex.split(
    "--model vit_tiny_patch16_224 --weights random --recipe corrected --freeze_backbone --head linear --epochs 2 "
    "--warmup_epochs 0 --batch_size 4 --lr 0.01 --features cached"
)


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_raster(
        path,
        "w",
        driver="GTiff",
        count=len(values),
        height=SIDE,
        width=SIDE,
        dtype="float32" if values.dtype.kind == "f" else values.dtype,
    ) as to:
        to.write(values)


@pytest.fixture(scope="module")
def scenes():
    """Twelve images (2, H, W) dB: dark water in a disc on brighter land."""
    rows, columns = np.indices((SIDE, SIDE))
    found = []
    for n in range(12):
        rng = np.random.default_rng(n)
        disc = (rows - 16) ** 2 + (columns - 10 - n) ** 2 < 60
        level = np.where(disc, -19.0, -10.0)
        found.append((level + rng.normal(0, 1.5, (2, SIDE, SIDE)) - np.array([0, 6])[:, None, None]).astype(np.float32))
    return found


def heights(folder, scenes):
    for n, image in enumerate(scenes):
        target = (30 + uniform_filter(image[0], 5)).astype(np.float32)
        target[:2], target[-2:] = np.nan, -9999
        if n == 3:
            target[:] = np.nan
        write(folder / "data" / "s1" / f"a{n}_s1.tif", image)
        write(folder / "data" / "maps" / f"a{n}_map.tif", target[None])
    target = '[target]\nname = "height"\nunit = "m"\nbins = [15.0]'
    (folder / "card.toml").write_text(CARD.format(task="regression", source="ignore = [-9999]", target=target))
    return folder


def segment(folder, *flags, data="data"):
    done = call("segment", "--dataset", "card.toml", "--data_path", data, *FOLDERS, *flags, cwd=folder)
    assert done.code == 0, done.err
    return done


def test_targets_of_pixels_from_card_to_record_and_pack(tmp_path, scenes):
    folder = heights(tmp_path, scenes)
    card = load_card(str(folder / "card.toml"))
    values = build_index(card, folder / "data").targets(0, "map")
    assert np.isnan(values[[0, 1, -1, -2]]).all()
    assert np.isfinite(values[2:-2]).all()
    segment(folder, *TINY)
    record = only_record(folder / "results")
    assert [n["text"] for n in record["notes"] if n["code"] == "all_ignore_left_out"] == [
        "1 images without a target were left out: a3"
    ]
    assert record["dataset"]["n_train"] + record["dataset"]["n_test"] == 11
    test, more = record["metrics"]["test"], record["metrics"]["regression"]
    assert (more["target"], more["unit"], [row["high"] for row in more["bins"]]) == ("height", "m", [15.0, None])
    held = read_predictions(record, find_predictions(record, folder / "results"))
    count, squared = held.scores[:, 0].sum(), held.scores[:, 3].sum()
    assert count == record["dataset"]["n_test"] * (SIDE - 4) * SIDE == sum(row["count"] for row in more["bins"])
    assert test["rmse"] == pytest.approx(np.sqrt(squared / count))
    assert held.units().measure(np.ones((1, held.units().count), np.float32))["rmse"][0] == pytest.approx(test["rmse"])
    packed = call(
        "prepare", "pack", "card.toml", "--data_path", "data", "--out", "p.lmdb", "--workers", "0", cwd=folder
    )
    assert packed.code == 0, packed.err
    assert (
        call(
            "prepare", "verify", "p.lmdb", "--dataset", "card.toml", "--data_path", "data", "--workers", "0", cwd=folder
        ).code
        == 0
    )
    segment(folder, *TINY, "--results_dir", "packed", data="p.lmdb")
    other = only_record(folder / "packed")
    assert (other["run_id"], other["metrics"]) == (record["run_id"], record["metrics"])


def floods(folder, scenes):
    for n, image in enumerate(scenes):
        mask = (uniform_filter(image[0], 3) < -14).astype(np.uint8)
        write(folder / "data" / "s1" / f"a{n}_s1.tif", image)
        write(folder / "data" / "maps" / f"a{n}_map.tif", mask[None])
    source = 'codes = { 0 = "Land", 1 = "Water" }'
    (folder / "card.toml").write_text(CARD.format(task="segmentation", source=source, target=""))
    return folder


NOTHING = ("--model", "backscatter_stats", "--weights", "random")


def test_baselines_stand_beside_models_in_a_table(tmp_path, scenes):
    folder = floods(tmp_path, scenes)
    rows = []
    for head in ("otsu_vv", "otsu_vh"):
        segment(folder, "--head", head, *NOTHING, "--output_dir", head)
        rows.append(f'[[runs]]\nlabel = "{head}"\nprotocol = "{head}"\nflags = {{ head = "{head}" }}\n')
    again = segment(folder, "--head", "otsu_vv", *NOTHING)
    assert "recorded" in again.out + again.err
    segment(folder, "--head", "otsu_vv", *NOTHING, "--limit", "2", "--output_dir", "few")
    rows.append('[[runs]]\nlabel = "trial"\nprotocol = "otsu_vv"\nflags = { head = "otsu_vv", limit = 2 }\n')
    records = [json.loads(path.read_text()) for path in sorted((folder / "results" / "records").rglob("*.json"))]
    assert sorted(record["protocol"] for record in records) == ["otsu_vh", "otsu_vv", "otsu_vv"]
    (few,) = [r for r in records if any(note["code"] == "limited" for note in r["notes"])]
    assert (few["dataset"]["n_train"], few["dataset"]["n_test"]) == (2, 2)
    common = 'title = "Floods"\nmodule = "segment"\nprotocol = "otsu_vv"\nexpect = "not measured"\n[common]\n'
    common += 'dataset = "card.toml"\nmodel = "backscatter_stats"\nweights = "random"\nfreeze_backbone = true\nsplit = "own"\n'
    common += '[layout]\ncolumns = ["run", "miou", "iou:Water", "iou:Water_interval", "n_test"]\ncurves = ["miou"]\n'
    (folder / "experiments").mkdir()
    (folder / "experiments" / "floods.toml").write_text(common + "".join(rows))
    done = call("report", "--formats", "csv", "--out", "out", cwd=folder)
    assert done.code == 0, done.err
    lines = (folder / "out" / "tables" / "floods.csv").read_text().splitlines()
    assert len(lines) == 4
    shown = list(csv.DictReader(lines))
    assert ["2" in row["n_test"] for row in shown] == [False, False, True]  # a trial is in the row that asks for it
    assert ["limited" in ";".join(map(str, row.values())) for row in shown] == [False, False, True]
    whole = [record for record in records if record is not few]
    for record in whole:
        water = record["metrics"]["per_class"]["Water"]
        assert record["metrics"]["test"]["miou"] > 0.7
        assert any(f"{water['iou']:.4f}"[:5] in line for line in lines)
        low, high = record["metrics"]["intervals"]["iou"]["Water"]
        assert low < water["iou"] < high


def test_a_rule_refuses_a_backbone_and_another_task(tmp_path, scenes):
    folder = floods(tmp_path, scenes)
    done = call("segment", "--dataset", "card.toml", "--data_path", "data", *FOLDERS, "--head", "otsu_vv", cwd=folder)
    assert done.code == 2
    assert (
        "--head otsu_vv looks at backscatter alone, not at vit_small_patch16; add --model backscatter_stats" in done.err
    )
    heights(tmp_path / "h", scenes[:4])
    done = call(
        "segment",
        "--dataset",
        "card.toml",
        "--data_path",
        "data",
        *FOLDERS,
        "--head",
        "otsu_vv",
        *NOTHING,
        cwd=tmp_path / "h",
    )
    assert done.code == 2
    assert "--head otsu_vv on a regression dataset" in done.err
    done = call("linear", "--dataset", "card.toml", "--data_path", "data", *FOLDERS, *NOTHING, cwd=tmp_path / "h")
    assert done.code == 2
    assert "Mine is a regression dataset; use fgmae_bench.segment" in done.err
