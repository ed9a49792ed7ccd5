"""The synthetic DFC2020 and SEN12MS: true layouts and types, plausible pixels, MODIS labels that are coarse and partly
wrong; inspect.
"""

import errno

import numpy as np
import pytest
import rasterio
from commands import call, refused
from dfc_files import SIZE, quadrant_hashes, tile, write

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.dfc.ready import check_label_codes, find_overlaps, label_histograms
from fgmae_bench.data.index import check_counts
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.schemes import DFC, SOURCES, card_source, label_map
from fgmae_bench.data.splits import make_split
from fgmae_bench.errors import BenchError
from fgmae_bench.worlds import dfc
from fgmae_bench.worlds.dfc_land import LAND, LCCS, SEEN_AS, modis

SMALL = 64
PINNED_MEANS = [-16.7989, -13.0733, -15.0126]
PINNED_DFC = [33193, 18520, 18548]
PINNED_LC = [153221, 283630, 375528]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Roots of both worlds, 48 tiles of 64 pixels."""
    place = tmp_path_factory.mktemp("worlds")
    for name in dfc.WORLDS:
        dfc.write_dfc(place / name, world=name, tiles=48, size=SMALL)
    return {name: place / name for name in dfc.WORLDS}


@pytest.fixture(scope="module")
def samples():
    folder = dfc.WORLDS["dfc2020"].folders[1]
    return [dfc.sample(0, "dfc2020", folder, patch, 128) for patch in range(36)]


def prepare(*flags, cwd):
    return call("prepare", *flags, cwd=cwd)


@pytest.mark.parametrize("name", dfc.WORLDS)
def test_worlds_are_read_by_the_readers_of_the_real_data(worlds, name, tmp_path):
    card = load_card(name)
    index = build_index(card, worlds[name])
    assert (len(index.ids), index.size, bool(index.synthetic)) == (48, (SMALL, SMALL), True)
    assert check_counts(card, index) is None
    chip = index.read(0, card)
    assert (chip.db.shape, chip.valid, chip.synthetic) == ((2, SMALL, SMALL), None, True)
    assert set(index.maps.sources) == set(card.label_sources)
    for source in index.maps.sources:
        counts = label_histograms(index, source, tmp_path)
        assert (counts.sum(axis=1) == SMALL**2).all()
        assert check_label_codes(card_source(card, source), counts, "") is None
    parts = make_split(card, index, Data(dataset=name), tmp_path)
    assert min(len(parts.train), len(parts.test)) >= 8
    assert len(parts.train) + len(parts.test) == 48
    assert (
        find_overlaps(index, {"train": parts.train, "test": parts.test}, quadrant_hashes(card, index, tmp_path)) == ()
    )


def test_dfc_labels_look_wrong_where_igbp_is_said(worlds, tmp_path):
    """The labels of the world themselves, said to be the other kind."""
    counts = label_histograms(build_index(load_card("dfc2020"), worlds["dfc2020"]), "dfc", tmp_path)
    assert "look like DFC2020" in str(check_label_codes(SOURCES["igbp"], counts, "x"))


def test_files_have_the_true_types_and_no_place(tmp_path):
    dfc.write_dfc(tmp_path / "w", tiles=2)
    files = sorted(str(path.relative_to(tmp_path / "w")) for path in (tmp_path / "w").rglob("*.tif"))
    places = [("ROIs0000_test", "0"), ("ROIs0000_validation", "validation")]
    assert files == [
        f"{coll}/{kind}_{folder}/{coll}_{kind}_0_p0.tif" for coll, folder in places for kind in ("dfc", "lc", "s1")
    ]
    for file, (dtype, bands) in zip(files, [("int32", 1), ("uint16", 4), ("float64", 2)] * 2, strict=True):
        with rasterio.open(tmp_path / "w" / file) as source:
            assert (set(source.dtypes), source.count, source.shape) == ({dtype}, bands, (SIZE, SIZE))
            assert source.crs.to_epsg() == 4326
            assert source.transform.is_identity
            assert source.nodatavals == (None,) * bands
            assert source.tags()["FGMAE_BENCH_SYNTHETIC"] == "dfc2020"


def test_pixels_depend_on_the_seed_and_the_tile_alone():
    first, second = dfc.WORLDS["dfc2020"].folders
    again = dfc.sample(0, "dfc2020", second, 3, SMALL)
    np.testing.assert_array_equal(dfc.sample(0, "dfc2020", second, 3, SMALL).s1, again.s1)
    for other in (
        dfc.sample(1, "dfc2020", second, 3, SMALL),
        dfc.sample(0, "dfc2020", first, 3, SMALL),
        dfc.sample(0, "dfc2020", second, 4, SMALL),
    ):
        assert not np.allclose(other.s1, again.s1)


def test_pixels_of_version_1_stay_what_they_are():
    """When this fails on purpose, raise VERSION: the fingerprint must not name two worlds."""
    assert dfc.VERSION == 1
    folder = dfc.WORLDS["dfc2020"].folders[1]
    made = [dfc.sample(0, "dfc2020", folder, patch, SMALL) for patch in range(3)]
    assert [float(sample.s1.astype(np.float64).mean()) for sample in made] == pytest.approx(PINNED_MEANS, abs=1e-3)
    assert [int(sample.dfc.sum()) for sample in made] == PINNED_DFC
    assert [int(sample.lc.sum()) for sample in made] == PINNED_LC


def test_every_code_of_the_land_is_one_of_its_source():
    assert set(LAND) <= set(DFC.codes)
    assert set(SEEN_AS) == set(LAND)
    for chances in SEEN_AS.values():
        assert sum(chances.values()) == pytest.approx(1)
        assert set(chances) <= set(SOURCES["igbp"].codes)
    for source, band in (("lccs_cover", 0), ("lccs_use", 1), ("lccs_hydrology", 2)):
        assert {codes[band] for codes in LCCS.values()} <= set(SOURCES[source].codes)
    assert set(LCCS) == set(SOURCES["igbp"].codes)


def test_backscatter_depends_on_the_class(samples):
    """Water is darkest and towns are brightest, VV is 4.8 to 7.9 dB above VH, as in genuine scenes."""
    values = {
        code: np.concatenate([sample.s1[:, sample.dfc == code] for sample in samples], axis=1)
        for code in (1, 4, 6, 7, 10)
    }
    mean_vv = {code: held[0].mean() for code, held in values.items()}
    assert min(mean_vv, key=mean_vv.get) == 10
    assert max(mean_vv, key=mean_vv.get) == 7
    assert mean_vv[1] - mean_vv[10] > 8
    assert 4.8 < np.median([np.median(sample.s1[0] - sample.s1[1]) for sample in samples]) < 7.9


def test_modis_labels_are_coarse_and_partly_wrong(samples):
    """Blocks of 500 m; right for most pixels, wrong for many."""
    to_ids = {source: label_map(source, "dfc10").table for source in ("dfc", "igbp")}
    agreeing = np.mean([(to_ids["dfc"][sample.dfc] == to_ids["igbp"][sample.lc[0]]).mean() for sample in samples])
    assert 0.35 < agreeing < 0.8
    for sample in samples[:6]:
        for axis in (0, 1):
            moved = np.diff(sample.lc[0].astype(int), axis=axis).any(axis=1 - axis)
            assert len(np.flatnonzero(moved)) <= 3
            assert (np.diff(np.flatnonzero(moved)) % 50 == 0).all()


def test_most_of_a_block_decides_its_label():
    truth = np.full((100, 100), 10, np.uint8)
    seen = np.concatenate([modis(np.random.default_rng(seed), truth)[0].ravel() for seed in range(40)])
    assert set(np.unique(seen)) == {11, 17}
    assert (seen == 17).mean() > 0.8


def test_the_same_world_is_not_written_again_and_another_one_not_over_it(tmp_path):
    first = dfc.write_dfc(tmp_path / "w", tiles=2, size=SMALL)
    path = next((tmp_path / "w").rglob("*.tif"))
    before = path.stat().st_mtime_ns
    assert dfc.write_dfc(tmp_path / "w", tiles=2, size=SMALL) == first
    assert path.stat().st_mtime_ns == before
    for other in ({"tiles": 3}, {"size": 32}, {"seed": 1}, {"world": "sen12ms", "tiles": 6}):
        with pytest.raises(BenchError, match="is not empty"):
            dfc.write_dfc(tmp_path / "w", **{"tiles": 2, "size": SMALL, **other})


@pytest.mark.parametrize(
    ("wanted", "line"), [({"tiles": 1}, "tiles is 1; ask for 2"), ({"tiles": 4, "size": 31}, "size is 31; ask for 32")]
)
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path, wanted, line):
    with pytest.raises(BenchError, match=line):
        dfc.write_dfc(tmp_path / "w", **wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "seen"), [(OSError(errno.ENOSPC, "full"), BenchError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_nothing_is_left_behind_by_a_failure_in_the_middle(tmp_path, monkeypatch, failure, seen):
    write_tile = dfc.write_tile

    def fail_later(root, world, folder, patch, made):
        if patch == 1:
            raise failure
        write_tile(root, world, folder, patch, made)

    monkeypatch.setattr(dfc, "write_tile", fail_later)
    with pytest.raises(seen):
        dfc.write_dfc(tmp_path / "w", tiles=4, size=SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tiles", [2, 3, 48, 96, 6114])
def test_tiles_are_dealt_as_in_the_true_dataset(tiles):
    counts = dfc._counts(dfc.WORLDS["dfc2020"].folders, tiles)
    assert sum(counts) == tiles
    assert min(counts) >= 1
    assert abs(counts[0] - tiles * 986 / 6114) <= 1


def test_a_marker_with_a_broken_size_is_refused(tmp_path):
    dfc.write_dfc(tmp_path / "w", tiles=2, size=SMALL)
    marker = tmp_path / "w" / "SYNTHETIC.json"
    marker.write_text(marker.read_text().replace('"size": 64', '"size": "64"'))
    with pytest.raises(BenchError, match="size is '64'; write the world again"):
        build_index(load_card("dfc2020"), tmp_path / "w")


def test_synth_then_inspect_as_a_user_types_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FGMAE_BENCH_CACHE", str(tmp_path / "cache"))
    written = prepare("synth", "dfc2020", "--tiles", 36, "--size", SMALL, "--data_path", "w", cwd=tmp_path)
    assert written.code == 0, written.err
    assert (
        "36 synthetic images (no real data) written to w; next: python -m fgmae_bench.prepare inspect dfc2020"
        in written.out
    )
    command = written.out.split("next: python -m fgmae_bench.prepare ")[1].split()
    done = prepare(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    for line in (
        "labels   dfc: 36 maps",
        "labels   igbp: 36 maps",
        "labels   lccs_hydrology",
        "split contest: 6 train, 0 val, 30 test",
        "split community: 30 train",
        "split copernicus: cannot be made here",
        "dfc10_no_savanna",
        "igbp17",
        "distance (total variation), igbp train to dfc test",
    ):
        assert line in done.out
    assert "overlap" not in done.out
    assert (tmp_path / "inspect" / "dfc2020-labels.png").stat().st_size > 5000


def test_inspect_refuses_labels_of_another_kind(tmp_path, monkeypatch):
    """Forty tiles whose `lc` holds DFC labels in its first band."""
    monkeypatch.setenv("FGMAE_BENCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    flat = np.ones((4, SIZE, SIZE), np.uint16)
    for patch in range(40):
        fine = flat.copy()
        fine[0] = rng.choice([1, 2, 4, 5, 6, 7, 9, 10], (SIZE, SIZE))
        tile(tmp_path / "w", "ROIs1158_spring", "63", 63, patch, kinds=("lc",), lc=fine)
    done = prepare("inspect", "sen12ms", "--data_path", "w", cwd=tmp_path)
    said = done.err.splitlines()[-1]
    assert (done.code, said[:7]) == (2, "error: ")
    assert "labels said to be IGBP (MODIS) look like DFC2020" in said
    assert "10 Grasslands 12" in said


def test_inspect_names_a_label_file_of_another_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("FGMAE_BENCH_CACHE", str(tmp_path / "cache"))
    for patch in range(2):
        tile(tmp_path / "w", "ROIs0000_test", "0", 0, patch)
    write(
        tmp_path / "w" / "ROIs0000_test" / "dfc_0" / "ROIs0000_test_dfc_0_p1.tif",
        np.full((1, SIZE, SIZE), 17, np.int32),
    )
    done = prepare("inspect", "dfc2020", "--data_path", "w", cwd=tmp_path)
    said = done.err.splitlines()[-1]
    assert (done.code, said[:7]) == (2, "error: ")
    assert "ROIs0000_test_dfc_0_p1.tif: 17 is not a code of DFC2020" in said


def test_size_means_nothing_for_other_worlds(tmp_path):
    assert "--size means nothing for eurosat" in refused("synth", "eurosat", "--size", 32, cwd=tmp_path, run=prepare)
