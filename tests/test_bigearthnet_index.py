"""BigEarthNet-S1 from raw files to table and index: genuine patches, the command, changes, kills, bad usage."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import rasterio
from bigearthnet_raw import SCENE, replace, write_patches
from commands import REPOSITORY
from preloaded import HANG, wait_until

from fgmae_bench.config.flags import dispatch
from fgmae_bench.data.bigearthnet import labels, official, patch, raw, scan, table
from fgmae_bench.errors import BenchError

pytest_plugins = ("bigearthnet_raw",)


@pytest.fixture(scope="module")
def genuine(realdata):
    return realdata / "bigearthnet_s1_v1"


def test_genuine_patches_as_rows(genuine, ben):
    rows = {row["s1_name"]: row for row in scan.scan(genuine, ben.signal.size, []).to_pylist()}
    assert len(rows) == 4
    assert all(row["problem"] is None for row in rows.values())
    row = rows["S1A_IW_GRDH_1SDV_20170925T043256_35VPK_69_24"]
    assert row["s2_name"] == "S2B_MSIL2A_20170924T93020_69_24"
    assert row["scene"] == "S1A_IW_GRDH_1SDV_20170925T043256_20170925T043321_018527_01F38C_31E2"
    assert (row["acquisition_time"], row["orbit_direction"]) == ("2017-09-25T04:32:56", "descending")
    assert (row["tile"], row["col"], row["row"], row["epsg"]) == ("35VPK", 69, 24, 32635)
    assert [row[key] for key in ("ulx", "uly", "lrx", "lry")] == [682800, 6971220, 684000, 6970020]
    assert row["labels_43"] == [
        "Coniferous forest",
        "Mixed forest",
        "Transitional woodland/shrub",
        "Peatbogs",
        "Water bodies",
    ]
    assert np.flatnonzero(row["labels_19"]).tolist() == [9, 10, 13, 15, 17]
    assert (row["vv_bytes"], row["vh_bytes"], row["no_19_class"], row["snow"]) == (58_024, 58_024, False, None)
    assert rows["S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48"]["orbit_direction"] == "ascending"


def test_column_and_row_of_a_name_are_counted_in_patches_from_the_tiles_corner(genuine, ben):
    """1200 m a patch: two genuine patches of one tile are as far apart as their names say."""
    rows = {row["s1_name"][-5:]: row for row in scan.scan(genuine, ben.signal.size, []).to_pylist()}
    a, b = rows["36_85"], rows["_4_55"]
    assert (a["ulx"] - b["ulx"]) / 1200 == a["col"] - b["col"] == 32
    assert (b["uly"] - a["uly"]) / 1200 == a["row"] - b["row"] == 30


def test_genuine_patches_as_an_index_read_vv_first(genuine, ben):
    index = raw.bigearthnet_v1(ben, genuine)
    assert index.ids == tuple(sorted(path.name for path in genuine.iterdir()))
    assert index.groups == ("33UUP", "29UPU", "29UPU", "35VPK")
    assert index.labels.shape == (4, 19)
    assert index.labels.dtype == np.uint8
    assert index.synthetic is None
    for row, name in enumerate(index.ids):
        chip = index.read(row, ben)
        assert (chip.db.shape, chip.db.dtype, chip.valid) == ((2, 120, 120), np.float32, None)
        for band, values in zip(("VV", "VH"), chip.db, strict=True):
            with rasterio.open(genuine / name / f"{name}_{band}.tif") as source:
                assert np.array_equal(source.read(1), values)
        swapped = dataclasses.replace(ben, signal=dataclasses.replace(ben.signal, bands=("VH", "VV")))
        assert np.array_equal(patch.read_patch(index.path(row), swapped).db, chip.db[::-1])


def test_card_in_the_other_order_gets_its_columns_in_that_order(genuine, ben):
    other = dataclasses.replace(ben, classes=labels.nomenclature("alphabetical").classes_19)
    ours, theirs = raw.bigearthnet_v1(ben, genuine), raw.bigearthnet_v1(other, genuine)
    for a, b in zip(ours.labels, theirs.labels, strict=True):
        assert {ben.classes[i] for i in np.flatnonzero(a)} == {other.classes[i] for i in np.flatnonzero(b)}
    assert not np.array_equal(ours.labels, theirs.labels)


def test_command_writes_the_table_and_runs_use_it_without_reading_a_patch(raw_root, ben, run_index, monkeypatch):
    before = raw.bigearthnet_v1(ben, raw_root)
    printed = run_index("--data_path", raw_root)
    assert "6 patches in" in printed.out
    assert "2 with none of the 19 classes" in printed.out
    assert printed.err == ""
    assert sorted(path.name for path in raw_root.iterdir() if path.is_file()) == ["index.parquet"]
    assert not list(raw_root.glob("*.parts"))
    monkeypatch.setattr(scan, "describe", None)
    after = raw.bigearthnet_v1(ben, raw_root)
    assert after.files == before.files
    assert len(after.files) == 4
    assert after.signature == before.signature
    assert np.array_equal(after.labels, before.labels)
    assert not (after.labels.sum(1) == 0).any()


def test_changed_new_and_removed_patches_are_noticed_by_runs_and_by_the_command(raw_root, ben, run_index):
    run_index("--data_path", raw_root)
    first, second, third = sorted(path for path in raw_root.iterdir() if path.name.startswith("S1A"))[:3]
    metadata = json.loads((first / f"{first.name}_labels_metadata.json").read_text())
    replace(first / f"{first.name}_labels_metadata.json", json.dumps({**metadata, "labels": ["Water bodies"]}).encode())
    for file in second.iterdir():
        file.unlink()
    second.rmdir()
    changed = raw.bigearthnet_v1(ben, raw_root)
    assert second.name not in changed.ids
    assert np.flatnonzero(changed.labels[changed.ids.index(first.name)]).tolist() == [17]
    assert "5 patches" in run_index("--data_path", raw_root).out
    assert third.name in table.read_table(raw_root / "index.parquet")["s1_name"].to_pylist()
    assert raw.bigearthnet_v1(ben, raw_root).signature == changed.signature


def test_folder_around_the_patches_is_stepped_into(raw_root, ben, run_index):
    run_index("--data_path", raw_root.parent)
    assert (raw_root / "index.parquet").is_file()
    assert raw.bigearthnet_v1(ben, raw_root.parent).root == raw_root


def test_csv_equals_parquet(raw_root, tmp_path, realdata, run_index):
    replace(raw_root / f"{SCENE}_33UUP_1_0" / f"{SCENE}_33UUP_1_0_VH.tif", b"")
    for out in ("a.parquet", "b.csv"):
        run_index("--data_path", raw_root, "--out", tmp_path / out, "--lists", realdata / "official_lists")
    assert table.read_table(tmp_path / "a.parquet").equals(table.read_table(tmp_path / "b.csv"))
    with open(tmp_path / "b.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["labels_19"] == "0 0 0 0 1" + " 0" * 14
    assert rows[0]["labels_43"] == "Pastures"
    assert pq.read_schema(tmp_path / "a.parquet").metadata[b"label_order"] == b"original"


def test_flags_come_from_the_lists_and_stay(tmp_path, raw_root, run_index):
    s2 = [f"S2B_MSIL2A_20180204T94161_{col}_0" for col in range(6)]
    folder = tmp_path / "lists"
    folder.mkdir()
    for stem, content in zip(
        (*official.FLAG_LISTS.values(), official.NO_19_LIST), (s2[:1], s2[1:3], [s2[2], s2[3]]), strict=True
    ):
        (folder / f"{stem}.csv").write_text("\r\n".join(content) + "\r\n")
    assert table.read_table(_indexed(run_index, raw_root))["snow"].to_pylist() == [None] * 6
    printed = run_index("--data_path", raw_root, "--lists", folder)
    assert "1 under seasonal snow, 2 under cloud or shadow" in printed.out
    assert printed.err.startswith(
        f"2 patches whose labels contradict the list of those with none of the 19 classes:\n  {s2[3]}\n  {s2[5]}\n"
    )
    flagged = table.read_table(_indexed(run_index, raw_root))
    assert flagged["snow"].to_pylist() == [True] + [False] * 5
    assert flagged["cloud_shadow"].to_pylist() == [False, True, True, False, False, False]
    assert flagged["no_19_class"].to_pylist() == [False, False, True] * 2


def _indexed(index, root):
    index("--data_path", root)
    return root / "index.parquet"


def test_processes_give_the_same_table_as_one(raw_root, ben, monkeypatch):
    monkeypatch.setattr(scan, "BATCH", 2)
    assert scan.scan(raw_root, ben.signal.size, [], workers=2).equals(scan.scan(raw_root, ben.signal.size, []))


CHILD = """
import sys, time
from fgmae_bench.data.bigearthnet import scan
from fgmae_bench.errors import run_entry
from fgmae_bench.config.flags import dispatch
plain = scan.write_table
written = []
scan.write_table = lambda *given: (plain(*given), written.append(1), time.sleep(0.05 if len(written) < 8 else 3600))
scan.BATCH = 20
if __name__ == "__main__":
    run_entry(lambda: dispatch("fgmae_bench.prepare", {"index": ""}, "", print, ["index", "bigearthnet", *sys.argv[1:]]))
"""


def _start(tmp_path, *flags):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(script), *map(str, flags)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_index_goes_on_and_equals_an_unbroken_one(tmp_path, ben, run_index, monkeypatch):
    root = tmp_path / "raw"
    write_patches(root, 400)
    expected = scan.scan(root, ben.signal.size, [])
    child = _start(tmp_path, "--data_path", root, "--workers", 2)
    parts = root / "index.parquet.parts"
    wait_until(lambda: len(list(parts.glob("[!.]*.parquet"))) >= 4, child)
    family = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGKILL)
    child.wait()
    alive = psutil.wait_procs(family, timeout=HANG)[1]
    for process in alive:
        process.kill()
    assert not alive, "workers outlive their parent"
    assert not (root / "index.parquet").exists()
    read = []
    plain = scan.describe
    monkeypatch.setattr(scan, "describe", lambda root, name, size: read.append(name) or plain(root, name, size))
    run_index("--data_path", root)
    assert 0 < len(read) <= 400 - 4 * 20
    assert table.read_table(root / "index.parquet").equals(expected)
    assert [path.name for path in root.iterdir() if not path.name.startswith("S1A")] in (
        [".pixels", "index.parquet"],
        ["index.parquet", ".pixels"],
    )


def test_data_of_the_second_version_is_told_apart(realdata, ben):
    with pytest.raises(BenchError, match="layout of BigEarthNet v2; give it to --dataset bigearthnet_v2"):
        raw.bigearthnet_v1(ben, realdata / "bigearthnet_v2_rico_hdl" / "BigEarthNet-S1")


def test_folder_without_a_patch_is_refused(tmp_path, ben):
    (tmp_path / "a").mkdir()
    with pytest.raises(BenchError, match="no patch of BigEarthNet-S1 v1 is there; expected folders such as S1A_"):
        raw.bigearthnet_v1(ben, tmp_path)


def test_foreign_file_for_an_index_is_refused_not_overwritten(raw_root, ben, run_index):
    (raw_root / "index.parquet").write_bytes(b"PAR1 no more")
    for run in (lambda: raw.bigearthnet_v1(ben, raw_root), lambda: run_index("--data_path", raw_root)):
        with pytest.raises(
            BenchError,
            match=r"index\.parquet cannot be read as a patch table .*; give one that prepare index wrote; a damaged one may be removed",
        ):
            run()
    assert (raw_root / "index.parquet").read_bytes() == b"PAR1 no more"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--data_path", "/nowhere"),
            r"--data_path /nowhere is not a folder; get the data: python -m fgmae_bench.prepare download bigearthnet",
        ),
        (("--out", "a.txt"), r"unknown format 'txt'; choose from csv, parquet"),
        (("--out", "a.csv", "--format", "parquet"), r"--out a\.csv does not end in \.parquet"),
        (("--workers", "0"), r"--workers is 0"),
        (("--rate", "0"), r"--rate is 0"),
        (("--lists", "/nowhere"), r"--lists /nowhere is not a folder"),
        (("--links", "a.csv", "--catalogue", "nonsense"), r"--catalogue nonsense is not an address"),
        (("--list", "a"), r"unknown flag '--list'; did you mean '--lists'"),
    ],
)
def test_bad_flags_end_in_one_line(raw_root, run_index, flags, message):
    with pytest.raises(BenchError, match=message):
        run_index("--data_path", raw_root, *flags)
    assert not (raw_root / "index.parquet").exists()


def test_lists_that_are_incomplete_or_no_lists_are_named(raw_root, tmp_path, run_index):
    with pytest.raises(BenchError, match=r"holds no patches_with_seasonal_snow\.csv\.bz2 or \.csv"):
        run_index("--data_path", raw_root, "--lists", tmp_path)
    (tmp_path / "patches_with_seasonal_snow.csv").write_text("S2B_MSIL2A_20180204T94161_1_0\npatch\n")
    with pytest.raises(BenchError, match=r"patches_with_seasonal_snow\.csv, line 2: 'patch' is not an S2 patch name"):
        run_index("--data_path", raw_root, "--lists", tmp_path)
    (tmp_path / "patches_with_seasonal_snow.csv.bz2").write_bytes(b"BZh9 cut")
    with pytest.raises(BenchError, match=r"csv\.bz2: cannot be read as a list"):
        run_index("--data_path", raw_root, "--lists", tmp_path)


def test_flags_of_products_mean_nothing_for_a_dataset_of_another_layout():
    with pytest.raises(BenchError, match="--links means nothing for EuroSAT-SAR"):
        dispatch("fgmae_bench.prepare", {"index": ""}, "", print, ["index", "eurosat", "--links", "x.csv"])
