"""Images without a measurement and tiles without a label stop no run of a split that does not hold them, and are left
out and counted where it does.
"""

import numpy as np
import pytest
import rasterio
from commands import STATISTICS, call, only_record
from test_card_draft import backscatter, write

CARD = """name = "mine"
title = "Mine"
version = 1
task = "{task}"
{labels}
default_split = "parts"
recommended_split = "parts"
[signal]
bands = ["VV", "VH"]
units = "dB"
calibration = "sigma0"
size = [32, 32]
dtype = "float32"
{folder}
[splits.parts]
kind = "groups"
groups = {{ train = ["*[0-5]"], test = ["*[67]"] }}
[origin]
url = "mine"
licence = "mine"
"""
CLASSES = 'layout = "class_folders"\nclasses = ["Ice", "Water"]'
MAPS = 'layout = "paired_folders"\n[label_sources.hand]\nfolder = "maps"\ncodes = { 1 = "Ice", 2 = "Water" }'
RULE = ("--head", "otsu_vv", "--model", "backscatter_stats", "--weights", "random", "--cache_dir", "c")


@pytest.mark.parametrize(("spoilt", "n_test", "left"), [((8, 9), 4, 0), ((6, 8), 2, 2)], ids=["outside", "inside"])
def test_images_in_which_nothing_was_measured(tmp_path, spoilt, n_test, left):
    for number in range(10):
        for name in ("Ice", "Water"):
            db = backscatter(number)
            write(tmp_path / "d" / name / f"{number}.tif", np.full_like(db, np.nan) if number in spoilt else db)
    (tmp_path / "card.toml").write_text(CARD.format(task="single_label", labels=CLASSES, folder=""))
    flags = (*STATISTICS, "--batch_size", "4", "--cache_dir", "c")
    done = call("linear", "--dataset", "card.toml", "--data_path", "d", *flags, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["dataset"]["n_test"] == n_test
    found = [n["text"].split()[0] for n in record["notes"] if n["code"] == "invalid_left_out"]
    assert found == [str(left)] * (left > 0)


@pytest.mark.parametrize(("spoilt", "n_test", "left"), [((8, 9), 2, 0), ((6, 8), 1, 1)], ids=["outside", "inside"])
def test_tiles_without_a_label(tmp_path, spoilt, n_test, left):
    rng = np.random.default_rng(0)
    for number in range(10):
        write(tmp_path / "d" / "s1" / f"{number}.tif", backscatter(number))
        codes = rng.integers(1, 3, (1, 4, 4)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
        write(tmp_path / "d" / "maps" / f"{number}.tif", codes * (number not in spoilt))
    labels, _, table = MAPS.partition("\n")
    text = CARD.format(task="segmentation", labels=labels, folder='folder = "s1"') + table
    (tmp_path / "card.toml").write_text(text)
    with rasterio.open(tmp_path / "d" / "maps" / f"{spoilt[0]}.tif") as source:
        assert not source.read().any()
    done = call("segment", "--dataset", "card.toml", "--data_path", "d", *RULE, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["dataset"]["n_test"] == n_test
    found = [n["text"].split()[0] for n in record["notes"] if n["code"] == "all_ignore_left_out"]
    assert found == [str(left)] * left
