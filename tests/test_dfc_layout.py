"""Readers of SEN12MS, DFC2020 and paired folders: true layouts, pairing by parsed names, and what is wrong named with
its file.
"""

import dataclasses
import shutil

import numpy as np
import pytest
from dfc_files import SIZE, dfc2020, image, tile, write

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.dfc.layout import parse_scene, parse_tile
from fgmae_bench.data.dfc.ready import (
    label_histograms,
    labelled,
)
from fgmae_bench.data.index import check_counts
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.schemes import DFC, IGBP, card_map, card_source
from fgmae_bench.data.splits import make_split
from fgmae_bench.errors import BenchError

CARD, SEN12MS = load_card("dfc2020"), load_card("sen12ms")


@pytest.fixture
def root(tmp_path):
    return dfc2020(tmp_path / "data")


def split_of(card, index, name, cache):
    parts = make_split(card, index, Data(dataset=card.name, split=name), cache)
    return [
        {index.ids[row].rpartition("_p")[2] for row in rows} for rows in (parts.train, parts.val, parts.test)
    ], parts


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("ROIs1158_spring_s1_63_p475", ("ROIs1158_spring", "s1", 63, 475)),
        ("ROIs0000_validation_dfc_0_p12", ("ROIs0000_validation", "dfc", 0, 12)),
        ("ROIs0000_test_lc_0_p0", ("ROIs0000_test", "lc", 0, 0)),
        ("ROIs1158_spring_s1_63", None),
        ("ROIs1158_spring_s1_63_p475_copy", None),
        ("x_ROIs1158_spring_s1_63_p475", None),
        ("ROIs1158_spring_s1_٣_p4", None),
    ],
)
def test_names_are_parsed_whole(name, parsed):
    found = parse_tile(name)
    assert (found and dataclasses.astuple(found)) == parsed
    if found:
        assert found.of(found.kind) == name


def test_scene_folders_are_parsed():
    assert parse_scene("s1_validation") == ("s1", "validation")
    assert parse_scene("dfc_0") == ("dfc", "0")
    assert parse_scene("s1") is None
    assert parse_scene("__MACOSX") is None


def test_true_layout_is_read(root):
    index = build_index(CARD, root)
    assert index.ids[:2] == ("ROIs0000_test/s1_0/ROIs0000_test_s1_0_p100", "ROIs0000_test/s1_0/ROIs0000_test_s1_0_p101")
    assert index.ids[-1] == "ROIs0000_validation/s1_validation/ROIs0000_validation_s1_0_p1"
    assert index.maps.sources == ("dfc", "igbp", "lccs_cover", "lccs_use", "lccs_hydrology")
    assert index.size == (SIZE, SIZE)
    assert index.synthetic is None
    chip = index.read(0, CARD)
    assert (chip.db.shape, chip.db.dtype, chip.valid, chip.synthetic) == ((2, SIZE, SIZE), np.float32, None, False)
    np.testing.assert_array_equal(chip.db, image(100).astype(np.float32))
    held = index.codes(0, "dfc")
    assert (held.values.shape, held.values.dtype, held.source) == ((SIZE, SIZE), np.uint8, DFC)
    assert index.codes(0, "igbp").source is IGBP
    assert index.codes(0, "igbp").values.max() > 10
    assert (index.codes(0, "lccs_cover").values == 1).all()


def test_labels_belong_to_their_image(tmp_path):
    """Each label map holds the number of its tile."""
    for patch in range(1, 9):
        flat = np.full((1, SIZE, SIZE), patch)
        tile(tmp_path, "ROIs0000_test", "0", 0, patch, dfc=flat, lc=np.repeat(flat, 4, 0))
    index = build_index(CARD, tmp_path)
    for row, name in enumerate(index.ids):
        assert (index.codes(row, "dfc").values == int(name.rpartition("_p")[2])).all()
        assert (index.codes(row, "igbp").values == int(name.rpartition("_p")[2])).all()


def test_folders_above_may_hold_any_text(tmp_path):
    """The reference implementation replaces `s2_` in whole paths."""
    index = build_index(CARD, dfc2020(tmp_path / "my_s2_copy" / "s1_lc_dfc_"))
    assert len(index.ids) == 5
    assert (index.codes(0, "dfc").values <= 10).all()


def test_wrapping_folders_and_macosx_change_nothing(root, tmp_path):
    plain = build_index(CARD, root)
    wrapped = tmp_path / "wrapped"
    for kind in ("s1", "lc", "dfc"):
        for collection, folder in (("ROIs0000_validation", "validation"), ("ROIs0000_test", "0")):
            source = root / collection / f"{kind}_{folder}"
            target = wrapped / f"{kind}_{folder}" / collection / source.name
            shutil.copytree(source, target)
            extra = wrapped / f"{kind}_{folder}" / "__MACOSX" / collection / source.name
            extra.mkdir(parents=True)
            (extra / f"._{next(source.iterdir()).name}").write_bytes(b"\0")
            (target / ".DS_Store").write_bytes(b"\0")
    found = build_index(CARD, wrapped)
    assert (found.ids, found.groups, found.aliases) == (plain.ids, plain.groups, plain.aliases)
    np.testing.assert_array_equal(found.codes(3, "dfc").values, plain.codes(3, "dfc").values)


def test_flat_folders_of_copernicus_bench(root, tmp_path):
    for path in (root / "ROIs0000_test").rglob("*.tif"):
        kind = path.parent.name.partition("_")[0]
        (tmp_path / "flat" / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "flat" / kind / path.name)
    index = build_index(CARD, tmp_path / "flat")
    assert set(index.groups) == {"ROIs0000_test/s1_0"}
    assert index.ids[0] == "ROIs0000_test/s1_0/ROIs0000_test_s1_0_p100"
    assert index.codes(2, "dfc").values.shape == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("split", "train", "test"),
    [("contest", {"0", "1"}, {"100", "101", "102"}), ("community", {"100", "101", "102"}, {"0", "1"})],
)
def test_splits_by_folder(root, tmp_path, split, train, test):
    index = build_index(CARD, root)
    found, parts = split_of(CARD, index, split, tmp_path)
    assert found == [train, set(), test]
    assert not parts.leaky


def test_split_of_the_notes_tree(tmp_path):
    """Trained on every folder of the seasons, evaluated on the tiles of s1_0."""
    tree = tmp_path / "DFC_Public_Dataset"
    tile(tree, "ROIs0000_autumn", "12", 12, 1)
    tile(tree, "ROIs0000_summer", "3", 3, 2)
    tile(tree, "ROIs0000_spring", "0", 0, 3)
    tile(tree, "ROIs0000_test", "0", 0, 4)
    tile(tree, "ROIs0000_validation", "validation", 0, 5)
    for given in (tmp_path, tree):
        index = build_index(CARD, given)
        found, parts = split_of(CARD, index, "notes", tmp_path)
        assert found == [{"1", "2"}, set(), {"3", "4"}]
        assert parts.left_out == 1


def test_split_of_copernicus_bench_by_its_lists(tmp_path):
    root = dfc2020(tmp_path / "data", validation=1, test=6)
    with pytest.raises(
        BenchError, match=r"split 'copernicus' needs dfc-train-new\.csv, dfc-val-new\.csv, dfc-test-new\.csv"
    ):
        split_of(CARD, build_index(CARD, root), "copernicus", tmp_path)
    for part, patches in {"train": (100, 101, 102), "val": (103,), "test": (104, 105)}.items():
        (root / f"dfc-{part}-new.csv").write_text("".join(f"ROIs0000_test_dfc_0_p{patch}.tif\n" for patch in patches))
    found, parts = split_of(CARD, build_index(CARD, root), "copernicus", tmp_path)
    assert found == [{"100", "101", "102"}, {"103"}, {"104", "105"}]
    assert (parts.left_out, parts.leaky) == (1, True)
    facts = CARD.splits["copernicus"].counts
    assert (facts["train"], facts["val"], facts["test"]) == (3156, 986, 986)
    assert sum(facts.values()) == CARD.counts.per_collection["ROIs0000_test"]


def test_26_holdout_scenes(realdata):
    scenes = (realdata / "official_lists" / "SEN12MS_holdOutScenes.txt").read_text().split()
    stated = SEN12MS.splits["holdout"].groups["test"]
    assert len(set(stated)) == len(scenes) == 26
    assert set(stated) == set(scenes)


def test_holdout_keeps_scenes_whole_and_tells_seasons_apart(tmp_path):
    for collection, scene, patch in [
        ("ROIs1158_spring", 63, 1),
        ("ROIs1158_spring", 6, 2),
        ("ROIs1868_summer", 63, 3),
        ("ROIs2017_winter", 135, 4),
    ]:
        tile(tmp_path, collection, str(scene), scene, patch, kinds=("lc",))
    index = build_index(SEN12MS, tmp_path)
    found, _ = split_of(SEN12MS, index, "holdout", tmp_path)
    assert found == [{"2", "3"}, set(), {"1", "4"}]


def test_lists_with_names_of_the_optical_tiles(tmp_path):
    """The published SEN12MS lists name s2 tiles and have CRLF line ends."""
    for patch in range(4):
        tile(tmp_path / "data", "ROIs1158_spring", "63", 63, patch, kinds=("lc",))
    for part, patches in {"train": (0, 1, 2), "test": (3,)}.items():
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / f"{part}_list.txt").write_bytes(
            b"".join(b"ROIs1158_spring_s2_63_p%d.tif\r\n" % patch for patch in patches)
        )
    found, _ = split_of(SEN12MS, build_index(SEN12MS, tmp_path / "data"), str(tmp_path / "lists"), tmp_path)
    assert found == [{"0", "1", "2"}, set(), {"3"}]


def test_the_known_broken_tile_is_left_out_and_counted(tmp_path):
    for patch in (201, 202):
        tile(tmp_path, "ROIs1868_summer", "146", 146, patch, kinds=("lc",))
    tile(tmp_path, "ROIs1158_spring", "146", 146, 202, kinds=("lc",))
    index = build_index(SEN12MS, tmp_path)
    assert [name.rpartition("/")[2] for name in index.ids] == [
        "ROIs1158_spring_s1_146_p202",
        "ROIs1868_summer_s1_146_p201",
    ]
    assert index.left_out == 1


def test_its_absence_is_no_fault(tmp_path):
    tile(tmp_path, "ROIs1868_summer", "146", 146, 201, kinds=("lc",))
    assert build_index(SEN12MS, tmp_path).left_out == 0


def test_counts_are_held_against_the_card(root):
    found = check_counts(CARD, build_index(CARD, root))
    assert "holds 2 images of ROIs0000_validation where the card says 986" in found.text
    assert (found.found, found.stated) == (2, 986)
    small = dataclasses.replace(CARD.counts, per_collection={"ROIs0000_validation": 2, "ROIs0000_test": 3})
    assert check_counts(dataclasses.replace(CARD, counts=small), build_index(CARD, root)) is None
    shutil.rmtree(root / "ROIs0000_test")
    assert check_counts(dataclasses.replace(CARD, counts=small), build_index(CARD, root)) is None


def test_image_without_its_label_is_named(root):
    (root / "ROIs0000_test" / "dfc_0" / "ROIs0000_test_dfc_0_p101.tif").unlink()
    with pytest.raises(
        BenchError, match=r"ROIs0000_test_s1_0_p101\.tif has no label ROIs0000_test_dfc_0_p101\.tif \(1 of 3 tiles"
    ):
        build_index(CARD, root)


def test_image_with_no_label_folder_at_all_is_named(root):
    for kind in ("dfc", "lc"):
        shutil.rmtree(root / "ROIs0000_test" / f"{kind}_0")
    with pytest.raises(BenchError, match=r"ROIs0000_test_s1_0_p100\.tif has no label in dfc_0 or lc_0"):
        build_index(CARD, root)


def test_a_source_that_was_not_downloaded_is_missed_when_it_is_asked_for(root):
    shutil.rmtree(root / "ROIs0000_test" / "lc_0")
    index = build_index(CARD, root)
    assert (index.maps.has(0, "dfc"), index.maps.has(0, "igbp"), index.maps.has(4, "igbp")) == (True, False, True)
    with pytest.raises(
        BenchError,
        match=r"p100 has no igbp labels: its file in a folder 'lc' is not there; complete the data \(there: dfc\)",
    ):
        index.codes(0, "igbp")
    with pytest.raises(BenchError, match="has no label source 'corine'"):
        index.codes(0, "corine")


def test_label_without_image_is_not_used(root, caplog):
    (root / "ROIs0000_test" / "s1_0" / "ROIs0000_test_s1_0_p101.tif").unlink()
    assert len(build_index(CARD, root).ids) == 4
    assert "1 label files of kind dfc have no Sentinel-1 tile" in caplog.text


@pytest.mark.parametrize(
    ("kind", "pixels", "line"),
    [
        ("s1", image(1, bands=3), r"ROIs0000_test_s1_0_p100\.tif has 3 bands, DFC2020 has 2"),
        ("s1", image(1, size=128), r"p100\.tif is 128x128 pixels, DFC2020 has 256x256"),
        ("s1", np.full((2, SIZE, SIZE), -9.0), r"p100\.tif: band 1 is constant"),
        ("dfc", np.ones((1, 128, 128), np.uint8), r"dfc_0_p100\.tif is 128x128 pixels, its image 256x256"),
        (
            "dfc",
            np.full((1, SIZE, SIZE), 17, np.int32),
            r"dfc_0_p100\.tif: 17 is not a code of DFC2020, found 17 \? 100\.0%",
        ),
        ("dfc", np.full((1, SIZE, SIZE), -1, np.int32), r"dfc_0_p100\.tif: -1 is not a code of DFC2020"),
        ("dfc", np.ones((4, SIZE, SIZE), np.uint16), r"dfc_0_p100\.tif has 4 bands, label files in 'dfc' have 1"),
        ("dfc", np.ones((1, SIZE, SIZE), np.float32), r"dfc_0_p100\.tif holds float32 values"),
        ("lc", np.ones((1, SIZE, SIZE), np.uint16), r"lc_0_p100\.tif has 1 bands, label files in 'lc' have 4"),
        ("lc", np.full((4, SIZE, SIZE), 18, np.uint16), r"lc_0_p100\.tif: 18 is not a code of IGBP"),
    ],
    ids=[
        "3-band",
        "s1-size",
        "constant",
        "label-size",
        "igbp-in-dfc",
        "negative",
        "lc-as-dfc",
        "float-labels",
        "dfc-as-lc",
        "outside",
    ],
)
def test_broken_files_are_named_when_they_are_read(root, kind, pixels, line):
    write(root / "ROIs0000_test" / f"{kind}_0" / f"ROIs0000_test_{kind}_0_p100.tif", pixels)
    index = build_index(CARD, root)
    source = {"dfc": "dfc", "lc": "igbp"}.get(kind)
    with pytest.raises(BenchError, match=line):
        index.codes(0, source) if source else index.read(0, CARD)


def test_a_truncated_label_is_named(root):
    path = root / "ROIs0000_test" / "dfc_0" / "ROIs0000_test_dfc_0_p100.tif"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BenchError, match=r"dfc_0_p100\.tif cannot be read as a TIFF"):
        build_index(CARD, root).codes(0, "dfc")


def test_labels_of_eight_bits_are_read_too(root):
    write(root / "ROIs0000_test" / "dfc_0" / "ROIs0000_test_dfc_0_p100.tif", np.full((1, SIZE, SIZE), 9, np.uint8))
    assert (build_index(CARD, root).codes(0, "dfc").values == 9).all()


def test_a_file_that_is_no_tile_is_refused(root):
    write(root / "ROIs0000_test" / "s1_0" / "mosaic.tif", image(1))
    with pytest.raises(BenchError, match=r"mosaic\.tif is not named as a tile of s1_0"):
        build_index(CARD, root)


def test_the_same_tile_twice_is_refused(root):
    shutil.copytree(root / "ROIs0000_test" / "s1_0", root / "again" / "ROIs0000_test" / "s1_0")
    with pytest.raises(BenchError, match="are the same tile; keep one of the two"):
        build_index(CARD, root)


def test_a_folder_without_tiles_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(BenchError, match="no Sentinel-1 tile is there; expected such as ROIs1158_spring/s1_1/"):
        build_index(CARD, tmp_path)


def test_genuine_scenes_and_masks(realdata, tmp_path):
    card = load_card("terramesh_masks")
    index = build_index(card, realdata / "terramesh_s1rtc")
    assert index.ids == ("282D_485L_3_3", "38D_378R_2_3", "433D_629L_3_1")
    assert check_counts(card, index) is None
    assert index.synthetic is None
    counts = label_histograms(index, "lulc", tmp_path)
    assert counts.sum(axis=0)[:10].tolist() == [0, 29118, 29086, 90, 42856, 11742, 3316, 0, 0, 34320]
    assert labelled(counts, card_map(card)).all()
    for row in range(3):
        chip = index.read(row, card)
        assert (chip.db.shape, chip.valid, chip.synthetic) == ((2, 224, 224), None, False)
        assert card_map(card)(index.codes(row, "lulc")).values.max() < len(card.classes)
    parts = make_split(card, index, Data(dataset=card.name), tmp_path)
    assert (parts.train.tolist(), parts.val.tolist(), parts.test.tolist(), parts.leaky) == (
        [0, 1, 2],
        [],
        [0, 1, 2],
        True,
    )
    found = make_split(card, index, Data(dataset=card.name, split="scene"), tmp_path)
    assert (found.train.tolist(), found.test.tolist()) == ([0, 2], [1])
    assert card_source(card).title.startswith("TerraMesh")


def test_paired_folders_miss_a_mask(realdata, tmp_path):
    card = load_card("terramesh_masks")
    shutil.copytree(realdata / "terramesh_s1rtc", tmp_path / "data", copy_function=shutil.copyfile)
    (tmp_path / "data" / "LULC").chmod(0o755)
    (tmp_path / "data" / "LULC" / "38D_378R_2_3.tif").unlink()
    with pytest.raises(BenchError, match=r"38D_378R_2_3\.tif has no label map in .*LULC"):
        build_index(card, tmp_path / "data")
