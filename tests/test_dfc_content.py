"""What the tiles of DFC2020 hold: labels under invalid pixels, images without any, codes of another kind, parts that overlap."""

import numpy as np
import pytest
from dfc_files import SIZE, dfc2020, image, quadrant_hashes, tile, write
from test_dfc_layout import CARD, split_of

from fgmae_bench.data.dfc.ready import (
    check_label_codes,
    find_overlaps,
    label_histograms,
    labelled,
    overlap_notes,
    shares,
    total_variation,
)
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.samples import NONE, Samples, sample_facts
from fgmae_bench.data.schemes import DFC, IGBP, card_map, label_map
from fgmae_bench.errors import BenchError


@pytest.fixture
def root(tmp_path):
    return dfc2020(tmp_path / "data")


def test_labels_under_invalid_pixels_are_masked(root):
    pixels = image(1)
    pixels[0, :10] = np.nan
    pixels[1, :, :20] = np.nan
    write(root / "ROIs0000_test" / "s1_0" / "ROIs0000_test_s1_0_p100.tif", pixels)
    index = build_index(CARD, root)
    chip = index.read(0, CARD)
    ids = label_map("dfc", "dfc10")(index.codes(0, "dfc").where(chip.valid)).values
    assert (ids[:10] == 255).all()
    assert (ids[:, :20] == 255).all()
    assert (ids[10:, 20:] != 255).all()


def test_tiles_of_nan_are_left_out_and_counted(root, tmp_path):
    pixels = image(1)
    pixels[:, :200] = np.nan
    write(root / "ROIs0000_test" / "s1_0" / "ROIs0000_test_s1_0_p100.tif", pixels)
    index = build_index(CARD, root)
    facts = sample_facts(Samples(card=CARD, index=index), ("invalid",), tmp_path)
    assert facts["invalid"][0] == 200 / SIZE
    assert not facts["invalid"][1:].any()


def test_all_ignore_images_are_found(tmp_path):
    root = dfc2020(tmp_path / "data")
    for patch, code in ((100, 0), (101, 3)):
        write(
            root / "ROIs0000_test" / "dfc_0" / f"ROIs0000_test_dfc_0_p{patch}.tif",
            np.full((1, SIZE, SIZE), code, np.int32),
        )
    counts = label_histograms(build_index(CARD, root), "dfc", tmp_path)
    assert labelled(counts, card_map(CARD, "dfc", "dfc10")).tolist() == [False, True, True, True, True]
    assert labelled(counts, card_map(CARD, "dfc", "dfc8")).tolist() == [False, False, True, True, True]


def test_histograms_are_those_of_the_maps_and_kept(root, tmp_path, monkeypatch):
    index = build_index(CARD, root)
    counts = label_histograms(index, "igbp", tmp_path)
    for row in range(len(index.ids)):
        assert counts[row].tolist() == np.bincount(index.codes(row, "igbp").values.ravel(), minlength=256).tolist()
    monkeypatch.setattr(type(index.maps), "codes", None)
    np.testing.assert_array_equal(label_histograms(index, "igbp", tmp_path), counts)
    with pytest.raises(BenchError, match="holds no corine labels"):
        label_histograms(index, "corine", tmp_path)


def test_a_replaced_label_changes_the_signature(root):
    before = build_index(CARD, root).signature
    write(root / "ROIs0000_test" / "dfc_0" / "ROIs0000_test_dfc_0_p100.tif", np.full((1, SIZE, SIZE), 9, np.uint8))
    assert build_index(CARD, root).signature != before


def test_distance_between_distributions():
    counts = np.zeros((2, 256), np.uint32)
    counts[0, [1, 10]], counts[1, [2, 10]] = (30, 10), (10, 30)
    first, second = (shares(counts[[row]], label_map("dfc", "dfc10")) for row in (0, 1))
    assert total_variation(first, second) == pytest.approx(0.75)
    assert total_variation(first, first) == 0
    assert np.isnan(shares(np.zeros((1, 256), np.uint32), label_map("dfc", "dfc10"))).all()


def test_labels_that_look_like_another_kind_are_refused_with_the_histogram():
    rng = np.random.default_rng(0)

    def tiles(codes, count=40):
        return np.stack([np.bincount(rng.choice(codes, 500), minlength=256) for _ in range(count)]).astype(np.uint32)

    fine, coarse = [1, 2, 4, 5, 6, 7, 9, 10], [1, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17]
    assert check_label_codes(DFC, tiles(fine), "x") is None
    assert check_label_codes(IGBP, tiles(coarse), "x") is None
    said = check_label_codes(IGBP, tiles(fine), "x")
    assert "labels said to be IGBP (MODIS) look like DFC2020 (no code above 10, and neither 3 nor 8)" in str(said)
    assert "10 Grasslands 12" in str(said)
    low = [5, 8, 8, 8, 9, 10]
    assert "labels said to be DFC2020 look like IGBP (MODIS) (49% of the pixels are 3 or 8)" in str(
        check_label_codes(DFC, tiles(low), "x")
    )
    assert check_label_codes(IGBP, tiles(low), "x") is None
    assert check_label_codes(IGBP, tiles(fine, 29), "x") is None  # too few tiles to tell


def test_overlap_by_half_a_tile_is_seen(root, tmp_path):
    """Two tiles of one strip, half a tile apart, as in SEN12MS."""
    strip = np.concatenate([image(7), image(8)], axis=2)
    write(root / "ROIs0000_test" / "s1_0" / "ROIs0000_test_s1_0_p100.tif", strip[:, :, :SIZE])
    write(
        root / "ROIs0000_validation" / "s1_validation" / "ROIs0000_validation_s1_0_p0.tif",
        strip[:, :, SIZE // 2 : SIZE * 3 // 2],
    )
    index = build_index(CARD, root)
    _, parts = split_of(CARD, index, "community", tmp_path)
    rows = {"train": parts.train, "val": parts.val, "test": parts.test}
    (overlap,) = find_overlaps(index, rows, quadrant_hashes(CARD, index, tmp_path))
    assert (overlap.first, overlap.second, overlap.by, overlap.count) == ("train", "test", "pixels", 1)
    (note,) = overlap_notes((overlap,), strict=False)
    assert note["code"] == "overlapping_splits"
    assert "ROIs0000_test_s1_0_p100 and " in note["text"]
    assert "ROIs0000_validation_s1_0_p0" in note["text"]
    with pytest.raises(
        BenchError, match=r"1 test images share a quadrant with the same pixels with a train image: .*p100 and .*p0"
    ):
        overlap_notes((overlap,), strict=True)


def test_parts_that_are_apart_do_not_overlap(root, tmp_path):
    index = build_index(CARD, root)
    _, parts = split_of(CARD, index, "community", tmp_path)
    hashes = quadrant_hashes(CARD, index, tmp_path)
    assert hashes.shape == (5, 4)
    assert len(np.unique(hashes)) == 20
    assert find_overlaps(index, {"train": parts.train, "test": parts.test}, hashes) == ()
    assert overlap_notes((), strict=True) == []


def test_equal_names_in_two_folders_are_seen(tmp_path):
    tree = tmp_path / "DFC_Public_Dataset"
    tile(tree, "ROIs0000_autumn", "4", 0, 1)
    tile(tree, "ROIs0000_autumn", "0", 0, 1, pixels=image(99))
    index = build_index(CARD, tree)
    _, parts = split_of(CARD, index, "notes", tmp_path)
    (overlap,) = find_overlaps(
        index, {"train": parts.train, "test": parts.test}, quadrant_hashes(CARD, index, tmp_path)
    )
    assert (overlap.by, overlap.count) == ("name", 1)


def test_quadrants_of_one_value_tell_nothing(root, tmp_path):
    for patch in (100, 101):
        pixels = image(patch)
        pixels[:, :128, :128] = -30.0
        pixels[:, :128, 128:] = np.nan
        write(root / "ROIs0000_test" / "s1_0" / f"ROIs0000_test_s1_0_p{patch}.tif", pixels)
    hashes = quadrant_hashes(CARD, build_index(CARD, root), tmp_path)
    assert (hashes[:2, :2] == NONE).all()
    assert (hashes[:2, 2:] != NONE).all()
