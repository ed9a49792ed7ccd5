"""Every bad input ends in one line that names what is wrong and what to do, with exit code 2, and leaves nothing behind."""

import resource
import subprocess
import sys

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
    metrics,
    only_record,
    refused,
    rewrite,
    rewrite_all,
    said,
    shared_world,
    small_world,
    spawn,
)

from fgmae_bench.cards import load_card
from fgmae_bench.worlds.eurosat import write_eurosat

GET = load_card("eurosat").origin.get

# --- the folder of the data


def test_without_data_the_bare_command_names_the_command_that_gets_it(tmp_path):
    card = edited_card(tmp_path / "card.toml")
    line = refused("--dataset", card, "--device", "cpu", cwd=tmp_path, run=lambda *flags, cwd: call("linear", *flags, cwd=cwd))
    assert line.startswith("error: EuroSAT-SAR: no data at data")
    assert f"; get it with: {GET}" in line
    assert "EuroSAT-SAR.zip" in GET or "prepare download" in GET


def test_missing_folder(tmp_path):
    assert f"no data at nowhere; get it with: {GET}" in refused("nowhere", cwd=tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    assert "no data at data.zip" in refused("data.zip", cwd=tmp_path)


def test_empty_folder(tmp_path):
    (tmp_path / "data").mkdir()
    assert f"EuroSAT-SAR: data is empty; get the data with: {GET}" in refused("data", cwd=tmp_path)


def test_folder_of_something_else(tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    (tmp_path / "data" / "letters").mkdir()
    assert "data: none of the class folders of EuroSAT-SAR is there; expected AnnualCrop" in refused("data", cwd=tmp_path)


def test_folder_that_is_no_class_offers_the_closest(tmp_path):
    (small_world(tmp_path) / "Forrest").mkdir()
    assert "'Forrest' is no class of EuroSAT-SAR; did you mean 'Forest'?" in refused("world", cwd=tmp_path)


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
        tmp_path / "world", per_class={name.name: 1 if name.name == "River" else 6 for name in shared_world(5).iterdir() if name.is_dir()}
    )
    assert "class 'River' is too small to split (1 images); give each class at least 2 images" in refused("world", cwd=tmp_path)
    assert "give each class at least 3 images" in refused("world", "--split", "random_60_20_20", cwd=tmp_path)


def test_data_too_small_for_a_stratified_split(tmp_path):
    write_eurosat(tmp_path / "world", per_class=2)
    assert "the data is too small to split" in refused("world", cwd=tmp_path)


# --- one file among good ones


def _one_band(path):
    rewrite(path, lambda pixels: pixels[:1])


def _three_bands(path):
    rewrite(path, lambda pixels: np.concatenate([pixels, pixels[:1]]))


def _truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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
    _truncated: "cannot be read as a TIFF",
    _zero_byte: "cannot be read as a TIFF",
    _all_nan: "band 1 has no valid pixel",
    _one_band_nan: "band 2 has no valid pixel",
    _all_nodata: "band 1 has no valid pixel",
    _constant: "band 1 is constant (-10)",
    _wrong_size: "is 60x60 pixels, EuroSAT-SAR has 64x64",
    _complex: "holds complex64 values",
    _png: "is PNG, not TIFF",
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


def unsampled(root):
    """A training image that the check against the card does not look at, for the reference split."""
    from fgmae_bench.data.audit import sample_rows
    from fgmae_bench.data.layouts import build_index

    index = build_index(load_card("eurosat"), root)
    return index.path(sorted(set(range(len(index.files))) - set(sample_rows(index)))[-1])


@pytest.mark.parametrize("spoil", [_truncated, _constant], ids=["truncated", "constant"])
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


def test_in_a_process_of_its_own_a_bad_file_is_one_line_too(tmp_path):
    """Libraries write to the process's standard error past Python, and warn of files without a georeference."""
    small_world(tmp_path)
    rewrite_all(tmp_path / "world", lambda pixels: pixels, transform=None, crs=None)
    _truncated(tmp_path / "world" / "River" / "River_2.tif")
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


@pytest.mark.parametrize(("change", "fault"), CONTRADICTIONS.items(), ids=lambda value: getattr(value, "__name__", None))
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
    assert "VH,VV cannot be the order; pass --band_order VV,VH" in refused(shared_world(5), "--band_order", "VH,VV", cwd=tmp_path)
    assert "--band_order is VV,HH; give VV,VH or VH,VV" in refused(shared_world(5), "--band_order", "VV,HH", cwd=tmp_path)
    assert "--band_order is VV; give VV,VH or VH,VV" in refused(shared_world(5), "--band_order", "VV", cwd=tmp_path)


def two_class_card(path):
    text = EUROSAT_CARD.read_text().splitlines()
    start = next(i for i, line in enumerate(text) if line.startswith("classes"))
    text[start : start + 4] = ['classes = ["Forest", "River"]']
    counts = text.index("[counts]")
    splits = next(i for i, line in enumerate(text) if line.startswith("[splits.reference]"))
    path.write_text("\n".join(text[:counts] + text[splits:]))
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
        "world/River holds 4 images where SYNTHETIC.json says 5" if marked else "world/AnnualCrop holds 5 images where the card says 3000"
    )
    assert expected in line
    done = linear("world", "--trust_data", cwd=tmp_path)
    assert done.code == 0, done.err
    assert f"by --trust_data: {expected}" in [note["text"] for note in only_record(tmp_path / "results")["notes"]]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"fingerprint": "a"}', '{"fingerprint": 3, "counts": {}}', '{"fingerprint": "a", "counts": []}', "\xff"]
)
def test_broken_marker_of_a_synthetic_world(tmp_path, text):
    (small_world(tmp_path) / "SYNTHETIC.json").write_bytes(text.encode("latin-1"))
    assert "world/SYNTHETIC.json: broken marker of a synthetic world" in refused("world", cwd=tmp_path)


@pytest.mark.parametrize(("given", "code"), [(10, 0), (11, 0), (9, 2), (12, 2), (0, 2)])
def test_number_of_classes_is_that_of_the_label_scheme(tmp_path, given, code):
    if code:
        assert f"--nb_classes is {given}, label scheme eurosat10 has 10; give 10" in refused(
            shared_world(5), "--nb_classes", given, cwd=tmp_path
        )
        return
    done = linear(shared_world(5), "--nb_classes", given, cwd=tmp_path)
    assert done.code == 0, done.err
    assert ("--nb_classes 11 counts a class 0 that eurosat10 does not have: 10 outputs are used" in done.err) == (given == 11)
    record = only_record(tmp_path / "results")
    assert record["config"]["data"]["nb_classes"] == 10
    assert len(record["metrics"]["confusion"]) == 10


# --- names and values


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--dataset", "eurosta"), "unknown dataset 'eurosta'; did you mean 'eurosat'? choose from "),
        (("--dataset", "no/card.toml"), "card no/card.toml does not exist; give the path of a card.toml, or a name from: "),
        (("--model", "vit_smal_patch16"), "unknown model 'vit_smal_patch16'; did you mean 'vit_small_patch16'?"),
        (("--model", "VIT_small_patch16"), "unknown model 'VIT_small_patch16'; did you mean 'vit_small_patch16'?"),
        (("--model", "backscatter_stat"), "unknown model 'backscatter_stat'; did you mean 'backscatter_stats'?"),
        (("--model", "resnet18", "--pool", "cls"), "resnet18 has no CLS token; use --pool mean"),
        (("--model", "no_such_module:make"), "--model no_such_module:make: No module named 'no_such_module'"),
        (("--model", "math:nothing"), "--model math:nothing: module 'math' has no attribute 'nothing'"),
        (
            ("--model", "vit_tiny_patch16_224", "--input_size", "50"),
            "--input_size 50 is not divisible by the patch of 16 px; use --input_size 48",
        ),
        (("--input_size", "32"), "backscatter_stats takes raw dB"),
        (("--model", "vit_tiny_patch16_224", "--normalizer", "zscor"), "unknown normalizer 'zscor'; did you mean 'zscore'?"),
        (("--split", "referense"), "unknown split 'referense'; did you mean 'reference'?"),
        (("--probe", "lbgfs"), "'lbgfs'; did you mean 'lbfgs'?"),
        (("--recipe", "publishd"), "'publishd'; did you mean 'published'?"),
        (("--features", "cache"), "'cache'; did you mean 'cached'?"),
        (("--amp", "bf61"), "'bf61'; did you mean 'bf16'?"),
        (("--lr", "-0.1"), "--lr is -0.1; give a positive number"),
        (("--lr", "0"), "--lr is 0.0; give a positive number"),
        (("--lr", "nan"), "--lr is nan; give a positive number"),
        (("--lr", "inf"), "--lr is inf; give a positive number"),
        (("--lr", "0.1", "-0.1"), "--lr is -0.1; give a positive number"),
        (("--lr", "fast"), "'fast'"),
        (("--blr", "-1"), "--blr is -1.0; give a positive number"),
        (("--weight_decay", "-1"), "--weight_decay is -1.0; give zero or more"),
        (("--epochs", "0"), "--epochs is 0; give 1 or more"),
        (("--epochs", "-3"), "--epochs is -3; give 1 or more"),
        (("--epochs", "two"), "'two'"),
        (("--warmup_epochs", "-1"), "--warmup_epochs is -1.0; give zero or more"),
        (("--batch_size", "0"), "--batch_size is 0; give 1 or more"),
        (("--batch_size", "41"), "effective batch 41 is larger than the training split (40 images); use --batch_size 40 or less"),
        (("--accum_iter", "3"), "effective batch 48 is larger than the training split (40 images)"),
        (("--accum_iter", "0"), "--accum_iter is 0; give 1 or more"),
        (("--train_frac", ".2", "--batch_size", "11"), "effective batch 11 is larger than the training split (10 images)"),
        (("--train_frac", "0"), "--train_frac is 0.0; give a share in (0, 1]"),
        (("--train_frac", "1.5"), "--train_frac is 1.5; give a share in (0, 1]"),
        (("--train_frac", "-0.5"), "--train_frac is -0.5; give a share in (0, 1]"),
        (("--train_frac", "nan"), "--train_frac is nan; give a share in (0, 1]"),
        (("--views", "0"), "--views is 0; give 1 or more"),
        ((*TINY_VIT[:4], "--views", "2", "--features", "stream"), "--views with --features stream; leave out --views"),
        (
            (*TINY_VIT[:4], "--probe", "knn", "--features", "stream"),
            "--probe knn is fitted on the evaluation view; leave out --features stream",
        ),
        (("--features", "stream"), "backscatter_stats sees no random views; leave out --features stream and --views"),
        (
            (*TINY_VIT[:4], "--probe", "lbfgs", "--views", "2"),
            "--probe lbfgs is fitted on the evaluation view; leave out --features stream",
        ),
        (("--seed", "-1"), "--seed is -1; give a number from 0 to 4294967295"),
        (("--num_workers", "-1"), "--num_workers is -1; give zero or more"),
        (("--split_seed", "-1"), "--split_seed is -1; "),
        (("--split_seed", "4294967296"), "--split_seed is 4294967296; "),
        (("--device", "tpu"), "unknown device 'tpu'; choose from auto, cpu, cuda"),
        (("--device", "meta"), "device 'meta' is not supported; choose from auto, cpu, cuda"),
        (("--amp", "fp16", "--model", "vit_tiny_patch16_224", "--device", "cpu"), "--amp fp16 on a CPU; use --amp bf16 or off"),
        (("--lr", "0.1", "1e-1"), "the grid of --lr and --weight_decay holds a value twice; name each value once"),
        (("--lr", "0.1", "0.2", "--weight_decay", "0", "0.0"), "holds a value twice"),
        (("--epoch", "3"), "unknown flag '--epoch'; did you mean '--epochs'?"),
        (("--train-fraction", "1"), "unknown flag '--train-fraction'; did you mean '--train_frac'?"),
        (("--lr=0.1", "--wieght_decay=0"), "unknown flag '--wieght_decay=0'; did you mean '--weight_decay'?"),
        (("reference",), "unexpected argument 'reference'; see --help"),
        (("--epochs",), "argument --epochs: expected one argument; see --help"),
        (("--config", "nowhere.toml"), "nowhere.toml: cannot be read (No such file or directory)"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_bad_value(tmp_path, flags, fault):
    assert fault in refused(shared_world(5), *flags, cwd=tmp_path)


@pytest.mark.parametrize(("weights", "closest"), [("fgmea", "fgmae"), ("Radnom", "random")])
@pytest.mark.parametrize("flag", ["--weights", "--finetune"])
def test_unknown_weights_offer_the_closest(tmp_path, flag, weights, closest):
    line = refused(shared_world(5), "--model", "vit_tiny_patch16_224", "--input_size", "32", flag, weights, cwd=tmp_path)
    assert f"unknown weights '{weights}'" in line
    assert f"did you mean '{closest}'?" in line


def test_cuda_without_one(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    for device in ("cuda", "cuda:1"):
        assert f"--device {device}: this machine or this build of torch has no CUDA device; use --device cpu" in refused(
            shared_world(5), "--device", device, cwd=tmp_path
        )


def test_more_neighbours_than_samples(tmp_path):
    line = refused(shared_world(5), "--probe", "knn", "--knn_k", "41", cwd=tmp_path)
    assert "--knn_k is 41, the training split holds 40 images; give a smaller k" in line


def test_no_dataset_named(tmp_path):
    line = refused("--epochs", "2", cwd=tmp_path, run=lambda *flags, cwd: call("linear", *flags, cwd=cwd))
    assert "--dataset is missing; name a dataset, for example --dataset eurosat" in line


@pytest.mark.parametrize(
    ("replacement", "fault"),
    [
        (("version = 1", "version = 1\ncolour = 'grey'"), "unknown key 'colour'"),
        (("units = ", "unit = "), "unknown key 'unit'; did you mean 'units'?"),
        (("version = 1", "version = 'one'"), "version is 'one'; give a value of type int"),
        (("version = 1", ""), "key 'version' is missing"),
        (("version = 1", "version = = 1"), "not valid TOML"),
        (('units = "dB"', 'units = "decibel"'), "units is 'decibel'; "),
        (('"VV", "VH"', '"HH", "HV"'), "signal.bands is ['HH', 'HV']"),
        (('layout = "class_folders"', 'layout = "class_folder"'), "unknown layout 'class_folder'; did you mean 'class_folders'?"),
        (('default_split = "reference"', 'default_split = "referenc"'), "split 'referenc' is not defined"),
        (("River = 2500", "River = 2501"), "counts.per_class does not add up to counts.total"),
        (("River = 2500\n", ""), "counts.per_class does not name exactly the classes"),
        (("train = 0.6\nval = 0.2\nleaky", "train = 0.6\nval = 0.4\nleaky"), "splits.random_60_20_20: fractions"),
    ],
)
def test_bad_card_is_named(tmp_path, replacement, fault):
    card = edited_card(tmp_path / "card.toml", replacement)
    line = refused(shared_world(5), "--dataset", card, cwd=tmp_path)
    assert line.startswith(f"error: {card}: ")
    assert fault in line


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[recipe]\nepoch = 3\n", "recipe: unknown key 'epoch'"),
        ("[recipes]\nepochs = 3\n", "unknown section 'recipes'"),
        ("epochs = 3\n", "unknown section 'epochs'"),
        ("[recipe\n", "not valid TOML"),
    ],
)
def test_bad_config_file_is_named(tmp_path, text, fault):
    (tmp_path / "mine.toml").write_text(text)
    line = refused(shared_world(5), "--config", "mine.toml", cwd=tmp_path)
    assert line.startswith("error: mine.toml: ")
    assert fault in line


def test_bad_value_in_a_config_file(tmp_path):
    (tmp_path / "mine.toml").write_text('[recipe]\nmomentum = "much"\n')
    assert "momentum is 'much'; give a value of type float" in refused(shared_world(5), "--config", "mine.toml", cwd=tmp_path)


# --- places that cannot be written


@pytest.mark.parametrize("flag", ["--cache_dir", "--results_dir", "--output_dir", "--log_dir"])
@pytest.mark.parametrize("place", ["a_file", "a_file/below/it", "/proc/nothing/here"])
def test_folder_that_cannot_be_written(tmp_path, flag, place):
    (tmp_path / "a_file").write_text("in the way")
    line = refused(shared_world(5), flag, place, cwd=tmp_path)
    assert place in line


@pytest.mark.parametrize("flag", ["--cache_dir", "--results_dir", "--output_dir", "--log_dir"])
def test_folder_that_may_not_be_written(tmp_path, flag):
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o555)
    try:
        (tmp_path / "locked" / "probe").mkdir()
    except PermissionError:
        assert "locked" in refused(shared_world(5), flag, "locked", cwd=tmp_path)
    else:
        pytest.skip("this user may write everywhere")


def test_the_spatial_split_says_when_its_cache_cannot_be_written(tmp_path):
    (tmp_path / "a_file").write_text("in the way")
    assert "a_file" in refused(shared_world(5), "--split", "spatial", "--cache_dir", "a_file", cwd=tmp_path)


def test_folders_that_were_there_before_stay(tmp_path):
    """Taking back what a failed run wrote must not reach what the user had: an empty folder, a file of theirs."""
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    path = unsampled(small_world(tmp_path, 12))
    _truncated(path)
    refused("world", *TINY_VIT[:4], "--features", "stream", "--log_dir", "mine/empty/log", cwd=tmp_path)


# --- a disk that is full while saving


class Limit:
    """No file may grow beyond `size` bytes: what a full disk does to a writer, for one block of code."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def warm(cwd):
    """Fill the cache, so that what follows fails later than the features."""
    done = linear(shared_world(5), "--results_dir", "earlier", "--output_dir", "earlier/out", "--log_dir", "earlier/log", cwd=cwd)
    assert done.code == 0, done.err
    return only_record(cwd / "earlier")


def full(limit, *flags, cwd):
    with Limit(limit):
        return linear(shared_world(5), *flags, cwd=cwd)


# bytes that still fit, and the file that no longer does, in the order in which a run writes
STAGES = [
    pytest.param(0, "log", id="events_at_once"),
    pytest.param(300, "log", id="events_later"),
    pytest.param(1000, "out/checkpoint-last.pth", id="checkpoint"),
]


@pytest.mark.parametrize(("limit", "place"), STAGES)
def test_full_disk_while_a_run_is_saved(tmp_path, limit, place):
    warm(tmp_path)
    before = listing(tmp_path)
    line = said(full(limit, cwd=tmp_path))
    assert line.startswith("error: no space left while writing ")
    assert place in line
    assert listing(tmp_path) == before


def test_full_disk_leaves_an_earlier_run_in_the_same_folders_as_it_was(tmp_path):
    assert linear(shared_world(5), cwd=tmp_path).code == 0
    before = listing(tmp_path)
    assert "checkpoint-last.pth" in said(full(1000, "--lr", 0.3, cwd=tmp_path))
    assert listing(tmp_path) == before


def test_full_disk_when_the_record_is_stored_costs_no_training(tmp_path):
    """Results get nothing; the finished training stays as a checkpoint, from which the same command goes on to the same numbers."""
    import torch

    earlier = warm(tmp_path)
    before = listing(tmp_path)
    line = said(full(7000, cwd=tmp_path))
    assert line.startswith("error: no space left while writing results/records/eurosat/linear_probe/")
    left = set(listing(tmp_path)) - set(before)
    assert {path.split("/")[0] for path in left} <= {"out", "log"}
    assert not [path for path in left if path.endswith(".partial")]
    assert torch.load(tmp_path / "out" / "checkpoint-last.pth", weights_only=True)["epochs"] == 2
    assert linear(shared_world(5), cwd=tmp_path).code == 0
    assert metrics(only_record(tmp_path / "results")) == metrics(earlier)


def but_which_are_usable(paths):
    """Without what the check of the pixels leaves in the cache folder: whole, and of use to the next run."""
    return [path for path in paths if not (path == "cache" or path.startswith("cache/index"))]


def test_full_cache_while_features_are_saved(tmp_path):
    before = listing(tmp_path)
    line = said(full(1000, cwd=tmp_path))
    assert line.startswith("error: no space left while writing cache")
    assert not set(but_which_are_usable(listing(tmp_path))) - set(before)


def test_full_disk_while_the_spatial_split_is_saved(tmp_path):
    before = listing(tmp_path)
    line = said(full(100, "--split", "spatial", cwd=tmp_path))
    assert line.startswith("error: no space left while writing cache")
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("flag", "filled"), [("--cache_dir", 12288), ("--results_dir", 12288), ("--output_dir", 12288), ("--log_dir", 16384)]
)
def test_file_system_without_space(tmp_path, flag, filled):
    """A real one of 16 KiB, where this user may mount it; one name space a command, so that nothing needs to be unmounted."""
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=16k tmpfs {small}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    filler = f"head -c {filled} /dev/zero > {small}/filler"
    flags = ["--dataset", "eurosat", "--data_path", str(shared_world(5)), *STATISTICS, *FOLDERS, flag, str(small / "new")]
    script = f'{mount} && {filler} && {{ "$@"; code=$?; find {small} -mindepth 1 | sort; exit $code; }}'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "fgmae_bench.linear", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done
    assert done.stderr.startswith(f"error: no space left while writing {small}/new")
    assert done.stderr.count("\n") == 1
    left = [path for path in done.stdout.split() if "/new/index" not in path and not path.endswith("/new")]
    assert left == [f"{small}/filler"], "only the check of the pixels may stay, in the cache folder"
    assert flag == "--cache_dir" or f"{small}/new" not in done.stdout.split()
    kept = ("cache", "out", "log") if flag == "--results_dir" else ("cache",)  # features; and what is trained, to go on from
    assert [path for path in listing(tmp_path) if not path.startswith(kept)] == ["small"]


# --- what was there before


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda text: text[: len(text) // 2], "not a readable record"),
        (lambda text: "", "not a readable record"),
        (lambda text: "[]", "record: "),
        (lambda text: text.replace('"status": "done"', '"status": "diverged"'), "sha256 does not match the body: the file was edited"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "schema: 1 was expected"),
        (lambda text: text.replace('"n_val": 0', '"n_val": NaN'), "NaN is no JSON number"),
    ],
    ids=["truncated", "empty", "other_json", "edited", "other_schema", "nan"],
)
def test_unreadable_record_under_the_final_name(tmp_path, spoil, fault):
    assert linear(shared_world(5), cwd=tmp_path).code == 0
    (path,) = (tmp_path / "results" / "records").rglob("*.json")
    text = path.read_text()
    path.unlink()
    path.write_text(spoil(text))
    line = refused(shared_world(5), cwd=tmp_path)
    assert line.startswith(f"error: {path.relative_to(tmp_path)}: ")
    assert fault in line
    assert line.endswith("; remove it and run again")


def test_a_run_that_is_interrupted_before_anything_is_trained_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    from fgmae_bench.runs.folder import RunFolder

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    warm(tmp_path)
    before = listing(tmp_path)
    monkeypatch.setattr(RunFolder, "save", interrupt)
    done = linear(shared_world(5), cwd=tmp_path)
    assert (done.code, done.err) == (130, "interrupted\n")
    assert listing(tmp_path) == before


def test_features_that_are_not_finite_are_a_failed_run(tmp_path, monkeypatch):
    (tmp_path / "nan_model.py").write_text(
        "import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3)) * float('nan')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = listing(tmp_path)
    done = linear(shared_world(5), "--model", "nan_model:Model", "--input_size", "32", cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("error: the backbone's features of ")
    assert done.err.count("\n") == 1
    assert not set(but_which_are_usable(listing(tmp_path))) - set(before)


def test_debug_shows_the_traceback_before_the_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FGMAE_BENCH_DEBUG", "1")
    done = linear("nowhere", cwd=tmp_path)
    assert done.code == 2
    assert done.err.startswith("Traceback")
    assert done.err.splitlines()[-1].startswith("error: EuroSAT-SAR: no data at nowhere")
