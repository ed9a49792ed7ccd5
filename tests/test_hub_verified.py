"""Downloads from a hub on 127.0.0.1: whole, verified and alone in their folder, or refused with one line that says why."""

import email.utils
import logging
import os
import time

import pytest
from hub_server import COMMIT, CONTENT, FETCH, FILE, SHA256, SIZE, child, error_of, names
from preloaded import HANG

from fgmae_bench.hub import http as hub_http
from fgmae_bench.hub.checksums import read_pins
from fgmae_bench.hub.fetch import HubFile, fetch

pytest_plugins = ("hub_server",)


# --- whole and verified


def test_fetched_file_is_whole_verified_and_alone_with_its_note(hub, target):
    fetched = fetch(FILE, target)
    assert (fetched.sha256, fetched.transferred, fetched.commit) == (SHA256, SIZE, COMMIT)
    assert target.read_bytes() == CONTENT
    assert names(target) == ["weights.pth", "weights.pth.sha256"]


def test_note_is_readable_by_sha256sum(hub, target):
    fetch(FILE, target)
    note = target.with_name("weights.pth.sha256").read_text().splitlines()
    assert note[0].startswith("# ")
    assert note[1] == f"{SHA256}  weights.pth"


def test_second_fetch_asks_nobody_and_transfers_nothing(hub, target):
    fetch(FILE, target)
    hub.asked.clear()
    assert fetch(FILE, target).transferred == 0
    assert hub.asked == []


def test_only_the_file_is_asked_for(hub, target):
    fetch(FILE, target)
    assert [(method, where) for method, where, _ in hub.asked] == [("HEAD", "hub"), ("GET", "hub"), ("GET", "storage")]


@pytest.mark.parametrize("linked", [True, False])
def test_token_is_not_sent_to_the_storage_host(hub, target, monkeypatch, linked):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.linked = linked
    fetch(FILE, target)
    assert {(where, headers.get("authorization")) for _, where, headers in hub.asked} == {
        ("hub", "Bearer hf_secret"),
        ("storage", None),
    }


def test_touched_file_is_read_again_not_fetched_again(hub, target):
    fetch(FILE, target)
    os.utime(target, ns=(1, 1))
    hub.asked.clear()
    assert fetch(FILE, target).transferred == 0
    assert hub.asked == []


def test_changed_file_is_refused(hub, target):
    fetch(FILE, target)
    target.write_bytes(CONTENT[:-1] + b"x")
    assert "has changed since it was verified; remove it and fetch it again" in error_of(lambda: fetch(FILE, target))


def test_file_put_there_by_hand_is_verified_in_place(hub, target):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert fetch(FILE, target).transferred == 0
    assert hub.sent == 0
    assert names(target) == ["weights.pth", "weights.pth.sha256"]


def test_other_file_in_the_way_is_refused_and_kept(hub, target):
    target.parent.mkdir()
    target.write_bytes(b"mine")
    assert f"expected {SHA256}; remove it" in error_of(lambda: fetch(FILE, target))
    assert target.read_bytes() == b"mine"
    assert names(target) == ["weights.pth"]


def test_file_of_another_revision_is_not_taken_for_this_one(hub, target):
    fetch(FILE, target)
    hub.files["owner/name/weights.pth"] = b"new"
    other = HubFile(repo="owner/name", file="weights.pth", revision="main")
    assert "is not from here" in error_of(lambda: fetch(other, target))


# --- wrong content


def test_wrong_bytes_are_refused_and_removed(hub, target):
    hub.forged["owner/name/weights.pth"] = CONTENT[:1000] + b"\0" + CONTENT[1001:]
    line = error_of(lambda: fetch(FILE, target))
    assert "wrong bytes came" in line
    assert f"instead of {SHA256}" in line
    assert names(target) == []


def test_more_bytes_than_stated_are_refused_and_removed(hub, target):
    hub.forged["owner/name/weights.pth"] = CONTENT + b"more"
    assert f"more than the {SIZE} bytes" in error_of(lambda: fetch(FILE, target))
    assert names(target) == []


def test_hub_with_other_content_than_expected_is_refused_before_any_byte(hub, target):
    line = error_of(lambda: fetch(FILE, target, sha256="0" * 64))
    assert f"{SHA256} is stated by the hub" in line
    assert f"{'0' * 64} is expected" in line
    assert hub.sent == 0


def test_where_nobody_vouches_the_content_is_pinned_and_said(hub, target, caplog):
    hub.lfs = False
    pins = target.parent / "pins" / "sha256.lock.toml"
    pins.parent.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        fetch(FILE, target, pins=pins)
    assert "nothing vouches for owner/name@" in caplog.text
    assert read_pins(pins) == {str(FILE): SHA256}
    assert os.listdir(pins.parent) == ["sha256.lock.toml"]


def test_pinned_content_is_demanded_the_next_time(hub, target):
    hub.lfs = False
    fetch(FILE, target)
    target.unlink()
    hub.files["owner/name/weights.pth"] = CONTENT[::-1]
    assert f"instead of {SHA256}" in error_of(lambda: fetch(FILE, target))


def test_digits_in_the_name_vouch_where_nobody_else_does(hub, target, caplog):
    hub.lfs = False
    named = HubFile(repo="owner/name", file=f"weights-{SHA256[:8]}.pth", revision=COMMIT)
    hub.files[f"owner/name/{named.file}"] = CONTENT
    with caplog.at_level(logging.INFO):
        assert fetch(named, target).sha256 == SHA256
    assert "8 digits in its name vouch for it" in caplog.text
    assert "nothing vouches" not in caplog.text
    assert read_pins(target.parent / "sha256.lock.toml") == {str(named): SHA256}


@pytest.mark.parametrize("lfs", [False, True])
def test_content_against_the_digits_in_its_name_is_refused(hub, target, lfs):
    hub.lfs = lfs
    named = HubFile(repo="owner/name", file="weights-deadbeef.pth", revision=COMMIT)
    hub.files[f"owner/name/{named.file}"] = CONTENT
    line = error_of(lambda: fetch(named, target))
    assert "its name says" in line
    assert "deadbeef..." in line
    assert not target.exists()
    assert hub.sent == (0 if lfs else SIZE)


def test_a_date_in_a_name_is_no_hash(hub, target):
    dated = HubFile(repo="owner/name", file="weights-20231101.pth", revision=COMMIT)
    hub.files[f"owner/name/{dated.file}"] = CONTENT
    assert fetch(dated, target).sha256 == SHA256


@pytest.mark.parametrize("text", ["[sha256]\nx = 3", "[sha256]\nx = 'abc'", "sha256 = 3", "[sha256"])
def test_damaged_pins_are_refused(hub, target, text):
    target.parent.mkdir()
    (target.parent / "sha256.lock.toml").write_text(text)
    assert "sha256.lock.toml" in error_of(lambda: fetch(FILE, target))


# --- refused


def test_missing_file_names_repository_file_and_revision(hub, target):
    line = error_of(lambda: fetch(HubFile(repo="owner/name", file="nothing.pth", revision="abc"), target))
    assert line.startswith("the hub has no nothing.pth of owner/name at revision abc (404); ")
    assert not target.parent.exists()


def test_private_repository_says_how_to_log_in(hub, target):
    hub.answers = [("HEAD", 401, {})]
    assert "hf auth login" in error_of(lambda: fetch(FILE, target))


def test_too_many_requests_are_waited_for_as_long_as_asked(hub, target, monkeypatch):
    hub.answers = [
        ("HEAD", 429, {"Retry-After": "1"}),
        ("HEAD", 429, {"Retry-After": email.utils.formatdate(time.time(), usegmt=True)}),
    ]
    slept = []
    monkeypatch.setattr(hub_http.time, "sleep", slept.append)
    assert fetch(FILE, target).transferred == SIZE
    assert slept[0] == 1
    assert len(slept) == 2


def test_too_many_requests_for_ever_end_after_three_new_tries(hub, target):
    hub.answers = [("HEAD", 429, {})] * 9
    assert "answers 429" in error_of(lambda: fetch(FILE, target))
    assert len(hub.asked) == 4


def test_an_hour_is_not_waited_for(hub, target):
    hub.answers = [("HEAD", 429, {"Retry-After": "3600"})]
    assert "run the same command again in 3600 s" in error_of(lambda: fetch(FILE, target))
    assert len(hub.asked) == 1


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_server_errors_are_tried_again(hub, target, method):
    hub.answers = [(method, 503, {}), (method, 500, {})]
    assert fetch(FILE, target).transferred == SIZE


@pytest.mark.parametrize("body", [b"[1]", b"<html>", b"\xff", b'"text"'])
def test_error_bodies_of_any_kind_are_one_line(hub, target, body):
    hub.body, hub.answers = body, [("GET", 403, {})]
    assert "the hub refuses weights.pth" in error_of(lambda: fetch(FILE, target))
    assert names(target) == []


def test_no_network_is_one_line(target, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    line = error_of(lambda: fetch(FILE, target))
    assert line.startswith("127.0.0.1:9 cannot be reached (")
    assert not target.parent.exists()


@pytest.mark.parametrize("endpoint", ["nonsense", "http://", "http://127.0.0.1:notaport", "ftp://127.0.0.1"])
def test_senseless_endpoint_is_one_line(target, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert "HF_ENDPOINT" in error_of(lambda: fetch(FILE, target))


def test_offline_mode_is_respected(hub, target):
    _, err = (process := child(hub, FETCH, target, HF_HUB_OFFLINE="1")).communicate(timeout=HANG)
    assert process.returncode == 2
    assert "HF_HUB_OFFLINE is set" in err
    assert hub.asked == []
