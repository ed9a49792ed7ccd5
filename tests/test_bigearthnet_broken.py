"""Every kind of broken BigEarthNet patch: listed with its reason, left out of runs, refused where that is asked for."""

import contextlib
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from bigearthnet_raw import SCENE, replace, write_band

from fgmae_bench.data.bigearthnet import facts, raw, table
from fgmae_bench.data.bigearthnet.patch import read_patch
from fgmae_bench.data.tiff import read_header
from fgmae_bench.errors import BenchError

pytest_plugins = ("bigearthnet_raw",)


def _cut(path, share=0.5):
    content = path.read_bytes()
    replace(path, content[: int(len(content) * share)])


def _other_size(path):
    path.unlink()
    write_band(path, np.full((60, 60), -10, np.float32))


def _edit(key, value):
    def change(path):
        content = json.loads(path.read_text())
        replace(
            path,
            json.dumps({name: item for name, item in {**content, key: value}.items() if item is not None}).encode(),
        )

    return change


BROKEN = {
    "without VH": ("_VH.tif", Path.unlink, r"_VH\.tif is missing"),
    "without VV": ("_VV.tif", Path.unlink, r"_VV\.tif is missing"),
    "without metadata": ("_labels_metadata.json", Path.unlink, r"_labels_metadata\.json is missing"),
    "VH of another shape": ("_VH.tif", _other_size, r"_VH\.tif is 60x60 pixels where 120x120 is expected"),
    "TIFF cut in its pixels": ("_VV.tif", _cut, r"_VV\.tif is truncated: \d+ bytes where its header promises \d+"),
    "TIFF cut by one byte": ("_VV.tif", lambda p: replace(p, p.read_bytes()[:-1]), r"_VV\.tif is truncated"),
    "TIFF cut in its header": (
        "_VV.tif",
        lambda p: replace(p, p.read_bytes()[:60]),
        r"_VV\.tif is not a TIFF, or its header is broken or cut",
    ),
    "TIFF without bytes": ("_VV.tif", lambda p: replace(p, b""), r"_VV\.tif is empty"),
    "other bytes for a TIFF": ("_VV.tif", lambda p: replace(p, b"<html>" * 100), r"_VV\.tif is not a TIFF"),
    "JSON cut in the middle": ("_labels_metadata.json", _cut, r"_labels_metadata\.json is broken or cut"),
    "JSON without bytes": ("_labels_metadata.json", lambda p: replace(p, b""), r"_labels_metadata\.json is empty"),
    "JSON that is a list": ("_labels_metadata.json", lambda p: replace(p, b"[]"), r"holds no table of facts"),
    "unknown label": (
        "_labels_metadata.json",
        _edit("labels", ["Pasture"]),
        r"_labels_metadata\.json: unknown label 'Pasture'",
    ),
    "19-class spelling": (
        "_labels_metadata.json",
        _edit("labels", ["Transitional woodland, shrub"]),
        r"unknown label 'Transitional woodland,",
    ),
    "no label": ("_labels_metadata.json", _edit("labels", []), r"'labels' is not a list of names"),
    "labels that are numbers": ("_labels_metadata.json", _edit("labels", [1]), r"'labels' is not a list of names"),
    "no partner": (
        "_labels_metadata.json",
        _edit("corresponding_s2_patch", None),
        r"'corresponding_s2_patch' is missing or no str",
    ),
    "impossible partner": (
        "_labels_metadata.json",
        _edit("corresponding_s2_patch", "S2X"),
        r"corresponding_s2_patch: 'S2X' is not an S2 patch",
    ),
    "impossible time": (
        "_labels_metadata.json",
        _edit("acquisition_time", "yesterday"),
        r"acquisition_time 'yesterday' is none",
    ),
    "impossible scene": (
        "_labels_metadata.json",
        _edit("scene_source", "x' or 1 eq 1"),
        r"scene_source .* is not a Sentinel-1 product",
    ),
    "coordinates lacking one": ("_labels_metadata.json", _edit("coordinates", {"ulx": 1}), r"coordinates lack one"),
    "impossible projection": (
        "_labels_metadata.json",
        _edit("projection", "flat"),
        r"projection is none that EPSG knows",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_patch_is_listed_with_its_reason_and_does_not_stop_the_rest(kind, raw_root, ben, run_index):
    ending, spoil, reason = BROKEN[kind]
    name = f"{SCENE}_33UUP_1_0"
    spoil(raw_root / name / f"{name}{ending}")
    printed = run_index("--data_path", raw_root)
    assert "1 broken" in printed.out
    assert re.match(rf"1 broken patches:\n  {name}/.*{reason}", printed.err)
    rows = {row["s1_name"]: row["problem"] for row in table.read_table(raw_root / "index.parquet").to_pylist()}
    assert len(rows) == 6
    assert re.search(reason, rows.pop(name))
    assert set(rows.values()) == {None}
    assert name not in raw.bigearthnet_v1(ben, raw_root).ids
    with pytest.raises(BenchError, match=reason) as caught:
        run_index("--data_path", raw_root, "--strict")
    assert str(raw_root) in str(caught.value)


def test_repaired_patch_loses_its_problem(raw_root, run_index):
    name = f"{SCENE}_33UUP_1_0"
    path = raw_root / name / f"{name}_VH.tif"
    kept = path.read_bytes()
    path.unlink()
    assert "1 broken" in run_index("--data_path", raw_root).out
    path.write_bytes(kept)
    assert "0 broken" in run_index("--data_path", raw_root).out


def test_unknown_label_is_refused_with_file_label_and_closest(raw_root):
    name = f"{SCENE}_33UUP_0_0"
    path = raw_root / name / f"{name}_labels_metadata.json"
    _edit("labels", ["Pasture"])(path)
    with pytest.raises(BenchError, match=rf"{path}: unknown label 'Pasture'; did you mean 'Pastures'\?"):
        facts.read_metadata(path)


def test_two_patches_with_one_partner_or_one_place_are_both_broken(raw_root, run_index, ben):
    first, second = f"{SCENE}_33UUP_0_0", f"{SCENE}_33UUP_1_0"
    _edit("corresponding_s2_patch", "S2B_MSIL2A_20180204T94161_0_0")(
        raw_root / second / f"{second}_labels_metadata.json"
    )
    padded = f"{SCENE}_33UUP_04_0"
    (raw_root / padded).mkdir()
    for file in (raw_root / f"{SCENE}_33UUP_4_0").iterdir():
        (raw_root / padded / file.name.replace("_4_0_", "_04_0_")).write_bytes(file.read_bytes())
    assert "4 broken" in run_index("--data_path", raw_root).out
    found = {
        row["s1_name"]: row["problem"]
        for row in table.read_table(raw_root / "index.parquet").to_pylist()
        if row["problem"]
    }
    assert set(found) == {first, second, padded, f"{SCENE}_33UUP_4_0"}
    assert found[first] == f"{first}, {second} all claim to be S2 patch S2B_MSIL2A_20180204T94161_0_0"
    _edit("corresponding_s2_patch", "S2B_MSIL2A_20180204T94161_1_0")(
        raw_root / second / f"{second}_labels_metadata.json"
    )
    assert "2 broken" in run_index("--data_path", raw_root).out


def test_folder_that_is_no_patch_is_listed(raw_root, run_index):
    (raw_root / "notes").mkdir()
    assert "'notes' is not an S1 patch name" in run_index("--data_path", raw_root).err


@pytest.mark.parametrize("kind", ["without VH", "VH of another shape", "TIFF cut in its pixels", "TIFF without bytes"])
def test_reading_a_broken_patch_names_the_file(kind, raw_root, ben):
    ending, spoil, _ = BROKEN[kind]
    folder = raw_root / f"{SCENE}_33UUP_1_0"
    spoil(folder / f"{folder.name}{ending}")
    with pytest.raises(BenchError, match=re.escape(str(folder / f"{folder.name}{ending}"))):
        read_patch(folder, ben)


def test_pixels_that_are_no_measurement_are_masked_by_band(raw_root, ben):
    folder = raw_root / f"{SCENE}_33UUP_1_0"
    pixels = np.random.default_rng(1).normal(-18, 2, (120, 120)).astype(np.float32)
    pixels[:, :3] = np.nan
    (folder / f"{folder.name}_VH.tif").unlink()
    write_band(folder / f"{folder.name}_VH.tif", pixels)
    chip = read_patch(folder, ben)
    assert chip.valid[0].all()
    assert (~chip.valid[1]).sum() == 360


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"compress": "deflate"},
        {"tiled": True, "blockxsize": 64, "blockysize": 64},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"blockysize": 1},
    ],
)
def test_header_agrees_with_gdal_and_notices_every_cut(tmp_path, profile):
    path = tmp_path / "a.tif"
    write_band(path, np.random.default_rng(0).normal(size=(120, 90)).astype(np.float32), **profile)
    size = path.stat().st_size
    header = read_header(path, size)
    assert (header.height, header.width, header.bands) == (120, 90, 1)
    content = path.read_bytes()
    for cut in (*random.Random(0).sample(range(size - 64), 60), header.end - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(BenchError, match=r"a\.tif"):
            read_header(path, cut)


def test_header_reader_survives_any_damage(tmp_path):
    """Flipped bytes give a header or a BenchError, nothing else."""
    path = tmp_path / "a.tif"
    write_band(path, np.zeros((120, 120), np.float32))
    content, chance = path.read_bytes(), random.Random(0)
    for _ in range(2000):
        spoilt = bytearray(content[:700])
        for _ in range(chance.randint(1, 4)):
            spoilt[chance.randrange(500)] = chance.randrange(256)
        path.write_bytes(spoilt)
        with contextlib.suppress(BenchError):
            read_header(path, len(spoilt))
