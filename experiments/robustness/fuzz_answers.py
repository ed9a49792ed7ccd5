"""Damage what servers, contributors and shared folders hand over, by a seed, and give it to the command that reads it.

  python experiments/robustness/fuzz.py answers [--readers hub record predictions zip toml notes suite]
A hub's answers (status, headers, body, pace), records and predictions in a report, a dataset's zip, files of settings,
and the notes that are kept with a download. Expected: no signal, no traceback, exit code 0 or 2; the report's 1 (a
record was named and left out) counts as 2, and so does the suite's 3.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import socket
import struct
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import Reader, Work, command, mutated
from strange import DEEP, Rng, changed, changed_toml, dumped, strange

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import huggingface_hub
import matplotlib.figure  # noqa: F401 (a child shall not wait for it)
from make_records import make_record
from safetensors.numpy import save

import fgmae_bench.report.__main__
import fgmae_bench.suite.__main__  # noqa: F401
from fgmae_bench.hub import http as hub_http
from fgmae_bench.hub.archive import unpack
from fgmae_bench.hub.fetch import HubFile, fetch
from fgmae_bench.records import body_sha256, record_path
from fgmae_bench.runs.folder import write_predictions
from fgmae_bench.suite.flags import commands_of

SOURCES = Path(__file__).resolve().parents[1]
EXPERIMENT = SOURCES / "eurosat_linear_fast.toml"


def tolerant(work: Work) -> Work:
    """The report says 1 and the suite 3 where something was left out or failed and named: here that is a refusal."""

    def told() -> object:
        with contextlib.suppress(SystemExit):
            code = work()
            return 2 if code in (1, 3) else code
        return 2

    return told


# --- records and predictions in a report


def record(rng: Rng, folder: Path) -> Work:
    """One good record, and one that was changed and sealed again, or whose bytes were changed."""
    results = folder / "results"
    good, other = make_record(), make_record(seed=int(rng.integers(1, 99)), notes=(("a_note", "a text"),))
    other["metrics"] |= {"confusion": [[3, 1], [0, 2]], "per_class": {"a": {"f1": 0.5}, "b": {"f1": 0.1}}}
    put(good, record_path(results, good))
    name = record_path(results, other)
    if rng.random() < 0.2:
        text = json.dumps({**other, "sha256": body_sha256(other)}).encode()
        name.write_bytes(mutated(rng, text))
    else:
        put(changed(rng, other), name)
    shutil.copyfile(EXPERIMENT, folder / "a.toml")
    flags = [["--validate"], ["--intervals"], []][int(rng.integers(3))]
    return tolerant(command("fgmae_bench.report", "--results_dir", results, "--experiments", folder, *flags))


def put(value: Any, path: Path) -> None:
    """Write a record with the hash of its body, as someone who means harm would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
        value["sha256"] = body_sha256(value)
    path.write_text(dumped(value))


def predictions(rng: Rng, folder: Path) -> Work:
    """Predictions whose arrays, lists or bytes were changed, with a record that states their hash."""
    results, n, k = folder / "results", 20, 3
    one = make_record()
    path = results / "predictions" / f"{one['run_id']}.safetensors"
    ids = [f"s{i}" for i in range(n)]
    write_predictions(path, rng.normal(size=(n, k)).astype(np.float32), rng.integers(0, k, n), ids, ("a", "b", "c"))
    if rng.random() < 0.4:
        path.write_bytes(mutated(rng, path.read_bytes()))
    else:
        path.write_bytes(save(*arrays(rng, n, k, ids)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    one["predictions"] = {"sha256": digest, "file": f"predictions/{path.name}"}
    one["dataset"]["sample_ids_sha256"]["test"] = None
    one["metrics"]["intervals"] = None
    put(one, record_path(results, one))
    shutil.copyfile(EXPERIMENT, folder / "a.toml")
    return tolerant(
        command(
            "fgmae_bench.report", "--results_dir", results, "--experiments", folder, "--intervals", "--formats", "md"
        )
    )


def arrays(rng: Rng, n: int, k: int, ids: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays of any shape and type, and lists of any content."""
    types = ["float32", "float64", "float16", "int64", "int8", "uint8", "uint64", "bool"]

    def array(*shape: int) -> Any:
        shape = tuple(int(rng.choice([side, 0, 1, 2 * side])) if rng.random() < 0.1 else side for side in shape)
        values = rng.integers(0, k, shape) if rng.random() < 0.7 else rng.integers(-(2**62), 2**62, shape)
        return np.ascontiguousarray(values.astype(types[int(rng.integers(len(types)))]))

    kinds = {
        "single": {"logits": array(n, k), "targets": array(n)},
        "multi": {"logits": array(n, k), "targets": array(n, k)},
        "segmentation": {"confusion": array(n, k, k + int(rng.integers(3)))},
        "other": {"logits": array(n), "targets": array(n, k, k)},
    }
    lists: dict[str, Any] = {"ids": ids, "classes": ["a", "b", "c"], "groups": [i[0] for i in ids]}
    for name in lists:
        if rng.random() < 0.2:
            lists[name] = strange(rng)
    tensors = kinds[list(kinds)[int(rng.integers(len(kinds)))]]
    return tensors, {name: dumped(value) for name, value in lists.items() if rng.random() < 0.9}


# --- a dataset's archive


def archive(rng: Rng, folder: Path) -> Work:
    """A zip with changed bytes, strange names, or entries that are too many, too deep or too large together."""
    path, kind = folder / "x.zip", int(rng.integers(10))
    if kind == 0:
        path.write_bytes(large())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as made:
        for number in range(int(rng.integers(1, 8))):
            made.writestr(name(rng, number), rng.bytes(int(rng.integers(0, 2000))))
    if kind > 2:
        path.write_bytes(mutated(rng, path.read_bytes(), most=3))
    return lambda: unpacked(path, folder / "data")


@functools.cache
def large() -> bytes:
    """An archive of 120 entries of zeros, 345 MB together."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for number in range(120):
            made.writestr(f"{number}.bin", bytes(990_000 if number % 5 else 9_900_000))
    return stream.getvalue()


def name(rng: Rng, number: int) -> str:
    """A name of an entry."""
    names = ["a/" * DEEP + "b", "../evil", "/evil", "x" * 300, "a\\b", "\x1b[2J", "C:evil", "AlL/b", "all/B", "\u202e"]
    return names[int(rng.integers(len(names)))] if rng.random() < 0.3 else f"all/{number}"


def unpacked(path: Path, data: Path) -> None:
    """Unpack, or refuse and leave nothing."""
    before = sorted(os.listdir(path.parent))
    try:
        unpack(path, data)
    except BaseException:
        assert sorted(os.listdir(path.parent)) == before
        raise


# --- settings


def toml(rng: Rng, folder: Path) -> Work:
    """A card or an experiment with changed bytes or values, as `suite status` reads them."""
    text = EXPERIMENT.read_text()
    kind = int(rng.integers(12))
    if kind == 0:
        text += "\nx = " + "[" * int(rng.integers(10, 50_000))
    elif kind == 1:
        text += f"\n{'a.' * int(rng.integers(2, 50_000))}a = 1"
    elif kind == 2:
        text = f"[{'a.' * int(rng.integers(2, 50_000))}a]\n" + text
    elif kind == 3:
        text += f"\nx = {'9' * int(rng.integers(1, 9000))}"
    elif kind == 4:
        lines = text.splitlines()
        at = int(rng.integers(len(lines)))
        key = lines[at].split("=")[0].strip() or "x"
        lines[at] = f"{key} = {[1, '[1, [2]]', '{a = 1}', 'nan', '1e999', 'true', '[]', '-1'][int(rng.integers(8))]}"
        text = "\n".join(lines)
    elif kind == 5:
        text = mutated(rng, text.encode()).decode(errors="replace")
    else:
        text = changed_toml(rng, text.encode()).decode()
    (folder / "x.toml").write_text(text)
    if rng.random() < 0.3:
        return tolerant(command("fgmae_bench.prepare", "inspect", folder / "x.toml"))
    return tolerant(command("fgmae_bench.suite", "status", folder / "x.toml"))


@functools.cache
def keys() -> dict[str, list[str]]:
    """Names of the receipts, failures and jobs of the experiment's first commands."""
    commands = commands_of({"files": [EXPERIMENT]})[:3]
    own = [command.key for command in commands]
    return {"receipts": [command.points[0].key for command in commands], "failures": own, "jobs": own}


def suite(rng: Rng, folder: Path) -> Work:
    """Records, receipts and failures of a results folder that were changed, as the suite reads them."""
    results, other = folder / "results", make_record(seed=int(rng.integers(1, 99)))
    put(changed(rng, other), record_path(results, other))
    for kind, names in keys().items():
        (results / "suite" / kind).mkdir(parents=True)
        for name in names:
            kept = {"record": str(record_path(Path(), other)), "tree": "x", "reason": "x", "job": "1"}
            content = dumped(changed(rng, kept)) if rng.random() < 0.8 else "[" * 5000
            (results / "suite" / kind / f"{name}.json").write_text(content)
    # without the machine's own squeue, which asks for nine seconds where no controller answers
    (folder / "squeue").write_text("#!/bin/sh\necho 1 RUNNING\n")
    (folder / "squeue").chmod(0o755)
    work = command("fgmae_bench.suite", "status", EXPERIMENT, "--results_dir", results)

    def with_queue() -> object:
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        return work()

    return tolerant(with_queue)


# --- a hub


class Server:
    """Answers every connection with the bytes that `answer` gives for its request, at its pace."""

    def __init__(self, answer: Callable[[bytes], list[bytes]]):
        threading.stack_size(1 << 18)  # the address space of a child is limited
        self.answer, self.listener = answer, socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        """Serve until the process ends."""
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while request := connection.recv(65536):
                for piece in self.answer(request):
                    connection.sendall(piece)
                if not request.startswith(b"HEAD"):  # what a GET brings may be of another length than it says
                    return


def zipped() -> bytes:
    """A zip of one file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("a", bytes(200))
    return stream.getvalue()


BODIES = {
    ".pth": pickle.dumps({"a": np.zeros(30)}, 2),
    ".zip": zipped(),
    ".json": b'{"a": 1}',
    ".csv": b"a,b\n",
}


def serving(answer: Callable[[bytes], list[bytes]]) -> str:
    """Address of a server of this process, which is the hub too; pauses and patience are those of tests."""
    server = Server(answer)
    threading.Thread(target=server.serve, daemon=True).start()
    os.environ |= {"HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1"}
    hub_http.PAUSES_S, hub_http.TIMEOUT_S = (0.01, 0.01, 0.01), 1.0  # type: ignore[assignment]
    hub_http.ANSWER_S, hub_http.WINDOW_S, hub_http.MAX_WAIT_S = 2.0, 1.0, 0.5
    huggingface_hub.close_session()
    return server.url


def strange_answers(rng: Rng) -> tuple[str, Callable[[bytes], list[bytes]]]:
    """(ending of a file, what a server answers to requests for it): strange statuses, headers, lengths and bodies."""
    ending = list(BODIES)[int(rng.integers(len(BODIES)))]
    seeds = rng.integers(0, 2**31, 64).tolist()

    def answer(request: bytes) -> list[bytes]:
        draw = np.random.default_rng(seeds.pop() if seeds else 0)
        return pieces(draw, request.startswith(b"HEAD"), BODIES[ending])

    return ending, answer


def hub(rng: Rng, folder: Path) -> Work:
    """A file of a hub that answers strangely."""
    ending, answer = strange_answers(rng)

    def work() -> None:
        serving(answer)
        fetch(HubFile(repo="owner/name", file=f"file{ending}"), folder / "in" / f"file{ending}")

    return work


def pieces(rng: Rng, head: bool, body: bytes) -> list[bytes]:
    """One answer."""
    odd = rng.random() < 0.2
    status = int(rng.choice([206, 204, 302, 307, 300, 304, 401, 404, 416, 429, 500, 999, 0])) if odd else 200
    number = [str(len(body)), "9" * 5000, "-1", "\u0663", "", "0", "1e9", str(2**63), str(len(body) + 1)]
    place = ["/x", "http://[::1", "//[", "file:///etc/passwd", "http://127.0.0.1:1/", "ftp://x", "x" * 9000, "\x01", ""]
    tag = ['"x"', "0" * 64, hashlib.sha256(body).hexdigest(), "x" * 60_000, "\x1b[2J", ""]
    headers = {
        "Content-Length": number,
        "X-Linked-Size": number,
        "X-Linked-Etag": tag,
        "ETag": tag,
        "Location": place,
        "Content-Type": ["text/html", "text/plain", ";", "\xff"],
        "Content-Range": ["bytes 0-9/10", f"bytes {'9' * 5000}-1/2", "bytes -", "x"],
        "Retry-After": ["0", "9" * 5000, "Thu, 99 Abc 99999 99:99:99 GMT", "-1", "\u0663"],
        "X-Repo-Commit": ["0" * 40, "x" * 50_000],
        "Transfer-Encoding": ["chunked", "gzip", "x"],
        "Content-Encoding": ["gzip", "br", "x"],
    }
    sane = {"Content-Length": str(len(body)), "ETag": '"x"'}
    sent_headers = sane | {
        key: values[int(rng.integers(len(values)))] for key, values in headers.items() if rng.random() < 0.12
    }
    lines = [f"HTTP/1.1 {status} X", *(f"{key}: {value}" for key, value in sent_headers.items())]
    text = "\r\n".join([*lines, "", ""]).encode(errors="replace")
    if rng.random() < 0.1:
        text = mutated(rng, text)
    if head:
        return [text]
    others = [mutated(rng, body), b"<html>log in</html>", b"", body * 3, struct.pack("<Q", 2**63) + body]
    sent = [*others, body, body, body][int(rng.integers(8))]
    return [text, *([sent[at : at + 64] for at in range(0, len(sent), 64)])]


def notes(rng: Rng, folder: Path) -> Work:
    """What is kept with a download: partial bytes and their facts, notes and pins, that were changed or planted."""
    target = folder / "in" / "file.csv"
    target.parent.mkdir()
    for ending in (".partial", ".partial.json", ".sha256", ""):
        path, kind = target.with_name(target.name + ending), int(rng.integers(16))
        facts = dumped(changed(rng, {"url": "x", "etag": "y", "size": 4, "source": "z"}))
        if kind < 3:
            path.write_text(["[" * 50_000, facts, f"# {facts}\n{'0' * 64}  file.csv\n"][kind])
        elif kind == 3:
            path.write_bytes(rng.bytes(50))
        elif kind == 4:
            path.symlink_to("/etc/hostname")
        elif kind == 5:
            os.mkfifo(path)
        elif kind == 6:
            path.mkdir()
    pins = ["[sha256]\nx = 3", "x = " + "[" * 50_000, f"x = {'9' * 9000}", *["[sha256]\n"] * 5]
    (target.parent / "sha256.lock.toml").write_text(pins[int(rng.integers(len(pins)))])

    def answer(request: bytes) -> list[bytes]:
        return [
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: y\r\n\r\n",
            *([] if request[:4] == b"HEAD" else [b"a,b\n"]),
        ]

    def work() -> None:
        serving(answer)
        fetch(HubFile(repo="owner/name", file="file.csv"), target)

    return work


READERS: dict[str, Reader] = {
    "hub": hub,
    "record": record,
    "predictions": predictions,
    "zip": archive,
    "toml": toml,
    "notes": notes,
    "suite": suite,
}


def prepare() -> None:
    """Silence matplotlib's words about missing letters; compose the experiment's commands once."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    keys()
