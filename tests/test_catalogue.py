"""Links from a catalogue on this machine: what is asked, how often, how fast, and what each refusal says."""

import csv
import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from bigearthnet_raw import PRODUCT, write_patches
from clock import Clock

from fgmae_bench.config.flags import dispatch
from fgmae_bench.data.bigearthnet import catalogue, scan
from fgmae_bench.errors import BenchError

SCENES = tuple(PRODUCT.replace("_01C579_7EEC", f"_01C579_000{number}") for number in range(3))


class Catalogue(ThreadingHTTPServer):
    """Answers as the OData service does. `failures` are (status, headers) sent first; `extra` changes the products of a
    name.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked, self.failures, self.body, self.delay_s, self.absent, self.extra = [], [], None, 0.0, (), {}
        self.base = f"http://127.0.0.1:{self.server_port}/odata/v1"

    def handle_error(self, request, client_address):
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *given):
        """Quiet."""

    def do_GET(self):
        server, parts = self.server, urlsplit(self.path)
        time.sleep(server.delay_s)
        if server.failures:
            status, headers = server.failures.pop(0)
            return self._send(status, b"", headers)
        match = re.fullmatch(r"Name eq '([^']+)'", parse_qs(parts.query).get("$filter", [""])[0])
        if parts.path != "/odata/v1/Products" or not match:
            return self._send(404, b"{}", {})
        name = match[1]
        server.asked.append(name)
        product = {"Id": f"id-{name[-6]}", "Name": name, "Online": True, "PublicationDate": "2021-02-20T13:52:41.446Z"}
        found = server.extra.get(name, [] if name in server.absent else [product])
        return self._send(
            200, server.body or json.dumps({"@odata.context": "$metadata#Products", "value": found}).encode(), {}
        )

    def _send(self, status, body, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Catalogue() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def root(tmp_path):
    """Nine patches of three scenes."""
    write_patches(tmp_path / "raw", 9, scenes=SCENES)
    return tmp_path / "raw"


@pytest.fixture
def links(root, tmp_path, server, capsys):
    """Run the command with --links; (rows of the CSV, what was printed)."""

    def run(*flags):
        out = tmp_path / "links.csv"
        common = ("--data_path", root, "--workers", 1, "--links", out, "--catalogue", server.base, "--rate", 1000)
        dispatch(
            "fgmae_bench.prepare", {"index": ""}, "", print, ["index", "bigearthnet", *map(str, (*common, *flags))]
        )
        with open(out, newline="") as stream:
            return list(csv.reader(stream)), capsys.readouterr()

    return run


def test_three_columns_and_one_question_a_scene(links, server, root, tmp_path):
    rows, printed = links()
    assert rows[0] == ["patch", "product", "link"]
    names, _ = scan.list_patches(root)
    assert [row[0] for row in rows[1:]] == names
    for row in rows[1:]:
        number = int(row[1][-6])
        assert row[1:] == [f"{SCENES[number]}.SAFE", f"{server.base}/Products(id-{number})/$value"]
    assert Counter(server.asked) == {f"{scene}.SAFE": 1 for scene in SCENES}
    assert "9 links in" in printed.out
    assert printed.err == ""
    links()
    assert len(server.asked) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["links.csv", "links.csv.cache.json", "raw"]


def test_products_are_sent_from_the_download_host():
    answer = {"value": [{"Id": "72ac8773", "Name": "A.SAFE"}]}
    link = catalogue.link_of(
        "A", answer, catalogue.normal_base("https://catalogue.dataspace.copernicus.eu/odata/v1/Products/")
    )
    assert link == "https://download.dataspace.copernicus.eu/odata/v1/Products(72ac8773)/$value"


def test_base_address_is_completed():
    assert catalogue.normal_base("http://127.0.0.1:8000") == catalogue.normal_base("http://127.0.0.1:8000/odata/v1/")
    assert catalogue.normal_base("http://a.b/other/v2") == "http://a.b/other/v2"


def test_newest_of_several_products_that_are_online_and_only_of_that_very_name(links, server):
    name = f"{SCENES[0]}.SAFE"
    server.extra[name] = [
        {"Id": "old", "Name": name, "Online": True, "PublicationDate": "2020-01-01"},
        {"Id": "new", "Name": name, "Online": True, "PublicationDate": "2021-01-01"},
        {"Id": "offline", "Name": name, "Online": False, "PublicationDate": "2022-01-01"},
        {"Id": "other", "Name": "other.SAFE", "Online": True, "PublicationDate": "2023-01-01"},
    ]
    assert {row[2] for row in links()[0] if row[1] == name} == {f"{server.base}/Products(new)/$value"}


def test_product_that_the_catalogue_has_not_is_said_and_asked_for_again(links, server):
    server.absent = (f"{SCENES[1]}.SAFE",)
    rows, printed = links()
    assert [row[2] for row in rows if row[1] == server.absent[0]] == [""] * 3
    assert printed.err == f"1 products are not in the catalogue:\n  {server.absent[0]}\n"
    server.absent = ()
    rows, printed = links()
    assert all(row[2] for row in rows)
    assert printed.err == ""
    assert len(server.asked) == 4


def test_busy_catalogue_is_asked_again_when_it_says_so(links, server, monkeypatch):
    slept = []
    monkeypatch.setattr(catalogue.time, "sleep", slept.append)
    server.failures = [(429, {"Retry-After": "7"}), (503, {}), (500, {})]
    rows, _ = links()
    assert len(rows) == 10
    assert [seconds for seconds in slept if seconds > 1] == [7, 5, 15]


def test_catalogue_that_stays_busy_ends_in_one_line_and_the_next_run_goes_on(links, server, monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue, "PAUSES_S", (0.0, 0.0))
    plain = catalogue.link_of

    def busy_after_the_first(*given):
        server.failures = [(503, {})] * 3
        return plain(*given)

    monkeypatch.setattr(catalogue, "link_of", busy_after_the_first)
    with pytest.raises(BenchError, match=r"127\.0\.0\.1:\d+ answers 503; later run the same command again"):
        links()
    assert not (tmp_path / "links.csv").exists()
    server.failures = []
    monkeypatch.setattr(catalogue, "link_of", plain)
    links()
    assert sorted(server.asked) == sorted(f"{scene}.SAFE" for scene in SCENES)


def test_catalogue_that_asks_for_too_long_a_wait_is_not_waited_for(links, server, monkeypatch):
    slept = []
    monkeypatch.setattr(catalogue.time, "sleep", slept.append)
    server.failures = [(429, {"Retry-After": "3600"})]
    with pytest.raises(BenchError, match="answers 429"):
        links()
    assert sum(slept) < 60


def test_refusal_and_nonsense_are_named(links, server):
    server.failures = [(403, {})]
    with pytest.raises(BenchError, match=r"answers 403 for S1A_.*; check --catalogue"):
        links()
    for body, message in (
        (b"<html>", "answers no JSON"),
        (b'{"value": [{}]}', "without the expected fields"),
        (b"[]", "without the expected"),
    ):
        server.body = body
        with pytest.raises(BenchError, match=message):
            links()


def test_without_a_network_one_line_and_the_table_is_there(root, tmp_path, server):
    with pytest.raises(
        BenchError, match=r"127\.0\.0\.1:1 cannot be reached \(.+\); check the network, then run the same command again"
    ):
        _run(root, tmp_path / "links.csv", "http://127.0.0.1:1")
    assert (root / "index.parquet").is_file()
    assert not (tmp_path / "links.csv").exists()


def test_questions_keep_the_rate(server, tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(catalogue, "time", clock)
    scenes = [f"{PRODUCT[:-4]}{number:04X}" for number in range(5)]
    catalogue.find_links(scenes, server.base, tmp_path / "cache.json", per_second=20)
    assert len(server.asked) == 5
    assert clock.slept == pytest.approx([0, *[0.05] * 4])


def test_cache_of_another_catalogue_is_not_used_and_a_broken_one_is_named(server, tmp_path):
    cache = tmp_path / "cache.json"
    cache.write_text(json.dumps({"catalogue": "http://elsewhere/odata/v1", "links": {PRODUCT: "x"}}))
    assert catalogue.find_links([PRODUCT], server.base, cache, 1000) == {
        PRODUCT: f"{server.base}/Products(id-C)/$value"
    }
    cache.write_text('{"catalogue": ')
    with pytest.raises(BenchError, match=r"cache\.json is broken; remove it"):
        catalogue.find_links([PRODUCT], server.base, cache, 1000)


def _run(root, out, base):
    flags = ("--data_path", root, "--workers", 1, "--links", out, "--catalogue", base, "--rate", 1000)
    dispatch("fgmae_bench.prepare", {"index": ""}, "", print, ["index", "bigearthnet", *map(str, flags)])
