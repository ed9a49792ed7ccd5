"""Outlines, colours, tables a part, wrapped folders and scene labels, each against an oracle of its own."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import rasterio
from dataset_worlds import SIDE, opened
from rasterio.transform import Affine

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.dfc.scenes import classes_of, make_table, read_shares
from fgmae_bench.data.files import Pattern, holding
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.outlines import drawn, read_polygons
from fgmae_bench.errors import BenchError

pytest_plugins = ("dataset_worlds",)

SQUARE = [[2.0, 8.0], [6.0, 8.0], [6.0, 3.0], [2.0, 3.0], [2.0, 8.0]]
HOLE = [[3.0, 7.0], [5.0, 7.0], [5.0, 5.0], [3.0, 5.0], [3.0, 7.0]]


@pytest.fixture
def tile(tmp_path):
    """A raster of 10x10 pixels of one metre, y downwards from 10."""
    path = tmp_path / "tile.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=10,
        height=10,
        count=1,
        dtype="uint8",
        crs="EPSG:32631",
        transform=Affine(1, 0, 0, 0, -1, 10),
    ) as to:
        to.write(np.zeros((1, 10, 10), np.uint8))
    return path


def outlines(tmp_path, *geometries, **more):
    path = tmp_path / "o.geojson"
    features = [{"type": "Feature", "properties": {}, "geometry": each} for each in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **more}))
    return path


def test_polygons_are_drawn_where_pixel_centres_are_inside_and_not_in_holes(tile, tmp_path):
    polygon = {"type": "Polygon", "coordinates": [SQUARE, HOLE]}
    several = {"type": "MultiPolygon", "coordinates": [[[[8, 1], [9.6, 1], [9.6, 0], [8, 0], [8, 1]]]]}
    made = drawn(outlines(tmp_path, polygon, several, None), tile, (10, 10))
    rows, columns = np.mgrid[:10, :10]
    x, y = columns + 0.5, 9.5 - rows
    inside = (x > 2) & (x < 6) & (y > 3) & (y < 8) & ~((x > 3) & (x < 5) & (y > 5) & (y < 7))
    inside |= (x > 8) & (x < 9.6) & (y < 1)
    assert np.array_equal(made, inside)
    assert not drawn(outlines(tmp_path), tile, (10, 10)).any()


POINTS = '{{"features": [{{"geometry": {{"type": "Polygon", "coordinates": [[{}, [1, 1], [1, 0], [0, 0]]]}}}}]}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a GeoJSON of polygons"),
        ('{"features": [{"geometry": {"type": "Point", "coordinates": [1, 2]}}]}', "a geometry is a Point"),
        (
            '{"features": [{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}}]}',
            "fewer than four points",
        ),
        (
            '{"features": [{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [1, 0], [0, 0]]]}}]}',
            "not finite",
        ),
        ('{"features": [{"geometry": {"type": "Polygon", "coordinates": 5}}]}', "is not a GeoJSON of polygons"),
        ('{"features": 1}', "is not a GeoJSON of polygons"),
        (POINTS.format("[5]"), r"is not a GeoJSON of polygons \(IndexError"),
        (POINTS.format(f"[1, 1{'0' * 400}]"), r"is not a GeoJSON of polygons \(OverflowError"),
        ('{"features": [], "crs": {"properties": {"name": 3}}}', "a reference system that is not a name"),
        ('{"features": [], "crs": {"properties": {"name": "EPSG:999999"}}}', "a reference system that is not known"),
        ('{"features": [], "crs": {"properties": {"name": "EPSG:4326"}}}', "is in EPSG:4326, its image in EPSG:32631"),
    ],
)
def test_broken_outlines_are_named(text, message, tile, tmp_path):
    path = tmp_path / "b.geojson"
    path.write_text(text)
    with pytest.raises(BenchError, match=message) as caught:
        drawn(path, tile, (10, 10))
    assert str(path) in str(caught.value)


def test_building_masks_are_the_boxes_of_their_outlines(worlds, tmp_path):
    _card, index = opened("spacenet6", worlds("spacenet6"), tmp_path)
    row = next(row for row in range(len(index.files)) if index.codes(row, "buildings").values.any())
    path = index.path(row)
    outline = path.parents[1] / "geojson_buildings" / (path.stem.replace("SAR-Intensity", "Buildings") + ".geojson")
    with rasterio.open(path) as source:
        inverse = ~source.transform
    expected = np.zeros((SIDE, SIDE), np.uint8)
    for (ring,) in read_polygons(outline)[0]:
        (left, top), (right, bottom) = inverse @ ring[0], inverse @ ring[2]
        expected[round(top) : round(bottom), round(left) : round(right)] = 1
    assert expected.sum() > 20
    assert np.array_equal(index.codes(row, "buildings").values, expected)
    assert any(
        not index.codes(row, "buildings").values.any() for row in range(len(index.files))
    )  # empty files are maps


def test_colours_become_classes_and_a_few_others_are_ignored(worlds, spoilt, tmp_path):
    card, index = opened("fusar_map", worlds("fusar_map"), tmp_path)
    path = worlds("fusar_map") / index.files[3].replace("sar_1024", "lab_1024").replace("_SAR_", "_Label_")
    with rasterio.open(path) as source:
        red, green, blue = source.read()
    named = {
        (0, 0, 0): "Other",
        (255, 0, 0): "Building",
        (0, 255, 0): "Vegetation",
        (0, 0, 255): "Water",
        (255, 255, 0): "Road",
    }
    codes = index.codes(3, "lab")
    meant = np.vectorize(lambda *rgb: named.get(rgb, "none"))(red, green, blue)
    assert meant[0, 0] == "none"
    found = np.vectorize(lambda code: codes.source.codes.get(code, "none"))(codes.values)
    assert np.array_equal(found, meant)
    root = spoilt("fusar_map")
    with rasterio.open(root / path.relative_to(worlds("fusar_map")), "r+") as target:
        pixels = target.read()
        pixels[:, : SIDE // 4] = 77
        target.write(pixels)
    with pytest.raises(BenchError, match=r"5066061 is not a code of FUSAR-Map 1\.0 'lab'"):
        build_index(card, root).codes(3, "lab")


def test_grey_values_are_nominal_decibels_of_the_cards_scale(worlds, tmp_path):
    card, index = opened("fusar_map", worlds("fusar_map"), tmp_path)
    with rasterio.open(index.path(0)) as source:
        grey = source.read(1).astype(np.float64)
    chip = index.read(0, card)
    assert chip.valid is None
    np.testing.assert_allclose(chip.db[0], grey * 25 / 255 - 25, atol=1e-5)


def test_a_table_a_part_is_one_index_wherever_an_archive_has_put_it(worlds, spoilt, tmp_path):
    card, index = opened("copernicus_bigearthnet", worlds("copernicus_bigearthnet"), tmp_path)
    place = worlds("copernicus_bigearthnet") / "bigearthnet_s1s2"
    rows = {}
    for part in ("train", "val", "test"):
        with open(place / f"multilabel-{part}.csv", newline="") as stream:
            for row in csv.DictReader(stream):
                rows[row["s1_path"].removesuffix(".tif")] = part, [int(row[name]) for name in card.classes]
    assert set(rows) == set(index.ids)
    assert [rows[name][0] for name in index.ids] == list(index.parts)
    assert [rows[name][1] for name in index.ids] == index.labels.tolist()
    root = spoilt("copernicus_bigearthnet")
    train, val = (root / "bigearthnet_s1s2" / f"multilabel-{part}.csv" for part in ("train", "val"))
    line = train.read_text().splitlines()[1]
    val.write_text(val.read_text() + line + "\n")
    with pytest.raises(
        BenchError, match=r"multilabel-val.csv, line 8: .* is already in .*multilabel-train.csv, line 2"
    ):
        build_index(card, root)
    text = train.read_text().splitlines()
    train.write_text("\n".join([",".join(["s1_path", "s2_path", *map(str, range(19))]), *text[1:]]))
    with pytest.raises(BenchError, match="has no column 'Urban fabric'"):
        build_index(card, root)


@pytest.mark.parametrize("wrapping", ["", "a", "a/b"])
@pytest.mark.parametrize("name", ["sen1floods11", "copernicus_flood"])
def test_folders_that_an_archive_wraps_around_the_data_are_stepped_over(name, wrapping, worlds, tmp_path):
    root = tmp_path / "root"
    (root / wrapping).parent.mkdir(parents=True, exist_ok=True)
    (root / wrapping).symlink_to(worlds(name)) if wrapping else root.symlink_to(worlds(name))
    card = load_card(name)
    assert build_index(card, root).ids == build_index(card, worlds(name)).ids


def test_the_nearest_folder_that_holds_a_name():
    from pathlib import Path

    here = Path(__file__).resolve().parents[1]
    assert holding(here, "card.toml") == here / "datasets" / "bigearthnet"
    assert holding(here, "pyproject.toml") == here
    assert holding(here, "nothing.of.the.kind", 1) is None


def test_two_stars_are_one_key():
    pattern = Pattern("*_SAR_*.tif")
    assert pattern.key("JiuJiang_01_01_01_01_SAR_001.tif") == "JiuJiang_01_01_01_01_001"
    assert pattern.key("JiuJiang_01_01_01_01_Label_001.tif") is None
    assert Pattern("*_Label_*.tif").key("JiuJiang_01_01_01_01_Label_001.tif") == "JiuJiang_01_01_01_01_001"


def test_parts_in_the_names_of_folders_and_a_part_without_targets(worlds, spoilt, tmp_path):
    card, index = opened("biomassters", worlds("biomassters"), tmp_path)
    assert set(zip((name.partition("/")[0] for name in index.ids), index.parts, strict=True)) == {
        ("train",) * 2,
        ("test",) * 2,
    }
    agbm = worlds("biomassters") / "test_agbm" / (index.ids[0].partition("/")[2] + "_agbm.tif")
    assert agbm.is_file()
    with rasterio.open(agbm) as source:
        assert np.array_equal(index.targets(0, "agb"), source.read(1))
    root = spoilt("biomassters")
    for path in (root / "test_agbm").iterdir():
        path.unlink()
    (root / "test_agbm").rmdir()
    assert set(build_index(card, root).parts) == {"train"}


def test_a_descending_orbit_that_was_not_flown_is_no_measurement(worlds, tmp_path):
    card, index = opened("biomassters", worlds("biomassters"), tmp_path)
    descending = dataclasses.replace(card, signal=dataclasses.replace(card.signal, index=(3, 4)))
    invalid = [index.read(row, descending).invalid_fraction for row in range(len(index.files))]
    assert sorted(set(invalid)) == [0, 1]
    assert invalid.count(1) == 3
    assert all(index.read(row, card).invalid_fraction == 0 for row in range(len(index.files)))


def test_an_added_label_source_may_be_absent_as_a_whole_but_not_in_part(spoilt):
    card, root = load_card("sen1floods11"), spoilt("sen1floods11")
    folder = root / "data" / "flood_events" / "HandLabeled" / "JRCWaterHand"
    first = sorted(folder.iterdir())
    first[0].unlink()
    with pytest.raises(BenchError, match=r"_S1Hand.tif has no label map in .*JRCWaterHand"):
        build_index(card, root)
    for path in first[1:]:
        path.unlink()
    folder.rmdir()
    index = build_index(card, root)
    assert index.maps.sources == ("hand",)


def test_an_earlier_image_without_its_later_one_is_refused(tmp_path):
    from test_two_dates import BEFORE, CARD, CODES, write

    for name in ("a_s1.tif", "a_pre.tif", "b_pre.tif"):
        write(tmp_path / "data" / "s1" / name, np.random.default_rng(0).normal(-10, 1, (2, 32, 32)).astype(np.float32))
    write(tmp_path / "data" / "maps" / "a_map.tif", np.zeros((1, 32, 32), np.uint8))
    (tmp_path / "card.toml").write_text(CARD.format(task="segmentation", source=CODES, target=BEFORE))
    with pytest.raises(BenchError, match=r"b_pre.tif has no later image in .*s1: b_s1.tif was looked for"):
        build_index(load_card(str(tmp_path / "card.toml")), tmp_path / "data")


def test_scene_classes_are_merged_shares():
    """By hand: needle-leaf and mixed forest add up, croplands and mosaics too; a tie goes to the lower class."""
    shares = np.zeros((4, 17))
    shares[0, [0, 4, 16]] = 0.3, 0.25, 0.45  # forest .55, water .45
    shares[1, [11, 13, 9]] = 0.2, 0.25, 0.55  # croplands .45, grassland .55
    shares[2, [5, 8]] = 0.5, 0.5  # shrubland, savanna
    shares[3, [14, 15, 12]] = 0.85, 0.1, 0.05  # snow, barren, urban
    assert classes_of(shares, multi=False).tolist() == [0, 3, 1, 7]
    hot = classes_of(shares, multi=True)
    assert [np.flatnonzero(row).tolist() for row in hot] == [[0, 9], [3, 5], [1, 2], [7, 8]]


def test_the_table_of_scene_labels_is_that_of_the_land_cover_maps(worlds, spoilt):
    card, root = load_card("sen12ms_scenes"), worlds("sen12ms_scenes")
    path = root / "scene_labels.csv"
    assert make_table(card, root).splitlines() == path.read_text().splitlines()[:1] + sorted(
        path.read_text().splitlines()[1:], key=lambda line: build_index(card, root).aliases.index(line.split(",")[0])
    )
    index, shares = build_index(card, root), read_shares(path)
    assert index.labels.tolist() == classes_of(np.array([shares[name] for name in index.aliases]), multi=False).tolist()
    copy = spoilt("sen12ms_scenes")
    table = copy / "scene_labels.csv"
    lines = table.read_text().splitlines()
    for text, message in (
        ("\n".join(lines[:-1]), r"has no line of ROIs\w+_s2_\d+_p\d+ \(1 of 60 tiles\)"),
        ("\n".join([*lines, lines[5]]), r"line 62: ROIs\w+ is named twice"),
        (
            "\n".join([*lines[:3], lines[3].replace(",1,", ",x,", 1).replace(",0,", ",x,", 1)]),
            "line 4: not all shares are numbers",
        ),
        ("\n".join(["a,b", *lines[1:]]), "does not begin with the columns name, igbp_1"),
        ("\n".join([lines[0], "p1" + ",0" * 17]), "line 2: p1 is not a tile"),
        ("\n".join([lines[0], lines[1].split(",")[0] + ",1" * 17]), "line 2: 17 shares that add up to 17"),
    ):
        table.write_text(text)
        with pytest.raises(BenchError, match=message):
            build_index(card, copy)
    table.unlink()
    with pytest.raises(BenchError, match="prepare labels sen12ms_scenes"):
        build_index(card, copy)


@pytest.mark.parametrize("bands", [("HH",), ("HH", "HV", "VH", "VV")])
def test_a_pack_holds_any_number_of_bands_of_one_size(bands):
    from fgmae_bench.data.packs.format import bands_of

    planes = {band: np.full((3, 5), number, np.float32) for number, band in enumerate(bands)}
    assert bands_of(planes, bands, "x")[:, 0, 0].tolist() == list(range(len(bands)))
    if len(bands) > 1:
        with pytest.raises(BenchError, match="differ in size"):
            bands_of({**planes, bands[-1]: np.zeros((3, 4), np.float32)}, bands, "x")


def test_official_lists_that_name_chips_which_are_not_there_are_refused(spoilt, tmp_path):
    """Without lists beside the data those of the card count, which name all 446 chips."""
    import shutil

    from fgmae_bench.config.run import Data
    from fgmae_bench.data.splits import make_split

    root = spoilt("sen1floods11")
    shutil.rmtree(root / "splits")
    card, index = opened("sen1floods11", root, tmp_path)
    with pytest.raises(
        BenchError, match=r"flood_train_data.csv names 252 of 252 images that are not in the data, first Ghana_"
    ):
        make_split(card, index, Data(dataset="sen1floods11", split="official"), tmp_path)


@pytest.mark.parametrize(("name", "replaced"), [("opensarurban", "_vv.npy"), ("fusar_map2", None)])
def test_a_draft_reads_what_a_user_has_once_its_lines_are_stated(name, replaced, tmp_path):
    from commands import REPOSITORY

    rng, text = np.random.default_rng(0), (REPOSITORY / "datasets" / name / "draft.toml").read_text()
    if replaced:
        text = text.replace("size = [100, 100]", "size = [16, 16]")
        (tmp_path / "card.toml").write_text(text)
        card = load_card(str(tmp_path / "card.toml"))
        for label in card.classes:
            (tmp_path / "data" / label).mkdir(parents=True)
            for number in range(3):
                file = tmp_path / "data" / label / f"{label}_x1_y{number}_Polygon{number}_vv.npy"
                np.save(file, rng.gamma(4, 0.1, (16, 16)).astype(np.float32))
    else:
        (tmp_path / "card.toml").write_text(text.replace("size = [512, 512]", "size = [16, 16]"))
        card = load_card(str(tmp_path / "card.toml"))
        for folder, pixels in (("SAR images", rng.integers(0, 255, (1, 16, 16))), ("labels", np.full((3, 16, 16), 0))):
            (tmp_path / "data" / folder).mkdir(parents=True)
            for number in range(3):
                with rasterio.open(
                    tmp_path / "data" / folder / f"{number}.tif",
                    "w",
                    driver="GTiff",
                    width=16,
                    height=16,
                    count=len(pixels),
                    dtype="uint8",
                ) as to:
                    to.write(pixels.astype(np.uint8))
    index = build_index(card, tmp_path / "data")
    assert len(index.ids) == (30 if replaced else 3)
    assert np.isfinite(index.read(0, card).db).all()
    if not replaced:
        assert set(np.unique(index.codes(0, "lab").values)) == {next(iter(index.codes(0, "lab").source.codes))}
