"""Splits by lists of file names: where the lists are, what they hold, and the rows that they mean."""

from __future__ import annotations

import bz2
import json
import logging
import os
from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card, Split
from fgmae_bench.data.files import holding
from fgmae_bench.data.index import Index, Rows
from fgmae_bench.data.raster import MEMORY_BYTES, MEMORY_TIMES
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import read_bounded

MOST_BYTES = 256 << 20  # of a list


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text without the spaces around it) of each line that holds anything; `.bz2` is unpacked.

    Of `.json` the keys of its one object are the lines.

    Raises BenchError naming the file when it cannot be read or unpacked, or is not UTF-8 text.
    """
    try:
        content = read_bounded(path, MOST_BYTES)
        text = (_unpacked(content) if path.suffix == ".bz2" else content).decode("utf-8-sig")
        if path.suffix == ".json":
            text = "\n".join(_keys(text))
    except UnicodeDecodeError as error:
        raise BenchError(
            f"{path}: cannot be read as a list (no UTF-8 text: {error.reason})", "save it as UTF-8"
        ) from error
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise BenchError(f"{path}: cannot be read as a list ({error})", "replace the file") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _keys(text: str) -> list[str]:
    """The keys of a JSON object; raises ValueError where it is none."""
    held = json.loads(text)
    if not isinstance(held, dict):
        raise ValueError("it is not a JSON object whose keys are samples")
    return list(held)


def _unpacked(content: bytes) -> bytes:
    """What bz2 streams, one after the other, hold; raises OSError or ValueError where they are damaged, cut, or hold
    more than the larger of MEMORY_BYTES and MEMORY_TIMES their own bytes.
    """
    most = max(MEMORY_BYTES, MEMORY_TIMES * len(content))
    parts: list[bytes] = []
    while content:
        stream, room = bz2.BZ2Decompressor(), most - sum(map(len, parts))
        parts.append(stream.decompress(content, max_length=room + 1))
        if len(parts[-1]) > room:
            raise ValueError(f"it unpacks to more than {most >> 20} MiB")
        if not stream.eof:
            raise ValueError("it ends before its stream does")
        content = stream.unused_data
    return b"".join(parts)


PARTS = ("train", "val", "test")
# Endings of files that hold images; what else stands behind a dot belongs to the name of a sample.
ENDINGS = (".tif", ".tiff", ".jpg", ".jpeg", ".png", ".bmp", ".jp2", ".npy", ".npz", ".nc", ".h5", ".hdf5", ".zarr")

log = logging.getLogger("fgmae_bench")


def published_lists(card: Card, index: Index, split: Split, name: str) -> Path:
    """The folder that holds the lists of one of the card's splits: the data, the folder around it, `splits` in both,
    one in the data, or the card's.
    """
    first, root = split.files["train"], index.root
    places = [root, root / "splits", root.parent, root.parent / "splits"]
    folder = next((place for place in places if _list_file(place, first)), None)
    folder = folder or (holding(root, first, deepest=2) if root.is_dir() else None)  # in what an archive wraps
    folder = folder or (card.path.parent if _list_file(card.path.parent, first) else root)
    absent = [file for file in split.files.values() if not _list_file(folder, file)]
    if absent:
        place = folder if folder.is_dir() and not (folder / "data.mdb").exists() else folder.parent
        todo = f"put the lists into {place} ({split.origin}), or name the folder that holds them with --split DIR"
        raise BenchError(f"split '{name}' needs {', '.join(absent)}", todo)
    return folder


def _list_file(folder: Path, name: str) -> Path | None:
    """A list in a folder as it is or, where its name ends in .bz2, unpacked."""
    return next((path for path in (folder / name, folder / name.removesuffix(".bz2")) if os.path.isfile(path)), None)


def read_leaky_flag(folder: Path) -> bool:
    """Whether the `split.json` of `prepare split` calls the lists next to it leaky; False without it."""
    path = folder / "split.json"
    if not path.is_file():
        return False
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["leaky"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchError(f"{path} is broken ({error})", "make the split again with prepare split") from error


def list_files(folder: Path) -> dict[str, str]:
    """The one .txt or .csv file for each part whose name contains the part's name."""
    endings = (".txt", ".csv")
    lists = [path for path in folder.iterdir() if path.name.removesuffix(".bz2").endswith(endings) and path.is_file()]
    names = sorted(path.name for path in lists)
    files: dict[str, str] = {}
    for part in PARTS:
        found = [name for name in names if part in name.lower()]
        if len(found) > 1:
            raise BenchError(f"{folder} holds several lists for {part}: {', '.join(found)}", "keep one")
        if found:
            files[part] = found[0]
    for part in ("train", "test"):
        if part not in files:
            raise BenchError(f"{folder} holds no list for {part}", f"add {part}.txt with one file name a line")
    return files


def rows_of_lists(index: Index, split: Split, folder: Path) -> tuple[dict[str, Rows], int]:
    """(rows of each part, samples in none) from lists of file names.

    The ending of an image file is ignored (.jpg for .tif), with it the split's `suffix`; a class folder before the name
    is optional. A line may hold several names of one sample, separated by a comma, and what is not a name; a first line
    that begins with the split's `header` names columns. Raises BenchError on samples that are listed twice, and
    where the data lacks more than the split's tolerance of a list.
    """
    rows_of = _names(index)
    parts, seen = dict[str, Rows](), dict[int, str]()
    for part in PARTS:
        path = _list_file(folder, split.files[part]) if part in split.files else None
        lines, rows, absent = [line for _, line in read_lines(path)] if path else [], [], []
        if lines and split.header and lines[0].startswith(split.header):
            lines = lines[1:]
        for line in lines:
            found = next(filter(None, (_rows(rows_of, name, split.suffix) for name in line.split(","))), [])
            if len(found) > 1:
                raise BenchError(f"{path}: {line} is in several class folders", "write <class>/<file> in the lists")
            if not found:
                absent.append(line)
            elif found[0] in seen:
                raise BenchError(f"{path}: {line} is already in {seen[found[0]]}", "list each sample once")
            else:
                rows.append(found[0])
                seen[found[0]] = part
        if len(absent) > split.absent_tolerance * len(lines):
            what = f"{path} names {len(absent)} of {len(lines)} images that are not in the data, first {absent[0]}"
            raise BenchError(what, "complete the data or correct the list")
        if absent:
            log.warning(
                "%s names %d of %d images that are not in the data; they are left out", path, len(absent), len(lines)
            )
        parts[part] = np.array(rows, np.int64)
    return parts, len(index.files) - len(seen)


def _names(index: Index) -> dict[str, list[int]]:
    """Rows by each name that a list may use: the whole id, its last part, or an alias."""
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(index.ids):
        for name in {sample, os.path.basename(sample), index.aliases[row] if index.aliases else sample}:
            rows.setdefault(name, []).append(row)
    return rows


def _rows(rows_of: dict[str, list[int]], name: str, suffix: str) -> list[int]:
    """Rows that a name in a list means: the name as it stands, else without the ending of an image file and `suffix`.

    Each is tried whole, then as its last part. Other endings belong to the name: `River_12.5` is not `River_12`.
    """
    whole = name.strip().removeprefix("./")
    stem, ending = os.path.splitext(whole)
    bare = (stem if ending.lower() in ENDINGS else whole).removesuffix(suffix)
    for sample in (whole, bare):
        found = rows_of.get(sample) or rows_of.get(os.path.basename(sample))
        if found:
            return found
    return []
