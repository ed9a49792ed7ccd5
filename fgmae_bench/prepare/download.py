"""Fetch a dataset from the hub or its publishers' address and verify it; after a kill the same command goes on.

python -m fgmae_bench.prepare download eurosat
python -m fgmae_bench.prepare download sen1floods11

An archive is unpacked. Single files are gathered in `<folder>.download`, which becomes the folder when all are there;
what nobody states a checksum of is pinned next to the folder, and held against the pins when it is fetched again.
--repin trusts what comes where it is not what was pinned.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fgmae_bench.config.cards import Card, Download, load_card
from fgmae_bench.config.flags import spellings
from fgmae_bench.data.index import check_counts
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.list_splits import ENDINGS, read_lines
from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.hub.archive import unpack
from fgmae_bench.hub.checksums import PINS, note_path, noted, read_pins
from fgmae_bench.hub.fetch import Fetched, HubFile, WebFile, fetch
from fgmae_bench.hub.http import Source
from fgmae_bench.hub.tarball import unpack_tar
from fgmae_bench.prepare.index import LAYOUTS as INDEXED
from fgmae_bench.system.files import lock_and_clean_up, remove_empty, sync_folder
from fgmae_bench.system.progress import Progress

log = logging.getLogger("fgmae_bench")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("dataset", metavar="DATASET", help="a dataset's name, or a card's path")
    parser.add_argument(
        *spellings("data_path"), metavar="DIR", help="new folder of the data (default: data next to the card)"
    )
    parser.add_argument(*spellings("keep_archive"), action="store_true", help="keep the archive, next to the folder")
    text = (
        "trust what comes in place of what was pinned on first use, and say both SHA-256; "
        "files that are here as they are pinned stay (default: off)"
    )
    parser.add_argument("--repin", action="store_true", help=text)


def main(given: dict[str, Any]) -> None:
    """Fetch, unpack into a temporary folder, rename; print where it is and the command that comes next."""
    card = load_card(given["dataset"])
    if card.download is None:
        raise BenchError(
            f"{card.title} cannot be downloaded by this command", f"to get it: {card.origin.get or card.origin.url}"
        )
    data = Path(given.get("data_path") or card.data_path)
    _require_new(card, data)
    place = data.resolve()
    get = _Getter(repin=bool(given.get("repin")), command=_command(given))
    with lock_and_clean_up(place.with_name(f"{place.name}.download.partial")):
        there = _holds_anything(data)  # another process has done it while this one waited
        if card.download.each:
            if not there:
                _get_files(card, place, get)
            line = _contents(card, data)
        else:
            line = _get_archive(card, data, place, get, there=there, keep=bool(given.get("keep_archive")))
    command = "index" if card.layout in INDEXED else "inspect"
    shown = shlex.quote(str(data))
    following = f"python -m fgmae_bench.prepare {command} {shlex.quote(given['dataset'])} --data_path {shown}"
    print(f"{line}; next: {following}")


@dataclass(frozen=True, kw_only=True)
class _Getter:
    """How files are fetched: whether pins are replaced, and the command that does so."""

    repin: bool
    command: str

    def __call__(self, source: Source, target: Path, pins: Path, **how: Any) -> Fetched:
        """The file, verified. One that is here as it is pinned is not fetched again to be pinned anew."""
        repin = self.repin
        if repin and (here := noted(target, str(source))):
            repin = read_pins(pins).get(str(source)) != here
        return fetch(source, target, pins=pins, repin=repin, repin_with=self.command, **how)


def _command(given: dict[str, Any]) -> str:
    """The command of these flags that replaces pins."""
    more = ["--data_path", str(given["data_path"])] if given.get("data_path") else []
    more += ["--keep_archive"] if given.get("keep_archive") else []
    return shlex.join(["python", "-m", "fgmae_bench.prepare", "download", given["dataset"], *more, "--repin"])


def _get_archive(card: Card, data: Path, place: Path, get: _Getter, *, there: bool, keep: bool) -> str:
    """Fetch, verify and unpack the card's archive, its lists first; returns what there is then."""
    held = card.download
    assert held is not None
    source = WebFile(url=held.url) if held.url else _hub_file(held)
    archive, pins = place.parent / Path(source.file).name, place.parent / PINS
    if not there:
        for each in held.lists:
            listed = WebFile(url=each.url)
            get(listed, place.parent / listed.file, pins, md5=each.md5)
        fetched = get(source, archive, pins, sha256=held.sha256 or None, md5=held.md5 or None, size=held.size or None)
        print(f"{archive.name}: {fetched.transferred} bytes transferred, sha256 {fetched.sha256}")
        (unpack_tar if archive.name.endswith((".tar.gz", ".tgz")) else unpack)(archive, place)
    line = _contents(card, data)
    if not keep:
        archive.unlink(missing_ok=True)
        note_path(archive).unlink(missing_ok=True)
    return line


def _get_files(card: Card, place: Path, get: _Getter) -> None:
    """Fetch every file of every listed sample; the folder appears when all are there."""
    held, folder, transferred = card.download, place.with_name(f"{place.name}.download"), 0
    assert held is not None
    wanted = [name.replace("{id}", sample) for sample in _listed(card) for name in held.each]
    try:
        with Progress(f"downloading {card.title}", len(wanted), "files") as progress:
            for name in wanted:
                source = WebFile(url=f"{held.url.rstrip('/')}/{quote(name)}")
                transferred += get(source, folder / name, place.parent / PINS, quiet=True).transferred
                progress.step()
        for name in wanted:
            note_path(folder / name).unlink()
        folder.replace(place)
        sync_folder(place.parent)
    except OSError as error:
        raise os_error(error, place) from error
    finally:
        remove_empty([*{(folder / name).parent: None for name in wanted}, folder])
    print(f"{len(wanted)} files: {transferred} bytes transferred")
    log.warning("nothing vouches for these files: their SHA-256 are pinned in %s", place.parent / PINS)


def _listed(card: Card) -> list[str]:
    """Names of all samples in the lists next to the card, each once, without the ending and suffix of the split."""
    names: dict[str, None] = {}
    for split in card.splits.values():
        for file in split.files.values() if split.kind == "lists" else ():
            for number, line in read_lines(card.path.parent / file):
                first = line.split(",")[0]
                stem, ending = os.path.splitext(first)
                name = (stem if ending.lower() in ENDINGS else first).removesuffix(split.suffix)
                if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                    where = f"{card.path.parent / file}: line {number}"
                    raise BenchError(
                        f"{where} begins with {first[:200]!r}, which is not a plain name", "correct the list"
                    )
                names[name] = None
    return list(names)


def _hub_file(download: Download) -> HubFile:
    return HubFile(repo=download.repo, file=download.file, revision=download.revision, repo_type=download.repo_type)


def _require_new(card: Card, data: Path) -> None:
    """Raise BenchError unless `data` is absent or an empty folder."""
    if data.exists() and not data.is_dir():
        raise BenchError(f"{data} is not a folder", "choose another folder with --data_path")
    if _holds_anything(data):
        command = f"python -m fgmae_bench.prepare inspect {card.name} --data_path {shlex.quote(str(data))}"
        todo = f"look at it with: {command}, or choose another folder"
        raise BenchError(f"{data} is not empty, nothing was downloaded", todo)


def _holds_anything(data: Path) -> bool:
    return data.is_dir() and any(data.iterdir())


def _contents(card: Card, data: Path) -> str:
    """What was unpacked, held against the card; raises BenchError when it is not laid out as the card says."""
    index = build_index(card, data)
    contradiction = check_counts(card, index)
    counts = f"but {contradiction.text}" if contradiction else "as the card says"
    return f"{len(index.files)} images in {len(card.classes)} classes at {index.root}, {counts}"
