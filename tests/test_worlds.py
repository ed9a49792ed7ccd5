"""The synthetic EuroSAT: true format, plausible physics, the same pixels for the same seed, and a folder that is whole
or absent.
"""

import argparse
import errno
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fgmae_bench.config.cards import load_card
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare import synth
from fgmae_bench.system.randomness import generator
from fgmae_bench.worlds import eurosat
from fgmae_bench.worlds.scene import CANVAS, NOISE_FLOOR_DB, observe

PER_CLASS = 40
MEANS_OF_VERSION_1 = [-16.6837, -12.4195, -14.4563, -16.0467, -11.4418, -16.685, -12.2905, -13.5521, -19.8901, -23.0812]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds") / "eurosat"
    return root, eurosat.write_eurosat(root, per_class=3, seed=0)


@pytest.fixture(scope="module")
def images():
    """(N, 2, 64, 64) in dB and class numbers (N,)."""
    pairs = [
        (eurosat.chip(0, name, number), label)
        for label, name in enumerate(eurosat.CLASSES)
        for number in range(1, PER_CLASS + 1)
    ]
    return np.stack([pixels for pixels, _ in pairs]), np.array([label for _, label in pairs])


@pytest.fixture(scope="module")
def speckle():
    """Observed power (30, 2, 64, 64) of a bright homogeneous ground."""
    ground = np.full((2, CANVAS, CANVAS), 10, np.float32)
    return np.stack(
        [10 ** (observe(generator(number, "speckle"), ground).astype(np.float64) / 10) for number in range(30)]
    )


def tiffs(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.tif"))}


def test_classes_are_those_of_the_card():
    assert tuple(eurosat.CLASSES) == load_card("eurosat").classes


def test_files_have_the_layout_and_format_of_the_real_ones(world):
    root, marker = world
    names = load_card("eurosat").classes
    assert sorted(tiffs(root)) == sorted(f"{name}/{name}_{number}.tif" for name in names for number in (1, 2, 3))
    assert {path.name for path in root.iterdir()} == {*names, "SYNTHETIC.json"}
    for path in root.rglob("*.tif"):
        with rasterio.open(path) as source:
            assert (source.count, source.height, source.width, set(source.dtypes)) == (2, 64, 64, {"float32"})
            assert source.crs.to_epsg() == 32633
            assert source.res == (9.895, 9.787)
            assert source.compression is None
            assert source.tags()["FGMAE_BENCH_SYNTHETIC"] == "eurosat"
            assert np.isfinite(source.read()).all()
    assert json.loads((root / "SYNTHETIC.json").read_text()) == marker


def test_marker_fingerprint_is_the_hash_of_what_determines_the_pixels(world):
    _, marker = world
    facts = {key: marker[key] for key in ("world", "version", "seed", "counts")}
    assert facts == {"world": "eurosat", "version": 1, "seed": 0, "counts": dict.fromkeys(eurosat.CLASSES, 3)}
    assert (
        marker["fingerprint"]
        == hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    )
    assert marker["made_by"].startswith("fgmae_bench ")


def test_a_file_does_not_depend_on_how_many_others_are_written(world, tmp_path):
    root, _ = world
    counts = {"River": 4, "Forest": 2}
    eurosat.write_eurosat(tmp_path / "few", per_class=counts, classes=("River", "Forest"), seed=0)
    few, many = tiffs(tmp_path / "few"), tiffs(root)
    assert len(few) == 6
    assert {name: few[name] for name in few if name in many} == {
        name: many[name] for name in few if name != "River/River_4.tif"
    }


def test_another_seed_is_another_world():
    assert not np.allclose(eurosat.chip(0, "River", 1), eurosat.chip(1, "River", 1), atol=0.1)
    assert eurosat.place(0, "River", 1) != eurosat.place(1, "River", 1)


def test_pixels_of_version_1_stay_what_they_are():
    """When this fails on purpose, raise VERSION: the fingerprint must not name two worlds."""
    assert eurosat.VERSION == 1
    means = [float(eurosat.chip(0, name, 1).astype(np.float64).mean()) for name in eurosat.CLASSES]
    assert means == pytest.approx(MEANS_OF_VERSION_1, abs=1e-3)


def test_images_of_a_scene_lie_together_and_never_overlap():
    members = [(name, number) for name in eurosat.CLASSES for number in range(1, 61)]
    corners = np.array([eurosat.place(0, *member) for member in members])
    scenes = np.array([eurosat.scene_of(0, *member) for member in members])
    apart = np.abs(corners[:, None] - corners[None])  # (N, N, 2) in metres
    same = scenes[:, None] == scenes[None]
    width_m, height_m = 64 * eurosat.PIXEL_M[0], 64 * eurosat.PIXEL_M[1]
    overlap = (apart[..., 0] < width_m) & (apart[..., 1] < height_m)
    assert (overlap == np.eye(len(members), dtype=bool)).all()
    assert apart[same].max() < 10_000
    assert apart.max(axis=-1)[~same].min() > 25_000
    assert 10 < len(members) / len(set(scenes)) < 20
    for scene in set(scenes):
        assert len({members[index][0] for index in np.flatnonzero(scenes == scene)}) > 3


def test_looks_are_those_of_a_ground_range_product(speckle):
    for band in (0, 1):
        assert (speckle[:, band].mean() / speckle[:, band].std()) ** 2 == pytest.approx(4.4, abs=0.2)
    assert abs(np.corrcoef(speckle[:, 0].ravel(), speckle[:, 1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("axis", [-1, -2])
def test_neighbouring_pixels_share_speckle(speckle, axis):
    contrast = np.moveaxis(speckle - speckle.mean(), axis, -1)
    for lag, low, high in [(1, 0.5, 0.7), (2, 0.05, 0.25), (4, -0.05, 0.05)]:
        correlation = (contrast[..., lag:] * contrast[..., :-lag]).mean() / contrast.var()
        assert low < correlation < high


def test_power_of_a_ground_is_kept_and_the_noise_floor_added(speckle):
    assert 10 * np.log10(speckle.mean(axis=(0, 2, 3))) == pytest.approx([10, 10], abs=0.15)
    dark = np.stack(
        [observe(generator(number, "dark"), np.full((2, CANVAS, CANVAS), -60, np.float32)) for number in range(20)]
    )
    assert 10 * np.log10((10 ** (dark.astype(np.float64) / 10)).mean(axis=(0, 2, 3))) == pytest.approx(
        NOISE_FLOOR_DB, abs=0.15
    )


def test_backscatter_is_plausible(images):
    pixels, labels = images
    vv_db = {name: pixels[labels == label, 0].mean() for label, name in enumerate(eurosat.CLASSES)}
    assert 4 < np.median(pixels[:, 0] - pixels[:, 1]) < 8
    assert -21 < vv_db["SeaLake"] < -18
    assert max(vv_db, key=vv_db.get) in ("Industrial", "Residential")
    assert all(-14 < vv_db[name] < -6 for name in vv_db if name != "SeaLake")
    power_db = 10 * np.log10((10 ** (pixels.astype(np.float64) / 10)).mean(axis=(2, 3)))  # (N, 2)
    assert (power_db > np.array(NOISE_FLOOR_DB) - 0.5).all()


def test_no_baseline_is_perfect_and_statistics_beat_raw_pixels(images):
    pixels, labels = images
    bands = np.stack([pixels[:, 0], pixels[:, 1], pixels[:, 0] - pixels[:, 1]], axis=1).reshape(len(pixels), 3, -1)
    quantiles = np.quantile(bands, [0.05, 0.25, 0.5, 0.75, 0.95], axis=-1)  # (5, N, 3)
    statistics = np.concatenate([bands.mean(-1), bands.std(-1), *quantiles], axis=1)  # (N, 21)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    accuracy = cross_val_score(probe, statistics, labels, cv=4).mean()
    means_alone = cross_val_score(probe, statistics[:, :2], labels, cv=4).mean()
    nearest = cross_val_score(KNeighborsClassifier(5), pixels.reshape(len(pixels), -1), labels, cv=4).mean()
    assert 0.65 < accuracy < 0.95
    assert 0.2 < means_alone < accuracy - 0.15
    assert nearest < accuracy - 0.2


def test_the_same_world_is_not_written_again(tmp_path):
    first = eurosat.write_eurosat(tmp_path / "w", per_class=1, classes=("Forest",))
    path = tmp_path / "w" / "Forest" / "Forest_1.tif"
    before = path.stat()
    assert eurosat.write_eurosat(tmp_path / "w", per_class=1, classes=("Forest",)) == first
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_folder_that_holds_anything_else_is_refused(tmp_path):
    eurosat.write_eurosat(tmp_path / "w", per_class=1, classes=("Forest",))
    with pytest.raises(BenchError, match="is not empty; choose another folder or remove it"):
        eurosat.write_eurosat(tmp_path / "w", per_class=1, classes=("Forest",), seed=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "SYNTHETIC.json").write_text("{")
    with pytest.raises(BenchError, match="is not empty"):
        eurosat.write_eurosat(tmp_path / "notes", per_class=1, classes=("Forest",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "w"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "w").mkdir()
    eurosat.write_eurosat(tmp_path / "w", per_class=1, classes=("Forest",))
    assert len(tiffs(tmp_path / "w")) == 1


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ({"per_class": 0}, "per_class is 0; ask for 1 image or more"),
        ({"per_class": {"Forest": 2, "River": -1}}, "ask for 1 image or more"),
        ({"per_class": {"Forest": 2}, "classes": ("Forest", "River")}, "ask for 1 image or more"),
        ({"classes": ("forest",)}, "unknown class 'forest'; did you mean 'Forest'"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path, wanted, line):
    with pytest.raises(BenchError, match=line):
        eurosat.write_eurosat(tmp_path / "w", **wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "seen"),
    [(OSError(errno.ENOSPC, "No space left on device"), BenchError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_nothing_is_left_behind_by_a_failure_in_the_middle(tmp_path, monkeypatch, failure, seen):
    write_chip = eurosat.write_chip

    def fail_later(path, *rest):
        if path.name == "River_2.tif":
            raise failure
        write_chip(path, *rest)

    monkeypatch.setattr(eurosat, "write_chip", fail_later)
    with pytest.raises(seen, match="no space left" if seen is BenchError else None):
        eurosat.write_eurosat(tmp_path / "w", per_class=2, classes=("Forest", "River"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed(tmp_path):
    """GDAL itself writes a short file to a full disk and reports success."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "full.tif").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        eurosat.write_chip(tmp_path / "full.tif", eurosat.chip(0, "Forest", 1), (500_000.0, 5_000_000.0))


def test_entry_takes_every_spelling_and_names_the_next_command(tmp_path, capsys):
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    synth.add_flags(parser)
    assert vars(parser.parse_args(["eurosat"])) == {"world": "eurosat"}
    assert "datasets/<WORLD>-synthetic/data" in parser.format_help()
    for flag in ("--data_path", "--data-path", "--output_dir", "--output-dir", "--out"):
        given = vars(parser.parse_args(["eurosat", flag, str(tmp_path / "w"), "--per-class", "1", "--seed", "3"]))
        synth.main(given)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        f"10 synthetic images (no real data) written to {tmp_path / 'w'}; next: python -m fgmae_bench.linear"
    )
    assert all("are already in" in line for line in lines[1:])
    with pytest.raises(BenchError, match="unknown world 'eurosta'; did you mean 'eurosat'"):
        synth.main({"world": "eurosta"})
