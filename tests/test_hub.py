"""Downloads from a hub on 127.0.0.1: killed and continued, refused, cut, forged, throttled, shared; and the commands built on them."""

import email.utils
import hashlib
import json
import logging
import os
import shutil
import signal
import threading
import time
import zipfile

import huggingface_hub
import numpy as np
import pytest
from commands import edited_card, listing
from hub_server import COMMIT, child, serving, wait_for

from fgmae_bench import hub_http
from fgmae_bench.cards import load_card
from fgmae_bench.checkpoints import registry
from fgmae_bench.checkpoints.registry import WEIGHTS, find_weights, locate, weights_folder
from fgmae_bench.checksums import read_pins
from fgmae_bench.data.layouts import build_index
from fgmae_bench.errors import BenchError
from fgmae_bench.hub import HubFile, adopt, fetch
from fgmae_bench.locks import locked
from fgmae_bench.prepare import download
from fgmae_bench.weights import fetch as fetch_command
from fgmae_bench.weights import list as list_command
from fgmae_bench.worlds.eurosat import write_eurosat

ENTRIES = sum(map(len, WEIGHTS.values()))
SIZE = 3_000_000
CONTENT = np.random.default_rng(0).bytes(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = HubFile(repo="owner/name", file="weights.pth", revision=COMMIT)
FETCH = f"print(fetch(HubFile(repo='owner/name', file='weights.pth', revision='{COMMIT}'), Path(argv[0])).transferred)"


@pytest.fixture
def hub(monkeypatch):
    with serving() as hub:
        hub.files["owner/name/weights.pth"] = CONTENT
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(hub_http, "PAUSES_S", (0.01, 0.01, 0.01))
        huggingface_hub.close_session()
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "folder" / "weights.pth"


def error_of(work):
    with pytest.raises(BenchError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def partial(target):
    return target.with_name(target.name + ".partial")


def names(target):
    return sorted(path.name for path in target.parent.iterdir()) if target.parent.exists() else []


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
    assert {(where, headers.get("authorization")) for _, where, headers in hub.asked} == {("hub", "Bearer hf_secret"), ("storage", None)}


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


# --- interrupted


def test_killed_download_goes_on_where_it_stopped(hub, target):
    hub.bytes_per_second = 2e6
    process = child(hub, FETCH, target)
    wait_for(lambda: partial(target).exists() and partial(target).stat().st_size > SIZE // 4)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    have = partial(target).stat().st_size
    assert 0 < have < SIZE
    assert not target.exists()
    hub.bytes_per_second, hub.sent = 0, 0
    wait_for(lambda: hub.sent == 0)
    assert fetch(FILE, target).transferred == SIZE - have
    assert hub.gets()[-1]["range"] == f"bytes={have}-"
    assert target.read_bytes() == CONTENT


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
    hub.bytes_per_second = 3e6
    first = child(hub, FETCH, target)
    wait_for(lambda: hub.sent > 0)
    second = child(hub, FETCH, target)
    (out1, err1), (out2, err2) = first.communicate(timeout=20), second.communicate(timeout=20)
    assert (first.returncode, second.returncode) == (0, 0), (err1, err2)
    assert sorted([int(out1), int(out2)]) == [0, SIZE]
    assert hub.sent == SIZE
    assert "waiting for it" in err2
    assert names(target) == ["weights.pth", "weights.pth.sha256"]


def test_lock_on_a_file_that_was_removed_meanwhile_is_taken_again(tmp_path):
    path, found = tmp_path / "lock", []

    def wait_and_look():
        with locked(path) as stream:
            found.append(path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()))

    with locked(path):
        thread = threading.Thread(target=wait_and_look)
        thread.start()
        time.sleep(0.1)
        assert found == []
        path.unlink()
    thread.join(5)
    assert found == [True]


def test_full_disk_keeps_what_has_come(hub, target):
    limit = 1_000_000
    process = child(hub, f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); {FETCH}", target)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "no space left while writing" in err
    assert partial(target).stat().st_size == limit
    assert fetch(FILE, target).transferred == SIZE - limit


def test_too_little_space_is_said_before_the_first_byte(hub, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, SIZE - 1))
    assert "needs 3 MB more; free space there" in error_of(lambda: fetch(FILE, target))
    assert hub.sent == 0


# --- refused


def test_missing_file_names_repository_file_and_revision(hub, target):
    line = error_of(lambda: fetch(HubFile(repo="owner/name", file="nothing.pth", revision="abc"), target))
    assert line.startswith("the hub has no nothing.pth of owner/name at revision abc (404); ")
    assert not target.parent.exists()


def test_private_repository_says_how_to_log_in(hub, target):
    hub.answers = [("HEAD", 401, {})]
    assert "hf auth login" in error_of(lambda: fetch(FILE, target))


def test_too_many_requests_are_waited_for_as_long_as_asked(hub, target):
    hub.answers = [("HEAD", 429, {"Retry-After": "1"}), ("HEAD", 429, {"Retry-After": email.utils.formatdate(time.time(), usegmt=True)})]
    started = time.monotonic()
    assert fetch(FILE, target).transferred == SIZE
    assert time.monotonic() - started >= 1


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
    _, err = (process := child(hub, FETCH, target, HF_HUB_OFFLINE="1")).communicate(timeout=20)
    assert process.returncode == 2
    assert "HF_HUB_OFFLINE is set" in err
    assert hub.asked == []


# --- weights


@pytest.fixture
def published(hub):
    entry = WEIGHTS["fgmae"]["vit_small_patch16"]
    hub.files[f"{entry.hub.repo}/{entry.hub.file}"] = CONTENT
    return entry


def test_registry_is_complete_and_pinned():
    for name in ("fgmae", "fgmae-full", "ssl4eo-mae", "ssl4eo-mae-full"):
        assert set(WEIGHTS[name]) == {"vit_small_patch16", "vit_base_patch16", "vit_large_patch16", "vit_huge_patch14"}
    for models in WEIGHTS.values():
        assert all(len(entry.hub.revision) == 40 for entry in models.values())
    assert len({entry.hub for models in WEIGHTS.values() for entry in models.values()}) == ENTRIES


def test_absent_weights_name_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FGMAE_BENCH_CACHE", str(tmp_path))
    line = error_of(lambda: locate("fgmae", "vit_small_patch16", tmp_path))
    assert line.endswith("are not here; get them with: python -m fgmae_bench.weights fetch fgmae --model vit_small_patch16")
    assert error_of(lambda: locate("fgmae", "vit_small_patch16", tmp_path / "x")).endswith(f"--cache_dir {tmp_path / 'x'}")


def test_unknown_weights_offer_the_closest():
    assert "did you mean 'fgmae'?" in error_of(lambda: registry.published("fgmea", "vit_small_patch16"))
    assert "did you mean 'vit_small_patch16'?" in error_of(lambda: registry.published("fgmae", "vit_smal_patch16"))


def test_weights_fetch_then_locate(hub, published, tmp_path, capsys):
    fetch_command.main({"name": "fgmae", "model": "vit_small_patch16", "cache_dir": str(tmp_path)})
    path = locate("fgmae", "vit_small_patch16", tmp_path)
    assert capsys.readouterr().out == f"{path}\nsha256 {SHA256}\n"
    assert path.read_bytes() == CONTENT
    path.write_bytes(b"other")
    assert "has changed" in error_of(lambda: locate("fgmae", "vit_small_patch16", tmp_path))


def test_weights_fetch_without_a_model_offers_them():
    assert "--model is missing; choose from vit_base_patch16" in error_of(lambda: fetch_command.main({"name": "fgmae"}))


def test_weights_from_a_folder_are_verified_against_the_hub(hub, published, tmp_path):
    (tmp_path / published.hub.file).write_bytes(CONTENT)
    given = {"name": "fgmae", "model": "vit_small_patch16", "cache_dir": str(tmp_path / "cache"), "source": str(tmp_path)}
    fetch_command.main(given)
    assert find_weights("fgmae", "vit_small_patch16", weights_folder(tmp_path / "cache")).read_bytes() == CONTENT
    assert hub.sent == 0
    (tmp_path / published.hub.file).write_bytes(CONTENT[1:])
    line = error_of(lambda: fetch_command.main({**given, "cache_dir": str(tmp_path / "other")}))
    assert f"instead of {SHA256}" in line
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]


def test_weights_from_a_folder_without_a_network_are_pinned_and_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    file = tmp_path / FILE.file
    file.write_bytes(CONTENT)
    pins = tmp_path / "cache" / "pins.toml"
    with caplog.at_level(logging.WARNING):
        adopt(FILE, file, tmp_path / "cache" / "w.pth", pins=pins)
    assert "the hub was not asked" in caplog.text
    assert read_pins(pins) == {str(FILE): SHA256}


def test_weights_from_a_folder_without_the_file(hub, tmp_path):
    given = {"name": "fgmae", "model": "vit_small_patch16", "cache_dir": str(tmp_path / "cache"), "source": str(tmp_path)}
    assert "B2_vits16_fgmae_ep99_enc.pth does not exist; give the folder" in error_of(lambda: fetch_command.main(given))


def test_weights_list_shows_every_file_and_which_are_local(hub, published, tmp_path, capsys):
    fetch_command.main({"name": "fgmae", "model": "vit_small_patch16", "cache_dir": str(tmp_path)})
    capsys.readouterr()
    list_command.main({"cache_dir": str(tmp_path)})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + ENTRIES
    assert [str(tmp_path) in line for line in lines[1:]] == [True] + [False] * (ENTRIES - 1)
    assert all(entry.hub.file in line for line, entry in zip(lines[1:], [e for m in WEIGHTS.values() for e in m.values()], strict=True))


# --- prepare download


DOWNLOAD = "from fgmae_bench.prepare import download; download.main({'dataset': 'eurosat', 'data_path': argv[0]})"
# The same, killed while it unpacks.
KILLED = (
    "from fgmae_bench import archive; from fgmae_bench.prepare import download; before = archive._write; files = []; "
    "archive._write = lambda *given: (before(*given), files.append(1), len(files) == 7 and os.kill(os.getpid(), 9)); "
    "download.main({'dataset': 'eurosat', 'data_path': argv[0]})"
)


@pytest.fixture(scope="module")
def zipped(tmp_path_factory):
    """A world of 3 images a class, in a zip with a top folder, as the genuine one may be."""
    folder = tmp_path_factory.mktemp("zipped")
    write_eurosat(folder / "EuroSAT-SAR", per_class=3)
    return (folder / "world.zip", shutil.make_archive(str(folder / "world"), "zip", folder, "EuroSAT-SAR"))[0].read_bytes()


@pytest.fixture
def eurosat(hub, zipped):
    hub.files["wangyi111/EuroSAT-SAR/EuroSAT-SAR.zip"] = zipped
    return hub


def test_download_brings_a_dataset_that_can_be_indexed(eurosat, tmp_path, capsys):
    data = tmp_path / "eurosat" / "data"
    download.main({"dataset": "eurosat", "data_path": str(data)})
    out = capsys.readouterr().out
    assert f"30 images in 10 classes at {data}/EuroSAT-SAR, as the card says" in out
    assert f"prepare inspect eurosat --data_path {data}" in out
    assert len(build_index(load_card("eurosat"), data).files) == 30
    assert os.listdir(data.parent) == ["data"]


def test_download_keeps_the_archive_when_asked(eurosat, zipped, tmp_path):
    download.main({"dataset": "eurosat", "data_path": str(tmp_path / "data"), "keep_archive": True})
    assert sorted(os.listdir(tmp_path)) == ["EuroSAT-SAR.zip", "EuroSAT-SAR.zip.sha256", "data"]
    assert (tmp_path / "EuroSAT-SAR.zip").read_bytes() == zipped


def test_download_refuses_a_folder_that_holds_anything(eurosat, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("mine")
    before = listing(tmp_path)
    assert "is not empty, nothing was downloaded; " in error_of(
        lambda: download.main({"dataset": "eurosat", "data_path": str(tmp_path / "data")})
    )
    assert listing(tmp_path) == before
    assert eurosat.asked == []


def test_download_killed_while_fetching_and_while_unpacking_goes_on(eurosat, zipped, tmp_path):
    data = tmp_path / "data"
    eurosat.bytes_per_second = len(zipped) / 1.5
    process = child(eurosat, DOWNLOAD, data)
    part = tmp_path / "EuroSAT-SAR.zip.partial"
    wait_for(lambda: part.exists() and part.stat().st_size > len(zipped) // 4)
    process.kill()
    process.communicate()
    have = part.stat().st_size
    eurosat.bytes_per_second = 0
    process = child(eurosat, KILLED, data)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    assert eurosat.gets()[-1]["range"] == f"bytes={have}-"
    stale = list(tmp_path.glob("data.partial-*"))
    assert len(stale) == 1
    assert sum(path.is_file() for path in stale[0].rglob("*")) == 7
    assert not data.exists()
    eurosat.asked.clear()
    process = child(eurosat, DOWNLOAD, data)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "0 bytes transferred" in out
    assert eurosat.asked == []
    assert os.listdir(tmp_path) == ["data"]


def test_two_downloads_at_once_make_one_dataset(eurosat, zipped, tmp_path):
    eurosat.bytes_per_second = len(zipped)
    processes = [child(eurosat, DOWNLOAD, tmp_path / "data") for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    assert eurosat.sent == len(zipped)
    assert os.listdir(tmp_path) == ["data"]


def test_download_of_something_else_keeps_the_archive_and_says_what_is_missing(hub, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("photos/a.jpg", b"a")
    hub.files["wangyi111/EuroSAT-SAR/EuroSAT-SAR.zip"] = (tmp_path / "x.zip").read_bytes()
    line = error_of(lambda: download.main({"dataset": "eurosat", "data_path": str(tmp_path / "data")}))
    assert "none of the class folders of EuroSAT-SAR is there" in line
    assert (tmp_path / "EuroSAT-SAR.zip").exists()


def test_archive_that_leads_outside_leaves_no_data(hub, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../evil.tif", b"a")
    hub.files["wangyi111/EuroSAT-SAR/EuroSAT-SAR.zip"] = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "in").mkdir()
    assert "leads outside" in error_of(lambda: download.main({"dataset": "eurosat", "data_path": str(tmp_path / "in" / "data")}))
    assert names(tmp_path / "in" / "data") == ["EuroSAT-SAR.zip", "EuroSAT-SAR.zip.sha256"]
    assert not (tmp_path / "evil.tif").exists()


def test_download_without_a_network_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    line = error_of(lambda: download.main({"dataset": "eurosat", "data_path": str(tmp_path / "new" / "folder" / "data")}))
    assert "cannot be reached" in line
    assert listing(tmp_path) == {}


def test_card_without_a_download_says_how_to_get_the_data(tmp_path):
    card = edited_card(
        tmp_path / "card.toml", ("[download]", "[signal_]"), ('repo = "wangyi111', '# "'), ('file = "EuroSAT', '# "'), ("[signal_]", "#")
    )
    line = error_of(lambda: download.main({"dataset": str(card)}))
    assert "cannot be downloaded by this command; get it with:" in line
