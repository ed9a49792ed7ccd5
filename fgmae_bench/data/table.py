"""A table of samples: CSV or Parquet, one row an image, with classes, several labels or a number, group and part."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.card_checks import inside
from fgmae_bench.config.cards import Card
from fgmae_bench.data.bigearthnet.parquet import read_parquet
from fgmae_bench.data.dfc.layout import SizedReader, data_size, stamp
from fgmae_bench.data.files import IMAGES, PARTS, Pattern, Stat, holding, stem_of
from fgmae_bench.data.folders import reader_of
from fgmae_bench.data.geometry import Places, places_of_columns, places_of_geometry
from fgmae_bench.data.index import Index, Reader, require_utf8
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.system.files import read_bounded

PARQUET = (".parquet", ".geoparquet")
MOST_BYTES, MOST_ROWS = 256 << 20, 2_000_000  # of a table
NOTHING = ("", "na", "n/a", "nan", "null", "none")  # what stands for no value
COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")  # a number with a decimal comma
TODO = "correct the table"
MOST_SHOWN = 400  # letters of the names of columns in a line
log = logging.getLogger("fgmae_bench")
Found = tuple[str, str, list[Stat]]  # id, file relative to the data, stats of its files


@dataclass(frozen=True)
class Row:
    """One line of a table: its number from 1, as an editor counts, and its values by column."""

    number: int
    values: dict[str, str]
    table: Path = Path()
    place: Places | None = None  # (5, 2), of a geometry
    part: str = ""  # of a split, where each has a table of its own


class Kept(NamedTuple):
    """A row that counts: its label, the sample's id, its file, and the stats of its files."""

    row: Row
    label: Any
    name: str
    file: str
    stats: list[Stat]


def table(card: Card, root: Path) -> Index:
    """Index of the images that a table names, below `root`; `layout` on the card says which column holds what. A table
    for each part of a split is read as one, wherever an archive has put them.

    Raises BenchError as `indexed`, and on an image that is not there.
    """
    held = card.arrangement
    tables = held.tables or {"": held.table}
    base = holding(root, next(iter(tables.values()))) or root  # what an archive wraps around them
    lead = "" if base == root else f"{base.relative_to(root).as_posix()}/"
    rows = [
        dataclasses.replace(row, part=part) for part, name in tables.items() for row in read_rows(card, base / name)
    ]

    def find(row: Row) -> Found:
        name, file, stats = _find(card, base, row)
        return name, lead + file, stats

    size, synthetic = data_size(card, root)
    reader = reader_of(card)
    reader = SizedReader(size, reader) if size != tuple(card.signal.size) else reader
    source = ", ".join(str(base / name) for name in tables.values())
    index = indexed(card, root, source, rows, find, reader)
    return dataclasses.replace(index, synthetic=synthetic or card.synthetic)


def read_rows(card: Card, path: Path) -> list[Row]:
    """The rows of a card's table, with what its columns say."""
    held = card.arrangement
    found = read_table(path, columns_of(card), held.separator or ",")
    rows = [dataclasses.replace(row, table=path) for row in found]
    if len(held.place) != 1:
        return rows
    if path.suffix.lower() not in PARQUET:
        raise BenchError(f"{path}: layout.place names one column", "give GeoParquet, or columns of longitude, latitude")
    places = places_of_geometry(path, held.place[0])
    return [dataclasses.replace(row, place=place) for row, place in zip(rows, places, strict=True)]


def indexed(
    card: Card, root: Path, source: str, rows: list[Row], find: Callable[[Row], Found], reader: Reader
) -> Index:
    """Index of the samples that rows of `source` (tables, or a store) describe; `find` says where the image of one is.

    Samples without a label or target are left out and counted. Raises BenchError naming source and line: an image
    named twice, an unknown class, a number that is none, a group in several parts of the split.
    """
    held = card.arrangement
    if not rows:
        raise BenchError(f"{source} has no rows", "give a line for each sample")
    labels = [[] if card.per_pixel else _label(card, row) for row in rows]
    kept = [Kept(row, label, *find(row)) for row, label in zip(rows, labels, strict=True) if label is not None]
    if not kept:
        raise BenchError(f"{source}: no sample has a value in {', '.join(_label_columns(card)[:3])}", TODO)
    if len(kept) < len(rows):
        log.warning("%s: %d samples without a label are left out", source, len(rows) - len(kept))
    _refuse_twice(kept)
    kept.sort(key=lambda each: each.name)  # in the order of ids, whatever that of the table
    groups = tuple(each.row.values[held.group] for each in kept) if held.group else None
    parts = tuple(each.row.part or _part(each.row, held.split) for each in kept) if held.split or held.tables else None
    if groups and parts and not any(split.kind == "stated" and split.leaky for split in card.splits.values()):
        _refuse_leaks(source, groups, parts)
    files = tuple(each.file for each in kept)
    require_utf8(root, files)
    return Index(
        root=root,
        files=files,
        labels=_array(card, [each.label for each in kept]),
        stamps=np.array([stamp(*each.stats) for each in kept], np.uint64),
        synthetic=card.synthetic,
        left_out=len(rows) - len(kept),
        groups=groups,
        group_kind=held.group,
        parts=parts,
        places=_places(card, [each.row for each in kept]),
        names=tuple(each.name for each in kept),
        reader=reader,
    )


def _places(card: Card, rows: list[Row]) -> Places | None:
    """Centres and corners (N, 5, 2) of the samples, None where the card names no columns of them."""
    held = card.arrangement.place
    if len(held) == 1:
        return np.array([row.place for row in rows])
    if not held:
        return None
    where = [f"{row.table}, line {row.number}" for row in rows]
    return places_of_columns(where, *([number_text(card, row.values[name]) for row in rows] for name in held))


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
            raise BenchError(f"{path} has {what} column '{name[:80]}'", _columns_shown(name, header))
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


def _columns_shown(name: str, header: list[str]) -> str:
    """The closest column, then the first of all of them."""
    hint, _, every = closest(name, header or ["none"]).partition("choose from ")
    if len(every) <= MOST_SHOWN:
        return f"{hint}choose from {every}"
    return f"{hint}choose from its {len(header)} columns: {', '.join(header)[:MOST_SHOWN]}, …"


def _label(card: Card, row: Row) -> Any:
    """The class number, multi-hot classes or target of a row, None where it has none."""
    held, where = card.arrangement, f"{row.table}, line {row.number}"
    if card.task == "multi_label" and not held.label:
        flags = [row.values[name] for name in card.classes]
        if all(flag.lower() in NOTHING for flag in flags):
            return None
        return [_flag(where, name, flag) for name, flag in zip(card.classes, flags, strict=True)]
    text = row.values[held.target if card.task == "regression" else held.label]
    if text.lower() in NOTHING:
        return None
    if card.task == "regression":
        return _target(where, held.target, number_text(card, text))
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


def number_text(card: Card, text: str) -> str:
    """A number of a table as Python writes it, where the card says that it has a decimal comma."""
    comma = card.arrangement.decimal == "," and COMMA.fullmatch(text)
    return text.replace(",", ".") if comma else text


def _target(where: str, name: str, text: str) -> float | None:
    try:
        value = float(text)
    except ValueError as error:
        todo = 'say decimal = "," under [layout]' if COMMA.fullmatch(text) else TODO
        raise BenchError(f"{where}: '{text[:80]}' in column '{name}' is not a number", todo) from error
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


def _find(card: Card, root: Path, row: Row) -> Found:
    """(id, file, stats of its files) of a row's image, which may be named without its ending."""
    held, name = card.arrangement, row.values[card.arrangement.path]
    where, pattern = f"{row.table}, line {row.number}", Pattern(held.images)
    if "\\" in name and not os.path.exists(root / name):
        name = name.replace("\\", "/")  # as Windows writes paths
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


def _refuse_twice(kept: list[Kept]) -> None:
    seen: dict[str, Row] = {}
    for row, _, name, _, _ in kept:
        if name in seen:
            first = seen[name]
            where = f"line {first.number}" if first.table == row.table else f"{first.table}, line {first.number}"
            what = f"{row.table}, line {row.number}: {name} is already in {where}"
            raise BenchError(what, "list each image once")
        seen[name] = row


def _part(row: Row, column: str) -> str:
    text = row.values[column].lower()
    if text and text not in PARTS:
        what = f"{row.table}, line {row.number}: '{text[:80]}' in column '{column}' is not a part of a split"
        raise BenchError(what, closest(text[:80], PARTS))
    return PARTS.get(text, "")


def _refuse_leaks(source: str, groups: tuple[str, ...], parts: tuple[str, ...]) -> None:
    """Raise BenchError where a group is in several parts of the split that the table states."""
    held: dict[str, set[str]] = {}
    for group, part in zip(groups, parts, strict=True):
        held.setdefault(group, set()).update({part} - {""})
    torn = sorted(group for group, names in held.items() if len(names) > 1)
    if torn:
        shown = " and ".join(sorted(held[torn[0]], key=["train", "val", "test"].index))
        what = f"{source}: group '{torn[0][:80]}' is in {shown} ({len(torn)} of {len(held)} groups are torn apart)"
        raise BenchError(what, "move each group to one part, or set leaky = true in the card's split of kind stated")
