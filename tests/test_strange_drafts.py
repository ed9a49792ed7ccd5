"""Drafts of cards for folders of strangers: what was guessed wrongly, or refused in words that do not help."""

import json
import logging
import shlex
import subprocess

import numpy as np
import pytest
import rasterio
from commands import call, said
from test_card_draft import SIDE, backscatter, card, classes, drafted, write

from fgmae_bench.data.layouts import build_index
from fgmae_bench.errors import BenchError
from fgmae_bench.report.figures import new_axes, save

SCENES = [
    f"{place}_{number}_r0c{column}" for place in ("A", "B", "C", "D", "E") for number in (1,) for column in (0, 1, 2)
]


def codes(seed, values=(0, 1, 2)):
    """A label map of two or more codes, in blocks."""
    blocks = np.random.default_rng(seed).permutation(np.resize(values, 16)).reshape(4, 4)
    return blocks.repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)


def scenes(root, kind="csv"):
    for number, name in enumerate(SCENES):
        write(root / "chips" / f"{name}.tif", backscatter(number))
    rows = "".join(f"{name},{('Ice', 'Water')[n % 2]}\n" for n, name in enumerate(SCENES))
    (root / "labels.csv").write_text(f"image,label\n{rows}")


def test_printed_commands_are_words_of_a_shell(tmp_path):
    classes(tmp_path / "Müllers Daten $1")
    done = card("Müllers Daten $1", "--out", "my card.toml", cwd=tmp_path)
    lines = [line.partition("python ")[2] for line in done.out.splitlines() if line.startswith(("next:", "then:"))]
    for line in lines:
        words = shlex.split(line)
        assert "my card.toml" in words
        assert words[words.index("--data_path") + 1] == "Müllers Daten $1"
    shown = subprocess.run(["sh", "-c", f"printf '%s\\n' {lines[0]}"], capture_output=True, text=True)
    assert "Müllers Daten $1" in shown.stdout.splitlines()


def test_scenes_in_the_names_of_a_table_stay_together(tmp_path):
    scenes(tmp_path / "d")
    made, _ = drafted("d", "--labels", "d/labels.csv", cwd=tmp_path)
    assert made.recommended_split == "groups"
    assert sorted(name for names in made.splits["groups"].groups.values() for name in names) == [
        f"{p}_1" for p in "ABCDE"
    ]


def test_scenes_in_the_names_of_a_store_stay_together(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    held = {
        "s1": (("sample", "band", "y", "x"), np.stack([backscatter(n) for n in range(len(SCENES))])),
        "cover": (("sample",), np.arange(len(SCENES)) % 2),
    }
    place = {"sample": np.array(SCENES, object), "band": np.array(["VV", "VH"], object)}
    (tmp_path / "d").mkdir()
    xarray.Dataset(held, coords=place).to_zarr(tmp_path / "d" / "c.zarr", zarr_format=2)
    made, _ = drafted("d", cwd=tmp_path)
    assert made.recommended_split == "groups"


@pytest.mark.parametrize("mark", ["_", "-", ".", " "])
def test_the_mark_before_a_band_is_no_part_of_a_name(tmp_path, mark):
    for number, name in enumerate(SCENES):
        for band, values in zip(("vv", "vh"), backscatter(number), strict=True):
            write(tmp_path / "d" / ("Ice", "Water")[number % 2] / f"{name}{mark}{band}.tif", values[None])
    made, _ = drafted("d", cwd=tmp_path)
    assert made.arrangement.images == f"*{mark}{{band}}.tif"
    assert build_index(made, tmp_path / "d").ids[0] == "Ice/A_1_r0c0"
    assert made.recommended_split == "groups"


def test_coloured_label_maps_are_drafted_and_run(tmp_path):
    palette = np.array([(0, 0, 255), (0, 200, 0), (128, 128, 128)], np.uint8)
    for number in range(6):
        write(tmp_path / "d" / "images" / f"{number}.tif", backscatter(number))
        write(tmp_path / "d" / "labels" / f"{number}.png", np.moveaxis(palette[codes(number)], -1, 0))
    made, text = drafted("d", cwd=tmp_path)
    (source,) = made.label_sources.values()
    assert source.rgb
    assert source.codes == {"255": "#0000ff", "51200": "#00c800", "8421504": "#808080"}
    assert source.colours == source.codes
    assert "ignore" not in text
    index = build_index(made, tmp_path / "d")
    assert np.array_equal(index.codes(2, made.label_source).values, np.array([0, 1, 2])[codes(2)])


def test_real_numbers_of_few_values_are_label_maps_and_no_class(tmp_path):
    for number in range(6):
        write(tmp_path / "d" / "images" / f"{number}.tif", backscatter(number))
        write(tmp_path / "d" / "masks" / f"{number}.tif", codes(number, (-1, 0, 1)).astype(np.float32)[None])
    for flags in ((), ("--masks", "d/masks")):
        message = said(card("d", *flags, cwd=tmp_path))
        assert "holds codes of classes as float32; label maps hold whole numbers" in message
        assert "write them as integers, such as uint8" in message


def test_whole_numbers_of_db_are_no_label_map(tmp_path):
    for number in range(12):
        write(tmp_path / "d" / ("Ice", "Water")[number % 2] / f"{number}.tif", np.round(backscatter(number, 1)))
    assert drafted("d", cwd=tmp_path)[0].task == "single_label"


def test_images_and_maps_of_a_number_are_no_two_classes(tmp_path):
    for number in range(6):
        image = backscatter(number)
        write(tmp_path / "d" / "s1" / f"{number}.tif", image)
        write(tmp_path / "d" / "agb" / f"{number}.tif", image[1:] * -3.3)
    message = said(card("d", cwd=tmp_path))
    assert "files in agb have 1 band(s), those in s1 2" in message
    assert "with --masks" in message
    assert drafted("d", "--masks", "d/agb", cwd=tmp_path)[0].task == "regression"


@pytest.mark.parametrize("flags", [(), ("--masks", "d/mask")], ids=["seen", "named"])
@pytest.mark.parametrize(
    ("names", "ends"),
    [(("pre", "post"), ("_pre", "_post")), (("before", "after_event"), ("", ""))],
    ids=["ends", "alike"],
)
def test_two_dates_are_seen_in_the_names_of_folders(tmp_path, flags, names, ends):
    for number in range(6):
        image = backscatter(number)
        write(tmp_path / "d" / names[0] / f"P{number}{ends[0]}.tif", image + 3)
        write(tmp_path / "d" / names[1] / f"P{number}{ends[1]}.tif", image)
        write(
            tmp_path / "d" / "mask" / f"P{number}{ends[1] and '_mask'}.tif",
            codes(number, (0, 1)).astype(np.uint8)[None],
        )
    made, text = drafted("d", *flags, cwd=tmp_path)
    assert made.signal.folder == names[1]
    assert (made.before.folder, made.before.images) == (names[0], "*_pre.tif" if ends[0] else "")
    assert "GUESSED by its name" in text
    index = build_index(made, tmp_path / "d")
    earlier, later = index.read_before(3, made), index.read(3, made)
    assert np.allclose(earlier.db - later.db, 3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("labels.geojson", "is GeoJSON, or other JSON; write it as GeoParquet"),
        ("labels.gpkg", "is a layer of geometries; write it as GeoParquet"),
        ("labels.XLSX", "is a spreadsheet; write it as CSV or Parquet, one row an image"),
        ("labels.jsonl", "is no CSV or Parquet file; write it as CSV or Parquet"),
    ],
)
def test_tables_of_other_kinds_are_named_in_a_short_line(tmp_path, name, message):
    scenes(tmp_path / "d")
    point = {"type": "Feature", "geometry": {"type": "Point"}, "properties": {"image": "x"}}
    (tmp_path / "d" / name).write_text(json.dumps({"features": [point] * 500}))
    line = said(card("d", "--labels", f"d/{name}", cwd=tmp_path))
    assert message in line
    assert len(line) < 300


def test_columns_of_a_wide_table_are_not_all_listed(tmp_path):
    scenes(tmp_path / "d")
    drafted("d", "--labels", "d/labels.csv", cwd=tmp_path)
    table = tmp_path / "d" / "labels.csv"
    more = [f"band_{number}" for number in range(2000)]
    table.write_text(",".join(["picture", "label", *more]) + "\n")
    line = said(call("prepare", "inspect", "card.toml", "--data_path", "d", cwd=tmp_path))
    assert "has no column 'image'; choose from its 2002 columns: picture, label, band_0" in line
    assert len(line) < 800


def test_what_is_left_out_is_said_on_the_draft_once(tmp_path, caplog):
    scenes(tmp_path / "d")
    table = tmp_path / "d" / "labels.csv"
    table.write_text(table.read_text().replace("A_1_r0c0,Ice", "A_1_r0c0,"))
    with caplog.at_level(logging.WARNING, "fgmae_bench"):
        _, text = drafted("d", "--labels", "d/labels.csv", cwd=tmp_path)
    assert not [line for line in caplog.messages if "left out" in line]
    assert text.count("1 rows without a value are left out and counted") == 1
    assert logging.getLogger("fgmae_bench").getEffectiveLevel() <= logging.WARNING


def test_letters_that_a_font_lacks_are_no_warning_in_pictures(tmp_path, recwarn):
    classes(tmp_path / "d", names=("岸边", "水"))
    drafted("d", cwd=tmp_path)
    assert call("prepare", "inspect", "card.toml", "--data_path", "d", cwd=tmp_path).code == 0
    figure, axes = new_axes()
    axes.set_title("岸边")
    save(figure, tmp_path / "curves")
    assert not [found for found in recwarn if "Glyph" in str(found.message)]


def test_inspect_advises_nothing_that_the_card_says_already(tmp_path):
    for number in range(36):
        power = 10 ** (backscatter(number).astype(np.float64) / 10)
        write(tmp_path / "d" / ("Ice", "Water")[number % 2] / f"{number}.tif", power.astype(np.float32))
    made, _ = drafted("d", cwd=tmp_path)
    assert made.signal.units == "linear_power"
    said_by_card = call("prepare", "inspect", "card.toml", "--data_path", "d", cwd=tmp_path).out
    assert "agrees with the card" in said_by_card
    assert "advice" not in said_by_card
    assert 'state units = "linear_power"' in call("prepare", "inspect", "d", cwd=tmp_path).out
    assert rasterio.open(next((tmp_path / "d").rglob("*.tif"))).dtypes[0] == "float32"


def test_masks_of_real_numbers_are_refused_for_classes_by_a_run(tmp_path):
    for number in range(6):
        write(tmp_path / "d" / "images" / f"{number}.tif", backscatter(number))
        write(tmp_path / "d" / "masks" / f"{number}.tif", codes(number, (0, 1)).astype(np.uint8)[None])
    made, _ = drafted("d", cwd=tmp_path)
    write(tmp_path / "d" / "masks" / "3.tif", codes(3, (0, 1)).astype(np.float32)[None])
    with pytest.raises(BenchError, match=r"3\.tif holds float32 values; label maps hold whole numbers"):
        build_index(made, tmp_path / "d").codes(3, made.label_source)
