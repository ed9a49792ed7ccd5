"""Data that is missing, broken or not what its card says: one line that names the file and what to do, exit code 2,
nothing left behind.
"""

import numpy as np
import pytest
import rasterio
from commands import (
    EUROSAT_CARD,
    FOLDERS,
    STATISTICS,
    TINY_VIT,
    call,
    codes,
    edited_card,
    linear,
    listing,
    only_record,
    refused,
    rewrite,
    rewrite_all,
    said,
    shared_world,
    small_world,
    spawn,
    truncated,
    unsampled,
)

from fgmae_bench.config.cards import load_card
from fgmae_bench.worlds.eurosat import write_eurosat

GET = load_card("eurosat").origin.get


# --- the folder of the data


def test_without_data_the_bare_command_names_the_command_that_gets_it(tmp_path):
    card = edited_card(tmp_path / "card.toml")
    line = refused(
        "--dataset", card, "--device", "cpu", cwd=tmp_path, run=lambda *flags, cwd: call("linear", *flags, cwd=cwd)
    )
    assert line.startswith("error: EuroSAT-SAR: no data at data")
    assert f"; to get it: {GET}" in line
    assert "EuroSAT-SAR.zip" in GET or "prepare download" in GET


def test_missing_folder(tmp_path):
    assert f"no data at nowhere; to get it: {GET}" in refused("nowhere", cwd=tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    assert "no data at data.zip" in refused("data.zip", cwd=tmp_path)


def test_empty_folder(tmp_path):
    (tmp_path / "data").mkdir()
    assert f"EuroSAT-SAR: data is empty; to get the data: {GET}" in refused("data", cwd=tmp_path)


def test_folder_of_something_else(tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    (tmp_path / "data" / "letters").mkdir()
    assert "data: none of the class folders of EuroSAT-SAR is there; expected AnnualCrop" in refused(
        "data", cwd=tmp_path
    )


def test_folder_that_is_no_class_offers_the_closest(tmp_path):
    (small_world(tmp_path) / "Forrest").mkdir()
    assert "'Forrest' is not a class of EuroSAT-SAR; did you mean 'Forest'?" in refused("world", cwd=tmp_path)


@pytest.mark.parametrize("gone", [False, True])
def test_class_folder_without_images(tmp_path, gone):
    folder = small_world(tmp_path) / "River"
    for path in folder.iterdir():
        path.unlink()
    if gone:
        folder.rmdir()
    assert f"world/River: class folder without images; complete the data: {GET}" in refused("world", cwd=tmp_path)


def test_class_too_small_to_split(tmp_path):
    write_eurosat(
        tmp_path / "world",
        per_class={name.name: 1 if name.name == "River" else 6 for name in shared_world(5).iterdir() if name.is_dir()},
    )
    assert "class 'River' is too small to split (1 images); give each class at least 2 images" in refused(
        "world", cwd=tmp_path
    )
    assert "give each class at least 3 images" in refused("world", "--split", "random_60_20_20", cwd=tmp_path)


def test_data_too_small_for_a_stratified_split(tmp_path):
    write_eurosat(tmp_path / "world", per_class=2)
    assert "the data is too small to split" in refused("world", cwd=tmp_path)


# --- one file among good ones


def _one_band(path):
    rewrite(path, lambda pixels: pixels[:1])


def _three_bands(path):
    rewrite(path, lambda pixels: np.concatenate([pixels, pixels[:1]]))


def _zero_byte(path):
    path.write_bytes(b"")


def _all_nan(path):
    rewrite(path, lambda pixels: np.full_like(pixels, np.nan))


def _one_band_nan(path):
    rewrite(path, lambda pixels: np.stack([pixels[0], np.full_like(pixels[1], np.nan)]))


def _all_nodata(path):
    rewrite(path, lambda pixels: np.full_like(pixels, -99))


def _constant(path):
    rewrite(path, lambda pixels: np.full_like(pixels, -10))


def _wrong_size(path):
    rewrite(path, lambda pixels: pixels[:, :60, :60])


def _complex(path):
    rewrite(path, lambda pixels: pixels.astype(np.complex64))


def _png(path):
    """A PNG, well-formed, under a TIFF's name and without a georeference, about which rasterio likes to warn."""
    path.unlink()
    with rasterio.open(path, "w", driver="PNG", count=2, height=64, width=64, dtype=np.uint8) as target:
        target.write(np.ones((2, 64, 64), np.uint8))
    path.with_name(path.name + ".aux.xml").unlink(missing_ok=True)


def _text(path):
    path.write_text("no image at all")


def _folder(path):
    path.unlink()
    path.mkdir()


FILE_FAULTS = {
    _one_band: "has 1 bands, EuroSAT-SAR has 2",
    _three_bands: "has 3 bands, EuroSAT-SAR has 2",
    truncated: "cannot be read as a TIFF",
    _zero_byte: "cannot be read as a TIFF (it is empty)",
    _constant: "band 1 is constant (-10)",
    _wrong_size: "is 60x60 pixels, EuroSAT-SAR has 64x64; crop or resample it to 64x64, or take it out of the data",
    _complex: "holds complex64 values",
    _png: r"cannot be read as a TIFF (it begins with b'\x89PNG",
    _text: "cannot be read as a TIFF",
    _folder: "is not a file",
}
FAULTS = pytest.mark.parametrize(
    ("spoil", "fault"), FILE_FAULTS.items(), ids=lambda value: getattr(value, "__name__", "").strip("_") or None
)


@FAULTS
def test_bad_file_is_named(tmp_path, spoil, fault):
    spoil(small_world(tmp_path) / "River" / "River_2.tif")
    line = refused("world", cwd=tmp_path)
    assert "world/River/River_2.tif" in line
    assert fault in line


@pytest.mark.parametrize("spoil", [_all_nan, _one_band_nan, _all_nodata], ids=["all", "band", "fill"])
def test_an_image_in_which_nothing_was_measured_is_left_out_and_counted(tmp_path, spoil):
    spoil(small_world(tmp_path) / "River" / "River_2.tif")
    assert linear("world", cwd=tmp_path).code == 0
    record = only_record(tmp_path / "results")
    assert record["dataset"]["n_train"] + record["dataset"]["n_test"] == 5 * 10 - 1
    (told,) = [note["text"] for note in record["notes"] if note["code"] == "invalid_left_out"]
    assert told == "1 images with more than 50% invalid pixels were left out: River/River_2"


@pytest.mark.parametrize("spoil", [truncated, _constant], ids=["truncated", "constant"])
@pytest.mark.parametrize("features", ["cached", "stream"])
def test_bad_file_outside_the_sample_is_named_when_it_is_read(tmp_path, spoil, features):
    path = unsampled(small_world(tmp_path, 12))
    spoil(path)
    assert str(path.relative_to(tmp_path)) in refused("world", "--features", features, *TINY_VIT[:4], cwd=tmp_path)


def test_file_that_is_no_tiff_by_name(tmp_path):
    (small_world(tmp_path) / "River" / "notes.txt").write_text("mine")
    assert "world/River/notes.txt is not a TIFF file; move it out" in refused("world", cwd=tmp_path)


def test_two_files_that_differ_in_their_ending_only(tmp_path):
    path = small_world(tmp_path) / "River" / "River_2.tif"
    path.with_suffix(".tiff").write_bytes(path.read_bytes())
    assert "two files differ in their ending only" in refused("world", cwd=tmp_path)


@pytest.mark.slow
def test_in_a_process_of_its_own_a_bad_file_is_one_line_too(tmp_path):
    """Libraries write to the process's standard error past Python, and warn of files without a georeference."""
    small_world(tmp_path)
    rewrite_all(tmp_path / "world", lambda pixels: pixels, transform=None, crs=None)
    truncated(tmp_path / "world" / "River" / "River_2.tif")
    before = listing(tmp_path)
    line = said(spawn("linear", "--dataset", "eurosat", "--data_path", "world", *STATISTICS, *FOLDERS, cwd=tmp_path))
    assert "world/River/River_2.tif cannot be read as a TIFF" in line
    assert listing(tmp_path) == before


# --- data that contradicts its card


def _power(pixels):
    return 10 ** (pixels / 10)


def _amplitude(pixels):
    return 10 ** (pixels / 20)


def _scaled_amplitude(pixels):
    """Digital numbers of a detected product, before calibration."""
    return np.round(10 ** (pixels / 20) * 1000).astype(np.float32)


def _eight_bit(pixels):
    return np.clip((pixels + 35) * 6, 1, 255).astype(np.uint8)


def _swapped(pixels):
    return pixels[::-1]


CONTRADICTIONS = {
    _power: "looks like linear power (",
    _amplitude: "looks like amplitude (",
    _scaled_amplitude: "looks like amplitude (",
    _eight_bit: "looks like 8-bit grey values (",
    _swapped: "so VV,VH cannot be the order; pass --band_order VH,VV",
}


@pytest.mark.parametrize(
    ("change", "fault"), CONTRADICTIONS.items(), ids=lambda value: getattr(value, "__name__", None)
)
def test_units_and_bands_that_contradict_the_card_are_refused_or_trusted(tmp_path, change, fault):
    rewrite_all(small_world(tmp_path), change)
    line = refused("world", cwd=tmp_path)
    assert fault in line
    assert "--trust_data" in line
    if change is not _swapped:
        assert "EuroSAT-SAR is stated as backscatter in dB" in line
    done = linear("world", "--trust_data", cwd=tmp_path)
    assert done.code == 0, done.err
    (trusted,) = [note for note in only_record(tmp_path / "results")["notes"] if note["code"] == "data_trusted"]
    assert fault.split(";")[0] in trusted["text"]


def test_swapped_bands_under_the_right_order_are_the_unswapped_run(tmp_path):
    rewrite_all(small_world(tmp_path), _swapped)
    assert linear("world", "--band_order", "vh,vv", "--results_dir", "swapped", cwd=tmp_path).code == 0
    assert linear(shared_world(5), "--results_dir", "plain", cwd=tmp_path).code == 0
    swapped, plain = only_record(tmp_path / "swapped"), only_record(tmp_path / "plain")
    assert swapped["metrics"] == plain["metrics"]
    assert swapped["dataset"]["band_order"] == ["VH", "VV"]
    assert swapped["run_id"] != plain["run_id"]


def test_a_wrong_statement_about_the_bands_is_refused(tmp_path):
    assert "VH,VV cannot be the order; pass --band_order VV,VH" in refused(
        shared_world(5), "--band_order", "VH,VV", cwd=tmp_path
    )
    assert "--band_order is VV,HH; give VV,VH or VH,VV" in refused(
        shared_world(5), "--band_order", "VV,HH", cwd=tmp_path
    )
    assert "--band_order is VV; give VV,VH or VH,VV" in refused(shared_world(5), "--band_order", "VV", cwd=tmp_path)


def two_class_card(path):
    text = EUROSAT_CARD.read_text().splitlines()
    start = next(i for i, line in enumerate(text) if line.startswith("classes"))
    text[start : start + 4] = ['classes = ["Forest", "River"]']
    counts = text.index("[counts]")
    splits = next(i for i, line in enumerate(text) if line.startswith("[splits.reference]"))
    text = "\n".join(text[:counts] + text[splits:])
    path.write_text(text.replace('name = "eurosat"', 'name = "two_classes"'))
    return path


def test_under_30_images_are_not_judged(tmp_path):
    write_eurosat(tmp_path / "world", per_class=14, classes=("Forest", "River"))
    rewrite_all(tmp_path / "world", _swapped)
    done = linear("world", "--dataset", two_class_card(tmp_path / "card.toml"), cwd=tmp_path)
    assert done.code == 0, done.err
    assert "too_few_to_judge" in codes(only_record(tmp_path / "results"))
    write_eurosat(tmp_path / "more", per_class=15, classes=("Forest", "River"))
    rewrite_all(tmp_path / "more", _swapped)
    assert "cannot be the order" in refused("more", "--dataset", tmp_path / "card.toml", cwd=tmp_path)


@pytest.mark.parametrize("marked", [True, False])
def test_a_count_that_the_data_contradicts(tmp_path, marked):
    world = small_world(tmp_path)
    (world / "River" / "River_3.tif").unlink()
    if not marked:
        (world / "SYNTHETIC.json").unlink()
    line = refused("world", cwd=tmp_path)
    expected = (
        "world/River holds 4 images where SYNTHETIC.json says 5"
        if marked
        else "world/AnnualCrop holds 5 images where the card says 3000"
    )
    assert f"{expected}; complete the data, correct the card, or pass --partial" in line
    assert "pass --partial" in refused("world", "--trust_data", cwd=tmp_path)  # which is about pixels
    done = linear("world", "--partial", cwd=tmp_path)
    assert done.code == 0, done.err
    assert f"by --partial: {expected}" in [note["text"] for note in only_record(tmp_path / "results")["notes"]]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"fingerprint": "a"}',
        '{"fingerprint": 3, "counts": {}}',
        '{"fingerprint": "a", "counts": []}',
        "\xff",
    ],
)
def test_broken_marker_of_a_synthetic_world(tmp_path, text):
    (small_world(tmp_path) / "SYNTHETIC.json").write_bytes(text.encode("latin-1"))
    assert "world/SYNTHETIC.json: broken marker of a synthetic world" in refused("world", cwd=tmp_path)
