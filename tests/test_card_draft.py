"""`prepare card`: a folder, a draft of its card, a run; and folders of which no card can be drafted."""

import csv
import json
import shlex

import numpy as np
import pytest
import rasterio
from commands import STATISTICS, call, genuine, listing, only_record, said
from scipy import ndimage

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.layouts import build_index
from fgmae_bench.prepare.card_splits import dealt

SIDE = 32
SMALL = (*STATISTICS, "--batch_size", "4", "--cache_dir", "c")
DECODER = shlex.split(
    "--model vit_tiny_patch16_224 --weights random --freeze_backbone --head linear --recipe corrected --epochs 4 "
    "--batch_size 2 --panels 0 --cache_dir c"
)


def backscatter(seed, bands=2):
    """Speckle of 4.4 looks with correlated neighbours, VV first, dB."""
    rng = np.random.default_rng(seed)
    level = np.array([-11.0, -18.0, -10.0, -17.0])[:bands, None, None] + rng.normal(0, 2)
    power = rng.gamma(4.4, 1 / 4.4, (bands, SIDE, SIDE))
    blurred = ndimage.gaussian_filter(power, (0, 0.4, 0.4))
    return (10 * np.log10(blurred * 10 ** (level / 10))).astype(np.float32)


def write(path, values, descriptions=(), **profile):
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"driver": "PNG" if path.suffix == ".png" else "GTiff", "count": len(values), "dtype": values.dtype}
    with rasterio.open(path, "w", height=SIDE, width=SIDE, **facts, **profile) as target:
        target.write(values)
        for number, text in enumerate(descriptions, 1):
            target.set_band_description(number, text)


def card(folder, *flags, cwd):
    return call("prepare", "card", folder, *flags, cwd=cwd)


def drafted(folder, *flags, cwd):
    """The card that was drafted, which the data fits; and its text."""
    done = card(folder, *flags, cwd=cwd)
    assert done.code == 0, done.err
    made = load_card(str(cwd / "card.toml"))
    return made, (cwd / "card.toml").read_text()


def classes(root, count=6, names=("Ice", "Water"), **how):
    for number in range(count):
        for name in names:
            write(root / name / f"{name}_{number}.tif", backscatter(number), **how)


def table(path, header, rows):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def test_class_folders(tmp_path):
    classes(tmp_path / "d")
    made, text = drafted("d", cwd=tmp_path)
    assert (made.name, made.task, made.layout, made.classes) == ("d", "single_label", "class_folders", ("Ice", "Water"))
    assert made.counts.per_class == {"Ice": 6, "Water": 6}
    assert (made.signal.units, made.signal.bands, made.signal.size) == ("dB", ("VV", "VH"), (SIDE, SIDE))
    assert 'bands = ["VV", "VH"]  # GUESSED: the first is the brighter one' in text
    done = call("linear", "--dataset", "card.toml", "--data_path", "d", *SMALL, cwd=tmp_path)
    assert done.code == 0, done.err


def test_scenes_that_names_tell_stay_together_unless_the_data_is_divided(tmp_path):
    for number in range(6):
        for name in ("Ice", "Water"):
            for tile in range(2):
                write(tmp_path / "d" / name / f"Fjord_{number}_r{tile}c0.tif", backscatter(number))
    made, text = drafted("d", cwd=tmp_path)
    assert (made.default_split, made.recommended_split) == ("groups", "groups")
    assert sorted(sum(made.splits["groups"].groups.values(), ())) == [f"Fjord_{number}" for number in range(6)]
    assert "# whole scenes, by names" in text
    done = call("linear", "--dataset", "card.toml", "--data_path", "d", *SMALL, cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.parametrize(("scenes", "test", "val"), [(4, 1, 0), (6, 1, 1), (8, 5, 1), (11, 5, 1), (30, 6, 6)])
def test_the_test_part_has_five_scenes_where_there_are_eight(scenes, test, val):
    parts = dealt([f"S{number}" for number in range(scenes) for _ in range(3)], [])
    assert (len(parts["test"]), len(parts.get("val", []))) == (test, val)
    assert sorted(scene for part in parts.values() for scene in part) == sorted(
        f"S{number}" for number in range(scenes)
    )


def test_scenes_that_cannot_be_used_are_not_counted_on_for_the_test():
    groups = [f"S{number}" for number in range(9)]
    parts = dealt(groups, ["S7"])
    assert "S7" in parts["train"]
    assert len(parts["test"]) == 5


def test_the_command_that_is_printed_fits_few_images(tmp_path):
    pairs(tmp_path / "d", 9)
    done = card("d", cwd=tmp_path)
    assert "--recipe corrected --batch_size 2" in done.out


def test_several_tables_of_one_folder_make_several_cards(tmp_path):
    for number in range(12):
        write(tmp_path / "d" / f"{number}.tif", backscatter(number))
    table(tmp_path / "d" / "moisture.csv", ["file", "value"], [[f"{n}.tif", n / 7] for n in range(12)])
    table(tmp_path / "d" / "labels.csv", ["file", "label"], [[f"{n}.tif", "ab"[n % 2]] for n in range(12)])
    names = []
    for number, name in enumerate(("moisture", "labels")):
        out = f"{number}.toml"
        done = call("prepare", "card", "d", "--labels", f"d/{name}.csv", "--out", out, cwd=tmp_path)
        assert done.code == 0, done.err
        done = call("linear", "--dataset", out, "--data_path", "d", *SMALL, cwd=tmp_path)
        assert done.code == 0, done.err
        names.append(load_card(str(tmp_path / out)).name)
    assert names == ["d_moisture", "d"]


def test_a_file_a_band_divided_already_with_one_fill_value(tmp_path):
    for part in ("train", "val", "test"):
        for name in ("Ice", "Water"):
            for number in range(4):
                values = backscatter(number)
                values[:, :6, :6] = -99
                for band, plane in zip(("vv", "vh"), values, strict=True):
                    write(tmp_path / "d" / part / name / f"{number}_{band}.tif", plane[None])
    made, text = drafted("d", cwd=tmp_path)
    assert (made.arrangement.images, made.default_split) == ("*_{band}.tif", "stated")
    assert made.splits[made.recommended_split].kind == "stated"
    assert made.signal.nodata == (-99.0,)
    assert "by the names of the files" in text
    index = build_index(made, tmp_path / "d")
    assert len(index.files) == 24
    assert not index.read(0, made).valid[:, :6, :6].any()


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda db: 10 ** (db / 10), ('units = "linear_power"',)),
        (lambda db: 10 ** (db / 20), ('units = "amplitude"',)),
        (lambda db: np.round(db * 100).astype(np.int16), ('units = "dB"', "scale = 0.01")),
        (lambda db: db[::-1], ('bands = ["VH", "VV"]', "the first is the darker one")),
        (lambda db: db[:1], ('bands = ["VV"]', "GUESSED: nothing names the band")),
        (
            lambda db: np.clip((db + 30) / 30, 0, 1),
            ('units = "dB"  # EDIT: they look like dB scaled to another range',),
        ),
    ],
    ids=["power", "amplitude", "hundredths", "swapped", "one_band", "unit_interval"],
)
def test_what_the_pixels_say_is_on_the_draft(tmp_path, change, lines):
    for number in range(20):
        for name in ("Ice", "Water"):
            write(tmp_path / "d" / name / f"{number}.tif", np.ascontiguousarray(change(backscatter(number))))
    _, text = drafted("d", cwd=tmp_path)
    for line in lines:
        assert line in text


def test_a_third_band_is_not_read_and_descriptions_name_the_others(tmp_path):
    for number in range(4):
        for name in ("Ice", "Water"):
            values = np.concatenate([backscatter(number)[::-1], np.full((1, SIDE, SIDE), 38, np.float32)])
            write(tmp_path / "d" / name / f"{number}.tif", values, ("VH", "VV", "angle"))
    made, text = drafted("d", cwd=tmp_path)
    assert (made.signal.bands, made.signal.index) == (("VH", "VV"), (1, 2))
    assert "of 3 bands; not read: angle" in text


def pairs(root, count=12, masks="masks/{}_mask.png", images="s1/{}_s1.tif"):
    """Images with label maps coded 0 to 5, PNG, of four places."""
    rng = np.random.default_rng(0)
    for number in range(count):
        key = f"{('Bonn', 'Kyiv', 'Lima', 'Oslo')[number % 4]}_{number:03}"
        write(root / images.format(key), backscatter(number))
        codes = rng.integers(0, 6, (1, 4, 4)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
        codes[0, 0, :4] = 255
        write(root / masks.format(key), codes)


@pytest.mark.parametrize(
    ("images", "masks", "flags", "patterns"),
    [
        ("s1/{}_s1.tif", "masks/{}_mask.png", (), ("*_s1.tif", "*_mask.png")),
        ("{}_s1.tif", "{}_mask.tif", (), ("*_s1.tif", "*_mask.tif")),
        ("a/{}.tif", "b/{}.tif", ("--masks", "d/b"), ("", "")),
        ("a/image_{}.tif", "b/label_{}.tif", ("--masks", "d/b"), ("image_*.tif", "label_*.tif")),
    ],
    ids=["folders", "one_folder", "same_names", "beginnings"],
)
def test_images_with_label_maps(tmp_path, images, masks, flags, patterns):
    pairs(tmp_path / "d", images=images, masks=masks)
    made, text = drafted("d", *flags, cwd=tmp_path)
    assert (made.task, made.layout) == ("segmentation", "paired_folders")
    assert (made.arrangement.images, made.arrangement.masks) == patterns
    assert made.classes == tuple(f"Class{code}" for code in range(6))
    assert made.label_sources[made.label_source].ignore == (255.0,)
    assert "GUESSED: names of the codes" in text
    index = build_index(made, tmp_path / "d")
    assert len(index.files) == 12
    parts = made.splits["groups"].groups
    assert sorted(place for places in parts.values() for place in places) in (
        ["Bonn_*", "Kyiv_*", "Lima_*", "Oslo_*"],
        [],
    )


def test_segmentation_with_png_masks_is_three_commands_to_a_table_row(tmp_path):
    pairs(tmp_path / "d")
    assert card("d", cwd=tmp_path).code == 0
    done = call("segment", "--dataset", "card.toml", "--data_path", "d", *DECODER, cwd=tmp_path)
    assert done.code == 0, done.err
    assert only_record(tmp_path / "results")["metrics"]["test"]["miou"] is not None
    row_of("frozen_linear", tmp_path)


def row_of(protocol, cwd):
    """Without experiments the table of all runs holds a row of a protocol, in print, on disk and on the page."""
    done = call("report", "--print", cwd=cwd)
    assert done.code == 0, done.err
    assert f"| {protocol} |" in done.out
    assert f"| {protocol} |" in (cwd / "results" / "tables" / "other_runs.md").read_text()
    assert protocol in (cwd / "results" / "index.html").read_text()


def test_a_multi_label_table_is_three_commands_to_a_table_row(tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for number in range(24):
        write(tmp_path / "d" / "chips" / f"p{number}.tif", backscatter(number))
        words = [name for name in ("crop", "forest", "water") if rng.random() < 0.6] or ["crop"]
        rows.append([f"p{number}", ";".join(words), f"site{number % 6}"])
    table(tmp_path / "d" / "labels.csv", ["image", "labels", "site"], rows)
    made, _ = drafted("d", "--labels", "d/labels.csv", cwd=tmp_path)
    assert (made.task, made.layout, made.classes) == ("multi_label", "table", ("crop", "forest", "water"))
    held = made.arrangement
    assert (held.path, held.label, held.separator, held.group, held.images) == (
        "image",
        "labels",
        ";",
        "site",
        "chips/*.tif",
    )
    assert made.splits[made.recommended_split].kind == "groups"
    done = call("linear", "--dataset", "card.toml", "--data_path", "d", *SMALL, cwd=tmp_path)
    assert done.code == 0, done.err
    assert only_record(tmp_path / "results")["metrics"]["test"]["map_macro"] is not None
    row_of("linear_probe", tmp_path)


def test_a_regression_table_is_three_commands_to_a_table_row(tmp_path):
    rows = []
    for number in range(24):
        db = backscatter(number)
        write(tmp_path / "d" / f"{number:02}.tif", db)
        part = "train" if number < 16 else "val" if number < 20 else "test"
        rows.append([f"{number:02}.tif", part, f"{float(db.mean()) * 10 + 300:.3f}"])
    table(tmp_path / "d" / "t.csv", ["file", "split", "biomass"], rows)
    made, text = drafted("d", "--labels", "d/t.csv", cwd=tmp_path)
    assert (made.task, made.target.name, made.arrangement.target) == ("regression", "biomass", "biomass")
    assert made.splits[made.recommended_split].kind == "stated"
    assert "give it its unit" in text
    done = call("linear", "--dataset", "card.toml", "--data_path", "d", *SMALL, "--split", "stated", cwd=tmp_path)
    assert done.code == 0, done.err
    assert only_record(tmp_path / "results")["metrics"]["test"]["rmse"] is not None
    row_of("linear_probe", tmp_path)


def test_files_that_hold_their_bands_in_two_orders_are_read_by_description(tmp_path):
    for number in range(6):
        for name, turn in (("Ice", 1), ("Water", -1)):
            write(tmp_path / "d" / name / f"{name}_{number}.tif", backscatter(number)[::turn], ("VV", "VH")[::turn])
    made, _ = drafted("d", cwd=tmp_path)
    assert made.signal.described == made.signal.bands
    index = build_index(made, tmp_path / "d")
    for place in range(len(index.ids)):
        number = int(index.ids[place].rpartition("_")[2])
        expected = backscatter(number)[[("VV", "VH").index(band) for band in made.signal.bands]]
        np.testing.assert_array_equal(index.read(place, made).db, expected)


def test_a_table_beside_its_folder_may_name_images_from_that_folder(tmp_path):
    rows = []
    for number in range(12):
        name = f"{'ab'[number % 2]}/{number}.tif"
        write(tmp_path / "d" / "chips" / name, backscatter(number))
        rows.append([name, ("Ice", "Water")[number // 2 % 2]])
    table(tmp_path / "d" / "l.csv", ["file", "cover"], rows)
    made, _ = drafted("d/chips", "--labels", "d/l.csv", cwd=tmp_path)
    assert (made.task, made.arrangement.images) == ("single_label", "chips/*.tif")
    assert len(build_index(made, tmp_path / "d").ids) == 12


def test_a_table_of_flags_beside_its_folder(tmp_path):
    for number in range(10):
        write(tmp_path / "d" / "chips" / f"{number}.tif", backscatter(number))
    rows = [[f"{number}.tif", number % 2, (number // 2) % 2, 7.5 + number] for number in range(10)]
    table(tmp_path / "d" / "l.csv", ["name", "crop", "water", "height"], rows)
    made, _ = drafted("d/chips", "--labels", "d/l.csv", cwd=tmp_path)
    assert (made.task, made.classes, made.arrangement.images) == ("multi_label", ("crop", "water"), "chips/*.tif")


# --- refused


def test_a_card_drafted_twice_is_refused_and_left_as_it_is(tmp_path):
    classes(tmp_path / "d")
    assert card("d", cwd=tmp_path).code == 0
    before = listing(tmp_path)
    assert "card.toml is there already; a card is never written over" in said(card("d", cwd=tmp_path))
    assert listing(tmp_path) == before
    (tmp_path / "link.toml").symlink_to("nowhere")
    assert "link.toml is there already" in said(card("d", "--out", "link.toml", cwd=tmp_path))


def two_layouts(root):
    classes(root)
    write(root / "masks" / "a.tif", np.ones((1, SIDE, SIDE), np.uint8))


def images_beside_class_folders(root):
    classes(root)
    write(root / "x.tif", backscatter(0))


def nothing_labelled(root):
    write(root / "a.tif", backscatter(0))


def netcdf(root):
    root.mkdir()
    (root / "a.nc").write_bytes(b"CDF")


def snap(root):
    (root / "x.data").mkdir(parents=True)
    (root / "x.dim").write_text("<Dimap_Document/>")


def two_folders_of_maps(root):
    pairs(root, 2)
    write(root / "other" / "a.tif", np.ones((1, SIDE, SIDE), np.uint8))


def names_apart(root):
    write(root / "s1" / "a.tif", backscatter(0))
    write(root / "masks" / "b.tif", np.ones((1, SIDE, SIDE), np.uint8))


REFUSED = {
    two_layouts: "holds two layouts: class folders (Ice, Water) and label maps (masks); give the folder of one",
    images_beside_class_folders: "holds two layouts: images in itself and folders of images (Ice, Water)",
    nothing_labelled: "holds images and nothing that labels them; name a table with --labels FILE",
    netcdf: "1 of its entries end in .nc, which is NetCDF; open it with xarray",
    snap: "which is a product of SNAP (BEAM-DIMAP); export it from SNAP as GeoTIFF",
    two_folders_of_maps: "holds several folders of label maps: masks, other; name one with --masks",
    names_apart: "names of images and label maps do not match",
}


@pytest.mark.parametrize(("make", "message"), REFUSED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_folders_of_which_no_card_can_be_drafted(tmp_path, make, message):
    make(tmp_path / "d")
    before = listing(tmp_path)
    assert message in said(card("d", cwd=tmp_path))
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["file", "x"], [["nowhere.tif", "1"]], "no column names images of the folder (file, x)"),
        (["file", "x"], [["a.tif", "1"], ["b.tif", "1"]], "no column holds labels (x)"),
        (["file", "label"], [["a.tif", "p"], ["b.tif", "q"], ["c.tif", "p"]], "c.tif is not there"),
        (["file", "label"], [["a.tif", "p"], ["a.tif", "q"]], "a is already in line 2"),
    ],
    ids=["no_images", "no_labels", "missing", "twice"],
)
def test_tables_of_which_no_card_can_be_drafted(tmp_path, header, rows, message):
    for name in "ab":
        write(tmp_path / "d" / f"{name}.tif", backscatter(0))
    table(tmp_path / "d" / "l.csv", header, rows)
    before = listing(tmp_path)
    assert message in said(card("d", "--labels", "d/l.csv", cwd=tmp_path))
    assert listing(tmp_path) == before


def test_names_from_strangers_are_written_as_toml_strings(tmp_path):
    names = ('a "quoted" \\ name', "wasser [ä] #1")
    classes(tmp_path / "d", names=names)
    made, _ = drafted("d", cwd=tmp_path)
    assert made.classes == tuple(sorted(names))
    assert json.dumps(sorted(names)[0], ensure_ascii=False) in (tmp_path / "card.toml").read_text()


# --- inspect without a card


def test_inspect_says_what_a_wrong_argument_is(tmp_path):
    write(tmp_path / "d" / "a.tif", backscatter(0))
    (tmp_path / "x.SAFE").mkdir()
    (tmp_path / "a.txt").write_text("x")
    for what, message in (
        ("d/a.tif", "d/a.tif is one image; give the folder that it is in: prepare inspect d"),
        ("x.SAFE", "x.SAFE is a Sentinel-1 product as ESA delivers it"),
        ("a.txt", "a.txt is a file, not a card.toml"),
    ):
        assert message in said(call("prepare", "inspect", what, cwd=tmp_path))


def test_inspect_without_a_card_sees_fill_bands_and_metres_on_the_ground(tmp_path):
    at_60 = {"crs": "EPSG:3857", "transform": rasterio.Affine(20, 0, 0, 0, -20, 8_399_737.9)}
    for number in range(3):
        values = backscatter(number)
        values[:, :5, :5], values[0, 20, 20] = -9999, np.nan
        write(tmp_path / "d" / f"{number}.tif", values, ("VV", "VH"), **at_60)
    done = call("prepare", "inspect", "d", "--out", "x.png", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "described as VV, VH" in done.out
    assert "a pixel is 10.0 m across and 10.0 m down" in done.out
    assert "-9999 is repeated in 2.44% of the pixels" in done.out
    assert "backscatter in dB" in done.out
    assert "nan" not in done.out
    first, *others = [line for line in done.out.splitlines() if line.startswith(("band ", "VV ", "VH "))]
    assert {len(line) for line in others} == {len(first)}


def test_inspect_reads_a_vh_first_card_by_its_names_and_its_nodata_as_a_run_does(tmp_path):
    classes(tmp_path / "d")
    for path in sorted((tmp_path / "d").rglob("*.tif")):
        with rasterio.open(path, "r+") as target:
            values = target.read()[::-1]
            values[:, :4, :4] = -55
            target.write(values)
    made, _ = drafted("d", cwd=tmp_path)
    assert (made.signal.bands, made.signal.nodata) == (("VH", "VV"), (-55.0,))
    done = call("prepare", "inspect", "card.toml", "--data_path", "d", "--out", "x.png", cwd=tmp_path)
    assert done.code == 0, done.err
    (row,) = [line.split() for line in done.out.splitlines() if line.startswith("Ice ")]
    assert float(row[2]) > float(row[3]) + 4  # mean VV above mean VH
    assert row[-1] == "1.56%"
    assert "median of VH-VV is -7" in done.out or "median of VH-VV is -6" in done.out


@pytest.mark.slow
def test_sen1floods11_as_published_is_drafted_and_run_without_touching_a_file(tmp_path):
    root = genuine("sen1floods11_hand")
    done = card(root, cwd=tmp_path)
    assert done.code == 0, done.err
    done = call("segment", "--dataset", "card.toml", "--data_path", root, *DECODER, "--input_size", "64", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert sum(record["dataset"][f"n_{part}"] for part in ("train", "val", "test")) == 11
    assert record["metrics"]["per_class"]["Water"] is not None
    assert record["metrics"]["intervals"]["iou"]["Water"] is not None
    done = call("report", "--print", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "iou:Water_interval" in done.out
