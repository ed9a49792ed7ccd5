"""Layouts of anybody's data: class folders of any kind of file, tables of samples, paired folders with masks of any codes."""

import csv
import json

import cv2
import numpy as np
import pytest
import rasterio
from commands import call

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data import layouts
from fgmae_bench.data.content import content_of
from fgmae_bench.data.files import Pattern, part_folders
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.schemes import PALETTE, card_map, card_source
from fgmae_bench.data.splits import limited, make_split
from fgmae_bench.errors import BenchError

SIDE = 8
HEAD = """
name = "mine"
title = "Mine"
version = 1
task = "{task}"
default_split = "own"
recommended_split = "own"
[signal]
bands = ["VV", "VH"]
units = "dB"
calibration = "sigma0"
size = [8, 8]
dtype = "float32"
folder = "{folder}"
[splits.own]
kind = "{kind}"
{split}
[origin]
url = "mine"
licence = "mine"
"""


def make_card(path, layout, task="single_label", top="", tables="", kind="random", folder=""):
    """A card with lines `top` before the first table and `tables` behind the last."""
    split = "train = 0.5" if kind == "random" else ""
    before, after = HEAD.format(task=task, kind=kind, folder=folder, split=split).split("[signal]")
    path.write_text(f"{before}{top}\n{layout}\n[signal]{after}\n{tables}")
    return load_card(str(path))


def pixels(number, bands=2):
    rng = np.random.default_rng(number)
    return (rng.normal(0, 2, (bands, SIDE, SIDE)) - 12 - 6 * np.arange(bands)[:, None, None]).astype(np.float32)


def tiff(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.atleast_3d(values) if values.ndim == 3 else values[None]
    with rasterio.open(path, "w", driver="GTiff", count=len(values), height=SIDE, width=SIDE, dtype=values.dtype) as to:
        to.write(values)


def png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


def npy(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


CLASSES = 'classes = ["Ice", "Water"]'
KINDS = {
    "tif": ("*.tif", lambda folder, n: tiff(folder / f"a{n}.tif", pixels(n))),
    "npy": ("*.npy", lambda folder, n: npy(folder / f"a{n}.npy", pixels(n).astype(np.float64))),
    "channels-last": ("*.npy", lambda folder, n: npy(folder / f"a{n}.npy", np.moveaxis(pixels(n), 0, -1))),
    "a-file-a-band": (
        "*_{band}.tif",
        lambda folder, n: [tiff(folder / f"a{n}_{band}.tif", pixels(n)[k]) for k, band in enumerate(("VV", "VH"))],
    ),
    "small-letters": (
        "*_{band}.tif",
        lambda folder, n: [tiff(folder / f"a{n}_{band}.tif", pixels(n)[k]) for k, band in enumerate(("vv", "vh"))],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_class_folders_of_any_files_hold_the_same_samples(tmp_path, kind):
    pattern, write = KINDS[kind]
    for n in range(6):
        write(tmp_path / "data" / ("Ice", "Water")[n % 2], n)
    layout = f'[layout]\nkind = "class_folders"\nimages = "{pattern}"'
    card = make_card(tmp_path / "card.toml", layout, top=CLASSES)
    index = build_index(card, tmp_path / "data")
    assert index.ids == tuple(
        f"{name}/a{n}" for name, first in (("Ice", 0), ("Water", 1)) for n in (first, first + 2, first + 4)
    )
    assert index.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for row, name in enumerate(index.ids):
        chip = index.read(row, card)
        assert np.array_equal(chip.db, pixels(int(name[-1])))
    assert content_of(index.read(0, card)) == content_of(index.read(0, card))


def test_folders_of_parts_are_a_stated_split(tmp_path):
    for part, numbers in (("train", range(4)), ("valid", range(4, 6)), ("test", range(6, 8))):
        for n in numbers:
            tiff(tmp_path / "data" / part / ("Ice", "Water")[n % 2] / f"a{n}.tif", pixels(n))
    card = make_card(tmp_path / "card.toml", 'layout = "class_folders"', top=CLASSES, kind="stated")
    index = build_index(card, tmp_path / "data")
    parts = make_split(card, index, Data(dataset="mine"), tmp_path / "cache")
    assert {part: [index.ids[row] for row in getattr(parts, part)] for part in ("train", "val", "test")} == {
        "train": ["train/Ice/a0", "train/Ice/a2", "train/Water/a1", "train/Water/a3"],
        "val": ["valid/Ice/a4", "valid/Water/a5"],
        "test": ["test/Ice/a6", "test/Water/a7"],
    }
    assert part_folders(tmp_path / "data", taken=("train",)) == {}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "Ice" / "a0_VH.tif").unlink(),
            r"a0_VV\.tif has no file of band VH: a0_VH\.tif was looked",
        ),
        (lambda root: [p.unlink() for p in (root / "Ice").iterdir()], "no image is named as .*there is nothing"),
        (lambda root: tiff(root / "Snow" / "a_VV.tif", pixels(1)), "'Snow' is not a class of Mine"),
    ],
    ids=["band", "empty", "class"],
)
def test_class_folders_that_lack_something(tmp_path, spoil, message):
    for n in range(4):
        KINDS["a-file-a-band"][1](tmp_path / "data" / ("Ice", "Water")[n % 2], n)
    card = make_card(tmp_path / "card.toml", '[layout]\nkind = "class_folders"\nimages = "*_{band}.tif"', top=CLASSES)
    spoil(tmp_path / "data")
    with pytest.raises(BenchError, match=message):
        build_index(card, tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a NumPy array"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}\n", "cannot be read as a NumPy array"),
        (np.lib.format.magic(1, 0) + b"\xff\xff" + b"(" * 9000, "cannot be read as a NumPy array"),
    ],
    ids=["empty", "objects", "nested"],
)
def test_arrays_are_never_unpickled(tmp_path, content, message):
    for n in range(2):
        npy(tmp_path / "data" / ("Ice", "Water")[n] / "a.npy", pixels(n))
    card = make_card(tmp_path / "card.toml", '[layout]\nkind = "class_folders"\nimages = "*.npy"', top=CLASSES)
    index = build_index(card, tmp_path / "data")
    index.path(0).write_bytes(content)
    with pytest.raises(BenchError, match=message):
        index.read(0, card)
    np.save(index.path(0), np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BenchError, match="cannot be read as a NumPy array"):
        index.read(0, card)
    np.save(index.path(0), pixels(0)[:, :4])
    with pytest.raises(BenchError, match="is an array of 2x4x8, Mine has 2x8x8"):
        index.read(0, card)


def test_patterns():
    assert Pattern("*_S1Hand.tif").key("Ghana_1_S1Hand.tif") == "Ghana_1"
    assert Pattern("*_S1Hand.tif").key("Ghana_1_LabelHand.tif") is None
    assert Pattern("s1/x-*_{band}.tif").key("x-7_VH.tif", "VH") == "7"
    assert Pattern("s1/x-*_{band}.tif").name("7", "VV") == "x-7_VV.tif"
    assert Pattern("s1/x-*.tif").folder == "s1"
    assert Pattern("ab*ba").key("aba") is None  # the two ends may not share a letter


@pytest.mark.parametrize("pattern", ["*.tif*", "a.tif", "../*.tif", "*[0-9].tif"])
def test_patterns_that_are_refused(tmp_path, pattern):
    with pytest.raises(BenchError, match=r"layout\.images is"):
        make_card(tmp_path / "card.toml", f'[layout]\nkind = "class_folders"\nimages = "{pattern}"', top=CLASSES)


# Paired folders


def paired(tmp_path, codes="{ 0 = 'Land', 1 = 'Water' }", ignore="[-1]", write=tiff, ending="tif", dtype=np.int16):
    for n in range(4):
        tiff(tmp_path / "data" / "S1" / f"e{n}_img.tif", pixels(n))
        values = np.tile(np.array([0, 1], dtype), (SIDE, SIDE // 2))
        if np.issubdtype(dtype, np.signedinteger):
            values[0] = -1
        write(tmp_path / "data" / "L" / f"e{n}_mask.{ending}", values)
    layout = f'[layout]\nkind = "paired_folders"\nimages = "*_img.tif"\nmasks = "*_mask.{ending}"'
    more = f"[label_sources.hand]\nfolder = 'L'\ncodes = {codes}\n" + (f"ignore = {ignore}\n" if ignore else "")
    return make_card(tmp_path / "card.toml", layout, "segmentation", tables=more, folder="S1")


def test_masks_of_any_codes(tmp_path):
    card = paired(tmp_path)
    assert (card.classes, card.label_source, card.label_schemes) == (("Land", "Water"), "hand", ("mine",))
    index = build_index(card, tmp_path / "data")
    assert index.ids == ("e0", "e1", "e2", "e3")
    codes = index.codes(0, "hand")
    ids = card_map(card)(codes).values
    assert ids[0].tolist() == [255] * SIDE  # -1 is no label
    assert ids[1].tolist() == [0, 1] * (SIDE // 2)
    assert card_map(card).scheme.colours == PALETTE[:2]
    assert card_map(card).counts(codes.histogram()).tolist() == [SIDE // 2 * (SIDE - 1)] * 2


@pytest.mark.parametrize(
    ("codes", "ignore", "values", "wanted"),
    [
        ("{ 0 = 'dry', 255 = 'wet' }", "", [0, 255, 0, 255], [0, 1, 0, 1]),
        ("{ -5 = 'a', 1000 = 'b' }", "[7]", [-5, 1000, 7, -5], [0, 1, 255, 0]),
        ("{ 1 = 'a', 2 = 'b' }", "", [1, 2, 0, 255], [0, 1, 255, 255]),
        ("{ 1 = 'a', 2 = 'b' }", "[3]", [1, 2, 3, 1], [0, 1, 255, 0]),
        ("{ 0 = 'a', 1 = 'b', 2 = 'c', 3 = 'd', 4 = 'e', 5 = 'f' }", "", [0, 5, 3, 255], [0, 5, 3, 255]),
    ],
    ids=["0-255", "far", "from-1", "ignore", "0-5"],
)
def test_values_become_the_classes_of_the_card(tmp_path, codes, ignore, values, wanted):
    from fgmae_bench.data.labels import Codes

    card = paired(tmp_path, codes, ignore)
    held = Codes.of(np.array([values], np.int32), card_source(card))
    assert card_map(card)(held).values.tolist() == [wanted]
    with pytest.raises(BenchError, match=r"9 is not a code of Mine 'hand', found .*9 \? 100"):
        Codes.of(np.array([[9]], np.int32), card_source(card))


@pytest.mark.parametrize(
    ("codes", "ignore", "message"),
    [
        ("{ 0 = 'a', 1 = 'b' }", "[0]", "0 is a code and in ignore"),
        ("{ 0 = 'a', x = 'b' }", "", "give whole numbers"),
        ("{ 0 = 'a', 1 = 'b' }", "[0.5]", "give whole numbers"),
        ("{ 0 = 'a', 00 = 'b' }", "", "give 254 different ones"),
    ],
    ids=["both", "text", "half", "twice"],
)
def test_codes_that_contradict_one_another(tmp_path, codes, ignore, message):
    card = paired(tmp_path, codes, ignore)
    with pytest.raises(BenchError, match=message):
        card_source(card)


def test_png_masks_and_bad_masks(tmp_path):
    card = paired(tmp_path, ignore="", write=png, ending="png", dtype=np.uint8)
    index = build_index(card, tmp_path / "data")
    assert card_map(card)(index.codes(0, "hand")).values[3].tolist() == [0, 1] * (SIDE // 2)
    path = tmp_path / "data" / "L" / "e1_mask.png"
    png(path, np.full((SIDE, SIDE), 9, np.uint8))
    with pytest.raises(BenchError, match=r"e1_mask\.png: 9 is not a code of Mine"):
        index.codes(1, "hand")
    png(path, np.zeros((SIDE, SIDE * 2), np.uint8))
    with pytest.raises(BenchError, match=r"e1_mask\.png is 8x16 pixels, its image 8x8"):
        index.codes(1, "hand")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BenchError, match=r"e1_mask\.png cannot be read as a PNG"):
        index.codes(1, "hand")
    path.unlink()
    with pytest.raises(BenchError, match=r"e1_img\.tif has no label map in .*L: e1_mask\.png was looked for"):
        build_index(card, tmp_path / "data")


def test_float_masks_are_not_classes(tmp_path):
    card = paired(tmp_path, dtype=np.float32)
    index = build_index(card, tmp_path / "data")
    with pytest.raises(BenchError, match=r"e0_mask\.tif holds float32 values"):
        index.codes(0, "hand")


def test_names_that_fit_nothing_say_what_was_looked_for(tmp_path):
    card = paired(tmp_path)
    for path in (tmp_path / "data" / "L").iterdir():
        path.rename(path.with_name(path.name.replace("_mask", "_label")))
    with pytest.raises(BenchError, match=r"e0_mask\.tif was looked for \(4 of 4 images have none\); correct the names"):
        build_index(card, tmp_path / "data")


# Tables


def table_card(tmp_path, rows, header=("file", "cover", "site", "part"), task="single_label", **columns):
    for n in range(6):
        tiff(tmp_path / "data" / "chips" / f"a{n}.tif", pixels(n))
    with open(tmp_path / "data" / "labels.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    named = {"label": "cover", "group": "site", "split": "part"} | columns
    lines = "".join(f'{key} = "{value}"\n' for key, value in named.items() if value)
    layout = f'[layout]\nkind = "table"\ntable = "labels.csv"\n{lines}'
    top, tables = (CLASSES, "") if task != "regression" else ("", "[target]\nname = 'wet'\n")
    return make_card(tmp_path / "card.toml", layout, task, top, tables, kind="stated")


ROWS = [[f"chips/a{n}.tif", ("Ice", "Water")[n % 2], f"s{n // 2}", ("train", "val", "test")[n // 2]] for n in range(6)]


def test_a_table_with_classes_groups_and_parts(tmp_path):
    card = table_card(tmp_path, ROWS[::-1])
    index = build_index(card, tmp_path / "data")
    assert index.ids == tuple(f"chips/a{n}" for n in range(6))  # whatever the order of the table
    assert index.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert index.groups == ("s0", "s0", "s1", "s1", "s2", "s2")
    assert index.parts == ("train", "train", "val", "val", "test", "test")
    assert np.array_equal(index.read(3, card).db, pixels(3))


def test_several_labels_as_columns_or_as_a_list(tmp_path):
    wanted = [[1, 0], [0, 1], [1, 1], [0, 0]]
    flags = [[f"chips/a{n}", *row] for n, row in enumerate(wanted)]
    card = table_card(tmp_path, flags, ("file", "Ice", "Water"), "multi_label", label="", group="", split="")
    assert build_index(card, tmp_path / "data").labels.tolist() == wanted
    texts = [["chips/a0", "Ice"], ["chips/a1", "Water"], ["chips/a2", "Water; Ice"], ["chips/a3", ";"]]
    card = table_card(tmp_path, texts, ("file", "cover"), "multi_label", separator=";", group="", split="")
    assert build_index(card, tmp_path / "data").labels.tolist() == wanted


def test_targets_that_are_absent_are_left_out_and_counted(tmp_path):
    rows = [[f"chips/a{n}", value] for n, value in enumerate(("1.5", "-2", "nan", "", "3e2", "NA"))]
    card = table_card(tmp_path, rows, ("file", "wet"), "regression", label="", target="wet", group="", split="")
    index = build_index(card, tmp_path / "data")
    assert index.labels.tolist() == [[1.5], [-2.0], [300.0]]
    assert (index.ids, index.left_out) == (("chips/a0", "chips/a1", "chips/a4"), 3)


def test_parquet_holds_what_the_csv_held(tmp_path):
    import pandas as pd

    card = table_card(tmp_path, ROWS)
    index = build_index(card, tmp_path / "data")
    pd.read_csv(tmp_path / "data" / "labels.csv").to_parquet(tmp_path / "data" / "labels.parquet")
    (tmp_path / "card.toml").write_text((tmp_path / "card.toml").read_text().replace("labels.csv", "labels.parquet"))
    other = build_index(load_card(str(tmp_path / "card.toml")), tmp_path / "data")
    assert (other.ids, other.groups, other.parts) == (index.ids, index.groups, index.parts)
    assert np.array_equal(other.labels, index.labels)


def changed(at, column, value):
    return [[*row[:column], value, *row[column + 1 :]] if n == at else row for n, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(2, 0, "chips/none.tif"), r"labels\.csv, line 4: .*chips/none\.tif is not there"),
        (changed(2, 0, "../card.toml"), r"line 4: '\.\./card\.toml' in column 'file' is not a file of the data"),
        (changed(2, 0, "/etc/hosts"), r"line 4: '/etc/hosts' in column 'file' is not a file of the data"),
        (changed(2, 0, "chips/a0.tif"), r"line 4: chips/a0 is already in line 2"),
        (changed(2, 1, "Watr"), r"line 4: 'Watr' is not a class of Mine; did you mean 'Water'"),
        (changed(2, 3, "trial"), r"line 4: 'trial' in column 'part' is not a part of a split; did you mean 'train'"),
        (changed(2, 2, "s0"), r"group 's0' is in train and val \(1 of 3 groups are torn apart\)"),
        ([*ROWS[:2], ROWS[2][:3]], r"line 4: 3 values under 4 columns"),
        ([[row[0], "", *row[2:]] for row in ROWS], r"no sample has a value in cover"),
        ([], r"labels\.csv has no rows; give a line for each sample"),
    ],
    ids=["absent", "outside", "absolute", "twice", "class", "part", "leak", "short", "unlabelled", "empty"],
)
def test_tables_that_contradict_themselves(tmp_path, rows, message):
    card = table_card(tmp_path, rows)
    with pytest.raises(BenchError, match=message):
        build_index(card, tmp_path / "data")


@pytest.mark.parametrize(
    ("value", "message"),
    [("inf", "inf in column 'wet' is not a finite number"), ("wet", "'wet' in column 'wet' is not a number")],
)
def test_targets_that_are_not_numbers(tmp_path, value, message):
    rows = [["chips/a0", "1"], ["chips/a1", value]]
    card = table_card(tmp_path, rows, ("file", "wet"), "regression", label="", target="wet", group="", split="")
    with pytest.raises(BenchError, match=f"line 3: {message}"):
        build_index(card, tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column 'file'"),
        (b"file,cover,site\n", "has no column 'part'"),
        (b"file,file,cover,site,part\n", "has more than one column 'file'"),
        (b"\xff\xfe", "cannot be read as a table"),
        (b'file,cover,site,part\n"a', "cannot be read as a table"),
    ],
    ids=["empty", "column", "twice", "bytes", "quote"],
)
def test_tables_that_cannot_be_read(tmp_path, content, message):
    card = table_card(tmp_path, ROWS)
    (tmp_path / "data" / "labels.csv").write_bytes(content)
    with pytest.raises(BenchError, match=message):
        build_index(card, tmp_path / "data")


# A layout of another package, and a trial on a few samples


def test_a_layout_of_another_package(tmp_path, monkeypatch):
    import importlib.metadata

    table_card(tmp_path, ROWS)
    text = (tmp_path / "card.toml").read_text().replace('kind = "table"', 'kind = "theirs"')
    (tmp_path / "card.toml").write_text(text)
    card = load_card(str(tmp_path / "card.toml"))
    with pytest.raises(BenchError, match="unknown layout 'theirs'"):
        build_index(card, tmp_path / "data")
    point = importlib.metadata.EntryPoint("theirs", "fgmae_bench.data.table:table", layouts.GROUP)
    monkeypatch.setattr(layouts, "entry_points", lambda group: [point] if group == layouts.GROUP else [])
    assert len(build_index(card, tmp_path / "data").ids) == 6


def test_a_limit_takes_the_classes_in_turn(tmp_path):
    card = table_card(tmp_path, [[*row[:2], f"s{n}", "train" if n < 4 else "test"] for n, row in enumerate(ROWS)])
    index = build_index(card, tmp_path / "data")
    parts = make_split(card, index, Data(dataset="mine"), tmp_path / "cache")
    few, kept = limited(index, parts, 2, 42)
    assert sorted(few.labels[kept.train].tolist()) == [0, 1]
    assert (len(few.ids), len(kept.train), len(kept.test)) == (4, 2, 2)
    for row, name in enumerate(few.ids):
        assert np.array_equal(few.read(row, card).db, pixels(int(name[-1])))


@pytest.mark.parametrize(("kind", "torn"), [("random", None), ("stratified", None), ("groups", 0)])
def test_a_split_of_any_layout(tmp_path, kind, torn):
    rows = [[f"chips/a{n}.tif", ("Ice", "Water")[n % 2], f"s{n // 2}"] for n in range(6)]
    table_card(tmp_path, rows, ("file", "cover", "site"), split="")
    flags = ["--data_path", "data", "--seed", "3", "--fractions", ".5", "0", ".5", "--out", "lists"]
    done = call("prepare", "split", "card.toml", "--kind", kind, *flags, cwd=tmp_path)
    assert done.code == 0, done.err
    facts = json.loads((tmp_path / "lists" / "split.json").read_text())
    assert sum(facts["counts"].values()) == 6
    assert torn is None or facts["torn_groups"] == torn
    assert facts["leaky"] is (facts["torn_groups"] > 0)
    card = load_card(str(tmp_path / "card.toml"))
    index = build_index(card, tmp_path / "data")
    parts = make_split(card, index, Data(dataset="mine", split=str(tmp_path / "lists")), tmp_path / "cache")
    assert len(parts.train) == facts["counts"]["train"]
    for flag in (("--fractions", ".5", ".5", ".5"), ("--block", "3"), ("--kind", "tile")):
        refused = call("prepare", "split", "card.toml", "--kind", kind, *flags, *flag, "--out", "b", cwd=tmp_path)
        assert refused.code == 2, flag
