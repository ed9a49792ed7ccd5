"""What stands in place of images or describes them, hostile: tables, groups, lists, NumPy arrays, embeddings, links."""

import bz2
import io
import os
import resource
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import call, said
from test_layouts import CLASSES, make_card, npy, pixels

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.bigearthnet.scan import _folders
from fgmae_bench.data.dfc.layout import _scene_folders
from fgmae_bench.data.files import Pattern, folders_in, keyed_files, load_array
from fgmae_bench.data.groups import with_groups
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.list_splits import list_files, read_lines
from fgmae_bench.data.sample_cache import BROKEN_ARRAY
from fgmae_bench.errors import BenchError
from fgmae_bench.models.embeddings import read_embeddings
from fgmae_bench.stress.scorer import read_outputs
from fgmae_bench.system.files import read_bounded

TABLE = '[layout]\nkind = "table"\ntable = "t.csv"\npath = "file"\nlabel = "label"\n'


def data(folder, table="t.csv", rows=()):
    """Four arrays, a card for a table of them, and the table with `rows` more."""
    for n in range(4):
        npy(folder / "data" / f"a{n}.npy", pixels(n))
    lines = ["file,label", *(f"a{n}.npy,{('Ice', 'Water')[n % 2]}" for n in range(4)), *rows]
    (folder / "data" / "t.csv").write_text("\n".join(lines))
    return make_card(folder / "card.toml", TABLE.replace("t.csv", table), top=CLASSES)


def circle(folder):
    """Two links that lead to each other, one that leads nowhere, and a folder and a file."""
    for name, target in (("a.tif", "b.tif"), ("b.tif", "a.tif"), ("c.tif", "nowhere")):
        (folder / name).symlink_to(folder / target)
    (folder / "inside").mkdir()
    (folder / "d.tif").write_bytes(b"")
    return folder


def test_links_in_a_circle_are_neither_files_nor_folders(tmp_path):
    circle(tmp_path)
    assert folders_in(tmp_path) == _folders(tmp_path) == ["inside"]
    assert list(keyed_files(tmp_path, Pattern("*.tif"), ("VV",))) == ["d"]
    assert list(_scene_folders(tmp_path, tmp_path, 0)) == []


def test_a_tile_that_is_a_link_in_a_circle_is_named(tmp_path):
    folder = tmp_path / "data" / "ROIs1158_spring" / "s1_1"
    folder.mkdir(parents=True)
    (folder / "ROIs1158_spring_s1_1_p1.tif").symlink_to(folder / "ROIs1158_spring_s1_1_p1.tif")
    with pytest.raises(BenchError, match=r"s1_1_p1\.tif is not a file; complete the data"):
        build_index(load_card("sen12ms"), tmp_path / "data")


@pytest.mark.parametrize("name", ["9" * 400, "x" * 5000, "d/" * 3000 + "a"], ids=["file", "long", "deep"])
def test_a_name_that_no_file_can_have_is_an_image_that_is_not_there(name, tmp_path):
    card = data(tmp_path, rows=[f"{name},Ice"])
    with pytest.raises(BenchError, match=r"t\.csv, line 6: .* is not there"):
        build_index(card, tmp_path / "data")
    (tmp_path / "data" / "t.csv").write_text(f"file,label\n{name},Ice\na0.npy,Water\n")
    line = said(call("prepare", "card", "data", "--labels", "data/t.csv", "--out", "c.toml", cwd=tmp_path))
    assert "t.csv" in line


@pytest.mark.parametrize("table", ["t.csv", "t.parquet"])
def test_a_fifo_in_place_of_a_table_is_refused_and_not_waited_for(table, tmp_path):
    card = data(tmp_path, table)
    (tmp_path / "data" / "t.csv").unlink()
    os.mkfifo(tmp_path / "data" / table)
    with pytest.raises(BenchError, match="is not a regular file"):
        build_index(card, tmp_path / "data")


def test_groups_and_lists_that_are_fifos_or_devices_are_not_there(tmp_path):
    card = data(tmp_path)
    text = (tmp_path / "card.toml").read_text() + '\n[groups]\nfile = "g.csv"\ncolumn = "site"\n'
    (tmp_path / "card.toml").write_text(text)
    os.mkfifo(tmp_path / "data" / "g.csv")
    card = load_card(str(tmp_path / "card.toml"))
    with pytest.raises(BenchError, match=r"g\.csv is neither with the data nor next to the card"):
        with_groups(card, build_index(card, tmp_path / "data"), tmp_path / "cache")
    os.mkfifo(tmp_path / "train.txt")
    (tmp_path / "test.txt").symlink_to("/dev/zero")
    with pytest.raises(BenchError, match="holds no list for train"):
        list_files(tmp_path)


def test_a_device_is_not_read_and_a_link_to_a_file_is(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_bounded(tmp_path / "b", 3) == b"abc"
    assert read_bounded(tmp_path / "b", 1 << 60) == b"abc"  # memory for what is there, not for what may be
    for path, message in (("/dev/zero", "not a regular file"), (tmp_path / "a", "larger than 0 MiB")):
        with pytest.raises(OSError, match=message):
            read_bounded(path if isinstance(path, type(tmp_path)) else tmp_path.__class__(path), 2)


def test_lists_of_several_streams_are_read_as_bz2_reads_them(tmp_path):
    text = "".join(f"patch {n}\n" for n in range(2000))
    packed = b"".join(bz2.compress(part.encode()) for part in (text, text[:100], "", "last"))
    (tmp_path / "a.txt.bz2").write_bytes(packed)
    assert [line for _, line in read_lines(tmp_path / "a.txt.bz2")] == bz2.decompress(packed).decode().split("\n")
    for spoilt, message in (
        (packed[:-5], "it ends before its stream does"),
        (packed + b"more", "Invalid data stream"),
        (b"text", "Invalid"),
    ):
        (tmp_path / "a.txt.bz2").write_bytes(spoilt)
        with pytest.raises(BenchError, match=message):
            read_lines(tmp_path / "a.txt.bz2")


def test_a_list_that_unpacks_out_of_proportion_is_refused_and_not_held(tmp_path):
    squeeze = bz2.BZ2Compressor(1)
    packed = b"".join([*(squeeze.compress(bytes(1 << 20)) for _ in range(90)), squeeze.flush()])
    (tmp_path / "a.txt.bz2").write_bytes(packed * 9)
    assert len(packed) < 20_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BenchError, match="it unpacks to more than 64 MiB"):
        read_lines(tmp_path / "a.txt.bz2")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_an_array_that_begins_as_an_archive_is_refused_in_words(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"PK\3\4" + bytes(200))
    with pytest.raises(zipfile.BadZipFile):
        np.load(tmp_path / "a.npy", allow_pickle=False)
    with pytest.raises(BenchError, match=r"a\.npy cannot be read as a NumPy array \(File is not a zip file\)"):
        load_array(tmp_path / "a.npy")
    assert read_outputs(tmp_path / "a.npy", (2, 3)) is None
    assert {zipfile.BadZipFile, zlib.error} <= set(BROKEN_ARRAY)


# --- embeddings


def parquet(path, id, vector):
    pq.write_table(pa.table({"id": id, "vector": vector}), path)


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)


IDS, VECTORS = ["a", "b"], np.ones((2, 3), np.float32)
LISTS = pa.array([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("vector", "id"),
    [
        (pa.array(["x", "y"]), IDS),
        (pa.array([{"a": 1.0}, {"a": 2.0}]), IDS),
        (pa.array([["x"], ["y"]]), IDS),
        (pa.array([[1.0, 2.0], None]), IDS),
        (pa.array([[1.0, 2.0], [3.0]]), IDS),
        (pa.array([1.0, 2.0]), IDS),
        (LISTS, pa.array([["a"], ["b"]])),
        (LISTS, pa.array(["a", None])),
    ],
    ids=["text", "struct", "texts", "none", "lengths", "number", "list-id", "no-id"],
)
def test_parquet_columns_that_are_no_vectors_are_refused(vector, id, tmp_path):
    parquet(tmp_path / "e.parquet", id, vector)
    with pytest.raises(BenchError, match=r"e\.parquet holds no embeddings"):
        read_embeddings(tmp_path / "e.parquet")


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.int8()], ids=str)
@pytest.mark.parametrize(
    "made", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 3)], ids=["list", "large", "fixed"]
)
def test_vectors_of_any_list_of_numbers_are_read(made, kind, tmp_path):
    values = np.arange(6).reshape(2, 3)
    scalars = values.astype(np.float16) if kind == pa.float16() else values
    vector = pa.array([list(row) for row in scalars], made(kind))
    parquet(tmp_path / "e.parquet", pa.array(IDS).dictionary_encode(), vector)
    held = read_embeddings(tmp_path / "e.parquet")
    assert list(held.rows) == IDS
    assert np.array_equal(held.vectors.numpy(), values)


def header(shape, kind, body=b""):
    """A .npy file whose header says `shape`."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue() + body


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vector", header((10**6, 10**6), "<f4")),
        ("vector", header((2, 3), "|O", b"\x80\x04N.")),
        ("vector", header((2, 3), "<c8", bytes(48))),
        ("vector", header((2**70, 3), "<f4")),
        ("id", header((10**9,), "<U0")),
        ("id", header((2,), "<U1000000000")),
        ("id", header((1, 2), "<U1", bytes(8))),
        ("id", header((2,), "<U1", b"\x20" * 8)),
        ("id", header((2,), ">U1", b"\x20" * 8)),
        ("fgmae_bench", header((), "<U1", b"\x20" * 4)),
        ("vector", b"PK\3\4"),
        ("vector", b""),
    ],
    ids=[
        "vast",
        "objects",
        "complex",
        "overflow",
        "no-letters",
        "long",
        "two-axes",
        "no-unicode",
        "no-unicode-big",
        "no-unicode-how",
        "archive",
        "empty",
    ],
)
def test_archives_with_members_that_cannot_be_are_refused(name, content, tmp_path):
    npz(tmp_path / "e.npz", **{key: value for key, value in (("id", IDS), ("vector", VECTORS)) if key != name})
    with zipfile.ZipFile(tmp_path / "e.npz", "a") as archive:
        archive.writestr(f"{name}.npy", content)
    with pytest.raises(BenchError, match=r"e\.npz holds "):
        read_embeddings(tmp_path / "e.npz")


def test_an_archive_out_of_proportion_is_refused_unread(monkeypatch, tmp_path):
    with zipfile.ZipFile(tmp_path / "e.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("id.npy", header((2,), "<U1", bytes(8)))
        archive.writestr("vector.npy", header((2, 9_000_000), "<f4") + bytes(72_000_000))
    monkeypatch.setattr(np, "load", lambda *given, **more: pytest.fail("it was read"))
    with pytest.raises(BenchError, match="it unpacks to 68 MiB, too much for a file of"):
        read_embeddings(tmp_path / "e.npz")


@pytest.mark.parametrize("content", [b"", b"PK\3\4no archive", b"\x93NUMPY\1\0no"], ids=["empty", "cut", "array"])
def test_files_that_are_no_archives_are_refused(content, tmp_path):
    (tmp_path / "e.npz").write_bytes(content)
    with pytest.raises(BenchError, match=r"e\.npz holds no embeddings"):
        read_embeddings(tmp_path / "e.npz")


def test_a_number_that_float32_does_not_hold_is_not_finite(tmp_path):
    npz(tmp_path / "e.npz", id=IDS, vector=VECTORS.astype(np.float64) * 1e300)
    parquet(tmp_path / "e.parquet", IDS, pa.array([[1e300], [2.0]]))
    for name in ("e.npz", "e.parquet"):
        with pytest.raises(BenchError, match="holds NaN or infinity"):
            read_embeddings(tmp_path / name)
