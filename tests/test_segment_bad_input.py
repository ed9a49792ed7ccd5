"""Segmentation of data with holes, overlaps and contradictions: left out and counted, noted, or refused in one line."""

import shutil

import numpy as np
import pytest
import rasterio
from commands import call, codes, listing, only_record, rewrite, said, shared_world
from segment_world import SIDE, TESTED, TRAINED, confusions, file, segment

from fgmae_bench.worlds import dfc

pytest_plugins = ("segment_world",)


@pytest.fixture
def spoilt(tiles, tmp_path):
    """A copy, to be spoilt."""
    return shutil.copytree(tiles, tmp_path / "world")


# --- left out, or noted


def test_an_image_of_ignore_alone_is_left_out_and_counted(spoilt, tmp_path):
    rewrite(file(spoilt, "dfc", 3), np.zeros_like)
    done = segment(spoilt, "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["dataset"]["n_train"] == 19
    assert any("1 images without a pixel of any class were left out" in n["text"] for n in record["notes"])


def test_pixels_without_backscatter_are_neither_learnt_nor_scored(spoilt, tmp_path):
    def hole(pixels):
        pixels[0, :10, :10] = np.nan
        return pixels

    rewrite(file(spoilt, "s1", 0, TESTED), hole)
    rewrite(file(spoilt, "s1", 5), lambda pixels: np.where(np.arange(SIDE) < 50, np.nan, pixels))
    done = segment(spoilt, "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    counts, _ = confusions(record, tmp_path / "results")
    assert counts.sum(axis=(1, 2)).tolist() == [SIDE**2 - 100, *[SIDE**2] * 3]
    assert record["dataset"]["n_train"] == 19  # more than half of tile 5 is void
    assert "invalid_left_out" in codes(record)


@pytest.mark.slow
def test_packs_of_both_kinds_score_as_the_files(spoilt, tmp_path):
    rewrite(file(spoilt, "s1", 0, TESTED), lambda pixels: np.where(np.arange(SIDE) < 9, np.nan, pixels))
    found = []
    for kind in ("files", "float32", "uint8"):
        data, cwd = tmp_path / kind, tmp_path / f"cwd-{kind}"
        cwd.mkdir()
        if kind == "files":
            data = spoilt
        else:
            flags = ("--data_path", spoilt, "--out", data, "--dtype", kind, "--workers", "0")
            assert call("prepare", "pack", "dfc2020", *flags, cwd=tmp_path).code == 0
        done = segment(data, "--epochs", "1", cwd=cwd)
        assert done.code == 0, done.err
        found.append(only_record(cwd / "results"))
    assert np.sum(found[0]["metrics"]["confusion"]) == 4 * SIDE**2 - 9 * SIDE
    assert [other["metrics"] for other in found[1:]] == [found[0]["metrics"]] * 2
    assert found[1]["run_id"] == found[0]["run_id"] != found[2]["run_id"]  # eight bits are another dataset


def test_overlapping_parts_are_named_and_refused_under_strict(spoilt, tmp_path):
    shutil.copy(file(spoilt, "s1", 7), file(spoilt, "s1", 2, TESTED))
    done = segment(spoilt, "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    (text,) = [n["text"] for n in only_record(tmp_path / "results")["notes"] if n["code"] == "overlapping_splits"]
    assert "ROIs0000_test_s1_0_p7" in text
    assert "ROIs0000_validation_s1_0_p2" in text
    assert text in done.err
    line = said(segment(spoilt, "--epochs", "1", "--seed", "1", "--strict", cwd=tmp_path))
    assert text in line


# --- refused


def without_label(root):
    file(root, "dfc", 4).unlink()


def smaller_label(root):
    rewrite(file(root, "dfc", 4), lambda pixels: pixels[:, :32, :32])


def smaller_image(root):
    rewrite(file(root, "s1", 4), lambda pixels: pixels[:, :32, :32])


def unknown_code(root):
    rewrite(file(root, "dfc", 4), lambda pixels: np.where(np.arange(SIDE) < 5, 77, pixels).astype(pixels.dtype))


def three_bands(root):
    rewrite(file(root, "s1", 4), lambda pixels: np.concatenate([pixels, pixels[:1]]))


def constant(root):
    rewrite(file(root, "s1", 4), lambda pixels: np.full_like(pixels, -9))


def nothing_labelled(root):
    for n in range(20):
        rewrite(file(root, "dfc", n), np.zeros_like)


def untouched(root):
    """The world as it is."""


BAD = [
    (without_label, (), ("ROIs0000_test_s1_0_p4.tif has no label ROIs0000_test_dfc_0_p4.tif",)),
    (smaller_label, (), ("ROIs0000_test_dfc_0_p4.tif is 32x32 pixels, its image 64x64",)),
    (smaller_image, (), ("ROIs0000_test_s1_0_p4.tif is 32x32 pixels",)),
    (unknown_code, (), ("ROIs0000_test_dfc_0_p4.tif: 77 is not a code of DFC2020", "found", "77 ? 7.8%")),
    (three_bands, (), ("ROIs0000_test_s1_0_p4.tif has 3 bands, DFC2020 has 2",)),
    (constant, (), ("ROIs0000_test_s1_0_p4.tif: band 1 is constant",)),
    (nothing_labelled, (), ("no image of the train split has a dfc label of a class of dfc10",)),
    (untouched, ("--train_scheme", "igbp17"), ("label scheme igbp17 is not defined for dfc labels",)),
    (
        untouched,
        ("--train_labels", "igbp", "--eval_labels", "dfc", "--train_scheme", "igbp17"),
        ("igbp17 is not defined for dfc",),
    ),
    (untouched, ("--train_labels", "s2"), ("label source", "'s2'", "igbp")),
    (untouched, ("--train_scheme", "dfc9"), ("'dfc9'", "dfc8")),
    (untouched, ("--nb_classes", "7"), ("--nb_classes is 7, label scheme dfc10 has 10",)),
    (untouched, ("--head", "fnc"), ("fnc", "fcn", "upernet")),
    (untouched, ("--head_weights", "gone.pth"), ("--head_weights gone.pth: no such file",)),
    (untouched, ("--max_steps", "4", "--eval_every", "5"), ("--eval_every 5 with --max_steps 4; give 4 or less",)),
    (untouched, ("--head", "maskformer", "--fpn_dim", "40"), ("--fpn_dim 40: maskformer takes multiples of 32",)),
    (untouched, ("--head", "fcn", "--head_dropout", "1"), ("--head_dropout is 1.0; give a number in [0, 1)",)),
    (
        untouched,
        ("--head", "psa", "--model", "unet", "--input_size", "128", "--layer_decay", "1", "--drop_path", "0"),
        ("PSA on a map of 128x128 places",),
    ),
    (untouched, ("--fpn_dim", "4"), ("--fpn_dim 4",)),
    (untouched, ("--blocks", "1", "2", "3", "9"), ("give rising indices from 0 to 5",)),
    (untouched, ("--stride", "100", "--input_size", "32"), ("--stride 100",)),
    (untouched, ("--features", "cached"), ("--features cached without --freeze_backbone",)),
    (
        untouched,
        ("--features", "cached", "--freeze_backbone", "--stride", "100", "--input_size", "96"),
        ("--features cached with --stride on images of 64x64 px and windows of 96",),
    ),
    (untouched, ("--stride", "16", "--input_size", "32", "--no_augment"), ("--stride with --no_augment",)),
    (untouched, ("--panels", "40"), ("--panels is 40; give 12 or less",)),
    (untouched, ("--batch_size", "21"), ("larger than the training split (20 images)",)),
    (untouched, ("--model", "backscatter_stats"), ("backscatter_stats",)),
    (untouched, ("--eval", "--resume", "nowhere.pth"), ("no checkpoint at nowhere.pth",)),
]


@pytest.mark.parametrize(
    ("spoil", "flags", "parts"), BAD, ids=[f"{spoil.__name__}-{'_'.join(flags)[2:24]}" for spoil, flags, _ in BAD]
)
def test_bad_input_is_one_line_and_leaves_nothing(spoil, flags, parts, spoilt, tmp_path):
    spoil(spoilt)
    before = listing(tmp_path)
    line = said(segment(spoilt, *flags, cwd=tmp_path))
    assert all(part in line for part in parts), line
    assert {path: content for path, content in listing(tmp_path).items() if not path.startswith("cache")} == before


def test_a_head_is_not_fed_by_a_backbone_without_maps(tiles, tmp_path):
    """Behind the line that says that the user's code is imported stands one on what it returned."""
    done = segment(tiles, "--head", "fcn", "--model", "test_heads:vector", "--drop_path", "0", cwd=tmp_path)
    assert done.code == 2
    imported, line = done.err.splitlines()
    assert "importing test_heads" in imported
    assert line == ("error: Sequential returned a tensor of shape (1, 4); return a (B, D, h, w) map for segmentation")


@pytest.mark.parametrize(
    "flags", [("--train_labels", "igbp", "--train_scheme", "dfc10"), ()], ids=["dfc said to be igbp", "reverse"]
)
def test_labels_that_look_like_another_kind_are_refused_with_the_histogram(flags, tmp_path):
    root, cwd = tmp_path / "w", tmp_path / "cwd"
    cwd.mkdir()
    dfc.write_dfc(root, tiles=32, size=32)
    for place, count in ((TRAINED, 27), (TESTED, 5)):
        for n in range(count):
            with (
                rasterio.open(file(root, "dfc", n, place)) as fine,
                rasterio.open(file(root, "lc", n, place)) as coarse,
            ):
                labels, modis = fine.read(1), coarse.read(1)
            if flags:
                rewrite(
                    file(root, "lc", n, place),
                    lambda pixels, labels=labels: np.concatenate([labels[None], pixels[1:]]).astype("u2"),
                )
            else:
                rewrite(
                    file(root, "dfc", n, place),
                    lambda pixels, modis=modis: np.where(modis > 10, 8, modis)[None].astype(pixels.dtype),
                )
    line = said(segment(root, *flags, cwd=cwd))
    assert ("look like DFC2020" if flags else "look like IGBP") in line
    assert "pass --trust_data" in line
    assert "found" in line
    assert not [path for path in listing(cwd) if not path.startswith("cache")]
    trusted = segment(root, *flags, "--trust_data", "--epochs", "1", cwd=cwd)
    assert trusted.code == 0, trusted.err
    assert "data_trusted" in codes(only_record(cwd / "results"))


def test_codes_of_modis_in_a_file_said_to_be_dfc_are_refused_where_they_are_read(spoilt, tmp_path):
    with rasterio.open(file(spoilt, "lc", 4)) as source:
        modis = source.read(1)
    modis[:8] = 17
    rewrite(file(spoilt, "dfc", 4), lambda pixels: modis[None].astype(pixels.dtype))
    line = said(segment(spoilt, cwd=tmp_path))
    assert "ROIs0000_test_dfc_0_p4.tif" in line
    assert "17" in line


def test_each_entry_takes_its_own_kind_of_dataset(tiles, tmp_path):
    for module in ("linear", "finetune"):
        line = said(
            call(
                module,
                "--dataset",
                "dfc2020",
                "--data_path",
                tiles,
                "--model",
                "test_vit",
                "--weights",
                "random",
                cwd=tmp_path,
            )
        )
        assert "DFC2020 is a segmentation dataset; use fgmae_bench.segment" in line
    line = said(segment(shared_world(5), cwd=tmp_path, dataset="eurosat"))
    assert "is a single_label dataset; use fgmae_bench.linear or fgmae_bench.finetune" in line
    assert not listing(tmp_path)


def test_statistics_without_maps_are_refused_in_words(tiles, tmp_path):
    flags = ("--model", "backscatter_stats", "--weights", "random", "--max_steps", "1", "--warmup_steps", "0")
    line = said(segment(tiles, *flags, backbone=(), cwd=tmp_path))
    assert line.startswith("error: backscatter_stats gives no feature map; take a ViT")
