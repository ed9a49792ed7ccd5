"""Every new dataset from its world to a table: index, inspect, pack, verify, one protocol, the report."""

import csv
import json
import re
import shlex
import shutil

import pytest
from commands import FOLDERS, call, genuine, only_record, records
from dataset_worlds import WORLDS

from fgmae_bench.config.cards import load_card

pytest_plugins = ("dataset_worlds",)

TINY = ("--features", "cached", "--epochs", "2", "--batch_size", "16")
STATISTICS = ("--model", "backscatter_stats", "--weights", "random")
DECODER = shlex.split(
    "--model vit_tiny_patch16_224 --weights random --recipe corrected --freeze_backbone --head linear --epochs 1 "
    "--warmup_epochs 0 --batch_size 4 --lr 0.003 --panels 0"
)
# name -> the module and flags of its one protocol
RUNS = {
    "sen1floods11": ("segment", (*STATISTICS, "--head", "otsu_vh")),
    "kuro_siwo": ("segment", (*DECODER, "--dates", "difference")),
    "copernicus_flood": ("segment", (*STATISTICS, "--head", "random_forest")),
    "copernicus_eurosat": ("linear", (*STATISTICS, "--probe", "lbfgs")),
    "copernicus_bigearthnet": ("linear", (*STATISTICS, *TINY)),
    "copernicus_dfc2020": ("segment", DECODER),
    "sen12ms_scenes": ("linear", (*STATISTICS, "--probe", "knn")),
    "sen12ms_multilabel": ("linear", (*STATISTICS, *TINY)),
    "biomassters": ("segment", DECODER),
    "spacenet6": ("segment", (*DECODER, "--split", "random")),
    "fusar_map": ("segment", (*DECODER, "--bands_as", "HH=VV")),
}
TABLE = """
title = "{name}"
module = "{module}"
protocol = "{protocol}"
[common]
dataset = "{name}"
recipe = "{recipe}"
{more}
[layout]
columns = ["dataset", "run", "split", "n_test", "remarks"]
[[runs]]
label = "tiny"
flags = {{ model = "{model}", weights = "random" }}
"""


def stated(flags):
    """The flags of a command but for model and weights as lines of an experiment: a row states all that its run did."""
    lines, words = [], [str(flag) for flag in flags]
    for place, flag in enumerate(words):
        if not flag.startswith("--") or flag in ("--model", "--weights", "--recipe"):
            continue
        value = words[place + 1] if place + 1 < len(words) and not words[place + 1].startswith("--") else "true"
        number = value == "true" or re.fullmatch(r"[\d.e+-]+", value)
        lines.append(f"{flag[2:]} = {value if number else json.dumps(value)}")
    if "--head" in words and "--freeze_backbone" not in words:  # rules that are fitted at once imply it
        lines.append("freeze_backbone = true")
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.usefixtures("no_pictures")
def test_a_world_from_its_files_to_a_table(name, worlds, tmp_path):
    root, (module, flags) = worlds(name), RUNS[name]
    for words in (
        ("index", name, "--data_path", root, "--out", "index.csv"),
        ("inspect", name, "--data_path", root, "--out", "sheet.png"),
        ("pack", name, "--data_path", root, "--out", "pack.lmdb", "--workers", "0"),
        ("verify", "pack.lmdb", "--dataset", name, "--data_path", root),
    ):
        done = call("prepare", *words, cwd=tmp_path)
        assert done.code == 0, (words, done.err)
    with open(tmp_path / "index.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    card = load_card(name)
    assert {f"split_{split}" for split in card.splits} <= set(rows[0])
    assert ("earlier" in rows[0]) == (card.before is not None)
    done = call(module, "--dataset", name, "--data_path", root, *flags, *FOLDERS, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    data = record["dataset"]
    assert data["synthetic"] is True
    assert all(len(data["content_sha256"][part]) == 64 for part in ("train", "test"))
    column = [row[f"split_{data['split']}"] for row in rows]
    assert [column.count(part) for part in ("train", "val", "test")] == [
        data[f"n_{part}"] for part in ("train", "val", "test")
    ]
    if "--dates" in flags:
        assert record["config"]["recipe"]["dates"] == "difference"
    protocol, recipe = record["protocol"], record["recipe"]
    more = stated(flags)
    text = TABLE.format(
        name=name, module=module, protocol=protocol, recipe=recipe, model=flags[1], more="\n".join(more)
    )
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "one.toml").write_text(text)
    done = call("report", "--experiments", "experiments", "--out", "out", "--formats", "md", cwd=tmp_path)
    assert done.code == 0, done.err
    (table,) = (tmp_path / "out").rglob("one.md")
    assert f"| {data['n_test']} |" in table.read_text()


@pytest.mark.slow
def test_one_flood_protocol_on_genuine_scenes_and_on_linear_power(worlds, tmp_path):
    """A threshold and a frozen decoder, the same command lines, on genuine dB and on a world in linear power."""
    scenes, place = genuine("sen1floods11_hand"), tmp_path / "v1.1" / "HandLabeled"
    shutil.copytree(scenes / "S1", place / "S1Hand")
    shutil.copytree(scenes / "Labels", place / "LabelHand")
    names = sorted(path.name for path in (place / "S1Hand").iterdir())
    usable = [name for name in names if not name.startswith(("Paraguay_34417", "Ghana_83483"))]
    for part, chosen in (("train", usable[::2]), ("test", usable[1::2])):
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / f"{part}.txt").write_text(
            "".join(f"{name.replace('_S1Hand.tif', '')}\n" for name in chosen)
        )
    found = {}
    for dataset, root, more in (
        ("sen1floods11", tmp_path / "v1.1", ("--split", tmp_path / "lists", "--partial")),
        ("kuro_siwo", worlds("kuro_siwo"), ()),
    ):
        for label, base in (
            ("otsu_vh", (*STATISTICS, "--head", "otsu_vh")),
            ("frozen", (*DECODER, "--input_size", "64")),
        ):
            divided = dataset == "kuro_siwo" and label == "otsu_vh"  # a threshold divides two classes
            scheme = ("--train_scheme", "water") if divided else ()
            results = f"{dataset}-{label}"
            flags = (*base, *scheme, *FOLDERS, "--results_dir", results, *more)
            done = call("segment", "--dataset", dataset, "--data_path", root, *flags, cwd=tmp_path)
            assert done.code == 0, done.err
            (found[dataset, label],) = records(tmp_path / results)
    scene, flood = found["sen1floods11", "frozen"], found["kuro_siwo", "frozen"]
    assert (scene["dataset"]["units"], flood["dataset"]["units"]) == ("dB", "linear_power")
    assert (scene["dataset"]["synthetic"], flood["dataset"]["synthetic"]) == (False, True)
    scores = {"iou", "omission", "commission", "area_bias", "boundary_f1_1", "boundary_f1_2"}
    assert scores <= set(scene["metrics"]["per_class"]["Water"])
    assert scores | {"iou_outside_permanent"} <= set(flood["metrics"]["per_class"]["Flood"])
    assert set(flood["metrics"]["schemes"]) == {"water", "flood"}
    assert 0 < found["kuro_siwo", "otsu_vh"]["metrics"]["per_class"]["Water"]["iou"] < 1
    assert "no_permanent_water" in {note["code"] for note in scene["notes"]}
    assert set(scene["metrics"]["per_group"]) == {name.rpartition("_")[0].rpartition("_")[0] for name in usable[1::2]}
    assert 0 < found["sen1floods11", "otsu_vh"]["metrics"]["per_class"]["Water"]["iou"] < 1
