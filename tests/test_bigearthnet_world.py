"""The synthetic BigEarthNet-S1: true layout and format, plausible physics and labels, the same pixels for the same
seed.
"""

import csv
import errno
import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import rasterio
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.bigearthnet.labels import multi_hot, nomenclature, parse_s1, parse_s2
from fgmae_bench.data.bigearthnet.raw import bigearthnet_v1
from fgmae_bench.data.splits import make_split
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare import synth
from fgmae_bench.system.randomness import generator
from fgmae_bench.worlds import bigearthnet as world_module
from fgmae_bench.worlds.bigearthnet import TILES, chip, metadata, patch_of, write_bigearthnet
from fgmae_bench.worlds.bigearthnet_land import CANVAS, LAND, LANDSCAPES, MIN_SHARE, paint
from fgmae_bench.worlds.scene import NOISE_FLOOR_DB, observe

PATCHES = 210
MEANS_OF_VERSION_1 = [-14.1466, -14.2403, -14.8499, -15.1329, -23.4339]
GENUINE_BYTES = 58_024
# A genuine file without pixels is 424 bytes. The tag adds its directory entry and its text; GDAL of today writes the
# eight sizes of strips as short numbers, which saves 16 bytes.
TAG_BYTES = (
    12 + len('<GDALMetadata>\n  <Item name="FGMAE_BENCH_SYNTHETIC">bigearthnet</Item>\n</GDALMetadata>\n\0') - 16
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds") / "bigearthnet"
    write_bigearthnet(root, patches=PATCHES)
    return root


@pytest.fixture(scope="module")
def patches():
    return [patch_of(0, number) for number in range(PATCHES)]


@pytest.fixture(scope="module")
def pixels(root, patches):
    """(N, 2, 120, 120) in dB, as the files hold them."""
    return np.stack([np.concatenate([read(root, patch.s1_name, band) for band in ("VV", "VH")]) for patch in patches])


@pytest.fixture(scope="module")
def hot(patches):
    return np.stack([multi_hot(patch.labels, patch.s1_name) for patch in patches])


@pytest.fixture(scope="module")
def many_labels():
    """Labels of patches of a larger world; none is painted."""
    return [patch_of(0, number).labels for number in range(6000)]


def read(root, name, band):
    with rasterio.open(root / name / f"{name}_{band}.tif") as source:
        return source.read()


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_layout_is_that_of_the_archive(root, patches):
    names = {patch.s1_name for patch in patches}
    assert len(names) == PATCHES
    assert {path.name for path in root.iterdir()} == names | {"SYNTHETIC.json", "splits"}
    for name in names:
        assert {path.name for path in (root / name).iterdir()} == {
            f"{name}{end}" for end in ("_VV.tif", "_VH.tif", "_labels_metadata.json")
        }


def test_files_are_like_genuine_ones(root, realdata):
    folder = sorted((realdata / "bigearthnet_s1_v1").iterdir())[0]
    mine = next(path for path in sorted(root.iterdir()) if "_33UUP_" in path.name)
    for band in ("VV", "VH"):
        with (
            rasterio.open(folder / f"{folder.name}_{band}.tif") as genuine,
            rasterio.open(mine / f"{mine.name}_{band}.tif") as source,
        ):
            for fact in (
                "count",
                "dtypes",
                "shape",
                "crs",
                "res",
                "compression",
                "nodata",
                "block_shapes",
                "interleaving",
                "driver",
            ):
                assert getattr(source, fact) == getattr(genuine, fact), fact
            assert source.tags() == genuine.tags() | {"FGMAE_BENCH_SYNTHETIC": "bigearthnet"}
        assert (folder / f"{folder.name}_{band}.tif").stat().st_size == GENUINE_BYTES
        assert (mine / f"{mine.name}_{band}.tif").stat().st_size == GENUINE_BYTES + TAG_BYTES


def test_metadata_is_written_like_genuine_ones(root, realdata):
    projections = {tile.projection for tile in TILES}
    mine = next(path for path in root.rglob("*.json") if path.name != "SYNTHETIC.json").read_text()
    for path in sorted((realdata / "bigearthnet_s1_v1").rglob("*.json")):
        text = path.read_text()
        genuine, ours = json.loads(text), json.loads(mine)
        assert [text, mine] == [json.dumps(genuine), json.dumps(ours)]
        assert list(ours) == list(genuine)
        assert list(ours["coordinates"]) == list(genuine["coordinates"]) == ["ulx", "uly", "lrx", "lly"]
        assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in genuine.items()}
        assert genuine["projection"] in projections
        assert len(ours["scene_source"]) == len(genuine["scene_source"])
        assert genuine["labels"] == sorted(genuine["labels"], key=list(LAND).index)


def test_names_coordinates_and_pixels_agree(root, patches):
    for patch in patches[::7]:
        facts = json.loads((root / patch.s1_name / f"{patch.s1_name}_labels_metadata.json").read_text())
        assert facts == metadata(patch)
        name, partner = parse_s1(patch.s1_name), parse_s2(facts["corresponding_s2_patch"])
        assert (name.col, name.row) == (partner.col, partner.row) == (patch.col, patch.row)
        assert facts["scene_source"].startswith(name.scene)
        assert facts["acquisition_time"] == name.acquired
        with rasterio.open(root / patch.s1_name / f"{patch.s1_name}_VV.tif") as source:
            corners = facts["coordinates"]
            assert tuple(source.bounds) == (corners["ulx"], corners["lly"], corners["lrx"], corners["uly"])
            assert (
                source.crs.to_epsg()
                == rasterio.CRS.from_wkt(facts["projection"]).to_epsg()
                == 32600 + int(name.tile[:2])
            )


def test_tiles_lie_where_their_names_say():
    """Oracle: MGRS letters of the 100 km squares; a Sentinel-2 tile begins at the next multiple of 60 m outwards."""
    for tile in TILES:
        zone, column, row = int(tile.name[:2]), tile.name[3], tile.name[4]
        east = (("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")[zone % 3].index(column) + 1) * 100_000
        north = ("ABCDEFGHJKLMNPQRSTUV".index(row) - (0 if zone % 2 else 5)) % 20 * 100_000 + 100_000
        assert tile.zone == zone
        assert 0 <= east - tile.corner_m[0] < 60
        assert 0 <= tile.corner_m[1] - north - 4_000_000 < 60 or 0 <= tile.corner_m[1] - north - 6_000_000 < 60
    assert len({tile.zone for tile in TILES}) >= 5


def test_times_have_the_habits_of_genuine_names():
    scenes = [tile.s2_scene for tile in TILES]
    assert len(set(scenes)) == len({tile.scene for tile in TILES}) == len(TILES)
    assert any(len(scene.rpartition("T")[2]) == 5 for scene in scenes)
    assert {60, 61} <= {parse_s2(f"{scene}_0_0").clock[2] for scene in scenes}


def test_patches_are_neighbours_in_clusters(patches):
    cells = {(patch.tile.name, patch.col, patch.row) for patch in patches}
    around = [
        sum((name, col + x, row + y) in cells for x in (-1, 0, 1) for y in (-1, 0, 1)) - 1 for name, col, row in cells
    ]
    assert len(cells) == PATCHES
    assert min(around) >= 2
    assert np.mean(around) > 5
    for one, other in combinations({patch.cluster: patch for patch in patches}.values(), 2):
        assert (one.tile, one.col // 5, one.row // 5) != (other.tile, other.col // 5, other.row // 5)
    last = [patch_of(0, world_module.MAX_PATCHES - 1 - number) for number in range(400)]
    assert max(max(patch.col, patch.row) for patch in last) == 89


def test_land_is_the_nomenclature(shared_data):
    with open(shared_data / "bigearthnet_43_to_19.csv", newline="") as stream:
        names = [row["class_43"] for row in csv.DictReader(stream)]
    assert tuple(LAND) == tuple(names) == nomenclature().classes_43
    assert {name for classes in LANDSCAPES.values() for name in classes} == set(names)
    assert {landscape for tile in TILES for landscape in tile.landscapes} == set(LANDSCAPES)


@pytest.mark.parametrize("seed", range(5))
def test_all_target_classes_occur_and_some_patches_have_none(seed):
    hot = np.stack([multi_hot(patch_of(seed, number).labels, number) for number in range(400)])
    assert hot.sum(axis=0).min() >= 3
    assert 3 <= (hot.sum(axis=1) == 0).sum() <= 20


def test_labels_are_one_to_five_of_the_43(many_labels):
    counts = Counter(map(len, many_labels))
    assert set(counts) == {1, 2, 3, 4, 5}
    assert min(counts.values()) > 0.05 * len(many_labels)
    assert len({name for labels in many_labels for name in labels}) == 43


def test_classes_that_belong_together_meet(many_labels):
    """Lift: how much more often two classes share a patch than independent ones would."""
    single = Counter(name for labels in many_labels for name in labels)
    pairs = Counter(pair for labels in many_labels for pair in combinations(labels, 2))

    def lift(one, other):
        return pairs[one, other] * len(many_labels) / (single[one] * single[other])

    assert lift("Coniferous forest", "Mixed forest") > 1.5
    assert lift("Discontinuous urban fabric", "Industrial or commercial units") > 1.5
    assert lift("Non-irrigated arable land", "Pastures") > 1.5
    assert lift("Agro-forestry areas", "Sclerophyllous vegetation") > 1.5
    assert lift("Coniferous forest", "Sea and ocean") < 0.2
    assert lift("Continuous urban fabric", "Peatbogs") < 0.2


def test_neighbours_are_more_alike_than_patches_far_apart(patches):
    near, far = [], []
    for one, other in combinations(patches[:300], 2):
        both = set(one.labels) & set(other.labels)
        share = len(both) / len({*one.labels, *other.labels})
        if one.tile == other.tile and abs(one.col - other.col) <= 1 and abs(one.row - other.row) <= 1:
            near.append(share)
        elif one.tile != other.tile:
            far.append(share)
    assert np.mean(near) > 1.7 * np.mean(far)


def test_lists_are_in_the_published_form_and_leave_out_patches_without_a_target(root, patches):
    lists = {name: (root / "splits" / f"{name}.csv").read_text().splitlines() for name in ("train", "val", "test")}
    wanted = {f"{patch.s2_name},{patch.s1_name}" for patch in patches if patch.in_19}
    assert sum(map(len, lists.values())) == len(wanted) < PATCHES
    assert set().union(*lists.values()) == wanted
    assert [len(lines) / len(wanted) for lines in lists.values()] == pytest.approx([0.52, 0.24, 0.24], abs=0.02)


def test_official_split_of_the_world_is_its_lists(root, patches):
    card = load_card("bigearthnet")
    index = bigearthnet_v1(card, root)
    parts = make_split(card, index, Data(dataset="bigearthnet", split="official"), root / "cache")
    for name in ("train", "val", "test"):
        ids = {index.ids[row] for row in getattr(parts, name)}
        assert ids == {patch.s1_name for patch in patches if patch.in_19 and patch.split == name}
    assert parts.leaky
    assert parts.left_out == 0


def test_a_patch_does_not_depend_on_how_many_others_are_written(root, tmp_path):
    write_bigearthnet(tmp_path / "few", patches=30)
    few, many = files(tmp_path / "few"), files(root)
    assert sum(name.endswith(".tif") for name in few) == 60
    assert {name: content for name, content in few.items() if many.get(name) != content}.keys() == {
        "SYNTHETIC.json",
        *(f"splits/{name}.csv" for name in ("train", "val", "test")),
    }


def test_pixels_of_version_1_stay_what_they_are():
    """When this fails on purpose, raise VERSION: the fingerprint must not name two worlds."""
    assert world_module.VERSION == 1
    means = [float(chip(0, patch_of(0, number)).astype(np.float64).mean()) for number in (0, 40, 80, 137, 240)]
    assert means == pytest.approx(MEANS_OF_VERSION_1, abs=1e-3)
    assert not np.allclose(chip(0, patch_of(0, 0)), chip(1, patch_of(0, 0)), atol=0.1)


def test_backscatter_is_plausible(pixels, patches):
    assert pixels.dtype == np.float32
    assert np.isfinite(pixels).all()
    assert pixels.mean(axis=(0, 2, 3)) == pytest.approx(
        [-12.6, -19.3], abs=1.5
    )  # the published means of the genuine data
    assert 4 < np.median(pixels[:, 0] - pixels[:, 1]) < 8
    power_db = 10 * np.log10((10 ** (pixels.astype(np.float64) / 10)).mean(axis=(2, 3)))  # (N, 2)
    assert (power_db > np.array(NOISE_FLOOR_DB) - 0.5).all()
    vv_db = {patch.labels: [] for patch in patches if len(patch.labels) == 1}
    for patch, image in zip(patches, pixels, strict=True):
        if len(patch.labels) == 1:
            vv_db[patch.labels].append(image[0].mean())
    mean = {labels[0]: np.mean(values) for labels, values in vv_db.items()}
    assert mean["Sea and ocean"] < -17
    assert (
        min(mean["Discontinuous urban fabric"], mean["Broad-leaved forest"]) > mean["Pastures"] > mean["Sea and ocean"]
    )


def test_speckle_is_that_of_the_other_world():
    """4.4 looks, neighbours correlated by .6, on the larger canvas too."""
    ground = np.full((2, CANVAS, CANVAS), 10, np.float32)
    power = np.stack(
        [10 ** (observe(generator(number, "speckle"), ground).astype(np.float64) / 10) for number in range(8)]
    )
    assert power.shape == (8, 2, 120, 120)
    assert (power.mean() / power.std()) ** 2 == pytest.approx(4.4, abs=0.2)
    contrast = power - power.mean()
    assert (contrast[..., 1:] * contrast[..., :-1]).mean() / contrast.var() == pytest.approx(0.6, abs=0.1)


def test_a_patch_is_painted_by_each_of_its_classes(monkeypatch):
    """With covers of one constant level each, every label's level takes its share and nothing else is there."""
    labels = ("Pastures", "Coniferous forest", "Peatbogs", "Water courses", "Sea and ocean")
    levels = {name: float(number) for number, name in enumerate(labels)}
    for name, level in levels.items():
        monkeypatch.setitem(LAND, name, lambda rng, level=level: np.full((2, CANVAS, CANVAS), level, np.float32))
    for number in range(40):
        chosen = generator(number, "labels").permutation(labels)[: 1 + number % 5].tolist()
        ground = paint(generator(number, "ground"), chosen)
        assert ground.dtype == np.float32
        share = {level: (ground == level).mean() for level in np.unique(ground)}
        assert set(share) == {levels[name] for name in chosen}
        assert min(share.values()) > MIN_SHARE / 3


def test_mean_backscatter_is_neither_hopeless_nor_enough(pixels, hot, patches):
    train, test = (np.array([patch.split in splits for patch in patches]) for splits in (("train",), ("val", "test")))
    scored = (hot[test].sum(axis=0) > 0) & (hot[train].sum(axis=0) > 0)
    quantiles = np.quantile(pixels.reshape(PATCHES, 2, -1)[..., ::5], [0.05, 0.25, 0.5, 0.75, 0.95], axis=-1).transpose(
        1, 0, 2
    )
    means = pixels.mean(axis=(2, 3))
    statistics = np.concatenate([means, pixels.std(axis=(2, 3)), quantiles.reshape(PATCHES, -1)], axis=1)

    def macro_ap(features):
        probe = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(max_iter=2000)))
        scores = probe.fit(features[train], hot[train][:, scored]).predict_proba(features[test])
        return average_precision_score(hot[test][:, scored], scores, average="macro")

    chance = hot[test][:, scored].mean()
    assert 1.5 * chance < macro_ap(means) < 0.5
    assert macro_ap(means) < macro_ap(statistics) < 0.7


def test_the_same_world_is_not_written_again_and_another_not_over_it(tmp_path):
    first = write_bigearthnet(tmp_path / "w", patches=2)
    assert first["counts"] == {"patches": 2}
    before = files(tmp_path / "w")
    assert write_bigearthnet(tmp_path / "w", patches=2) == first
    with pytest.raises(BenchError, match="is not empty"):
        write_bigearthnet(tmp_path / "w", patches=2, seed=1)
    assert files(tmp_path / "w") == before


@pytest.mark.parametrize("patches", [0, -1, world_module.MAX_PATCHES + 1])
def test_what_cannot_be_written_is_refused(tmp_path, patches):
    with pytest.raises(BenchError, match="ask for 1 to"):
        write_bigearthnet(tmp_path / "w", patches=patches)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_on_a_full_disk(tmp_path, monkeypatch):
    def full(root, patch, backscatter_db):
        (root / patch.s1_name).mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(world_module, "write_patch", full)
    with pytest.raises(BenchError, match="no space left"):
        write_bigearthnet(tmp_path / "new" / "w", patches=2)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_it_and_refuses_the_flag_of_another_world(tmp_path, capsys):
    synth.main({"world": "bigearthnet", "patches": 3, "data_path": str(tmp_path / "w")})
    assert capsys.readouterr().out.startswith(f"3 synthetic images (no real data) written to {tmp_path / 'w'}; next: ")
    with pytest.raises(BenchError, match="--per_class means nothing for bigearthnet; say --patches"):
        synth.main({"world": "bigearthnet", "per_class": 3, "data_path": str(tmp_path / "v")})
    with pytest.raises(BenchError, match="--patches means nothing for eurosat; say --per_class"):
        synth.main({"world": "eurosat", "patches": 3, "data_path": str(tmp_path / "v")})
