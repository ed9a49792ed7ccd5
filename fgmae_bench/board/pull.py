"""Bring the records of a store into a folder of their own, read-only, with who submitted each, in which commit, when.

python -m fgmae_bench.board pull https://example.org/someone/store
python -m fgmae_bench.board pull hub:owner/name --out pulled/theirs
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fgmae_bench.board.files import ROOMS, predictions_path
from fgmae_bench.board.git import Objects, Reader, fetched, require_address
from fgmae_bench.board.judge import MAX_PREDICTIONS, Served, Verdict, judged
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import EXIT_FAILED, BenchError, one_line
from fgmae_bench.hub.checksums import sha256_of
from fgmae_bench.hub.fetch import fetch
from fgmae_bench.hub.http import HubFile
from fgmae_bench.records import Record, read_record
from fgmae_bench.report.provenance import FOLDER
from fgmae_bench.system.endpoint import hub_endpoint, without_password
from fgmae_bench.system.environment import now
from fgmae_bench.system.files import read_small_json, write_bytes, write_json

HUB = "hub:"
STORE = "store.json"
POINTER = re.compile(rb"version [^\n]+\n(?:[^\n]+\n)*?oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,12})\n?")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `board pull`."""
    parser.add_argument("store", metavar="STORE", help="address or folder of a git repository, or hub:OWNER/NAME")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the records (default: pulled/<name>)")
    parser.add_argument("--branch", metavar="NAME", help="branch of the store (default: its own)")
    parser.add_argument(
        *spellings("ask_authors"),
        dest="ask_authors",
        action="store_true",
        help="look in the repositories of the weights for their authors' confirmations (default: off)",
    )


def main(given: dict[str, Any]) -> None:
    """Fetch, judge, merge; ends the process with exit code 1 where something was left out."""
    source = given["store"]
    address = _hub_address(source) if source.startswith(HUB) else require_address(source)
    out = given.get("out") or Path("pulled") / _name(source)
    if (out / STORE).exists() and _of(out) != _public(source):
        raise BenchError(f"{out} holds the records of another store ({_of(out)})", "give another --out")
    _require_own(out)
    with tempfile.TemporaryDirectory() as scratch:
        objects = fetched(address, given.get("branch"), Path(scratch) / "store.git")
        entries = [entry for entry in objects.entries() if entry.path.split("/")[0] in ROOMS]
        large = _large(source, objects.commit, Path(scratch)) if source.startswith(HUB) else None
        with objects.reading() as reader:
            verdict = judged(entries, reader, large)
            confirmed = _confirmed(verdict, Path(scratch)) if given.get("ask_authors") else {}
            lines = _merge(verdict, objects, reader, large, confirmed, out, _public(source))
    for line in [*verdict.left_out, *lines]:
        print(one_line(f"left out: {line}"), file=sys.stderr)
    print(f"{len(verdict.served) - len(lines)} records of {_public(source)} at {objects.commit[:10]} are in {out}")
    if verdict.left_out or lines:
        sys.exit(EXIT_FAILED)


def _require_own(out: Path) -> None:
    """Raise BenchError where a folder holds files that no pull put there: all in it is made read-only."""
    if out.exists() and not out.is_dir():
        raise BenchError(f"{out} is a file", "give a new folder with --out")
    if out.is_dir() and not (out / STORE).is_file() and any(out.iterdir()):
        raise BenchError(f"{out} holds files that no pull put there", "give a new folder with --out")


def _merge(
    verdict: Verdict,
    objects: Objects,
    reader: Reader,
    large: Callable[[Record, bytes], bytes] | None,
    confirmed: dict[str, str],
    out: Path,
    store: str,
) -> list[str]:
    """Write what is new or was damaged; a line for each record that an earlier pull brought with other content, which
    stays.
    """
    lines, authors = [], objects.authors()
    with _writable(out):
        write_json(out / STORE, {"store": store, "commit": objects.commit, "pulled_at": now()})
        for each in verdict.served:
            record, place = each.record, out / each.entry.path
            before = _held(place)
            if before is not None and before != record["sha256"]:
                what = f"two contents under one id: {record['sha256'][:10]} in the store, {before[:10]} pulled before"
                lines.append(f"{record['run_id']}: {what}")
                continue
            by = authors.get(each.entry.path)
            said = {"store": store, "sha256": record["sha256"]}
            if by is not None:
                said |= {"submitted_by": by.who, "submitted_commit": by.commit, "submitted_at": by.when}
            if record["run_id"] in confirmed:
                said["confirmed_by"] = confirmed[record["run_id"]]
            _put(each, reader, large, out)
            write_json(out / FOLDER / f"{record['run_id']}.json", said)
            if before is None:
                write_bytes(place, reader.read(each.entry))  # last: a record that is there is whole
    return lines


def _held(place: Path) -> str | None:
    """The hash of a record that an earlier pull brought; None where there is none that can be read."""
    try:
        return str(read_record(place)["sha256"])
    except BenchError:
        return None


def _put(each: Served, reader: Reader, large: Callable[[Record, bytes], bytes] | None, out: Path) -> None:
    """Bring the predictions of a record, where the store has them."""
    if each.predictions is None:
        return
    place, wanted = out / each.predictions.path, each.record["predictions"]["sha256"]
    if place.is_file() and wanted in (None, sha256_of(place)):
        return
    content = reader.read(each.predictions)
    pointer = POINTER.fullmatch(content)
    if pointer and large is None:
        return
    write_bytes(place, large(each.record, content) if pointer and large else content)


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    """Write in a folder that is read-only before and after."""
    for folder, _, _ in os.walk(out):
        os.chmod(folder, 0o755)
    try:
        yield
    finally:
        for folder, _, names in os.walk(out, topdown=False):
            for name in names:
                os.chmod(Path(folder, name), 0o444)
            os.chmod(folder, 0o555)


def _confirmed(verdict: Verdict, scratch: Path) -> dict[str, str]:
    from fgmae_bench.board.confirm import confirmations  # the manifest of weights, and the network: where asked for

    return confirmations(verdict.served, scratch / "authors")


def _of(out: Path) -> object:
    held = read_small_json(out / STORE)
    return held.get("store") if isinstance(held, dict) else None


def _public(source: str) -> str:
    """An address without a password; a folder by its full path."""
    if "://" not in source:
        return source if source.startswith(HUB) or ":" in source else str(Path(source).expanduser().resolve())
    return without_password(source)


def _name(source: str) -> str:
    """A folder's name for a store."""
    last = re.split(r"[/:]", source.rstrip("/").removesuffix("/.git").removesuffix(".git"))[-1]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip(".-") or "store"


def _hub_address(source: str) -> str:
    """Where git finds a data set of the hub; raises BenchError on anything but `hub:OWNER/NAME`."""
    name = source.removeprefix(HUB)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", name):
        raise BenchError(f"{source} is not a data set of the hub", "give hub:OWNER/NAME")
    endpoint = hub_endpoint()
    from huggingface_hub import constants

    return f"{endpoint or constants.ENDPOINT}/datasets/{name}"


def _large(source: str, commit: str, scratch: Path) -> Callable[[Record, bytes], bytes]:
    """What gets the content of a large file, which git holds a pointer of, from the hub; verified by both hashes."""

    def get(record: Record, pointer: bytes) -> bytes:
        path, found = predictions_path(record["run_id"]), POINTER.fullmatch(pointer)
        if found is None or int(found[2]) > MAX_PREDICTIONS:
            raise BenchError(f"{path}: not a pointer of git LFS to predictions", "tell the store's keepers")
        file = HubFile(repo=source.removeprefix(HUB), file=path, revision=commit, repo_type="dataset")
        target = scratch / "large" / Path(path).name
        target.parent.mkdir(exist_ok=True)
        return fetch(file, target, sha256=found[1].decode(), size=int(found[2])).path.read_bytes()

    return get
