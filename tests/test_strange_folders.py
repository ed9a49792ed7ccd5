"""Folders as strangers have them: files below folders of scenes, bands within names, PNG masks beside TIFF images,
tables as spreadsheets of other languages write them. Each becomes a card that the data fits, or one line says why not.
"""

import numpy as np
import pytest
from commands import call, said
from test_card_draft import SIDE, backscatter, card, drafted, write

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.layouts import build_index
from fgmae_bench.errors import BenchError

CLASSES = ("Forêt mixte", "Wasser fläche", "城市")


def mask(seed):
    return (np.random.default_rng(seed).random((1, 4, 4)) < 0.4).repeat(8, 1).repeat(8, 2).astype(np.uint8)


def indexed(tmp_path, name="d"):
    return build_index(load_card(str(tmp_path / "card.toml")), tmp_path / name)


@pytest.mark.parametrize("flags", [("d",), ("d/S1", "--masks", "d/GT")], ids=["whole", "named"])
def test_images_and_masks_below_folders_of_scenes(tmp_path, flags):
    for n in range(12):
        write(tmp_path / "d" / "S1" / f"scene {n // 4}" / f"tile_{n % 4}_SAR.tif", backscatter(n))
        write(tmp_path / "d" / "GT" / f"scene {n // 4}" / f"tile_{n % 4}_GT.png", mask(n))
    made, _ = drafted(*flags, cwd=tmp_path)
    assert (made.signal.folder, made.label_sources[made.label_source].folder) == ("S1", "GT")
    assert made.counts.total == 12
    index = indexed(tmp_path)
    assert index.ids[:2] == ("scene 0/tile_0", "scene 0/tile_1")
    assert np.array_equal(index.codes(5, made.label_source).values, mask(5)[0])
    assert np.array_equal(index.read(5, made).db, backscatter(5))
    (tmp_path / "d" / "GT" / "scene 1" / "tile_2_GT.png").unlink()
    with pytest.raises(BenchError, match=r"scene 1/tile_2_SAR.tif has no label map in .*GT: tile_2_GT.png was looked"):
        indexed(tmp_path)


def test_masks_in_other_folders_than_images_are_refused_with_both(tmp_path):
    for n in range(6):
        write(tmp_path / "d" / "images" / "2019" / f"s{n // 3}" / f"{n}.tif", backscatter(n))
        write(tmp_path / "d" / "labels" / f"s{n // 3}" / f"{n}.png", mask(n))
    line = said(card("d/images", "--masks", "d/labels", cwd=tmp_path))
    assert "images/2019/s0/0.tif: label maps are in other folders than images, such as" in line
    assert drafted("d/images/2019", "--masks", "d/labels", cwd=tmp_path)[0].counts.total == 6


def test_a_folder_of_masks_without_images_is_one_line(tmp_path):
    write(tmp_path / "d" / "maps" / "a.tif", mask(0))
    (tmp_path / "d" / "s1").mkdir()
    assert "holds no image that is read" in said(card("d/s1", "--masks", "d/maps", cwd=tmp_path))


@pytest.mark.parametrize("codes", [(0, 255), (1, 255)], ids=["zero", "one"])
def test_masks_of_255_and_one_other_code_are_two_classes(tmp_path, codes):
    for n in range(8):
        write(tmp_path / "d" / "s1" / f"{n}.tif", backscatter(n))
        write(tmp_path / "d" / "gt" / f"{n}.png", np.where(mask(n) > 0, codes[1], codes[0]).astype(np.uint8))
    made, text = drafted("d", cwd=tmp_path)
    assert made.classes == (f"Class{codes[0]}", "Class255")
    assert "GUESSED: 255 is a class here" in text
    assert np.array_equal(indexed(tmp_path).codes(3, made.label_source).values, mask(3)[0])


def test_masks_of_one_code_are_refused_by_what_they_hold(tmp_path):
    for n in range(6):
        write(tmp_path / "d" / "s1" / f"{n}.tif", backscatter(n))
        write(tmp_path / "d" / "gt" / f"{n}.png", np.zeros((1, SIDE, SIDE), np.uint8))
    assert "gt: label maps hold 0; two classes or more are needed" in said(card("d", cwd=tmp_path))


def test_png_masks_beside_tiff_images(tmp_path):
    for n in range(8):
        write(tmp_path / "d" / f"tile_{n}.tif", backscatter(n))
        write(tmp_path / "d" / f"tile_{n}_mask.png", mask(n))
    made, _ = drafted("d", cwd=tmp_path)
    assert made.arrangement.masks.endswith("_mask.png")
    assert len(indexed(tmp_path).files) == 8


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("Sigma0_{band}_db_{n}.tif", "Sigma0_{band}_*.tif"),
        ("S1A 2019-0{n}-11 {band} db.tif", "* {band} db.tif"),
        ("chip{n}_{band}.tif", "*_{band}.tif"),
    ],
    ids=["before", "behind", "at_the_end"],
)
def test_a_file_a_band_wherever_names_say_the_band(tmp_path, name, pattern):
    for label in CLASSES:
        for n in range(1, 6):
            for band, values in zip(("VV", "VH"), backscatter(n), strict=True):
                write(tmp_path / "d" / label / name.format(band=band, n=n), values[None])
    made, _ = drafted("d", cwd=tmp_path)
    assert (made.arrangement.images, made.signal.bands, made.classes) == (pattern, ("VV", "VH"), tuple(sorted(CLASSES)))
    index = indexed(tmp_path)
    assert len(index.files) == made.counts.total == 15
    assert np.array_equal(index.read(0, made).db, backscatter(1))


def test_a_polarisation_in_the_names_of_whole_images_is_a_word(tmp_path):
    for label in CLASSES:
        for n in range(5):
            write(tmp_path / "d" / label / f"S1_VV_{n}.tif", backscatter(n, bands=1))
    made, _ = drafted("d", cwd=tmp_path)
    assert made.signal.bands == ("VV",)
    assert made.counts.total == 15


def test_folders_named_by_dates_are_classes_only_as_a_guess(tmp_path):
    for day in ("20190101", "20190113"):
        for n in range(5):
            write(tmp_path / "d" / day / f"{n}.tif", backscatter(n))
    assert "GUESSED: folders are classes, though their names hold dates, as 20190101" in drafted("d", cwd=tmp_path)[1]


def test_images_deeper_than_class_folders_are_said_to_be(tmp_path):
    for label in CLASSES:
        write(tmp_path / "d" / label / "2019" / "a.tif", backscatter(0))
    line = said(card("d", cwd=tmp_path))
    assert "images are deeper than a folder for each class, such as Forêt mixte/2019/a.tif" in line


def spreadsheet(path, header, rows):
    """Semicolons, a byte-order mark, ends of lines of Windows."""
    path.write_bytes(("\ufeff" + "".join(f"{';'.join(row)}\r\n" for row in [header, *rows])).encode())


def test_decimal_commas_are_numbers_and_no_labels(tmp_path):
    targets = [f"{n * 1.25:.2f}".replace(".", ",") for n in range(20)]
    for n in range(20):
        write(tmp_path / "d" / "img" / f"p{n}.tif", backscatter(n))
    rows = [[f"p{n}.tif", targets[n], f"site {n % 4}"] for n in range(20)]
    spreadsheet(tmp_path / "d" / "t.csv", ["file", "agb", "site"], rows)
    made, text = drafted("d", "--labels", "d/t.csv", cwd=tmp_path)
    assert (made.task, made.target.name, made.arrangement.decimal) == ("regression", "agb", ",")
    assert "GUESSED: a comma is the decimal point, as in 0,00" in text
    index = indexed(tmp_path)
    values = dict(zip(index.ids, index.labels[:, 0], strict=True))
    assert values == {f"p{n}": n * 1.25 for n in range(20)}
    (tmp_path / "card.toml").write_text(text.replace('decimal = ","\n', ""))
    with pytest.raises(BenchError, match=r"line 2: '0,00' in column 'agb' is not a number; say decimal = \",\""):
        indexed(tmp_path)


@pytest.mark.parametrize("value", ["1.234,5", "1,2,3", "1,x"])
def test_a_number_that_is_not_one_with_a_decimal_comma_is_refused(tmp_path, value):
    for n in range(5):
        write(tmp_path / "d" / f"p{n}.tif", backscatter(n))
    rows = [[f"p{n}.tif", f"{n},5"] for n in range(5)]
    spreadsheet(tmp_path / "d" / "t.csv", ["file", "agb"], rows)
    drafted("d", "--labels", "d/t.csv", cwd=tmp_path)
    spreadsheet(tmp_path / "d" / "t.csv", ["file", "agb"], [*rows[:4], ["p4.tif", value]])
    with pytest.raises(BenchError, match=f"line 6: '{value}' in column 'agb' is not a number"):
        indexed(tmp_path)


def test_words_with_commas_that_occur_once_are_no_labels(tmp_path):
    for n in range(8):
        write(tmp_path / "d" / f"p{n}.tif", backscatter(n))
    rows = [[f"p{n}.tif", f"road {n}, town {n}", ("ice", "water")[n % 2]] for n in range(8)]
    spreadsheet(tmp_path / "d" / "t.csv", ["file", "address", "kind"], rows)
    made, _ = drafted("d", "--labels", "d/t.csv", cwd=tmp_path)
    assert (made.task, made.arrangement.label, made.classes) == ("single_label", "kind", ("ice", "water"))


def test_paths_as_windows_writes_them(tmp_path):
    for n in range(10):
        write(tmp_path / "d" / "bilder" / f"bild {n}.tif", backscatter(n))
    rows = [[f"bilder\\bild {n}.tif", ("Wald grün", "Wasser")[n % 2]] for n in range(10)]
    spreadsheet(tmp_path / "d" / "t.csv", ["Dateiname", "Klasse"], rows)
    made, _ = drafted("d", "--labels", "d/t.csv", cwd=tmp_path)
    assert made.classes == ("Wald grün", "Wasser")
    index = indexed(tmp_path)
    assert index.ids[0] == "bilder/bild 0"
    assert index.files[0] == "bilder/bild 0.tif"


def test_a_band_between_two_changing_parts_of_names_is_refused(tmp_path):
    for label in CLASSES:
        for n in range(3):
            for band, values in zip(("VV", "VH"), backscatter(n), strict=True):
                write(tmp_path / "d" / label / f"a{n}_{band}_b{n}.tif", values[None])
    assert "names differ before and behind the polarisation; end them with it" in said(card("d", cwd=tmp_path))


def test_packs_hold_samples_of_folders_of_scenes(tmp_path):
    for n in range(8):
        write(tmp_path / "d" / "S1" / f"scene {n // 2}" / f"t{n % 2}.tif", backscatter(n))
        write(tmp_path / "d" / "GT" / f"scene {n // 2}" / f"t{n % 2}.tif", mask(n))
    drafted("d", cwd=tmp_path)
    done = call("prepare", "pack", "card.toml", "--data_path", "d", "--out", "p.lmdb", "--workers", "0", cwd=tmp_path)
    assert done.code == 0, done.err
    assert call("prepare", "verify", "p.lmdb", "--dataset", "card.toml", "--data_path", "d", cwd=tmp_path).code == 0
