"""Whole runs with boundary scores, and with a mask of permanent water that flood maps are also scored without."""

import csv
import json

import numpy as np
import pytest
from commands import FOLDERS, call, only_record
from rasterio import open as open_raster
from scipy.ndimage import uniform_filter
from sklearn.metrics import jaccard_score, recall_score
from test_pixel_regression import CARD, NOTHING, SIDE, TINY, scenes, write  # noqa: F401 (a fixture)

from fgmae_bench.report.predictions import find_predictions, read_predictions

SOURCES = """codes = { 0 = "Land", 1 = "Water" }
[label_sources.jrc]
folder = "jrc"
masks = "*_JRC.tif"
codes = { 0 = "Not always", 1 = "Permanent" }
ignore = []
"""
PERMANENT = '\n[permanent_water]\nsource = "jrc"\ncodes = [1]\n'


@pytest.fixture
def folder(tmp_path, scenes):  # noqa: F811
    """Water in a disc, of which the left half is there at all times."""
    for n, image in enumerate(scenes):
        mask = (uniform_filter(image[0], 3) < -14).astype(np.uint8)
        mask[:2] = 255
        always = mask * (np.arange(SIDE) < 10 + n)
        always[:2] = 0
        write(tmp_path / "data" / "s1" / f"a{n}_s1.tif", image)
        write(tmp_path / "data" / "maps" / f"a{n}_map.tif", mask[None])
        write(tmp_path / "data" / "jrc" / f"a{n}_JRC.tif", always[None].astype(np.uint8))
    text = CARD.format(task="segmentation", source=SOURCES, target=PERMANENT)
    text = text.replace('default_split = "own"', 'default_split = "own"\nlabel_source = "map"')
    (tmp_path / "card.toml").write_text(text)
    return tmp_path


def segment(folder, *flags, data="data"):
    return call("segment", "--dataset", "card.toml", "--data_path", data, *FOLDERS, *flags, cwd=folder)


def maps(folder, ids):
    for name in ids:
        found = []
        for place in (f"s1/{name}_s1.tif", f"maps/{name}_map.tif", f"jrc/{name}_JRC.tif"):
            with open_raster(folder / "data" / place) as source:
                found.append(source.read(1))
        yield found


def test_a_flood_is_scored_without_permanent_water_and_by_its_outline(folder):
    done = segment(folder, "--head", "otsu_vv", *NOTHING)
    assert done.code == 0, done.err
    record = only_record(folder / "results")
    held = read_predictions(record, find_predictions(record, folder / "results"))
    threshold = float(next(n["text"] for n in record["notes"] if n["code"] == "rule").split("below ")[1].split()[0])
    real, said = [], []
    for image, mask, always in maps(folder, held.ids):
        kept = (mask != 255) & (always == 0)
        real.append(mask[kept])
        said.append(image[kept] < threshold)
    real, said = np.concatenate(real), np.concatenate(said).astype(int)
    water = record["metrics"]["per_class"]["Water"]
    # the threshold is printed to a tenth
    assert water["iou_outside_permanent"] == pytest.approx(jaccard_score(real, said), abs=0.01)
    assert water["omission_outside_permanent"] == pytest.approx(1 - recall_score(real, said), abs=0.01)
    assert water["iou_outside_permanent"] < water["iou"]
    assert 0 < water["boundary_f1_1"] <= water["boundary_f1_2"] <= 1


def test_models_packs_and_tables_say_the_same_and_other_maps_are_another_run(folder):
    assert segment(folder, *TINY).code == 0
    record = only_record(folder / "results")
    scored = record["metrics"]["per_class"]["Water"]
    assert {"boundary_f1_1", "boundary_f1_2", "iou_outside_permanent"} <= set(scored)
    packing = ("--data_path", "data", "--out", "p.lmdb", "--workers", "0")
    assert call("prepare", "pack", "card.toml", *packing, cwd=folder).code == 0
    segment(folder, *TINY, "--results_dir", "packed", data="p.lmdb")
    assert only_record(folder / "packed")["metrics"] == record["metrics"]
    assert only_record(folder / "packed")["run_id"] == record["run_id"]
    table = 'title = "Floods"\nmodule = "segment"\nprotocol = "frozen_linear"\nexpect = "not measured"\n[common]\n'
    table += 'dataset = "card.toml"\nmodel = "vit_tiny_patch16_224"\nweights = "random"\nsplit = "own"\n'
    table += 'recipe = "corrected"\nfreeze_backbone = true\nhead = "linear"\n'
    table += '[layout]\ncolumns = ["run", "omission:Water", "area_bias:Water", "boundary_f1_2:Water", '
    table += '"iou_outside_permanent:Water"]\ncurves = ["miou"]\n[[runs]]\nlabel = "tiny"\n'
    table += 'flags = { epochs = 2, warmup_epochs = 0, batch_size = 4, lr = 0.01, features = "cached" }\n'
    (folder / "experiments").mkdir()
    (folder / "experiments" / "floods.toml").write_text(table)
    done = call("report", "--formats", "csv", "md", "--out", "out", cwd=folder)
    assert done.code == 0, done.err
    (line,) = csv.DictReader((folder / "out" / "tables" / "floods.csv").read_text().splitlines())
    names = ("omission", "area_bias", "boundary_f1_2", "iou_outside_permanent")
    found = [float(line[f"{name}:Water"]) for name in names]
    assert found == pytest.approx([scored[name] for name in names], abs=5e-4)
    image = folder / "data" / "jrc" / f"{record_ids(record, folder)[0]}_JRC.tif"
    write(image, np.zeros((1, SIDE, SIDE), np.uint8))
    segment(folder, *TINY, "--results_dir", "other")
    assert only_record(folder / "other")["run_id"] != record["run_id"]
    image.unlink()
    refused = segment(folder, *TINY)
    assert refused.code == 2
    assert f"{image.stem[:-4]}_JRC.tif was looked for" in refused.err


def record_ids(record, folder):
    return read_predictions(record, find_predictions(record, folder / "results")).ids


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('source = "jrc"', 'source = "sea"', "permanent_water.source 'sea'"),
        ("codes = [1]", "codes = [2]", "permanent_water.codes are [2]"),
        ("codes = [1]", "codes = []", "permanent_water.codes are []"),
        ('masks = "*_JRC.tif"', 'masks = "JRC.tif"', "label_sources.jrc.masks is 'JRC.tif'"),
        ('folder = "jrc"', 'folder = "maps"', "label sources of the folder 'maps'"),
    ],
)
def test_what_a_card_cannot_say_of_permanent_water(folder, before, after, message):
    card = folder / "card.toml"
    card.write_text(card.read_text().replace(before, after))
    done = segment(folder, *TINY)
    assert done.code == 2
    assert message in done.err
    assert json.dumps(done.err).count("\\n") == 1
