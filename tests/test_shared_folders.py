"""Folders that several processes, containers and users share: what dead owners left is removed, what living ones hold
is not, and nothing that was planted is followed.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgmae_bench.errors import BenchError
from fgmae_bench.hub.checksums import note_path, noted, write_pin
from fgmae_bench.system import files
from fgmae_bench.system.files import appearing, lock_or_fail, read_small_json, replacing, wait_for_lock, write_text

REPOSITORY = Path(__file__).resolve().parents[1]
WORKS = {
    "file": "with files.replacing(place) as part: part.write_bytes(b'half'); print(flush=True); time.sleep(3600)",
    "folder": (
        "with files.appearing(place) as part: (part / 'a').write_bytes(b'half'); print(flush=True); time.sleep(3600)"
    ),
}


@pytest.fixture(autouse=True)
def as_a_new_process(monkeypatch):
    """Folders are looked into once a process: each test is one."""
    monkeypatch.setattr(files, "_looked_into", set())


def at_work(kind, place):
    """A process that has begun to write to `place`."""
    code = f"import sys, time; from pathlib import Path; from fgmae_bench.system import files\nplace = Path(sys.argv[1])\n{WORKS[kind]}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", code, place], stdout=subprocess.PIPE, env=environment)
    process.stdout.readline()
    return process


def end(process, number=signal.SIGKILL):
    process.send_signal(number)
    process.communicate()


@pytest.mark.parametrize("kind", WORKS)
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, kind):
    end(at_work(kind, tmp_path / "out"))
    assert any(name.endswith(".partial") for name in os.listdir(tmp_path))
    write_text(tmp_path / "other", "x")
    assert os.listdir(tmp_path) == ["other"]


@pytest.mark.parametrize("kind", WORKS)
def test_what_a_living_process_holds_stays_whatever_its_number(tmp_path, kind):
    process = at_work(kind, tmp_path / "out")
    before = sorted(os.listdir(tmp_path))
    write_text(tmp_path / "other", "x")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "other"])
    end(process)


def test_two_processes_of_one_number_do_not_take_each_others_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with appearing(tmp_path / "a") as first:
        (first / "x").write_text("first")
        with contextlib.suppress(RuntimeError), appearing(tmp_path / "a") as second:
            assert second != first
            raise RuntimeError
        assert (first / "x").read_text() == "first"
    assert (tmp_path / "a" / "x").read_text() == "first"
    assert os.listdir(tmp_path) == ["a"]


def test_what_another_machine_holds_is_removed_only_when_it_is_old(tmp_path):
    fresh, old = (tmp_path / f".out.{boot}-abcdefgh.partial" for boot in ("00000000", "00000001"))
    for path in (fresh, old):
        path.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    write_text(tmp_path / "out", "x")
    assert sorted(os.listdir(tmp_path)) == sorted([fresh.name, "out"])


def test_what_only_looks_alike_stays(tmp_path):
    mine = [".out.partial", "out.00000000-abcdefgh.partial", ".out.0000-abcdefgh.partial", ".panels.partial"]
    for name in mine:
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (1, 1))
    write_text(tmp_path / "out", "x")
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "out"])


def test_a_file_that_is_looked_at_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    first, real = [], files.still_at

    def removed_once(path, stream):
        if not first:
            first.append(path)
            path.unlink()
        return real(path, stream)

    monkeypatch.setattr(files, "still_at", removed_once)
    write_text(tmp_path / "out", "x")
    assert (tmp_path / "out").read_text() == "x"
    assert os.listdir(tmp_path) == ["out"]


def test_the_name_is_on_the_disk_before_the_end(tmp_path, monkeypatch):
    seen, real = [], os.fsync

    def looked(handle):
        seen.append((os.readlink(f"/proc/self/fd/{handle}"), (tmp_path / "out").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", looked)
    write_text(tmp_path / "out", "x")
    assert (seen[-1], seen[0][1]) == ((str(tmp_path), True), False)
    seen.clear()
    with replacing(tmp_path / "out", durable=False) as temporary:
        temporary.write_text("y")
    assert (seen, (tmp_path / "out").read_text()) == ([], "y")


# --- planted links, FIFOs and devices


def planted(kind, path, victim):
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim, path)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder"])
@pytest.mark.parametrize("lock", [wait_for_lock, lambda path: lock_or_fail(path, "busy", "wait")])
def test_a_planted_lock_is_refused_and_what_it_leads_to_stays(tmp_path, kind, lock):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted(kind, tmp_path / "lock", victim)
    with pytest.raises(BenchError, match="is not a regular file of its own; remove it"), lock(tmp_path / "lock"):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_planted_leftover_is_not_followed(tmp_path, kind):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "x").write_text("precious")
    name = f".out.{files.BOOT}-abcdefgh.partial"
    (tmp_path / name).write_text("")
    planted(kind, tmp_path / f"{name}.d", victim)
    planted(kind, tmp_path / f".two.{files.BOOT}-abcdefgh.partial", victim / "x")
    write_text(tmp_path / "out", "x")
    assert (victim / "x").read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_planted_notes_are_not_read(tmp_path, kind):
    (tmp_path / "secret").write_text('{"a": 1}')
    planted(kind, tmp_path / "note.json", tmp_path / "secret")
    assert read_small_json(tmp_path / "note.json") is None
    (tmp_path / "w.pth").write_text("x")
    planted(kind, note_path(tmp_path / "w.pth"), tmp_path / "secret")
    with pytest.raises(BenchError, match="is not a regular file of its own"):
        noted(tmp_path / "w.pth", "source")


def test_a_fifo_in_place_of_the_pins_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pins.toml")
    with pytest.raises(BenchError, match="is not a regular file"):
        write_pin(tmp_path / "pins.toml", "source", "0" * 64)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "{", "\udcff", " " * 2_000_000])
def test_notes_that_no_program_of_ours_wrote_are_absent(tmp_path, text):
    (tmp_path / "note.json").write_bytes(text.encode(errors="surrogateescape"))
    assert read_small_json(tmp_path / "note.json") is None
