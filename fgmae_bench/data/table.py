"""A table of samples: CSV or Parquet, one row an image, with classes, several labels or a number, group and part."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.card_checks import inside
from fgmae_bench.config.cards import Card
from fgmae_bench.data.bigearthnet.parquet import read_parquet
from fgmae_bench.data.dfc.layout import stamp
from fgmae_bench.data.files import IMAGES, PARTS, Pattern, Stat, stem_of
from fgmae_bench.data.folders import reader_of
from fgmae_bench.data.geometry import Places, places_of_columns, places_of_geometry
from fgmae_bench.data.index import Index, Reader, require_utf8
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.system.files import read_bounded

PARQUET = (".parquet", ".geoparquet")
MOST_BYTES, MOST_ROWS = 256 << 20, 2_000_000  # of a table
NOTHING = ("", "na", "n/a", "nan", "null", "none")  # what stands for no value
TODO = "correct the table"
log = logging.getLogger("fgmae_bench")
Found = tuple[str, str, list[Stat]]  # id, file relative to the data, stats of its files


@dataclass(frozen=True)
class Row:
    """One line of a table: its number from 1, as an editor counts, and its values by column."""

    number: int
    values: dict[str, str]
    place: Places | None = None  # (5, 2), of a geometry


def table(card: Card, root: Path) -> Index:
    """Index of the images that a table names, below `root`; `layout` on the card says which column holds what.

    Raises BenchError as `indexed`, and on an image that is not there.
    """
    path = root / card.arrangement.table
    rows = read_rows(card, path)
    return indexed(card, root, path, rows, lambda row: _find(card, root, path, row), reader_of(card))


def read_rows(card: Card, path: Path) -> list[Row]:
    """The rows of a card's table, with what its columns say."""
    held = card.arrangement
    rows = read_table(path, columns_of(card), held.separator or ",")
    if len(held.place) != 1:
        return rows
    if path.suffix.lower() not in PARQUET:
        raise BenchError(f"{path}: layout.place names one column", "give GeoParquet, or columns of longitude, latitude")
    places = places_of_geometry(path, held.place[0])
    return [dataclasses.replace(row, place=place) for row, place in zip(rows, places, strict=True)]


def indexed(
    card: Card, root: Path, source: Path, rows: list[Row], find: Callable[[Row], Found], reader: Reader
) -> Index:
    """Index of the samples that rows of `source` describe; `find` says where the image of one is.

    Samples without a label or target are left out and counted. Raises BenchError naming source and line: an image
    named twice, an unknown class, a number that is none, a group in several parts of the split.
    """
    held = card.arrangement
    labels = [[] if card.per_pixel else _label(card, source, row) for row in rows]
    kept = [(row, label) for row, label in zip(rows, labels, strict=True) if label is not None]
    if not kept:
        raise BenchError(f"{source}: no sample has a value in {', '.join(_label_columns(card))}", TODO)
    if len(kept) < len(rows):
        log.warning("%s: %d samples without a label are left out", source, len(rows) - len(kept))
    named = {row.number: find(row) for row, _ in kept}
    _refuse_twice(source, [(row.number, named[row.number][0]) for row, _ in kept])
    kept.sort(key=lambda pair: named[pair[0].number][0])  # in the order of ids, whatever that of the table
    groups = tuple(row.values[held.group] for row, _ in kept) if held.group else None
    parts = tuple(_part(source, row, held.split) for row, _ in kept) if held.split else None
    if groups and parts and not any(split.kind == "stated" and split.leaky for split in card.splits.values()):
        _refuse_leaks(source, groups, parts)
    files = [named[row.number] for row, _ in kept]
    require_utf8(root, (file for _, file, _ in files))
    return Index(
        root=root,
        files=tuple(file for _, file, _ in files),
        labels=_array(card, [label for _, label in kept]),
        stamps=np.array([stamp(*stats) for _, _, stats in files], np.uint64),
        synthetic=card.synthetic,
        left_out=len(rows) - len(kept),
        groups=groups,
        group_kind=held.group,
        parts=parts,
        places=_places(card, source, [row for row, _ in kept]),
        names=tuple(name for name, _, _ in files),
        reader=reader,
    )


def _places(card: Card, source: Path, rows: list[Row]) -> Places | None:
    """Centres and corners (N, 5, 2) of the samples, None where the card names no columns of them."""
    held = card.arrangement.place
    if len(held) == 1:
        return np.array([row.place for row in rows])
    if not held:
        return None
    where = [f"{source}, line {row.number}" for row in rows]
    return places_of_columns(where, *([row.values[name] for row in rows] for name in held))


def columns_of(card: Card) -> list[str]:
    """The columns of the table that a card's layout needs."""
    held = card.arrangement
    place = held.place if len(held.place) == 2 else ()
    return list(dict.fromkeys([held.path, *_label_columns(card), *filter(None, (held.group, held.split)), *place]))


def _label_columns(card: Card) -> list[str]:
    held = card.arrangement
    if card.per_pixel:
        return []
    if card.task == "regression":
        if not held.target:
            raise BenchError(f"{card.path}: layout.target is missing", "name the column of numbers")
        return [held.target]
    if held.label:
        return [held.label]
    if card.task == "multi_label":
        return list(card.classes)
    raise BenchError(f"{card.path}: layout.label is missing", "name the column of classes")


def read_table(path: Path, columns: list[str], separator: str = ",") -> list[Row]:
    """Rows of a CSV (comma, semicolon or tab; UTF-8) or a Parquet file, with the values of `columns` as text.

    Lists of a Parquet file are joined by `separator`.

    Raises BenchError naming the file, its columns and the line: not readable, a column that is not there, a line with
    more or fewer values than the header.
    """
    if path.suffix.lower() in PARQUET:
        found = read_parquet(path, "table of samples", TODO, columns).to_pydict()
        texts = {name: [_text(value, separator) for value in found[name]] for name in columns}
        return [Row(n + 1, {name: texts[name][n].strip() for name in columns}) for n in range(len(texts[columns[0]]))]
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
        return list(_csv_rows(path, text, columns))
    except (OSError, ValueError, csv.Error) as error:
        raise BenchError(f"{path} cannot be read as a table ({error})", "give a CSV in UTF-8, or Parquet") from error


def _text(value: Any, separator: str) -> str:
    if isinstance(value, list):
        return separator.join(map(str, value))
    return "" if value is None else str(value)


def _csv_rows(path: Path, text: str, columns: list[str]) -> list[Row]:
    first = text.partition("\n")[0]
    mark = max(",;\t", key=lambda each: sum(c in next(csv.reader([first], delimiter=each), []) for c in columns))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    header = [name.strip() for name in next(reader, [])]
    for name in columns:
        if header.count(name) != 1:
            what = "no" if name not in header else "more than one"
            raise BenchError(f"{path} has {what} column '{name}'", closest(name, header or ["none"]))
    places = {name: header.index(name) for name in columns}
    rows: list[Row] = []
    for line in reader:
        if not line:
            continue
        if len(line) != len(header):
            what = f"{path}, line {reader.line_num}: {len(line)} values under {len(header)} columns"
            raise BenchError(what, TODO)
        if len(rows) == MOST_ROWS:
            raise BenchError(f"{path} has more than {MOST_ROWS} rows", "divide it")
        rows.append(Row(reader.line_num, {name: line[at].strip() for name, at in places.items()}))
    return rows


def _label(card: Card, path: Path, row: Row) -> Any:
    """The class number, multi-hot classes or target of a row, None where it has none."""
    held, where = card.arrangement, f"{path}, line {row.number}"
    if card.task == "multi_label" and not held.label:
        flags = [row.values[name] for name in card.classes]
        if all(flag.lower() in NOTHING for flag in flags):
            return None
        return [_flag(where, name, flag) for name, flag in zip(card.classes, flags, strict=True)]
    text = row.values[held.target if card.task == "regression" else held.label]
    if text.lower() in NOTHING:
        return None
    if card.task == "regression":
        return _target(where, held.target, text)
    if card.task == "single_label":
        return _class(card, where, text)
    names = [name.strip() for name in text.split(held.separator or ",")]
    numbers = {_class(card, where, name) for name in names if name}
    return [int(k in numbers) for k in range(len(card.classes))]


def _class(card: Card, where: str, text: str) -> int:
    if text not in card.classes:
        raise BenchError(f"{where}: '{text[:80]}' is not a class of {card.title}", closest(text[:80], card.classes))
    return card.classes.index(text)


def _flag(where: str, name: str, text: str) -> int:
    known = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
    if text.lower() not in known:
        raise BenchError(f"{where}: '{text[:80]}' in column '{name}'", "give 0 or 1")
    return known[text.lower()]


def _target(where: str, name: str, text: str) -> float | None:
    try:
        value = float(text)
    except ValueError as error:
        raise BenchError(f"{where}: '{text[:80]}' in column '{name}' is not a number", TODO) from error
    if math.isnan(value):
        return None
    if not abs(value) < 1e30:
        raise BenchError(f"{where}: {value:g} in column '{name}' is not a finite number", TODO)
    return value


def _array(card: Card, labels: list[Any]) -> NDArray[Any]:
    """(N,) class numbers, (N, C) multi-hot labels, (N, 1) targets; (N, 0) where labels are maps."""
    if card.per_pixel:
        return np.zeros((len(labels), 0), np.uint8)
    if card.task == "regression":
        return np.array(labels, np.float64)[:, None]
    return np.array(labels, np.uint8 if card.task == "multi_label" else np.int64)


def _find(card: Card, root: Path, path: Path, row: Row) -> Found:
    """(id, file, stats of its files) of a row's image, which may be named without its ending."""
    held, name = card.arrangement, row.values[card.arrangement.path]
    where, pattern = f"{path}, line {row.number}", Pattern(held.images)
    if not name or not inside(name) or name.endswith("/"):
        raise BenchError(f"{where}: '{name[:80]}' in column '{held.path}' is not a file of the data", TODO)
    if held.images:
        bands = card.signal.bands if pattern.by_band else ("",)
        folder = f"{pattern.folder}/" if pattern.folder else ""
        tried = [[folder + pattern.name(stem_of(name), spelt(b)) for b in bands] for spelt in (str, str.lower)]
    else:
        tried = [[name + ending] for ending in ("", *IMAGES)]
    # Path.is_file raises where a name is longer than the system's
    files = next((each for each in tried if all(os.path.isfile(root / file) for file in each)), None)
    if files is None:
        raise BenchError(f"{where}: {root / tried[0][0]} is not there", "complete the data, or take the line out")
    statuses = [(root / file).stat() for file in files]
    return stem_of(name.removeprefix("./")), files[0], [(s.st_size, s.st_mtime_ns) for s in statuses]


def _refuse_twice(path: Path, named: list[tuple[int, str]]) -> None:
    seen: dict[str, int] = {}
    for number, name in named:
        if name in seen:
            raise BenchError(f"{path}, line {number}: {name} is already in line {seen[name]}", "list each image once")
        seen[name] = number


def _part(path: Path, row: Row, column: str) -> str:
    text = row.values[column].lower()
    if text and text not in PARTS:
        what = f"{path}, line {row.number}: '{text[:80]}' in column '{column}' is not a part of a split"
        raise BenchError(what, closest(text[:80], PARTS))
    return PARTS.get(text, "")


def _refuse_leaks(path: Path, groups: tuple[str, ...], parts: tuple[str, ...]) -> None:
    """Raise BenchError where a group is in several parts of the split that the table states."""
    held: dict[str, set[str]] = {}
    for group, part in zip(groups, parts, strict=True):
        held.setdefault(group, set()).update({part} - {""})
    torn = sorted(group for group, names in held.items() if len(names) > 1)
    if torn:
        shown = " and ".join(sorted(held[torn[0]], key=["train", "val", "test"].index))
        what = f"{path}: group '{torn[0][:80]}' is in {shown} ({len(torn)} of {len(held)} groups are torn apart)"
        raise BenchError(what, "move each group to one part, or set leaky = true in the card's split of kind stated")
