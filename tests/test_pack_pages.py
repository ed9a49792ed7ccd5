"""Damaged pages of LMDB files are found before LMDB reads them, named with what is wrong; whole files of any kind pass."""

import os
import struct

import lmdb
import numpy as np
import pytest
from commands import call, said
from pack_files import copied

from fgmae_bench.data.packs.pages import check_pages, read_head
from fgmae_bench.data.packs.read import open_pack
from fgmae_bench.data.packs.store import items, stamp_of
from fgmae_bench.errors import BenchError

pytest_plugins = ("pack_files",)
PAGE = 4096


def page_of(content, kind):
    """Number of the page in use that comes first of a kind (1 branch, 2 leaf, 4 overflow) in a tree of two levels."""
    (page,) = struct.unpack_from("<Q", content, data_root(content))
    if kind >= 2:
        page = int.from_bytes(content[node_of(content, page) :][:4], "little")
    if kind == 4:
        at = node_of(content, page)
        (page,) = struct.unpack_from("<Q", content, at + 8 + struct.unpack_from("<H", content, at + 6)[0])
    assert struct.unpack_from("<QHH", content, page * PAGE)[::2] == (page, kind)
    return page


def node_of(content, page, number=0):
    """Offset in the file of a node."""
    return page * PAGE + struct.unpack_from("<H", content, page * PAGE + 16 + 2 * number)[0]


def data_root(content):
    """Offset in the file of the root of the newest tree of data."""
    newest = max((0, 1), key=lambda page: struct.unpack_from("<Q", content, page * PAGE + 16 + 128)[0])
    return newest * PAGE + 16 + 72 + 40


def _branch_without_keys(content):
    page = page_of(content, 1)
    struct.pack_into("<H", content, page * PAGE + 12, 16)
    return rf"page {page} has too few keys for a branch page"


def _branch_with_one_key(content):
    page = page_of(content, 1)
    struct.pack_into("<H", content, page * PAGE + 12, 18)
    return rf"page {page} has too few keys for a branch page"


def _leaf_without_keys(content):
    page = page_of(content, 2)
    struct.pack_into("<H", content, page * PAGE + 12, 16)
    return rf"page {page} has too few keys for a leaf page"


def _bounds(content):
    page = page_of(content, 2)
    struct.pack_into("<H", content, page * PAGE + 12, 4094)
    return rf"page {page} is out of bounds"


def _node_out_of_the_page(content):
    page = page_of(content, 2)
    struct.pack_into("<H", content, page * PAGE + 16, 4094)
    return rf"page {page} has a node out of bounds"


def _value_of_a_gigabyte(content):
    page = page_of(content, 2)
    at = node_of(content, page)
    struct.pack_into("<HH", content, at, 0, struct.unpack_from("<H", content, at + 2)[0] + 0x4000)
    return rf"page {page} has a value that ends behind the last page"


def _value_of_four_gigabytes(content):
    page = page_of(content, 2)
    struct.pack_into("<HH", content, node_of(content, page), 0xFFFF, 0xFFFF)
    return rf"page {page} has a value that ends behind the last page"


def _small_value_that_is_large(content):
    page = page_of(content, 2)
    struct.pack_into("<H", content, node_of(content, page) + 4, 0)  # no longer said to be in overflow pages
    return rf"page {page} has a node that ends behind it"


def _key_behind_the_page(content):
    page = page_of(content, 2)
    struct.pack_into("<H", content, node_of(content, page) + 6, 5000)
    return rf"page {page} has a node that ends behind it"


def _unknown_node(content):
    page = page_of(content, 2)
    struct.pack_into("<H", content, node_of(content, page) + 4, 5)
    return rf"page {page} has a node of an unknown kind"


def _last_overflow_page(content):
    page, last = page_of(content, 2), len(content) // PAGE - 1
    at = node_of(content, page)
    struct.pack_into("<Q", content, at + 8 + struct.unpack_from("<H", content, at + 6)[0], last)
    return rf"page {page} has a value that ends behind the last page"


def _overflow_page_outside(content):
    page = page_of(content, 2)
    at = node_of(content, page)
    struct.pack_into("<Q", content, at + 8 + struct.unpack_from("<H", content, at + 6)[0], 2**64 - 1)
    return rf"page {page} points outside the file"


def _child_that_is_no_page(content):
    page = page_of(content, 1)
    struct.pack_into("<HHH", content, node_of(content, page, 1), 0xFFFF, 0xFFFF, 0xFFFF)
    return rf"page {page} points outside the file"


def _circle(content):
    page = page_of(content, 1)
    struct.pack_into("<HHH", content, node_of(content, page, 1), page, 0, 0)
    return rf"page {page} is not a leaf page"


def _child_twice(content):
    page = page_of(content, 1)
    first = content[node_of(content, page) : node_of(content, page) + 6]
    content[node_of(content, page, 1) : node_of(content, page, 1) + 6] = first
    return rf"page {struct.unpack('<HHH', first)[0]} is used twice"


def _leaf_of_fixed_keys(content):
    page = page_of(content, 2)
    struct.pack_into("<H", content, page * PAGE + 10, 0x22)
    return rf"page {page} is not a leaf page"


def _number_of_another(content):
    page = page_of(content, 2)
    struct.pack_into("<Q", content, page * PAGE, page + 1)
    return rf"page {page} carries the number of another page"


def _root_in_the_meta_pages(content):
    struct.pack_into("<Q", content, data_root(content), 1)
    return r"its tree of data begins at page 1 of"


def _depth(content):
    struct.pack_into("<H", content, data_root(content) - 34, 1)
    return r"page \d+ is not a leaf page"


def _sorted_duplicates(content):
    struct.pack_into("<H", content, data_root(content) - 36, 4)
    return r"its tree of data has the flags 0x4"


def _entries(content):
    struct.pack_into("<Q", content, data_root(content) - 8, 5)
    return r"its tree of data holds 122 entries and states 5"


DAMAGES = [
    value
    for name, value in sorted(globals().items())
    if name.startswith("_") and callable(value) and name[1:2].isalpha()
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_damaged_page_is_named_by_readers_and_by_verify(damage, packs, card, tmp_path):
    copy = copied(packs / "float32.lmdb", tmp_path)
    content = bytearray((copy / "data.mdb").read_bytes())
    message = damage(content)
    (copy / "data.mdb").write_bytes(content)
    with pytest.raises(BenchError, match=rf"data\.mdb is damaged: {message}"):
        open_pack(card, copy)
    assert "data.mdb is damaged: " in said(call("prepare", "verify", copy, cwd=tmp_path))


@pytest.mark.parametrize("field", ["number", "kind", "length"])
def test_verify_finds_damaged_overflow_pages_that_no_reader_looks_at(field, packs, card, tmp_path):
    copy = copied(packs / "float32.lmdb", tmp_path)
    content = bytearray((copy / "data.mdb").read_bytes())
    page = page_of(content, 4)
    at, layout = {"number": (0, "<Q"), "kind": (10, "<H"), "length": (12, "<I")}[field]
    struct.pack_into(layout, content, page * PAGE + at, 2**15)
    (copy / "data.mdb").write_bytes(content)
    assert len(open_pack(card, copy).files) == 120
    assert f"data.mdb is damaged: page {page} " in said(call("prepare", "verify", copy, cwd=tmp_path))


def test_a_list_of_free_pages_that_names_pages_in_use_is_found_before_lmdb_writes_over_them(tmp_path):
    folder = workload(tmp_path / "a.lmdb", seed=0)
    content = bytearray((folder / "data.mdb").read_bytes())
    head = read_head(folder / "data.mdb")
    at = node_of(content, head.free.root)
    assert struct.unpack_from("<HH", content, at + 4) == (0, 8), "the list is in the leaf"
    (held,) = struct.unpack_from("<Q", content, at + 16)
    for value, count, message in (
        (head.data.root, held, rf"page {head.data.root} is in use and listed as free"),
        (head.last + 1, held, rf"page {head.free.root} lists pages outside the file"),
        (head.data.root, 2**40, rf"page {head.free.root} lists more than it holds"),
    ):
        spoilt = bytearray(content)
        struct.pack_into("<QQ", spoilt, at + 16, count, value)
        (folder / "data.mdb").write_bytes(spoilt)
        check_pages(folder / "data.mdb")
        with pytest.raises(BenchError, match=message):
            check_pages(folder / "data.mdb", thorough=True)


def workload(folder, seed):
    """A file after random puts, replacements and deletions of small, odd and large values in many transactions."""
    dice = np.random.default_rng(seed)
    with lmdb.open(str(folder), map_size=1 << 28, lock=False) as environment:
        for _ in range(12):
            with environment.begin(write=True) as writing:
                for _ in range(int(dice.integers(1, 300))):
                    key = (b"key%d" % dice.integers(3000)) * int(dice.integers(1, 12))
                    size = int(dice.choice([0, 1, 7, 100, 2037, 2038, 2039, 4079, 4080, 4081, 9000]))
                    writing.delete(key) if dice.random() < 0.3 else writing.put(key, dice.bytes(size))
    return folder


@pytest.mark.parametrize("seed", range(12))
def test_files_that_lmdb_wrote_pass_and_hold_what_lmdb_says(seed, tmp_path):
    folder = workload(tmp_path / "a.lmdb", seed)
    check_pages(folder / "data.mdb")
    check_pages(folder / "data.mdb", thorough=True)
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as reading:
        stated, held = environment.stat(), list(reading.cursor())
    head = read_head(folder / "data.mdb")
    assert (head.page_size, head.data.entries, head.data.depth) == (stated["psize"], stated["entries"], stated["depth"])
    assert list(items(folder, stamp_of(folder))) == held
    assert stated["depth"] > 1


def test_an_empty_file_of_lmdb_passes(tmp_path):
    with lmdb.open(str(tmp_path / "a.lmdb"), lock=False) as environment, environment.begin(write=True) as writing:
        writing.put(b"a", b"b")
        writing.delete(b"a")
    check_pages(tmp_path / "a.lmdb" / "data.mdb", thorough=True)
    assert list(items(tmp_path / "a.lmdb", stamp_of(tmp_path / "a.lmdb"))) == []


def test_what_is_no_regular_file_is_refused_without_waiting(card, tmp_path):
    (tmp_path / "p.lmdb").mkdir()
    os.mkfifo(tmp_path / "p.lmdb" / "data.mdb")
    with pytest.raises(BenchError, match=r"data\.mdb is not a regular file"):
        open_pack(card, tmp_path / "p.lmdb")
