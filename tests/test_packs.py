"""Packs: what is read back is what was written, whatever was killed, cut, full, forked or made for something else."""

import dataclasses
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
import rasterio
from commands import REPOSITORY, rewrite
from safetensors.numpy import load

from fgmae_bench.contract import FGMAE_CONTRACT, RAW_CONTRACT
from fgmae_bench.data.audit import audit
from fgmae_bench.data.index import Index, check_counts
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs import write
from fgmae_bench.data.packs.check import check_source, check_values
from fgmae_bench.data.packs.format import META
from fgmae_bench.data.packs.read import is_pack, open_index, open_pack, parse_meta
from fgmae_bench.data.packs.store import get, stamp_of
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.tiff import read_plain
from fgmae_bench.errors import BenchError
from fgmae_bench.views import Augmentation, make_view

RANDOM = Augmentation(seed=3, epoch=2, crop_scale=0.2)


@pytest.fixture(scope="module")
def view(card):
    return make_view(card, FGMAE_CONTRACT, None)


@pytest.fixture(scope="module")
def packs(card, index, view, tmp_path_factory):
    """Folder with `float32.lmdb` and `uint8.lmdb` of the small world; not to be changed."""
    root = tmp_path_factory.mktemp("packs")
    write_pack(card, index, root / "float32.lmdb")
    write_pack(card, index, root / "uint8.lmdb", view=view)
    return root


def entries(pack):
    """Everything in a pack, by plain lmdb; of a copy, as this process may have the pack itself open."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(pack / "data.mdb", folder)
        with lmdb.open(folder, readonly=True, lock=False) as environment, environment.begin() as reading:
            return {key.decode(): value for key, value in reading.cursor()}


def copied(pack, tmp_path):
    return Path(shutil.copytree(pack, tmp_path / "copy.lmdb"))


def changed(pack, tmp_path, key, value):
    """A copy of a pack with another value, or without it."""
    copy = copied(pack, tmp_path)
    with lmdb.open(str(copy), lock=False, map_size=1 << 30) as environment, environment.begin(write=True) as writing:
        writing.delete(key) if value is None else writing.put(key, value)
    return copy


def meta_of(pack):
    return parse_meta(get(pack.resolve(), stamp_of(pack), META), pack)


def verify(card, pack, source):
    meta = meta_of(pack)
    check_source(card, check_values(card, pack, meta, lambda n: None), meta, source, 0, lambda n: None)


# --- what is written


def test_float32_pack_is_read_back_bit_by_bit_with_lmdb_and_safetensors(packs, index):
    held = entries(packs / "float32.lmdb")
    assert set(held) == {*index.ids, "__meta__", "__labels__"}
    for row, sample in enumerate(index.ids):
        with rasterio.open(index.path(row)) as source:
            expected = source.read()
        tensors = load(held[sample])
        assert sorted(tensors) == ["VH", "VV"]
        assert np.stack([tensors["VV"], tensors["VH"]]).tobytes() == expected.tobytes()


def test_facts_name_what_is_inside(packs, card, index):
    meta = json.loads(entries(packs / "uint8.lmdb")["__meta__"])
    assert (meta["format"], meta["kind"], meta["card"], meta["card_version"]) == (1, "uint8", "eurosat", card.version)
    assert (meta["bands"], meta["units"], meta["count"]) == (["VV", "VH"], "dB", 120)
    assert meta["contract"] == {
        "bands": ["VV", "VH"], "normalizer": "fgmae", "mean": [-12.59, -20.26], "std": [5.26, 5.91], "input_resize": None,
    }  # fmt: skip
    assert meta["classes"] == list(card.classes)
    assert meta["synthetic"] == index.synthetic is not None
    assert json.loads(entries(packs / "float32.lmdb")["__meta__"])["contract"] is None


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pack_has_the_same_bytes_however_many_read(packs, card, index, view, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "MOST_IN_BATCH", 512)
    write_pack(card, index, tmp_path / "p.lmdb", view=view, workers=workers)
    assert entries(tmp_path / "p.lmdb") == entries(packs / "uint8.lmdb")
    assert (tmp_path / "p.lmdb/data.mdb").read_bytes() == (packs / "uint8.lmdb/data.mdb").read_bytes()


def test_index_of_a_pack_is_that_of_its_files(packs, card, index):
    for name in ("float32", "uint8"):
        packed = open_index(card, packs / f"{name}.lmdb")
        assert (packed.ids, packed.files, packed.synthetic, packed.groups) == (index.ids, index.files, index.synthetic, None)
        np.testing.assert_array_equal(packed.labels, index.labels)
        assert packed.labels.dtype == index.labels.dtype
        assert check_counts(card, packed) is None
        verdict, synthetic = audit(card, packed)
        assert verdict.refusal is None
        assert synthetic


def test_chips_of_a_float32_pack_are_those_of_the_files(packs, card, index):
    packed = open_pack(card, packs / "float32.lmdb")
    for row in range(0, 120, 7):
        ours, theirs = packed.read(row, card), index.read(row, card)
        assert ours.db.tobytes() == theirs.db.tobytes()
        assert ours.valid is None
        assert ours.synthetic


@pytest.mark.parametrize("augmentation", [None, RANDOM])
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_views_from_packs_are_those_from_files_bit_by_bit(packs, card, index, view, kind, augmentation):
    packed = open_pack(card, packs / f"{kind}.lmdb")
    rows, ids = range(0, 120, 5), list(index.ids[::5])
    expected = view.batch([index.read(row, card) for row in rows], ids, augmentation)
    np.testing.assert_array_equal(view.batch([packed.read(row, card) for row in rows], ids, augmentation), expected)


# --- invalid pixels, band order, several labels


@pytest.fixture
def spoilt(world, card, tmp_path):
    """A world with NaN, a run of zeros, and a nodata value that only its file declares."""
    root = Path(shutil.copytree(world, tmp_path / "world"))
    files = sorted(root.rglob("*.tif"))

    def spoil(value):
        def change(pixels):
            pixels[:, 3:9, 4:20] = value
            return pixels

        return change

    rewrite(files[0], spoil(np.nan))
    rewrite(files[1], spoil(0))
    rewrite(files[2], spoil(-31.5), nodata=-31.5)
    return build_index(card, root)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_invalid_pixels_are_known_again(spoilt, card, view, kind, tmp_path):
    write_pack(card, spoilt, tmp_path / "p.lmdb", view=view if kind == "uint8" else None)
    packed = open_pack(card, tmp_path / "p.lmdb")
    for row in range(4):
        theirs, ours = spoilt.read(row, card), packed.read(row, card)
        assert (ours.valid is None) == (theirs.valid is None) == (row == 3)
        assert ours.invalid_fraction == theirs.invalid_fraction
        if kind == "float32":
            assert ours.db.tobytes() == theirs.db.tobytes()
    ids = list(spoilt.ids[:4])
    expected = view.batch([spoilt.read(row, card) for row in range(4)], ids, RANDOM)
    np.testing.assert_array_equal(view.batch([packed.read(row, card) for row in range(4)], ids, RANDOM), expected)
    audit(card, packed)
    verify(card, tmp_path / "p.lmdb", spoilt)


def test_bands_are_named_as_the_user_states_them(card, index, tmp_path):
    """Files in the order VH,VV: packed with that statement, the pack gives the card's order, with and without the flag."""
    order = ("VH", "VV")
    write_pack(card, index, tmp_path / "p.lmdb", bands=order)
    chip = index.read(5, card)
    np.testing.assert_array_equal(open_pack(card, tmp_path / "p.lmdb").read(5, card).db, chip.db[::-1])
    stated = make_view(card, FGMAE_CONTRACT, "VH,VV")
    expected = stated.batch([chip], [index.ids[5]])
    for given, packed_view in ((None, make_view(card, FGMAE_CONTRACT, None)), (order, stated)):
        read = open_pack(card, tmp_path / "p.lmdb", given).read(5, card)
        np.testing.assert_array_equal(packed_view.batch([read], [index.ids[5]]), expected)
    with pytest.raises(BenchError, match=r"names its bands.*leave --band_order out"):
        open_pack(card, tmp_path / "p.lmdb", ("VV", "VH"))
    write_pack(card, index, tmp_path / "u.lmdb", bands=order, view=stated)
    for given, packed_view in ((None, make_view(card, FGMAE_CONTRACT, None)), (order, stated)):
        read = open_pack(card, tmp_path / "u.lmdb", given).read(5, card)
        np.testing.assert_array_equal(packed_view.batch([read], [index.ids[5]]), expected)
    with pytest.raises(BenchError, match="--band_order cannot change a uint8 pack"):
        stated.batch([open_pack(card, tmp_path / "u.lmdb").read(5, card)], [index.ids[5]])


def test_several_labels_groups_and_other_names_are_kept(card, index, tmp_path):
    several = dataclasses.replace(card, task="multi_label")
    hot = (np.random.default_rng(0).random((120, 10)) < 0.3).astype(np.uint8)
    tiles, names = tuple(f"T{row % 7}" for row in range(120)), tuple(f"S2 {row}" for row in range(120))
    rich = dataclasses.replace(index, labels=hot, groups=tiles, aliases=names, left_out=4)
    write_pack(several, rich, tmp_path / "p.lmdb")
    packed = open_pack(several, tmp_path / "p.lmdb")
    np.testing.assert_array_equal(packed.labels, hot)
    assert (packed.groups, packed.aliases, packed.left_out, packed.labels.dtype) == (tiles, names, 4, np.uint8)
    with pytest.raises(BenchError, match="are none of 10 classes"):
        open_pack(card, tmp_path / "p.lmdb")


def test_files_that_say_they_are_synthetic_make_a_pack_that_says_so(card, index, tmp_path):
    unmarked = dataclasses.replace(index, synthetic=None)
    write_pack(card, unmarked, tmp_path / "p.lmdb")
    packed = open_pack(card, tmp_path / "p.lmdb")
    assert packed.synthetic == "tagged"
    assert packed.read(0, card).synthetic
    assert write_pack(card, unmarked, tmp_path / "p.lmdb").new == 0


@pytest.mark.parametrize("name", ["__x", "a/" * 300, "süß"])
def test_names_that_cannot_be_keys_are_refused(card, index, name, tmp_path):
    odd = Index(root=index.root, files=(name,), labels=index.labels[:1], stamps=index.stamps[:1], synthetic=None)
    with pytest.raises(BenchError, match="cannot be a key"):
        write_pack(card, odd, tmp_path / "p.lmdb")


# --- writing goes wrong


def test_a_broken_image_is_named_and_nothing_is_published(world, card, index, tmp_path):
    root = Path(shutil.copytree(world, tmp_path / "world"))
    broken = sorted(root.rglob("*.tif"))[77]
    broken.write_bytes(broken.read_bytes()[:5000])
    for workers in (0, 2):
        with pytest.raises(BenchError, match=f"{broken.name} cannot be read"):
            write_pack(card, build_index(card, root), tmp_path / "p.lmdb", workers=workers)
        assert not (tmp_path / "p.lmdb").exists()
        assert not (tmp_path / "p.lmdb.lock").exists()
    shutil.copy(index.path(77), broken)
    write_pack(card, build_index(card, root), tmp_path / "p.lmdb")
    verify(card, tmp_path / "p.lmdb", build_index(card, root))


CHILD = """
import sys
from pathlib import Path
from fgmae_bench.cards import load_card
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs import write
write.MOST_IN_BATCH = 4
card = load_card("eurosat")
def main():
    write.write_pack(card, build_index(card, Path(sys.argv[1])), Path(sys.argv[2]), workers=int(sys.argv[3]),
                     step=lambda n: print(n, flush=True))
from fgmae_bench.errors import run_entry
run_entry(main)
"""


def child(world, out, workers=0, **more):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", CHILD, str(world), str(out), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more)


def test_killed_at_random_moments_and_resumed_loses_and_doubles_nothing(world, packs, card, index, tmp_path):
    dice, out, seen = random.Random(5), tmp_path / "p.lmdb", []
    for kill in range(3):
        process = child(world, out, workers=kill)
        seen.append(int(process.stdout.readline()))
        for _ in range(dice.randrange(2, 7)):
            process.stdout.readline()
        process.kill()
        process.communicate()
        assert not out.exists()
    assert seen[0] == 0 < seen[1] < seen[2] < 120
    written = write_pack(card, index, out)
    assert 0 < written.new < 120 - seen[2]
    assert entries(out) == entries(packs / "float32.lmdb")
    verify(card, out, index)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.lmdb"]


def test_workers_end_when_their_parent_is_killed(world, tmp_path):
    process = child(world, tmp_path / "p.lmdb", workers=2)
    for _ in range(3):
        process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.stdout.read()  # ends when the last process that holds it ends
    process.communicate(timeout=20)


def test_what_is_left_of_another_source_is_not_continued(world, card, index, view, tmp_path):
    out = tmp_path / "p.lmdb"
    process = child(world, out)
    for _ in range(5):
        process.stdout.readline()
    process.kill()
    process.communicate()
    assert write_pack(card, index, out, view=view).new == 120
    verify(card, out, index)


def test_a_pack_that_is_complete_but_not_yet_renamed_is_renamed(packs, card, index, tmp_path):
    shutil.copytree(packs / "float32.lmdb", tmp_path / "p.lmdb.partial")
    assert write_pack(card, index, tmp_path / "p.lmdb").new == 0
    assert entries(tmp_path / "p.lmdb") == entries(packs / "float32.lmdb")


def test_a_partial_pack_cut_short_is_written_anew(packs, card, index, tmp_path):
    shutil.copytree(packs / "float32.lmdb", tmp_path / "p.lmdb.partial")
    os.truncate(tmp_path / "p.lmdb.partial/data.mdb", 1 << 20)
    assert write_pack(card, index, tmp_path / "p.lmdb").new == 120
    verify(card, tmp_path / "p.lmdb", index)


def test_a_second_writer_is_refused_at_once(world, card, index, tmp_path):
    process = child(world, tmp_path / "p.lmdb")
    process.stdout.readline()
    process.send_signal(19)  # SIGSTOP
    with pytest.raises(BenchError, match=r"another process is packing there: it holds .*p\.lmdb\.lock"):
        write_pack(card, index, tmp_path / "p.lmdb")
    process.send_signal(18)  # SIGCONT
    assert process.communicate(timeout=30)
    assert process.returncode == 0
    assert write_pack(card, index, tmp_path / "p.lmdb").new == 0


def test_a_pack_is_not_written_over_another(packs, card, index, view, tmp_path):
    before = (packs / "float32.lmdb/data.mdb").read_bytes()
    with pytest.raises(BenchError, match="holds something else"):
        write_pack(card, index, packs / "float32.lmdb", view=view)
    (tmp_path / "file.lmdb").write_text("text")
    with pytest.raises(BenchError, match="no LMDB file"):
        write_pack(card, index, tmp_path / "file.lmdb")
    assert (packs / "float32.lmdb/data.mdb").read_bytes() == before


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(world, card, index, tmp_path):
    process = child(world, tmp_path / "p.lmdb", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.startswith("error: no space left while writing")
    assert errors.count("\n") == 1
    assert not (tmp_path / "p.lmdb").exists()
    assert 0 < write_pack(card, index, tmp_path / "p.lmdb").new < 120
    verify(card, tmp_path / "p.lmdb", index)


def test_a_disk_that_is_too_small_is_told_before(card, index, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(BenchError, match=r"needs about 0\.0 GiB more .* 0\.0 GiB are free; free space"):
        write_pack(card, index, tmp_path / "p.lmdb")


# --- reading what is damaged or made for something else

OPEN = """
import sys
from pathlib import Path
from fgmae_bench.cards import load_card
from fgmae_bench.data.packs.read import open_pack
from fgmae_bench.errors import BenchError
card, root = load_card("eurosat"), Path(sys.argv[1])
size = (root / "data.mdb").stat().st_size
for keep in (size - 1, size - 4096, size * 3 // 4, size // 2, 100_000, 8192, 8191, 4096, 4095, 100, 1, 0):
    with open(root / "data.mdb", "rb+") as stream:
        stream.truncate(keep)
    try:
        index = open_pack(card, root)
        [index.read(row, card) for row in range(len(index.files))]
        print(keep, "was read")
    except BenchError as error:
        print(keep, error)
"""


def test_a_pack_cut_short_is_an_error_and_not_the_end_of_the_process(packs, tmp_path):
    copy = copied(packs / "float32.lmdb", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(copy)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    for line in lines:
        assert "is cut short" in line or "is no LMDB file" in line or "its head is damaged" in line, line


@pytest.mark.parametrize("content", [b"", b"x" * 100_000, bytes(100_000)])
def test_what_is_no_lmdb_is_refused(card, content, tmp_path):
    (tmp_path / "p.lmdb").mkdir()
    (tmp_path / "p.lmdb/data.mdb").write_bytes(content)
    assert is_pack(tmp_path / "p.lmdb")
    with pytest.raises(BenchError, match="is no LMDB file"):
        open_index(card, tmp_path / "p.lmdb")


def test_a_pack_without_its_file_is_refused(card, world, tmp_path):
    (tmp_path / "p.lmdb").mkdir()
    with pytest.raises(BenchError, match=r"data\.mdb is not there"):
        open_index(card, tmp_path / "p.lmdb")
    assert not is_pack(world)
    assert not is_pack(tmp_path / "absent.lmdb")


def test_facts_that_are_missing_or_unknown_are_refused(packs, card, tmp_path):
    source = packs / "float32.lmdb"
    meta = json.loads(entries(source)["__meta__"])
    cases = {
        "a": (None, "has no __meta__|no labels"),
        "b": (b"{", "__meta__ is damaged"),
        "c": (json.dumps({**meta, "format": 2}).encode(), "format 2, this version reads format 1"),
        "d": (json.dumps({**meta, "count": 121}).encode(), "holds 120 samples and 120 labels where it states 121"),
        "e": (json.dumps({**meta, "sample_ids_sha256": "0"}).encode(), "not those that it states"),
        "f": (json.dumps({**meta, "extra": 1}).encode(), "unknown key 'extra'"),
    }
    for name, (value, message) in cases.items():
        (tmp_path / name).mkdir()
        with pytest.raises(BenchError, match=message):
            open_pack(card, changed(source, tmp_path / name, b"__meta__", value))


def test_a_pack_of_other_classes_or_another_card_is_refused(packs, card):
    pack = packs / "float32.lmdb"
    turned = dataclasses.replace(card, classes=card.classes[::-1])
    for other, message in (
        (turned, r"10 classes in the order AnnualCrop, .* the card 10 classes in the order SeaLake"),
        (dataclasses.replace(card, label_scheme="other"), "by other"),
        (dataclasses.replace(card, name="other"), "is a pack of eurosat, not of other"),
        (dataclasses.replace(card, version=9), r"version 1 of the card eurosat, which is at 9"),
    ):
        with pytest.raises(BenchError, match=message):
            open_pack(other, pack)


def test_a_pack_for_another_contract_is_refused_with_both_named(packs, card):
    chip = open_pack(card, packs / "uint8.lmdb").read(0, card)
    for contract in (
        dataclasses.replace(FGMAE_CONTRACT, normalizer="fgmae_joint"),
        dataclasses.replace(FGMAE_CONTRACT, mean=(-12.0, -20.0)),
    ):
        with pytest.raises(BenchError, match=rf"made by fgmae of VV,VH \(mean \(-12\.59.*expects {contract.normalizer} of VV,VH"):
            make_view(card, contract, None).batch([chip], ["a"])
    with pytest.raises(BenchError, match="expects db of"):
        make_view(card, RAW_CONTRACT, None).batch([chip], ["a"])


def test_a_uint8_pack_is_no_source_of_another_pack(packs, card, tmp_path):
    with pytest.raises(BenchError, match="its backscatter is gone"):
        write_pack(card, open_pack(card, packs / "uint8.lmdb"), tmp_path / "p.lmdb")


def test_verify_finds_a_changed_bit_a_lost_and_an_added_sample(packs, card, index, tmp_path):
    source = packs / "float32.lmdb"
    value = bytearray(entries(source)["River/River_7"])
    value[-1] ^= 1
    cases = {
        "bit": (b"River/River_7", bytes(value), "1 of 120 values of .* River/River_7"),
        "lost": (b"River/River_7", None, "holds 119 samples and 120 labels"),
        "added": (b"River/River_77", bytes(value), "holds 121 samples and 120 labels"),
    }
    for name, (key, content, message) in cases.items():
        (tmp_path / name).mkdir()
        copy = changed(source, tmp_path / name, key, content)
        with pytest.raises(BenchError, match=message):
            verify(card, copy, index)


def test_verify_finds_a_source_that_changed(packs, card, world, tmp_path):
    root = Path(shutil.copytree(world, tmp_path / "world"))
    rewrite(root / "River/River_7.tif", lambda pixels: pixels + np.float32(1))
    with pytest.raises(BenchError, match=r"1 of 120 samples of .* are not those of .*: River/River_7"):
        verify(card, packs / "float32.lmdb", build_index(card, root))


def test_damaged_values_are_refused(packs, card, tmp_path):
    held = entries(packs / "float32.lmdb")["River/River_7"]
    row = 0
    for name, value in (("short", held[:-4]), ("head", b"\xff" * 8 + held[8:]), ("text", b"{}"), ("empty", b"")):
        (tmp_path / name).mkdir()
        packed = open_pack(card, changed(packs / "float32.lmdb", tmp_path / name, b"River/River_7", value))
        row = packed.ids.index("River/River_7")
        with pytest.raises(BenchError, match=r"River_7.*(is damaged|holds)"):
            packed.read(row, card)


# --- processes and threads


def read_digest(card, packed, rows):
    return b"".join(packed.read(row, card).db.tobytes() for row in rows)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_readers_in_other_processes(packs, card, index, method):
    packed = open_pack(card, packs / "float32.lmdb")
    expected = read_digest(card, packed, range(40))  # so that the parent's environment is open when it forks
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(read_digest, [(card, packed, range(40))] * 4)
    assert found == [expected] * 4
    assert read_digest(card, packed, range(40)) == expected


def test_readers_in_threads(packs, card):
    packed = open_pack(card, packs / "float32.lmdb")
    expected = [packed.read(row, card).db.tobytes() for row in range(120)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: packed.read(row % 120, card).db.tobytes(), range(480))) == expected * 4


def test_a_pack_replaced_in_use_is_told_and_opened_anew(packs, card, index, view, tmp_path):
    out = copied(packs / "float32.lmdb", tmp_path)
    old = open_pack(card, out)
    old.read(0, card)
    shutil.rmtree(out)
    write_pack(card, index, out, view=view)
    assert open_pack(card, out).read(0, card).ready is not None
    with pytest.raises(BenchError, match="was replaced while it was in use"):
        old.read(0, card)


# --- plain TIFF files


def test_plain_files_are_read_as_gdal_reads_them(card, world, realdata, tmp_path):
    files = [*sorted(world.rglob("*.tif"))[::10], *sorted(realdata.rglob("*.tif"))]
    plain = 0
    for path in files:
        found = read_plain(path)
        if found is not None:
            with rasterio.open(path) as source:
                assert found.db.tobytes() == source.read().tobytes(), path
                assert set(found.nodata) == {value for value in source.nodatavals if value is not None}
            plain += 1
    assert plain > len(files) * 3 // 4


@pytest.mark.parametrize(
    "profile",
    [
        {"compress": "deflate"}, {"tiled": True, "blockxsize": 16, "blockysize": 16}, {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"},
        {"interleave": "pixel"}, {"interleave": "band"}, {"nodata": -99.0}, {"nodata": float("nan")}, {"blockysize": 7},
    ],
    ids=str,
)  # fmt: skip
def test_other_files_are_left_to_gdal_or_read_alike(card, world, profile, tmp_path):
    path = tmp_path / "a.tif"
    pixels = index_pixels = np.linspace(-30, 0, 2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64)
    with rasterio.open(path, "w", driver="GTiff", count=2, height=64, width=64, dtype="float32", **profile) as target:
        target.write(pixels)
    chip = read_chip(path, card)
    np.testing.assert_array_equal(chip.db, index_pixels)
    left = any(key in profile for key in ("compress", "tiled", "BIGTIFF", "ENDIANNESS"))
    assert (read_plain(path) is None) == left
    whole = path.read_bytes()
    for length in (0, 3, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert read_plain(path) is None
