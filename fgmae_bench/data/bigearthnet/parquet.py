"""Parquet files whose size in memory is known before they are decoded: a megabyte may repeat a name ten million times.

Source: the Parquet format 2.10, `parquet.thrift`; Thrift's compact protocol.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fgmae_bench.errors import BenchError

MOST_ROWS = 600_000  # the published tables have at most 590,326
ROW_BYTES = 768  # names, labels and flags of a patch, if each were as long as the longest
# What a table may take besides: the larger of this and so many times its file.
MEMORY_BYTES, MEMORY_TIMES = 64 << 20, 16
MOST_DICTIONARY = 64 << 20
HEADER_BYTES = 1 << 16  # of a page, statistics included
THRIFT_LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 100_000}
FAULTS = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError)
PLAIN, PLAIN_DICTIONARY, DELTA_LENGTHS, DICTIONARY = 0, 2, 6, 8  # encodings; the others cannot hold texts
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
TYPES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
COMPRESSIONS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")
DEEPEST = 8  # structs within structs
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


class _FaultError(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its path."""


def read_parquet(path: Path, what: str, todo: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in `path`, of `columns` where they are given. Raises BenchError naming it: not readable as `what`.

    The rows, the sizes of all pages and the longest text of each dictionary are looked at before anything is decoded.
    """
    try:
        if path.exists() and not path.is_file():
            raise _FaultError("is not a regular file")
        with open(path, "rb") as stream:
            file = pq.ParquetFile(stream, **THRIFT_LIMITS)
            held = file.schema_arrow
            if len(set(held.names)) < len(held.names):
                raise _FaultError("has two columns of one name")
            absent = sorted(set(columns or ()) - set(held.names))
            if absent:
                raise _FaultError(f"has no column {', '.join(absent)}")
            _require_bounded(stream.fileno(), file, set(columns or held.names))
            table = file.read(None if columns is None else list(columns), use_threads=False)
            table.validate(full=True)  # names that are not UTF-8, offsets outside
    except _FaultError as error:
        raise BenchError(f"{path} {error}", todo) from error
    except MemoryError as error:
        raise BenchError(f"{path} takes more memory than there is", todo) from error
    except FAULTS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BenchError(f"{path} cannot be read as a {what} ({reason})", todo) from error
    return table


def _require_bounded(handle: int, file: pq.ParquetFile, columns: set[str]) -> None:
    """Raise _FaultError where the columns would take memory out of proportion, or a page header is damaged."""
    facts, size = file.metadata, os.fstat(handle).st_size
    groups = _columns(handle, size)
    if len(groups) != facts.num_row_groups or {len(group) for group in groups} - {facts.num_columns}:
        raise _FaultError("is damaged: its groups of rows have other columns than its schema")
    if facts.num_rows > MOST_ROWS:
        raise _FaultError(f"states {facts.num_rows} rows, a dataset has at most {MOST_ROWS}")
    most = max(MEMORY_BYTES, MEMORY_TIMES * size, ROW_BYTES * facts.num_rows)
    held = 0
    for group in groups:
        for number, chunk in enumerate(group):
            if chunk.path_in_schema.split(".")[0] in columns:
                width = WIDTHS.get(chunk.physical_type) or max(file.schema.column(number).length, 1)
                held += _chunk_bytes(_Chunk(handle, size, chunk, width), most)
            if held > most:
                what = f"would take {held >> 20} MiB of memory or more"
                raise _FaultError(f"{what}, {most >> 20} are allowed for its {facts.num_rows} rows")


@dataclass(frozen=True, kw_only=True)
class _Column:
    """What the footer says of one column of one group of rows."""

    path_in_schema: str
    physical_type: str
    compression: str
    num_values: int
    total_compressed_size: int
    data_page_offset: int
    dictionary_page_offset: int  # 0 without a dictionary

    @property
    def has_dictionary_page(self) -> bool:
        """Whether it has one."""
        return self.dictionary_page_offset > 0


def _columns(handle: int, size: int) -> list[list[_Column]]:
    """The columns of each group of rows, from the footer itself: where it is damaged, Arrow's own accessors end the
    process (an exception of C++ that nobody catches). Raises _FaultError.
    """
    length = int.from_bytes(os.pread(handle, 4, max(size - 8, 0)), "little")
    if length + 8 > size:
        raise _FaultError("is damaged: its footer is longer than the file")
    try:
        footer, _ = read_struct(os.pread(handle, length, size - 8 - length))
        return [[_column(chunk[3]) for chunk in group[1]] for group in footer.get(4, [])]
    except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise _FaultError("has a damaged footer") from error


def _column(held: dict[int, Any]) -> _Column:
    """One column from its `ColumnMetaData`; raises KeyError, IndexError, ValueError or TypeError where facts lack."""
    numbers = [held[5], held[7], held[9], held.get(11, 0)]
    if not all(type(number) is int and number >= 0 for number in (*numbers, held[1], held[4])):
        raise ValueError("no number")
    return _Column(
        path_in_schema=".".join(part.decode() for part in held[3]),
        physical_type=TYPES[held[1]],
        compression=COMPRESSIONS[held[4]],
        num_values=numbers[0],
        total_compressed_size=numbers[1],
        data_page_offset=numbers[2],
        dictionary_page_offset=numbers[3],
    )


@dataclass(frozen=True)
class _Chunk:
    """One column of one group of rows; `width` is the bytes of a value where that is not text."""

    handle: int
    size: int  # of the file
    facts: _Column
    width: int

    def pages(self) -> Iterator[tuple[dict[int, Any], int]]:
        """(header, where its content begins) of each page. Raises _FaultError where one reaches out of the file."""
        at, seen = self.facts.data_page_offset, 0
        if self.facts.has_dictionary_page and 0 < self.facts.dictionary_page_offset < at:
            at = self.facts.dictionary_page_offset
        end = at + self.facts.total_compressed_size
        # without a row there is no page to begin anywhere, and writers state 0
        if end > self.size or (at < 4 and self.facts.num_values):
            self.refuse("is outside the file")
        while at < end and seen < self.facts.num_values:
            try:
                header, length = read_struct(os.pread(self.handle, HEADER_BYTES, at))
                kind, whole, packed = header[1], header[2], header[3]
            except (IndexError, KeyError, ValueError, struct.error):
                self.refuse("has a damaged page header")
            at += length
            if not all(isinstance(value, int) for value in (kind, whole, packed)):
                self.refuse("has a damaged page header")
            if whole < 0 or packed < 0 or at + packed > end:
                self.refuse("has a page that ends behind it")
            if kind in (DATA_PAGE, DATA_PAGE_V2):
                seen += self.number(header, kind, 1)
            yield header, at
            at += packed

    def number(self, header: dict[int, Any], kind: int, field: int) -> int:
        """A field of the part of a page header that is of its kind."""
        part = header.get({DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}[kind])
        value = part.get(field) if isinstance(part, dict) else None
        if not isinstance(value, int) or value < 0:
            raise _FaultError(f"is damaged: its column {self.facts.path_in_schema} has a damaged page header")
        return value

    def refuse(self, what: str) -> None:
        """Raise _FaultError on this column."""
        raise _FaultError(f"is damaged: its column {self.facts.path_in_schema} {what}")


def _chunk_bytes(chunk: _Chunk, most: int) -> int:
    """Bytes that a column takes decoded, at most: pages as they are, and each entry as long as the longest text."""
    texts, longest, held = chunk.facts.physical_type == "BYTE_ARRAY", 0, 0
    for header, at in chunk.pages():
        kind, whole = header[1], header[2]
        if whole > most:
            chunk.refuse(f"has a page of {whole >> 20} MiB")
        if kind == DICTIONARY_PAGE and texts:
            longest = _longest(chunk, header, at)
        elif kind in (DATA_PAGE, DATA_PAGE_V2):
            values, encoding = chunk.number(header, kind, 1), chunk.number(header, kind, 2 if kind == DATA_PAGE else 4)
            if not texts:
                held += values * chunk.width
            elif encoding in (PLAIN_DICTIONARY, DICTIONARY):
                held += values * (longest + 4)
            elif encoding in (PLAIN, DELTA_LENGTHS):
                held += whole + values * 4
            else:
                chunk.refuse(f"has texts in encoding {encoding}, which this version does not read")
    return held


def _longest(chunk: _Chunk, header: dict[int, Any], at: int) -> int:
    """Bytes of the longest text of a dictionary."""
    whole, packed = header[2], header[3]
    if whole > MOST_DICTIONARY:
        chunk.refuse(f"has a dictionary of {whole >> 20} MiB")
    content = os.pread(chunk.handle, packed, at)
    if chunk.facts.compression != "UNCOMPRESSED":
        content = pa.decompress(content, whole, codec=CODECS.get(chunk.facts.compression, "none"), asbytes=True)
    longest, place = 0, 0
    for _ in range(chunk.number(header, DICTIONARY_PAGE, 1)):
        if place + 4 > len(content):
            chunk.refuse("has a damaged dictionary")
        length = int.from_bytes(content[place : place + 4], "little")
        longest, place = max(longest, length), place + 4 + length
    return longest


CODECS = {
    "SNAPPY": "snappy",
    "ZSTD": "zstd",
    "GZIP": "gzip",
    "BROTLI": "brotli",
    "LZ4": "lz4_raw",
    "LZ4_RAW": "lz4_raw",
}


def read_struct(data: bytes, at: int = 0, depth: int = 0) -> tuple[dict[int, Any], int]:
    """(fields by number, where it ends) of a struct in Thrift's compact protocol, as far as Parquet holds any.

    Texts that are not in a list are left out. Raises IndexError or ValueError where it is damaged.
    """
    fields: dict[int, Any] = {}
    number = 0
    while (first := data[at]) != 0:
        at, kind = at + 1, first & 15
        if first >> 4:
            number += first >> 4
        else:
            number, at = _signed(data, at)
        if kind in (1, 2):
            fields[number] = kind == 1
        elif kind == 3:
            fields[number], at = data[at], at + 1
        elif kind in (4, 5, 6):
            fields[number], at = _signed(data, at)
        elif kind == 7:
            at += 8
        elif kind == 8:
            length, at = _unsigned(data, at)
            at += length
        elif kind in (9, 10):
            fields[number], at = _list(data, at, depth)
        elif kind == 12 and depth < DEEPEST:
            fields[number], at = read_struct(data, at, depth + 1)
        else:
            raise ValueError(f"a field of type {kind}")
    return fields, at + 1


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    """(values, where it ends) of a list."""
    count, kind, at = data[at] >> 4, data[at] & 15, at + 1
    if count == 15:
        count, at = _unsigned(data, at)
    if count > len(data) - at:  # each takes a byte or more
        raise ValueError("a list that ends behind the data")
    values: list[Any] = []
    value: Any
    for _ in range(count):
        if kind == 12 and depth < DEEPEST:
            value, at = read_struct(data, at, depth + 1)
        elif kind in (4, 5, 6):
            value, at = _signed(data, at)
        elif kind == 8:
            length, at = _unsigned(data, at)
            value, at = data[at : at + length], at + length
        elif kind in (1, 2, 3):
            value, at = data[at], at + 1
        else:
            raise ValueError(f"a list of type {kind}")
        values.append(value)
    return values, at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte, at = data[at], at + 1
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return value >> 1 ^ -(value & 1), at
