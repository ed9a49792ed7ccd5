"""Packs whose writing is killed, cut or full go on; packs that are damaged or made for something else are refused."""

import dataclasses
import json
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import preloaded
import psutil
import pytest
from commands import rewrite
from pack_files import changed, copied, entries, verify
from preloaded import HANG, wait_until

from fgmae_bench.config.contract import FGMAE_CONTRACT, RAW_CONTRACT
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs.read import is_pack, open_index, open_pack
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.errors import BenchError
from fgmae_bench.views.classification import make_view

pytest_plugins = ("pack_files",)


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


# Says its progress, and stops itself for good after as many steps as it may take: no signal comes too late.
CHILD = """
import os, signal, sys
from pathlib import Path
from fgmae_bench.config.cards import load_card
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs import write
write.MOST_IN_BATCH = 4
card, most, steps = load_card("eurosat"), int(sys.argv[4]), []
def step(done):
    print(done, flush=True)
    steps.append(done)
    if len(steps) == most:
        os.kill(os.getpid(), signal.SIGSTOP)
def main():
    write.write_pack(card, build_index(card, Path(sys.argv[1])), Path(sys.argv[2]), workers=int(sys.argv[3]), step=step)
from fgmae_bench.errors import run_entry
run_entry(main)
"""


def child(world, out, workers=0, most=0, before=""):
    return preloaded.Process(["-c", before + CHILD, world, out, workers, most])


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_loses_and_doubles_nothing(world, packs, card, index, tmp_path):
    dice, out, seen = random.Random(5), tmp_path / "p.lmdb", []
    for kill in range(3):
        lines = dice.randrange(3, 8)
        process = child(world, out, workers=kill, most=lines + 2)
        seen.append(int(process.stdout.readline()))
        for _ in range(lines - 1):
            process.stdout.readline()
        process.kill()
        process.communicate(HANG)
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
    assert seen[0] == 0 < seen[1] < seen[2] < 120
    written = write_pack(card, index, out)
    assert 0 < written.new < 120 - seen[2]
    assert entries(out) == entries(packs / "float32.lmdb")
    verify(card, out, index)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.lmdb"]


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(world, tmp_path):
    process = child(world, tmp_path / "p.lmdb", workers=2, most=3)
    for _ in range(3):
        process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.communicate(HANG)  # ends when the last process that holds its output ends


def test_what_is_left_of_another_source_is_not_continued(world, card, index, view, tmp_path):
    out = tmp_path / "p.lmdb"
    process = child(world, out, most=5)
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
    process = child(world, tmp_path / "p.lmdb", most=1)
    process.stdout.readline()
    with pytest.raises(BenchError, match=r"another process is packing there: it holds .*p\.lmdb\.lock"):
        write_pack(card, index, tmp_path / "p.lmdb")
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, process)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(HANG)
    assert process.returncode == 0
    assert write_pack(card, index, tmp_path / "p.lmdb").new == 0


def test_a_pack_is_not_written_over_another(packs, card, index, view, tmp_path):
    before = (packs / "float32.lmdb/data.mdb").read_bytes()
    with pytest.raises(BenchError, match="holds something else"):
        write_pack(card, index, packs / "float32.lmdb", view=view)
    (tmp_path / "file.lmdb").write_text("text")
    with pytest.raises(BenchError, match="is not an LMDB file"):
        write_pack(card, index, tmp_path / "file.lmdb")
    assert (packs / "float32.lmdb/data.mdb").read_bytes() == before


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(world, card, index, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    process = child(world, tmp_path / "p.lmdb", before=limit)
    _, errors = process.communicate(HANG)
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
from fgmae_bench.config.cards import load_card
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
    done = preloaded.run(["-c", OPEN, copy])
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    for line in lines:
        assert "is cut short" in line or "is not an LMDB file" in line or "its head is damaged" in line, line


@pytest.mark.parametrize("content", [b"", b"x" * 100_000, bytes(100_000)])
def test_what_is_no_lmdb_is_refused(card, content, tmp_path):
    (tmp_path / "p.lmdb").mkdir()
    (tmp_path / "p.lmdb/data.mdb").write_bytes(content)
    assert is_pack(tmp_path / "p.lmdb")
    with pytest.raises(BenchError, match="is not an LMDB file"):
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
        with pytest.raises(
            BenchError, match=rf"made by fgmae of VV,VH \(mean \(-12\.59.*expects {contract.normalizer} of VV,VH"
        ):
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
