"""Downloads that are killed, cut, throttled, shared or run out of disk go on where they stopped and end whole."""

import json
import logging
import os
import shutil
import threading
import time

import pytest
from hub_server import CONTENT, FETCH, FILE, SHA256, SIZE, child, error_of, names
from preloaded import HANG, wait_until

from fgmae_bench.hub import http as hub_http
from fgmae_bench.hub.fetch import fetch
from fgmae_bench.system.files import wait_for_lock

pytest_plugins = ("hub_server",)


def partial(target):
    return target.with_name(target.name + ".partial")


def test_half_a_file_is_kept_and_completed(hub, target):
    hub.cut_after = SIZE // 2
    line = error_of(lambda: fetch(FILE, target))
    assert f"after {SIZE // 2} of {SIZE} bytes" in line
    assert "run the same command again" in line
    assert names(target) == ["weights.pth.partial", "weights.pth.partial.json"]
    hub.cut_after, hub.sent = None, 0
    assert fetch(FILE, target).transferred == hub.sent == SIZE - SIZE // 2
    assert target.read_bytes() == CONTENT


def test_server_without_ranges_sends_all_again(hub, target, caplog):
    hub.cut_after = SIZE // 2
    error_of(lambda: fetch(FILE, target))
    hub.cut_after, hub.ranges = None, False
    with caplog.at_level(logging.INFO):
        assert fetch(FILE, target).transferred == SIZE
    assert "cannot continue" in caplog.text
    assert target.read_bytes() == CONTENT


def test_restarted_download_that_is_cut_earlier_keeps_no_old_tail(hub, target):
    hub.cut_after = SIZE // 2
    error_of(lambda: fetch(FILE, target))
    hub.cut_after, hub.ranges = SIZE // 4, False
    error_of(lambda: fetch(FILE, target))
    assert partial(target).stat().st_size == SIZE // 4


def test_answer_without_a_length_that_is_cut_is_not_taken_for_whole(hub, target):
    hub.lengths, hub.cut_after = False, SIZE // 2
    assert f"after {SIZE // 2} of {SIZE} bytes; run the same command again" in error_of(lambda: fetch(FILE, target))
    assert partial(target).stat().st_size == SIZE // 2


@pytest.mark.parametrize("shift", [-5, 5])
def test_other_range_than_asked_for_is_not_used(hub, target, shift):
    hub.cut_after = SIZE // 2
    error_of(lambda: fetch(FILE, target))
    hub.cut_after, hub.range_shift = None, shift
    assert fetch(FILE, target).transferred == SIZE


def test_refused_range_is_asked_for_whole(hub, target):
    hub.cut_after = SIZE // 2
    error_of(lambda: fetch(FILE, target))
    hub.cut_after, hub.answers = None, [("GET", 416, {})]
    assert fetch(FILE, target).transferred == SIZE


def test_new_content_is_not_joined_to_the_old_half(hub, target):
    hub.cut_after = SIZE // 2
    error_of(lambda: fetch(FILE, target))
    hub.cut_after, hub.files["owner/name/weights.pth"] = None, CONTENT[::-1]
    assert fetch(FILE, target).transferred == SIZE
    assert target.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("facts", [None, "{", "[]", json.dumps({"etag": SHA256, "size": SIZE - 1})])
def test_partial_of_unknown_origin_is_not_continued(hub, target, facts):
    target.parent.mkdir()
    partial(target).write_bytes(b"x" * 1000)
    if facts is not None:
        target.with_name("weights.pth.partial.json").write_text(facts)
    assert fetch(FILE, target).transferred == SIZE


def test_complete_partial_is_verified_without_a_transfer(hub, target):
    target.parent.mkdir()
    partial(target).write_bytes(CONTENT)
    target.with_name("weights.pth.partial.json").write_text(json.dumps({"etag": SHA256, "size": SIZE}))
    assert fetch(FILE, target).transferred == hub.sent == 0
    assert target.read_bytes() == CONTENT


def test_spoilt_partial_is_found_out_and_the_next_call_starts_anew(hub, target):
    hub.cut_after = SIZE // 2
    error_of(lambda: fetch(FILE, target))
    with open(partial(target), "r+b") as stream:
        stream.write(b"spoilt")
    hub.cut_after = None
    assert "wrong bytes came" in error_of(lambda: fetch(FILE, target))
    assert fetch(FILE, target).transferred == SIZE


def test_unstated_size_still_ends_whole_or_not_at_all(hub, target):
    hub.sizes, hub.cut_after = False, SIZE // 2
    assert "run the same command again" in error_of(lambda: fetch(FILE, target))
    hub.cut_after = None
    assert fetch(FILE, target).transferred == SIZE


def test_stalled_server_is_given_up(hub, target, monkeypatch):
    monkeypatch.setattr(hub_http, "TIMEOUT_S", 0.3)
    hub.bytes_per_second = 10_000
    assert "run the same command again" in error_of(lambda: fetch(FILE, target))


def test_two_processes_share_one_download(hub, target):
    hub.hold_after = SIZE // 4
    first = child(hub, FETCH, target)
    wait_until(lambda: hub.sent > 0)
    second = child(hub, FETCH, target)
    waiting = second.stderr.readline()
    hub.go.set()
    (out1, err1), (out2, err2) = first.communicate(timeout=HANG), second.communicate(timeout=HANG)
    assert (first.returncode, second.returncode) == (0, 0), (err1, err2)
    assert [int(out1), int(out2)] == [SIZE, 0]
    assert hub.sent == SIZE
    assert "waiting for it" in waiting
    assert names(target) == ["weights.pth", "weights.pth.sha256"]


def test_lock_on_a_file_that_was_removed_meanwhile_is_taken_again(tmp_path):
    path, found = tmp_path / "lock", []

    def wait_and_look():
        with wait_for_lock(path) as stream:
            found.append(path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()))

    with wait_for_lock(path):
        thread = threading.Thread(target=wait_and_look)
        thread.start()
        time.sleep(0.1)
        assert found == []
        path.unlink()
    thread.join(HANG)
    assert found == [True]


def test_full_disk_keeps_what_has_come(hub, target):
    limit = 1_000_000
    process = child(
        hub, f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); {FETCH}", target
    )
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "no space left while writing" in err
    assert partial(target).stat().st_size == limit
    assert fetch(FILE, target).transferred == SIZE - limit


def test_too_little_space_is_said_before_the_first_byte(hub, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, SIZE - 1))
    assert "needs 3 MB more; free space there" in error_of(lambda: fetch(FILE, target))
    assert hub.sent == 0
