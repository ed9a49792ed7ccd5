"""Fetch a dataset from the hub, verify and unpack it; after a kill at any moment the same command goes on.

python -m fgmae_bench.prepare download eurosat
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from fgmae_bench.config.cards import Card, Download, load_card
from fgmae_bench.config.flags import spellings
from fgmae_bench.data.index import check_counts
from fgmae_bench.data.layouts import build_index
from fgmae_bench.errors import BenchError
from fgmae_bench.hub.archive import unpack
from fgmae_bench.hub.checksums import note_path
from fgmae_bench.hub.fetch import fetch
from fgmae_bench.hub.http import HubFile
from fgmae_bench.system.files import lock_and_clean_up


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("dataset", metavar="DATASET", help="a dataset's name, or a card's path")
    parser.add_argument(
        *spellings("data_path"), metavar="DIR", help="new folder of the data (default: data beside the card)"
    )
    parser.add_argument(*spellings("keep_archive"), action="store_true", help="keep the archive, next to the folder")


def main(given: dict[str, Any]) -> None:
    """Fetch, unpack into a temporary folder, rename; print where it is and the command that comes next."""
    card = load_card(given["dataset"])
    if card.download is None:
        raise BenchError(
            f"{card.title} cannot be downloaded by this command", f"get it with: {card.origin.get or card.origin.url}"
        )
    data = Path(given.get("data_path") or card.data_path)
    _require_new(card, data)
    place = data.resolve()
    archive = place.parent / Path(card.download.file).name
    with lock_and_clean_up(place.with_name(f"{place.name}.download.partial")):
        if not _holds_anything(data):  # else another process has done it while this one waited
            fetched = fetch(_hub_file(card.download), archive, sha256=card.download.sha256 or None)
            print(f"{archive.name}: {fetched.transferred} bytes transferred, sha256 {fetched.sha256}")
            _require_md5(card.download, archive)
            unpack(archive, place)
        line = _contents(card, data)
        if not given.get("keep_archive"):
            archive.unlink(missing_ok=True)
            note_path(archive).unlink(missing_ok=True)
    print(f"{line}; next: python -m fgmae_bench.prepare inspect {given['dataset']} --data_path {data}")


def _require_md5(download: Download, archive: Path) -> None:
    """Raise BenchError, and remove the archive, unless it has the MD5 that its card states."""
    if not download.md5:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with open(archive, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != download.md5:
        for path in (archive, note_path(archive)):
            path.unlink(missing_ok=True)
        what = f"{archive.name} has the MD5 {digest.hexdigest()}, its card states {download.md5}"
        raise BenchError(what, "run the command again; where it stays so, the publishers have another file now")


def _hub_file(download: Download) -> HubFile:
    return HubFile(repo=download.repo, file=download.file, revision=download.revision, repo_type=download.repo_type)


def _require_new(card: Card, data: Path) -> None:
    """Raise BenchError unless `data` is absent or an empty folder."""
    if data.exists() and not data.is_dir():
        raise BenchError(f"{data} is not a folder", "choose another folder with --data_path")
    if _holds_anything(data):
        todo = (
            f"look at it with: python -m fgmae_bench.prepare inspect {card.name} --data_path {data}, or choose "
            "another folder"
        )
        raise BenchError(f"{data} is not empty, nothing was downloaded", todo)


def _holds_anything(data: Path) -> bool:
    return data.is_dir() and any(data.iterdir())


def _contents(card: Card, data: Path) -> str:
    """What was unpacked, held against the card; raises BenchError when it is not laid out as the card says."""
    index = build_index(card, data)
    contradiction = check_counts(card, index)
    counts = f"but {contradiction.text}" if contradiction else "as the card says"
    return f"{len(index.files)} images in {len(card.classes)} classes at {index.root}, {counts}"
