"""Parquet tables out of proportion, damaged or inconsistent are refused before they are decoded; whole ones are read."""

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgmae_bench.config.cards import Split
from fgmae_bench.data.bigearthnet import parquet
from fgmae_bench.data.bigearthnet.parquet import read_parquet, read_struct
from fgmae_bench.data.bigearthnet.table import SCHEMAS, from_rows, read_table, write_table
from fgmae_bench.data.splits import stratified
from fgmae_bench.errors import BenchError

TABLE = pa.table(
    {
        "name": [f"patch {number:05d}" for number in range(3000)],
        "labels": [["Pastures", "Arable land"][: number % 3] for number in range(3000)],
        "number": np.arange(3000, dtype=np.int16),
        "hot": pa.array([[0, 1, 0]] * 3000, pa.list_(pa.uint8(), 3)),
        "flag": [None if number % 7 == 0 else number % 2 == 0 for number in range(3000)],
        "place": np.linspace(0, 1, 3000),
    }
)


def read(path, columns=None):
    return read_parquet(path, "table", "restore it", columns)


@pytest.fixture
def decoding_forbidden(monkeypatch):
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *given, **more: pytest.fail("it was decoded"))


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("more", [{}, {"use_dictionary": False}, {"data_page_size": 500, "row_group_size": 700}])
def test_whole_files_of_every_kind_are_read_as_arrow_reads_them(compression, version, more, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, compression=compression, data_page_version=version, **more)
    assert read(path).equals(pq.read_table(path))
    assert read(path, ["number", "name"]).equals(pq.read_table(path, columns=["number", "name"]))


@pytest.mark.parametrize("more", [{}, {"use_dictionary": False}, {"compression": "none"}, {"data_page_version": "2.0"}])
def test_tables_and_groups_of_rows_without_a_row_are_read(more, tmp_path):
    path, empty = tmp_path / "a.parquet", TABLE.slice(0, 0)
    pq.write_table(empty, path, **more)
    assert read(path).equals(empty)
    with pq.ParquetWriter(path, TABLE.schema, **more) as writer:
        for part in (empty, TABLE, empty):
            writer.write_table(part)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert read(path).equals(TABLE)


def bound(path):
    """What the pages are said to take, at most, and what the table takes."""
    with open(path, "rb") as stream:
        file = pq.ParquetFile(stream)
        held = sum(
            parquet._chunk_bytes(
                parquet._Chunk(stream.fileno(), 1 << 40, file.metadata.row_group(group).column(number), 16), 1 << 40
            )
            for group in range(file.num_row_groups)
            for number in range(file.metadata.num_columns)
        )
    return held, pq.read_table(path).nbytes


@pytest.mark.parametrize("more", [{}, {"use_dictionary": False}, {"data_page_version": "2.0"}, {"data_page_size": 300}])
def test_the_bound_is_above_what_the_table_takes(more, tmp_path):
    for column in ("name", "labels", "number", "place"):
        pq.write_table(TABLE.select([column]), tmp_path / "a.parquet", **more)
        held, taken = bound(tmp_path / "a.parquet")
        # Offsets of lists and bits of nulls are not counted: 4 bytes a row, once more.
        assert taken <= held + 4.2 * len(TABLE)


def test_a_row_repeated_twelve_million_times_is_refused_unread(decoding_forbidden, tmp_path):
    path = tmp_path / "metadata.parquet"
    number = pa.array(np.zeros(12_000_000, np.int8))
    pq.write_table(pa.table({"s1_name": pa.DictionaryArray.from_arrays(number, pa.array(["S1A_IW"]))}), path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(
        BenchError, match=r"metadata\.parquet states 12000000 rows, a dataset has at most 600000; restore it"
    ):
        read(path)


@pytest.mark.slow
def test_one_long_text_in_every_row_is_refused_unread(decoding_forbidden, tmp_path):
    path, place = tmp_path / "a.parquet", pa.array(np.zeros(5000, np.int16))
    pq.write_table(pa.table({"a": pa.DictionaryArray.from_arrays(place, pa.array(["x" * 100_000]))}), path)
    assert path.stat().st_size < 200_000
    with pytest.raises(
        BenchError, match=r"a\.parquet would take 476 MiB of memory or more, 64 are allowed for its 5000"
    ):
        read(path)
    pq.write_table(pa.table({"a": pa.array([["x" * 100_000] * 50] * 100)}), path)
    with pytest.raises(BenchError, match=r"a\.parquet would take 476 MiB"):
        read(path)


def test_a_page_that_unpacks_out_of_proportion_is_refused_unread(decoding_forbidden, tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"a": ["\0" * 100_000_000]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BenchError, match=r"a.parquet is damaged: its column a has a page of 95 MiB"):
        read(path)


def test_texts_that_share_their_beginnings_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE.select(["name"]), path, use_dictionary=False, column_encoding={"name": "DELTA_BYTE_ARRAY"})
    with pytest.raises(BenchError, match="column name has texts in encoding 7, which this version does not read"):
        read(path)


def test_bytes_that_are_no_text_and_columns_of_one_name_are_refused(tmp_path):
    path, held = tmp_path / "a.parquet", pa.array([b"\xff\xfe"], pa.binary())
    pq.write_table(pa.table({"a": pa.Array.from_buffers(pa.string(), 1, held.buffers())}), path)
    with pytest.raises(BenchError, match=r"cannot be read as a table .*UTF8"):
        read(path)
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], ["a", "a"]), path)
    with pytest.raises(BenchError, match=r"a\.parquet has two columns of one name"):
        read(path)


def test_structs_of_thrift_are_read_as_its_definition_says():
    # Fields 1: i32 -1, 2: i32 300, 5: struct {1: i32 7, 2: true, 3: false}, 20 by its full number: a text, then the end.
    data = bytes([0x15, 1, 0x15, 0xD8, 4, 0x3C, 0x15, 14, 0x11, 0x12, 0, 0x08, 40, 3]) + b"abc" + b"\0"
    assert read_struct(data) == ({1: -1, 2: 300, 5: {1: 7, 2: True, 3: False}}, len(data))
    for cut in range(len(data)):
        with pytest.raises(IndexError):
            read_struct(data[:cut])


def row(**facts):
    whole = {"s1_name": "a", "tile": "33UUP", "labels_19": [0] * 19, "no_19_class": False, "stamp": 1}
    return {**whole, **facts}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"s1_name": None}, "s1_name is empty in some rows"),
        ({"stamp": None}, "stamp is empty in some rows"),
        ({"tile": None}, "tile is empty in some rows"),
        ({"labels_19": None}, "labels_19 is empty in some rows"),
        ({"labels_19": [2] + [0] * 18}, "labels_19 holds other values than zeros and ones"),
        ({"labels_19": [None] + [0] * 18}, "labels_19 holds other values than zeros and ones"),
    ],
)
def test_a_patch_table_that_contradicts_itself_is_refused(facts, message, tmp_path):
    path = tmp_path / "index.parquet"
    write_table(path, from_rows([row(), row(**facts)]))
    with pytest.raises(BenchError, match=message):
        read_table(path)
    write_table(path, from_rows([row(), row(**{**facts, "s1_name": "b", "stamp": 2, "labels_19": None}, problem="x")]))
    assert read_table(path).schema.equals(SCHEMAS[1])


def test_a_stratified_split_without_one_class_an_image_is_refused(index):
    split = Split(kind="stratified", train=0.6, val=0.2)
    for labels in (np.zeros((len(index.files), 0)), np.zeros((len(index.files), 19), np.uint8)):
        with pytest.raises(BenchError, match="a stratified split needs one class for each image"):
            stratified(dataclasses.replace(index, labels=labels), split, 0, ("a",))


def test_a_page_header_whose_sizes_are_no_numbers_is_damaged(tmp_path):
    header = bytes([0, 0, 0, 0, 0x15, 0, 0x15, 2, 0x1C, 0, 0])  # from byte 4 on: 1: i32, 2: i32, 3: an empty struct
    (tmp_path / "a").write_bytes(header)
    facts = SimpleNamespace(
        data_page_offset=4, has_dictionary_page=False, total_compressed_size=7, num_values=1, path_in_schema="a"
    )
    with open(tmp_path / "a", "rb") as stream, pytest.raises(parquet._FaultError, match="damaged page header"):
        list(parquet._Chunk(stream.fileno(), len(header), facts, 1).pages())


def test_a_footer_that_ends_the_process_in_arrows_accessors_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"name": pa.array(["a", "b"])}), path)
    content = path.read_bytes()
    # The histogram of definition levels of an optional column, [0, 2], under a schema that makes it required.
    optional = content.rindex(b"\x25\x02\x18\x04name")  # repetition 1, then its name
    path.write_bytes(content[:optional] + b"\x25\x00\x18\x04name" + content[optional + 8 :])
    accessed = f"import pyarrow.parquet as pq; pq.ParquetFile({str(path)!r}).metadata.row_group(0).column(0)"
    done = subprocess.run([sys.executable, "-c", accessed], capture_output=True, check=False)
    assert done.returncode < 0, "Arrow catches it by now, so that this test shows nothing"
    with pytest.raises(BenchError, match=r"a\.parquet cannot be read as a table \(.*histogram"):
        read(path)


def test_the_footer_is_read_as_arrow_reads_it(tmp_path):
    path = tmp_path / "a.parquet"
    names = [field for field in parquet._Column.__dataclass_fields__ if field != "dictionary_page_offset"]
    for compression in ("none", "snappy", "gzip", "brotli", "zstd"):
        pq.write_table(TABLE, path, compression=compression, row_group_size=700)
        facts = pq.ParquetFile(path).metadata
        with open(path, "rb") as stream:
            groups = parquet._columns(stream.fileno(), path.stat().st_size)
        assert (len(groups), len(groups[0])) == (facts.num_row_groups, facts.num_columns)
        for group, columns in enumerate(groups):
            for number, column in enumerate(columns):
                told = facts.row_group(group).column(number)
                assert [getattr(column, name) for name in names] == [getattr(told, name) for name in names]
                assert column.dictionary_page_offset == (told.dictionary_page_offset or 0)
