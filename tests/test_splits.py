"""Splits against scikit-learn, great circles and plain arithmetic: sizes, order, buffers, nesting, and lists as they
are published.
"""

import dataclasses
import hashlib
import os

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform
from sklearn.model_selection import train_test_split

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.run import Data
from fgmae_bench.data import spatial
from fgmae_bench.data.dataset import only_usable, open_dataset
from fgmae_bench.data.index import Index
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.spatial import block_numbers, chip_places, spatial_parts
from fgmae_bench.data.splits import make_split
from fgmae_bench.errors import BenchError
from fgmae_bench.worlds import eurosat

PARTS = ("train", "val", "test")


def data(split=None, **changes):
    return Data(dataset="eurosat", split=split, **changes)


def made_index(counts, root="/nowhere"):
    """An index without files: `counts` images of each class."""
    names = load_card("eurosat").classes
    files = [
        f"{name}/{name}_{i}.tif"
        for name, n in zip(names, counts, strict=False)
        for i in sorted(range(1, n + 1), key=str)
    ]
    labels = np.repeat(np.arange(len(counts)), counts)
    return Index(root=root, files=tuple(files), labels=labels, stamps=np.zeros(len(files), np.uint64), synthetic=None)


def as_walked(root):
    """Relative paths and class numbers in the order of torchvision's ImageFolder, as the reference loader lists them."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    files, labels = [], []
    for label, name in enumerate(classes):
        for folder, _, names in sorted(os.walk(os.path.join(root, name))):
            for file in sorted(names):
                files.append(os.path.relpath(os.path.join(folder, file), root))
                labels.append(label)
    return files, np.array(labels)


# --- stratified


def test_reference_split_is_scikit_learns_over_the_sorted_files_in_order(card, index, world):
    files, labels = as_walked(world)
    train, test = train_test_split(np.arange(len(files)), train_size=0.8, stratify=labels, random_state=42)
    parts = make_split(card, index, data("reference"), world)
    assert [index.files[row] for row in parts.train] == [files[row] for row in train]
    assert [index.files[row] for row in parts.test] == [files[row] for row in test]
    assert (len(parts.train), len(parts.val), len(parts.test)) == (96, 0, 24)
    assert parts.leaky
    assert files[1].endswith("_10.tif")  # sorted as text: 1, 10, 11, 12, 2


def test_reference_split_of_genuine_chips_is_scikit_learns(chips_root):
    chips_card = load_card("terramesh_chips")
    index = build_index(chips_card, chips_root)
    files, labels = as_walked(chips_root)
    train, test = train_test_split(np.arange(len(files)), train_size=0.8, stratify=labels, random_state=42)
    parts = make_split(chips_card, index, data("reference"), chips_root)
    assert index.files == tuple(files)
    assert (len(train), len(test)) == (34, 9)
    np.testing.assert_array_equal(parts.train, train)
    np.testing.assert_array_equal(parts.test, test)


def test_reference_split_at_full_size_is_21600_and_5400(card):
    index = made_index([card.counts.per_class[name] for name in card.classes])
    parts = make_split(card, index, data("reference"), "unused")
    train, test = train_test_split(np.arange(27000), train_size=0.8, stratify=index.labels, random_state=42)
    np.testing.assert_array_equal(parts.train, train)
    np.testing.assert_array_equal(parts.test, test)
    assert (len(parts.train), len(parts.test)) == (21600, 5400)


def test_reference_split_is_the_default(card, index, world):
    np.testing.assert_array_equal(
        make_split(card, index, data(), world).train, make_split(card, index, data("reference"), world).train
    )


def test_60_20_20_split_is_disjoint_complete_and_stratified(card):
    index = made_index([50, 100, 60, 40, 200, 50, 50, 50, 50, 50])
    parts = make_split(card, index, data("random_60_20_20"), "unused")
    rows = [getattr(parts, part) for part in PARTS]
    assert [len(r) for r in rows] == [420, 140, 140]
    assert sorted(np.concatenate(rows).tolist()) == list(range(700))
    total = np.bincount(index.labels)
    for r, share in zip(rows, (0.6, 0.2, 0.2), strict=True):
        np.testing.assert_allclose(np.bincount(index.labels[r]), share * total, atol=1)
    assert parts.left_out == 0


def test_split_seed_changes_the_split(card, index, world):
    a, b = (make_split(card, index, data("reference", split_seed=seed), world) for seed in (42, 43))
    train, _ = train_test_split(np.arange(120), train_size=0.8, stratify=index.labels, random_state=43)
    np.testing.assert_array_equal(b.train, train)
    assert set(a.test.tolist()) != set(b.test.tolist())


def test_split_seed_that_scikit_learn_cannot_take_is_named_and_not_blamed_on_the_data(card, index, world):
    with pytest.raises(BenchError, match="split_seed is -1"):
        make_split(card, index, data("reference", split_seed=-1), world)


@pytest.mark.parametrize(
    ("split", "counts", "name"),
    [("reference", [9, 9, 1] + [9] * 7, "HerbaceousVegetation"), ("random_60_20_20", [9] * 9 + [2], "SeaLake")],
)
def test_class_too_small_to_split_is_named(card, split, counts, name):
    with pytest.raises(BenchError, match=f"class '{name}' is too small"):
        make_split(card, made_index(counts), data(split), "unused")


def test_unknown_split_offers_the_closest(card, index, world):
    with pytest.raises(BenchError, match="did you mean 'spatial'"):
        make_split(card, index, data("spacial"), world)


# --- spatial

DISTORTION = 0.004  # of UTM and of a sphere against each other and the ellipsoid


def haversine_m(a, b):
    """Great-circle distance in metres of points (N, 2) and (M, 2), longitude and latitude in degrees: (N, M)."""
    a, b = np.radians(a)[:, None], np.radians(b)[None]
    h = (
        np.sin((a[..., 1] - b[..., 1]) / 2) ** 2
        + np.cos(a[..., 1]) * np.cos(b[..., 1]) * np.sin((a[..., 0] - b[..., 0]) / 2) ** 2
    )
    return 2 * 6_371_008.8 * np.arcsin(np.sqrt(h))


@pytest.fixture(scope="module")
def country():
    """A whole synthetic country without its files: (index of 1500 images, places (N, 5, 2) in degrees)."""
    index = made_index([150] * 10)
    corners = [
        eurosat.place(0, name, int(file[len(name) * 2 + 2 : -4]))
        for file in index.files
        for name in [file.split("/")[0]]
    ]
    east, north = np.array(corners).T
    places = [transform("EPSG:32633", "EPSG:4326", east + x, north - y) for x, y in SQUARE]
    return index, np.stack([np.stack([lon, lat], axis=1) for lon, lat in places], axis=1)


SQUARE = [(316, 313), (0, 0), (632, 0), (632, 626), (0, 626)]  # metres east and south of the upper left corner


def edges_m(places, a, b):
    """Distances in metres of the outlines of chips `a` and `b` (A, B), by shapely in UTM."""
    shapely = pytest.importorskip("shapely")
    flat = places[:, 1:].reshape(-1, 2)
    east, north = transform("EPSG:4326", "EPSG:32633", flat[:, 0], flat[:, 1])
    outlines = shapely.polygons(np.stack([east, north], axis=1).reshape(-1, 4, 2))
    return shapely.distance(outlines[a][:, None], outlines[b][None])


@pytest.fixture
def in_country(country, monkeypatch):
    monkeypatch.setattr(spatial, "chip_places", lambda index, cache: country[1])
    return country


def test_no_chip_lies_within_the_buffer_of_another_parts_chip(card, in_country):
    """From edge to edge: from centre to centre, half a chip's diagonal of each is missing."""
    index, places = in_country
    parts = make_split(card, index, data("spatial"), "unused")
    buffer_m = card.splits["spatial"].buffer_m
    assert buffer_m == 1000
    rows = [getattr(parts, part) for part in PARTS]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert edges_m(places, rows[a], rows[b]).min() > buffer_m * (1 - DISTORTION)
    assert len(np.unique(np.concatenate(rows))) == sum(map(len, rows)) == len(index.files) - parts.left_out
    assert not parts.leaky


def test_the_buffer_does_leave_chips_out_and_only_those_near_another_part(in_country):
    """With small blocks in a dense scene the buffer must bite; every chip it takes lies near a later part."""
    index, places = in_country
    whole = spatial_parts(index, "unused", train=0.6, val=0.2, block_km=3, buffer_m=0, seed=1)
    kept = spatial_parts(index, "unused", train=0.6, val=0.2, block_km=3, buffer_m=1500, seed=1)
    assert sum(map(len, whole)) == len(index.files)
    gap = [edges_m(places, whole[k], np.concatenate(whole[k + 1 :])).min(axis=1) for k in (0, 1)]
    near, far = ([distances < 1500 * (1 + by) for distances in gap] for by in (-DISTORTION, DISTORTION))
    assert near[0].sum() > 20
    for k in (0, 1):
        assert not set(whole[k][near[k]]) & set(kept[k])
        assert set(whole[k][~far[k]]) <= set(kept[k]) <= set(whole[k])
    np.testing.assert_array_equal(kept[2], whole[2])


def test_blocks_are_not_torn_apart(in_country):
    index, places = in_country
    parts = spatial_parts(index, "unused", train=0.6, val=0.2, block_km=20, buffer_m=0, seed=42)
    blocks = block_numbers(places[:, 0], 20)
    held = [set(blocks[rows].tolist()) for rows in parts]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    assert min(map(len, held)) >= 2


@pytest.mark.parametrize("latitude", [0, 41, 65])
def test_blocks_are_as_wide_as_they_are_high_at_every_latitude(latitude):
    """In degrees a block gets wider towards the poles; in kilometres it does not."""
    rng = np.random.default_rng(0)
    centres = np.stack([rng.uniform(10, 10.6, 4000), latitude + rng.uniform(0, 0.4, 4000)], axis=1)
    blocks = block_numbers(centres, 10)
    wide, high = [], []
    for b in np.unique(blocks):
        (west, south), (east, north) = centres[blocks == b].min(0), centres[blocks == b].max(0)
        wide.append(haversine_m(np.array([[west, south]]), np.array([[east, south]])).item())
        high.append(haversine_m(np.array([[west, south]]), np.array([[west, north]])).item())
    assert max(wide) == pytest.approx(10_000, rel=0.05)
    assert max(high) == pytest.approx(10_000, rel=0.05)


def test_every_class_comes_near_its_shares(in_country):
    index, _ = in_country
    parts = spatial_parts(index, "unused", train=0.6, val=0.2, block_km=20, buffer_m=0, seed=42)
    for rows, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        np.testing.assert_allclose(np.bincount(index.labels[rows], minlength=10) / 150, share, atol=0.1)


def test_samples_without_labels_of_their_own_come_near_their_shares_too(in_country):
    """Label maps of segmentation are not labels of the index; blocks are dealt by how many samples they hold."""
    unlabelled = dataclasses.replace(in_country[0], labels=np.empty((1500, 0), np.int64))
    parts = spatial_parts(unlabelled, "unused", train=0.6, val=0.2, block_km=20, buffer_m=0, seed=42)
    np.testing.assert_allclose(np.array([*map(len, parts)]) / 1500, (0.6, 0.2, 0.2), atol=0.05)


def test_spatial_split_is_keyed_by_its_seed(in_country):
    index, _ = in_country
    a, again, other = (
        spatial_parts(index, "unused", train=0.6, val=0.2, block_km=20, buffer_m=1000, seed=s) for s in (1, 1, 2)
    )
    assert all((x == y).all() for x, y in zip(a, again, strict=True))
    assert a[2].tolist() != other[2].tolist()


def test_centres_are_those_of_the_files_and_are_read_once(index, tmp_path, monkeypatch):
    places = chip_places(index, tmp_path)
    for row in range(0, len(index.files), 17):
        with rasterio.open(index.path(row)) as source:
            np.testing.assert_allclose(places[row, 0], source.lnglat(), atol=1e-9)
            corners = [source.xy(*pixel, offset="ul") for pixel in ((0, 0), (0, 64), (64, 64), (64, 0))]
            lon, lat = transform(source.crs, "EPSG:4326", *zip(*corners, strict=True))
            np.testing.assert_allclose(places[row, 1:], np.stack([lon, lat], axis=1), atol=1e-9)
    monkeypatch.setattr(spatial, "_place", lambda path: pytest.fail("read again"))
    np.testing.assert_array_equal(chip_places(index, tmp_path), places)


def test_spatial_split_of_files_works_through_make_split(card, index, tmp_path):
    narrow = dataclasses.replace(
        card, splits={"spatial": dataclasses.replace(card.splits["spatial"], block_km=5.0, buffer_m=500.0)}
    )
    parts = make_split(narrow, index, data("spatial"), tmp_path)
    assert edges_m(chip_places(index, tmp_path), parts.train, parts.test).min() > 500 * (1 - DISTORTION)
    assert min(len(parts.train), len(parts.val), len(parts.test)) > 5


def test_chips_without_georeference_have_no_spatial_split(tmp_path):
    flat = tmp_path / "flat.tif"
    with rasterio.open(flat, "w", driver="GTiff", dtype="float32", count=2, height=64, width=64) as target:
        target.write(np.zeros((2, 64, 64), np.float32))
    index = Index(
        root=tmp_path, files=("flat.tif",), labels=np.zeros(1, np.int64), stamps=np.zeros(1, np.uint64), synthetic=None
    )
    with pytest.raises(BenchError, match=r"flat\.tif has no georeference"):
        chip_places(index, tmp_path)


# --- lists


@pytest.fixture
def listed(tmp_path):
    """Folder for lists and an index of 3 classes x 4 images."""
    card = load_card("eurosat")
    card = dataclasses.replace(card, classes=card.classes[:3], counts=None)
    return card, made_index([4, 4, 4], tmp_path / "data"), tmp_path


def write_lists(folder, **parts):
    for part, lines in parts.items():
        (folder / f"eurosat-{part}.txt").write_text("\n".join(lines) + "\n")


SIX = [f"{name}_{i}" for i in (1, 2) for name in ("AnnualCrop", "Forest", "HerbaceousVegetation")]


@pytest.mark.parametrize("form", ["{stem}.jpg", "{stem}.tif", "{stem}", "{name}/{stem}.jpg", "./{name}/{stem}.tif"])
def test_lists_name_files_with_or_without_ending_and_class_folder(listed, form):
    card, index, folder = listed
    lines = [form.format(stem=stem, name=stem.split("_")[0]) for stem in SIX]
    write_lists(folder, train=lines[:3], val=lines[4:], test=lines[3:4])
    parts = make_split(card, index, data(str(folder)), folder)
    stems = {part: [index.ids[row].split("/")[1] for row in getattr(parts, part)] for part in PARTS}
    assert stems == {"train": SIX[:3], "val": SIX[4:], "test": SIX[3:4]}
    assert parts.left_out == 6


def test_lists_without_val_have_an_empty_val(listed):
    card, index, folder = listed
    write_lists(folder, train=SIX[:3], test=SIX[3:])
    parts = make_split(card, index, data(str(folder)), folder)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (3, 0, 3)


@pytest.mark.parametrize(
    ("train", "test"),
    [(SIX[:3], [*SIX[3:], SIX[0]]), ([*SIX[:3], SIX[1]], SIX[3:]), ([*SIX[:3], "Forest/Forest_1.jpg"], SIX[3:])],
)
def test_sample_listed_twice_is_refused(listed, train, test):
    card, index, folder = listed
    write_lists(folder, train=train, test=test)
    with pytest.raises(BenchError, match="already in train"):
        make_split(card, index, data(str(folder)), folder)


def test_absent_names_are_counted_and_the_first_is_named(listed):
    card, index, folder = listed
    write_lists(folder, train=[*SIX[:3], "Forest_77.jpg", "Forest_78.jpg"], test=SIX[3:])
    with pytest.raises(
        BenchError, match=r"eurosat-train\.txt names 2 of 5 images that are not in the data, first Forest_77\.jpg"
    ):
        make_split(card, index, data(str(folder)), folder)


def test_bare_name_that_two_classes_hold_is_refused_and_not_given_to_the_last(tmp_path):
    card = dataclasses.replace(load_card("eurosat"), classes=("A", "B"), counts=None)
    index = Index(
        root=tmp_path,
        files=("A/1.tif", "A/2.tif", "B/1.tif", "B/2.tif"),
        labels=np.array([0, 0, 1, 1]),
        stamps=np.zeros(4, np.uint64),
        synthetic=None,
    )
    write_lists(tmp_path, train=["1.jpg"], test=["B/2.jpg"])
    with pytest.raises(BenchError, match=r"1\.jpg.*several"):
        make_split(card, index, data(str(tmp_path)), tmp_path)
    write_lists(tmp_path, train=["A/1.jpg", "B/1.jpg"], test=["B/2.jpg"])
    assert make_split(card, index, data(str(tmp_path)), tmp_path).train.tolist() == [0, 2]


def test_class_without_training_samples_is_named(listed):
    card, index, folder = listed
    write_lists(folder, train=["AnnualCrop_1", "HerbaceousVegetation_1"], test=SIX[3:])
    with pytest.raises(BenchError, match="no training samples of Forest"):
        make_split(card, index, data(str(folder)), folder)


def test_folder_without_a_test_list_says_what_to_add(listed):
    card, index, folder = listed
    write_lists(folder, train=SIX)
    with pytest.raises(BenchError, match=r"holds no list for test; add test\.txt"):
        make_split(card, index, data(str(folder)), folder)


def test_two_lists_for_one_part_are_refused(listed):
    card, index, folder = listed
    write_lists(folder, train=SIX[:3], test=SIX[3:])
    (folder / "train_old.txt").write_text("")
    with pytest.raises(BenchError, match="several lists for train"):
        make_split(card, index, data(str(folder)), folder)


def test_published_lists_are_found_beside_the_images(card, world, index):
    """Copernicus-Bench's EuroSAT-S1 lists go by .jpg names; they lie in the data folder or beside it."""
    stems = [sample.split("/")[1] + ".jpg" for sample in index.ids]
    parts = {
        "train": [s for s in stems if "_2." in s or "_3." in s],
        "val": [s for s in stems if "_4." in s],
        "test": [s for s in stems if "_5." in s],
    }
    try:
        write_lists(world.parent, **parts)
        made = make_split(card, index, data("copernicus"), world)
    finally:
        for part in PARTS:
            (world.parent / f"eurosat-{part}.txt").unlink()
    assert {part: [index.ids[r].split("/")[1] + ".jpg" for r in getattr(made, part)] for part in PARTS} == parts
    assert made.leaky
    assert made.left_out == 80


def test_missing_published_list_says_where_it_belongs(card, index, world):
    with pytest.raises(BenchError, match=r"needs eurosat-train\.txt"):
        make_split(card, index, data("copernicus"), world)


def test_one_missing_list_of_three_is_an_error_in_words(card, index, world):
    (world.parent / "eurosat-train.txt").write_text("River_1.jpg\n")
    try:
        with pytest.raises(BenchError, match=r"needs eurosat-(val|test)\.txt"):
            make_split(card, index, data("copernicus"), world)
    finally:
        (world.parent / "eurosat-train.txt").unlink()


def test_facts_of_a_run_name_the_samples_of_each_part(card, world, tmp_path):
    """The id of a run counts the samples, in their order, and not the name of the split or the path of its lists."""

    def facts(**flags):
        (run,) = compose("linear", {"dataset": "eurosat", "data_path": str(world)} | flags, card)
        return only_usable(open_dataset(card, run, tmp_path), run, tmp_path).facts["samples_sha256"]

    plain = facts()
    assert plain == facts(split="reference")
    for flags in ({"split": "random_60_20_20"}, {"split_seed": 1}, {"train_frac": 0.5}):
        assert facts(**flags)["train"] != plain["train"], flags
    assert facts(train_frac=0.5)["test"] == plain["test"]
    index = build_index(card, world)
    train, _ = train_test_split(np.arange(120), train_size=0.8, stratify=index.labels, random_state=42)
    assert (
        plain["train"]
        == hashlib.sha256("\n".join(index.files[row].removesuffix(".tif") for row in train).encode()).hexdigest()
    )
