"""Images with too many invalid pixels are left out before anything is counted, hashed or trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.data.index import ids_sha256
from fgmae_bench.data.splits import stratified
from fgmae_bench.errors import BenchError
from fgmae_bench.runs.grid import run_grid


@pytest.fixture
def spoilt(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "world"))


def blank(path: Path, share: float) -> None:
    """Set a share of the rows of a file to NaN."""
    with rasterio.open(path) as source:
        pixels, profile = source.read(), source.profile
    pixels[:, : round(64 * share)] = np.nan
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)


def run(root: Path, place: Path, **changes: object) -> dict:
    given = {
        "dataset": "eurosat",
        "data_path": str(root),
        "model": "vit_tiny_patch16_224",
        "input_size": 32,
        "weights": "random",
        "features": "cached",
        "epochs": 1,
        "batch_size": 16,
        "device": "cpu",
        "partial": True,
        "amp": "off",
        "results_dir": str(place / "results"),
        "output_dir": str(place / "run"),
        "cache_dir": str(place / "cache"),
        **changes,
    }
    card = load_card("eurosat")
    return run_grid("linear", compose("linear", given, card), card)[0]


def parts(index):
    return stratified(index, load_card("eurosat").splits["reference"], 42, load_card("eurosat").classes)


@pytest.mark.parametrize("features", ["cached", "stream"])
def test_counts_hashes_and_run_id_are_of_the_images_that_were_used(
    world: Path, spoilt: Path, index, tmp_path: Path, features: str
) -> None:
    split = parts(index)
    for row in (split.train[3], split.test[5]):
        blank(spoilt / index.files[row], 0.75)
    blank(spoilt / index.files[split.train[4]], 0.25)  # under the card's limit: used
    clean, record = (
        run(world, tmp_path / "clean", features=features),
        run(spoilt, tmp_path / "spoilt", features=features),
    )
    assert (record["dataset"]["n_train"], record["dataset"]["n_test"]) == (len(split.train) - 1, len(split.test) - 1)
    expected = [index.ids[row] for row in split.test if row != split.test[5]]
    assert record["dataset"]["sample_ids_sha256"]["test"] == ids_sha256(expected)
    assert record["run_id"] != clean["run_id"]
    assert "2 images with more than 50% invalid pixels" in next(
        n["text"] for n in record["notes"] if n["code"] == "invalid_left_out"
    )
    assert "invalid_left_out" not in [n["code"] for n in clean["notes"]]


def test_batch_that_only_the_left_out_images_would_fill_is_refused(spoilt: Path, index, tmp_path: Path) -> None:
    split = parts(index)
    blank(spoilt / index.files[split.train[0]], 0.75)
    with pytest.raises(
        BenchError, match=rf"effective batch 96 is larger than the training split \({len(split.train) - 1} images\)"
    ):
        run(spoilt, tmp_path, batch_size=96)


def test_part_without_a_usable_image_is_refused(spoilt: Path, index, tmp_path: Path) -> None:
    for row in parts(index).test:
        blank(spoilt / index.files[row], 0.75)
    with pytest.raises(BenchError, match="every image of the test split has too many invalid pixels"):
        run(spoilt, tmp_path, probe="knn")


def test_class_without_a_usable_training_image_is_refused(spoilt: Path, index, tmp_path: Path) -> None:
    for path in spoilt.glob("River/*.tif"):
        blank(path, 0.75)
    with pytest.raises(BenchError, match="every training image of class 'River' has too many invalid pixels"):
        run(spoilt, tmp_path)
    assert not (tmp_path / "run").exists()


def test_null_baseline_needs_no_weights_flag(world: Path, tmp_path: Path) -> None:
    """As the README types it."""
    card = load_card("eurosat")
    given = {
        "dataset": "eurosat",
        "data_path": str(world),
        "model": "backscatter_stats",
        "probe": "lbfgs",
        "device": "cpu",
        "results_dir": str(tmp_path / "results"),
        "output_dir": str(tmp_path / "run"),
        "cache_dir": str(tmp_path / "cache"),
    }
    record = run_grid("linear", compose("linear", given, card), card)[0]
    assert record["model"]["weights"]["source"] == record["config"]["model"]["weights"] == "none"


def test_a_failed_run_leaves_another_runs_files_in_a_shared_new_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fgmae_bench.probe import engine

    shared, card = tmp_path / "logs", load_card("eurosat")

    def torn(*arguments: object, **named: object) -> None:
        (shared / "other").mkdir(parents=True, exist_ok=True)
        (shared / "other" / "events").write_text("another run's")
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "record_run", torn)
    given = {
        "dataset": "eurosat",
        "data_path": str(world),
        "model": "backscatter_stats",
        "features": "cached",
        "epochs": 1,
        "batch_size": 16,
        "probe": "knn",
        "log_dir": str(shared),
        "results_dir": str(tmp_path / "results"),
        "output_dir": str(tmp_path / "run"),
        "cache_dir": str(tmp_path / "cache"),
        "device": "cpu",
    }
    with pytest.raises(KeyboardInterrupt):
        run_grid("linear", compose("linear", given, card), card)
    assert (shared / "other" / "events").read_text() == "another run's"
    assert not (tmp_path / "run").exists()
