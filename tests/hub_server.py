"""A hub on 127.0.0.1: metadata from one port, bytes from another as from a storage host, with faults on demand and
every byte counted.

A test file takes the fixtures with `pytest_plugins = ("hub_server",)`: the hub that HF_ENDPOINT leads to holds CONTENT
as FILE.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import preloaded
import pytest

from fgmae_bench.errors import BenchError
from fgmae_bench.hub import http as hub_http
from fgmae_bench.hub.fetch import HubFile

REPOSITORY = Path(__file__).resolve().parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = 16_384
SIZE = 3_000_000
# Torch's older format, of one storage of bytes.
PICKLES = [*(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {})), b"\x80\x02ctorch\nByteStorage\n."]
HEAD = b"".join([*PICKLES, pickle.dumps(["0"], 2)])
CONTENT = HEAD + struct.pack("<q", SIZE - len(HEAD) - 8) + np.random.default_rng(1).bytes(SIZE - len(HEAD) - 8)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = HubFile(repo="owner/name", file="weights.pth", revision=COMMIT)
FETCH = f"print(fetch(HubFile(repo='owner/name', file='weights.pth', revision='{COMMIT}'), Path(argv[0])).transferred)"


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked. `url` is what HF_ENDPOINT is set to."""

    files: dict[str, bytes] = field(default_factory=dict)  # "owner/name/file" -> content, at every revision
    url: str = ""
    storage: str = ""
    lfs: bool = True  # whether the etag is the SHA-256
    sizes: bool = True  # whether sizes are stated
    linked: bool = True  # whether the redirect says etag and size of what it leads to, as the genuine hub's does
    lengths: bool = True  # whether answers state their length; without it a cut one looks complete
    ranges: bool = True
    range_shift: int = 0  # bytes between the range asked for and the one answered
    answers: list[tuple[str, int, dict[str, str]]] = field(
        default_factory=list
    )  # (method, status, headers) for the next requests
    body: bytes = b""  # of refusals
    bytes_per_second: float = 0.0  # 0: as fast as it goes
    hold_after: int | None = None  # bytes of one answer before it waits for `go`
    go: threading.Event = field(default_factory=threading.Event)
    cut_after: int | None = None  # bytes of one answer before the connection is closed
    forged: dict[str, bytes] = field(default_factory=dict)  # sent instead of the content
    sent: int = 0
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # (method, "hub" or "storage", headers)

    def gets(self) -> list[dict[str, str]]:
        """Headers of the requests for bytes."""
        return [headers for method, where, headers in self.asked if (method, where) == ("GET", "storage")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    where: str

    def log_message(self, *parts):
        pass

    def do_HEAD(self):
        self._answer("HEAD")

    def do_GET(self):
        self._answer("GET")

    def _answer(self, method):
        hub = self.hub
        hub.asked.append((method, self.where, {key.lower(): value for key, value in self.headers.items()}))
        if hub.answers and hub.answers[0][0] == method:
            _, status, headers = hub.answers.pop(0)
            return self._refuse(status, headers)
        match = re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        name = f"{match[1]}/{match[2]}" if match else ""
        if name not in hub.files:
            return self._refuse(404, {"X-Error-Code": "EntryNotFound"})
        return self._redirect(name) if self.where == "hub" else self._send(name)

    def _refuse(self, status, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(self.hub.body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.hub.body)

    def _etag(self, name):
        content = self.hub.files[name]
        return f'"{(hashlib.sha256 if self.hub.lfs else hashlib.sha1)(content).hexdigest()}"'

    def _redirect(self, name):
        hub = self.hub
        self.send_response(302)
        self.send_header("Location", hub.storage + self.path)
        if hub.linked:
            self.send_header("X-Linked-Etag", self._etag(name))
            self.send_header("X-Repo-Commit", COMMIT)
        if hub.linked and hub.sizes:
            self.send_header("X-Linked-Size", str(len(hub.files[name])))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, name):
        hub = self.hub
        content, match = (
            hub.forged.get(name, hub.files[name]),
            re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")),
        )
        first = int(match[1]) + hub.range_shift if match and hub.ranges else 0
        self.send_response(206 if first else 200)
        self.send_header("ETag", self._etag(name))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if hub.lengths:
            self.send_header("Content-Length", str(len(content) - first))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self._pour(content[first:] if hub.cut_after is None else content[first : first + hub.cut_after])
        self.close_connection = hub.cut_after is not None or not hub.lengths

    def _pour(self, body):
        hub = self.hub
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(body), PIECE):
                piece = body[at : at + PIECE]
                self.wfile.write(piece)
                hub.sent += len(piece)
                if hub.hold_after is not None and at + len(piece) >= hub.hold_after:
                    hub.go.wait()
                if hub.bytes_per_second:
                    time.sleep(len(piece) / hub.bytes_per_second)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that was killed is no news."""


@contextlib.contextmanager
def serving():
    """A hub with its two ports open."""
    hub = Hub()
    with contextlib.ExitStack() as stack:
        for where in ("hub", "storage"):
            handler = type("Handler", (_Handler,), {"hub": hub, "where": where})
            server = stack.enter_context(_Server(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            stack.callback(server.shutdown)
            setattr(hub, "url" if where == "hub" else "storage", f"http://127.0.0.1:{server.server_port}")
        yield hub


def child(hub: Hub, code: str, *arguments: object, **environment: str) -> preloaded.Process | subprocess.Popen:
    """A process that runs `code` as an entry, with `argv` (a list of strings), `Path`, `fetch` and `HubFile` at hand.

    With `environment` a new interpreter, since libraries read it when they are imported.
    """
    whole = (
        "import logging, os, sys\nfrom pathlib import Path\nfrom fgmae_bench.errors import run_entry\n"
        "from fgmae_bench.hub.fetch import HubFile, fetch\nlogging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        f"argv = sys.argv[1:]\ndef main():\n    {code}\nrun_entry(main)\n"
    )
    here = {**os.environ, "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(REPOSITORY), **environment}
    command = ["-c", whole, *map(str, arguments)]
    if not environment:
        return preloaded.Process(command, env=here)
    return subprocess.Popen(
        [sys.executable, *command], env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def asked_hub(monkeypatch, file, content):
    """A hub that serves one file of `owner/name`, and that this process and its children ask."""
    with serving() as hub:
        hub.files[f"owner/name/{file}"] = content
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(hub_http, "PAUSES_S", (0.01, 0.01, 0.01))
        huggingface_hub.close_session()
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def hub(monkeypatch):
    with asked_hub(monkeypatch, "weights.pth", CONTENT) as hub:
        yield hub


@pytest.fixture
def target(tmp_path):
    return tmp_path / "folder" / "weights.pth"


def error_of(work):
    """The message of a refusal: one line."""
    with pytest.raises(BenchError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(target):
    """Names in the folder of a file."""
    return sorted(path.name for path in target.parent.iterdir()) if target.parent.exists() else []
