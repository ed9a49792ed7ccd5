"""A server that is not a hub, or a hostile one: a login page, an empty or endless or slow answer, headers that no client
expects. Nothing of it is stored or pinned, and every refusal is one line.
"""

import logging
import os
import socket
import sys
import threading
import time

import pytest
from clock import Clock
from hub_server import CONTENT, FILE, SHA256, SIZE, asked_hub, error_of, names

from fgmae_bench.hub import fetch as hub_fetch
from fgmae_bench.hub import http as hub_http
from fgmae_bench.hub.checksums import read_pins
from fgmae_bench.hub.fetch import HubFile, adopt, fetch
from fgmae_bench.weights import fetch as fetch_command

pytest_plugins = ("hub_server",)
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


# --- a proxy


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTP_PROXY"])
def test_a_socks_proxy_without_its_package_is_one_line(hub, target, monkeypatch, variable):
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv(variable, "socks5://127.0.0.1:9")
    assert error_of(lambda: fetch(FILE, target)) == (
        "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names a SOCKS proxy, and the package socksio is not here; "
        "install it: pip install socksio"
    )
    assert (names(target), hub.asked) == ([], [])


def test_a_proxy_of_an_unknown_kind_is_one_line(hub, target, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("ALL_PROXY", "socks4a://127.0.0.1:9")
    line = error_of(lambda: fetch(FILE, target))
    assert "socks4a" in line
    assert "or the proxy that HTTPS_PROXY or ALL_PROXY names" in line


@pytest.mark.parametrize("address", ["http://h:90200", "http://[::1", "hub.example", "http://"])
def test_a_mirror_that_cannot_be_is_one_line(target, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert f"HF_ENDPOINT is '{address.rstrip('/')}', " in error_of(lambda: fetch(FILE, target))


# --- an answer that is not the file


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Content-Type": "text/html; charset=utf-8", "ETag": '"x"'}),
        (200, {"Content-Type": "application/xhtml+xml"}),
        (204, {}),
        (203, {}),
        (300, {}),
        (206, {}),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_an_answer_without_a_file_is_neither_stored_nor_pinned(hub, target, method, status, headers):
    hub.lfs, hub.body, hub.answers = False, b"" if status == 204 else PAGE, [(method, status, headers)] * 3
    line = error_of(lambda: fetch(FILE, target))
    assert "a proxy or a login page may have answered" in line
    assert names(target) == []


@pytest.mark.parametrize(
    "body",
    [
        *(PAGE, b"", b"\n  <HTML>", b"not found", b"version https://git-lfs.github.com/spec/v1\n", b"PK\3\4cut"),
        *(b"\x80\x02", b"\x80\x02N.", b"PK\5\6" + bytes(18), b"\x02" + bytes(7) + b"{}"),
    ],
)
def test_content_that_is_not_its_format_is_neither_stored_nor_pinned(hub, target, body):
    hub.lfs, hub.files["owner/name/weights.pth"] = False, body
    line = error_of(lambda: fetch(FILE, target))
    assert "what came is not that file: it is " in line
    assert names(target) == []
    hub.files["owner/name/weights.pth"] = CONTENT
    assert fetch(FILE, target).sha256 == SHA256


def test_a_page_from_a_folder_is_not_pinned_either(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "page.pth").write_bytes(PAGE)
    assert "it is a web page" in error_of(lambda: adopt(FILE, tmp_path / "page.pth", tmp_path / "in" / "w.pth"))
    assert not (tmp_path / "in").exists() or os.listdir(tmp_path / "in") == []


def test_wrong_bytes_that_are_a_page_are_called_so(hub, target):
    hub.forged["owner/name/weights.pth"] = PAGE.ljust(SIZE)
    assert "wrong bytes came (it is a web page)" in error_of(lambda: fetch(FILE, target))


# --- sizes


def test_another_size_than_the_manifests_is_refused_before_any_byte(hub, target):
    assert f"has {SIZE} bytes, 5 are expected" in error_of(lambda: fetch(FILE, target, size=5))
    assert hub.sent == 0
    hub.sizes = False
    assert "more than the 5 bytes of the file came" in error_of(lambda: fetch(FILE, target, size=5))
    assert names(target) == []


def test_a_server_that_states_no_size_is_not_followed_for_ever(hub, target, monkeypatch):
    monkeypatch.setattr(hub_fetch, "UNSTATED_BYTES", SIZE // 2)
    hub.sizes, hub.lengths, hub.bytes_per_second = False, False, 6e6
    line = error_of(lambda: fetch(FILE, target))
    assert f"more than the {SIZE // 2} bytes that are taken without a stated size came" in line
    assert hub.sent < SIZE
    assert names(target) == []


@pytest.mark.parametrize("size", ["9" * 5000, "-1", "1e9", "\u0663", "", "99999999999999999999"])
def test_a_senseless_size_is_no_size(hub, target, monkeypatch, size):
    answer = {"X-Linked-Etag": '"x"', "X-Linked-Size": size.encode().decode("latin-1"), "Location": "/x"}
    hub.answers, hub.sizes = [("HEAD", 302, answer)], False
    assert fetch(FILE, target).transferred == SIZE


# --- headers


@pytest.mark.parametrize("place", ["http://[::1", "http://127.0.0.1:notaport/", "http://127.0.0.1:99999999/", "//["])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_malformed_redirects_are_one_line(hub, target, method, place):
    hub.answers = [(method, 302, {"Location": place})] * 4
    error_of(lambda: fetch(FILE, target))
    assert names(target) == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_other_schemes_are_not_followed(hub, target, method, place):
    hub.answers = [(method, 302, {"Location": place})] * 4
    error_of(lambda: fetch(FILE, target))
    assert names(target) == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_redirects_in_circles_end(hub, target, method):
    path = f"/owner/name/resolve/{FILE.revision}/weights.pth"
    hub.answers = [(method, 302, {"Location": hub.url + path})] * 40
    assert "circles" in error_of(lambda: fetch(FILE, target)) or method == "GET"
    assert names(target) == []


@pytest.mark.parametrize(
    "after", ["9" * 5000, "Thu, 99 Abc 99999 99:99:99 GMT", "-5", "\u0663", "Mon, 01 Jan 0001 00:00:00 GMT"]
)
def test_senseless_waits_are_one_line_or_none(hub, target, after):
    hub.answers = [("HEAD", 429, {"Retry-After": after.encode().decode("latin-1")})]
    assert fetch(FILE, target).transferred == SIZE


@pytest.mark.parametrize("commit", ["x" * 60_000, "\x1b[31m", "0" * 39])
def test_what_is_no_commit_is_not_taken_for_one(hub, target, commit):
    answer = {"X-Linked-Etag": '"x"', "X-Repo-Commit": commit, "Location": "/x"}
    hub.answers = [("HEAD", 302, answer)]
    assert fetch(FILE, target).commit is None


# --- time


class Trickle:
    """A server that answers every connection with `head` at once, then one byte of `drip` every `pause` seconds."""

    def __init__(self, head, drip, pause=0.02):
        self.head, self.drip, self.pause = head, drip, pause
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        try:
            asked = connection.recv(65536)
            connection.sendall(
                HEADS["whole"] if asked.startswith(b"HEAD") and self.head != HEADS["none"] else self.head
            )
            while True:
                time.sleep(self.pause)
                connection.sendall(self.drip)
        except OSError:
            pass


HEADS = {
    "none": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "whole": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
}


@pytest.mark.parametrize(
    ("head", "limit", "saying"),
    [
        ("none", "ANSWER_S", "did not answer within 1 s"),
        ("whole", None, "too slow"),
        ("chunked", "WINDOW_S", "did not answer within 1 s"),
    ],
)
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(target, monkeypatch, head, limit, saying):
    server = Trickle(HEADS[head], b"a")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    if limit:
        monkeypatch.setattr(hub_http, limit, 1.0)
    else:
        monkeypatch.setattr(hub_http, "time", Clock(step=30.0))
    line = error_of(lambda: fetch(FILE, target))  # the server goes on for ever: without a deadline this never returns
    assert saying in line
    assert "run the same command again" in line
    server.listener.close()


def test_a_body_ends_after_the_longest_time(hub, target, monkeypatch):
    monkeypatch.setattr(hub_http, "time", Clock(step=49 * 3600.0))
    assert "was not done after" in error_of(lambda: fetch(FILE, target))
    assert names(target) == ["weights.pth.partial", "weights.pth.partial.json"]


def test_a_slow_but_steady_server_is_waited_for(hub, target, monkeypatch):
    clock = Clock(step=10.0)
    monkeypatch.setattr(hub_http, "time", clock)
    assert fetch(FILE, target).transferred == SIZE
    assert clock.now > 2 * hub_http.WINDOW_S


# --- what others left or planted where the file goes


@pytest.mark.parametrize("name", ["weights.pth.partial", "weights.pth.partial.json"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_planted_partial_files_are_not_followed(hub, target, tmp_path, name, kind):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target.parent.mkdir()
    place = target.parent / name
    place.symlink_to(victim) if kind == "link" else os.mkfifo(place)
    if name.endswith(".json"):
        assert fetch(FILE, target).transferred == SIZE
    else:
        assert "is not a regular file of its own; remove it" in error_of(lambda: fetch(FILE, target))
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "name", ["weights.pth", "weights.pth.partial", "weights.pth.partial.json", "weights.pth.sha256"]
)
@pytest.mark.parametrize("other", [None, "weights.pth"])
def test_a_folder_in_the_way_is_one_line(hub, target, name, other):
    target.parent.mkdir()
    if other not in (None, name):
        (target.parent / other).write_text("mine")
    (target.parent / name).mkdir()
    error_of(lambda: fetch(FILE, target))
    assert (target.parent / name).is_dir()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"etag":' * 50_000, "9" * 5000])
def test_deep_facts_of_a_partial_start_anew(hub, target, text):
    target.parent.mkdir()
    (target.parent / "weights.pth.partial").write_bytes(b"x")
    (target.parent / "weights.pth.partial.json").write_text(text)
    assert fetch(FILE, target).transferred == SIZE


@pytest.mark.parametrize("text", ["a = " + "[" * 50_000, "a = " + "9" * 5000])
def test_deep_pins_are_one_line(hub, target, text):
    target.parent.mkdir()
    (target.parent / "sha256.lock.toml").write_text(text)
    assert "sha256.lock.toml" in error_of(lambda: fetch(FILE, target))


# --- pins that are replaced


@pytest.fixture
def pinned(hub, target):
    hub.lfs = False
    fetch(FILE, target)
    hub.files["owner/name/weights.pth"] = CONTENT[:-1] + b"x"
    return target.parent / "sha256.lock.toml"


def test_a_pin_is_replaced_where_asked_and_both_digests_are_said(hub, target, pinned, caplog):
    with caplog.at_level(logging.WARNING):
        fetched = fetch(FILE, target, repin=True)
    assert f"was SHA-256 {SHA256} and is now {fetched.sha256}" in caplog.text
    assert read_pins(pinned) == {str(FILE): fetched.sha256}
    assert target.read_bytes() == CONTENT[:-1] + b"x"
    hub.asked.clear()
    assert fetch(FILE, target).transferred == 0
    assert hub.asked == []


def test_the_same_content_again_leaves_the_pin(hub, target, pinned, caplog):
    hub.files["owner/name/weights.pth"] = CONTENT
    with caplog.at_level(logging.INFO):
        fetch(FILE, target, repin=True)
    assert "stays, the content is the same" in caplog.text
    assert read_pins(pinned) == {str(FILE): SHA256}


def test_a_page_replaces_no_pin(hub, target, pinned):
    hub.files["owner/name/weights.pth"] = PAGE
    assert "it is a web page" in error_of(lambda: fetch(FILE, target, repin=True))
    assert read_pins(pinned) == {str(FILE): SHA256}
    assert target.read_bytes() == CONTENT


def test_a_stated_digest_is_no_pin(hub, target):
    assert "is not pinned" in error_of(lambda: fetch(FILE, target, sha256=SHA256, repin=True))


def test_where_the_hub_vouches_nothing_is_pinned_anew(hub, target):
    fetch(FILE, target, repin=True)
    assert names(target) == ["weights.pth", "weights.pth.sha256"]


def test_the_command_replaces_a_pin(hub, tmp_path, monkeypatch, caplog):
    manifest = tmp_path / "weights.toml"
    manifest.write_text(
        '[[weights]]\nname = "mine"\nmodel = "vit_small_patch16"\nrepo = "owner/name"\nfile = "weights.pth"\n'
        f'revision = "{FILE.revision}"\nlayout = "encoder"\ncontract = "fgmae"\nlicence = "MIT"\ndata = "x"\n'
    )
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(manifest))
    hub.lfs, given = False, {"name": "mine", "cache_dir": str(tmp_path / "cache")}
    fetch_command.main(given)
    hub.files["owner/name/weights.pth"] = CONTENT[:-1] + b"x"
    for path in (tmp_path / "cache").rglob("weights.pth"):
        path.unlink()
    line = error_of(lambda: fetch_command.main(given))
    assert line.endswith(
        "; python -m fgmae_bench.weights fetch mine --model vit_small_patch16 --repin trusts that in place of what is pinned"
    )
    with caplog.at_level(logging.WARNING):
        fetch_command.main({**given, "repin": True})
    assert "and is now" in caplog.text


def test_dataset_files_are_asked_for_by_their_own_format(monkeypatch, tmp_path):
    with asked_hub(monkeypatch, "data.zip", b"PK\3\4 not whole") as hub:
        hub.lfs = False
        source = HubFile(repo="owner/name", file="data.zip", repo_type="dataset")
        assert "it is not a whole zip archive" in error_of(lambda: fetch(source, tmp_path / "data.zip"))
