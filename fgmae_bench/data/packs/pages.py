"""The pages of an LMDB file, checked before LMDB maps it: LMDB trusts every offset in them and dies where one is wrong.

Source: `MDB_meta`, `MDB_page` and `MDB_node` in LMDB 0.9's mdb.c, format version 1, 64 bit, little-endian.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError

MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER_BYTES = 16  # of a page: its number (8), pad (2), flags (2), lower bound (2), upper bound (2)
META_BYTES = 136  # of the meta structure, behind the header of pages 0 and 1
NODE_BYTES = 8  # of a node before its key: size or child page in three words, then the size of the key
PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768)  # bounds are 16 bits, so that 64 KiB does not exist
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
KINDS = 0x6F  # the flags of a page that say how it is read; the others are of a writer
BIG_DATA, INTEGER_KEY = 1, 8
TREE_FLAGS = 0x7E  # those that change how keys and values are stored
NO_PAGE = 2**64 - 1  # root of an empty tree
MOST_DEPTH = 32  # pages on the stack of a cursor
PAGES_AT_ONCE = 1024
TODO = "write the pack again, or restore it"
Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What a meta page says of one of its two trees."""

    name: str
    flags: int
    depth: int
    entries: int
    root: int


@dataclass(frozen=True, kw_only=True)
class Head:
    """The newest meta page of a file: `last` page in use, the tree of free pages and that of the data."""

    page_size: int
    last: int
    transaction: int
    free: Tree
    data: Tree

    @property
    def used_bytes(self) -> int:
        """Bytes that the file must have."""
        return (self.last + 1) * self.page_size


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The nodes of some leaf or branch pages: `page` they are on, where they start there, and the sizes they state."""

    page: Numbers
    start: Numbers
    key_size: Numbers
    held: Numbers  # bytes in the page behind the key
    size: Numbers  # of the value, wherever it is
    target: Numbers  # child page of a branch, first overflow page of a large value, else -1

    @staticmethod
    def joined(parts: list[Nodes]) -> Nodes:
        """The nodes of all parts."""
        names = ("page", "start", "key_size", "held", "size", "target")
        return Nodes(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def read_head(path: Path) -> Head:
    """The newest meta page. Raises BenchError when this is not an LMDB file, or its meta pages disagree."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(PAGE_SIZES[-1] + HEADER_BYTES + META_BYTES)
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror})", "check the path") from error
    first = _meta(content, 0)
    if first is None:
        raise BenchError(
            f"{path} is not an LMDB file of version {VERSION}", "write the pack again, or give another path"
        )
    second = _meta(content, first.page_size)
    if first.page_size not in PAGE_SIZES or second is None or second.page_size != first.page_size:
        raise BenchError(f"{path}: its head is damaged", TODO)
    return max(first, second, key=lambda head: head.transaction)


def _meta(content: bytes, start: int) -> Head | None:
    """The meta page at `start`, None where there is none."""
    at = start + HEADER_BYTES
    if len(content) < at + META_BYTES or struct.unpack_from("<II", content, at) != (MAGIC, VERSION):
        return None
    if not content[start + 10] & META:
        return None
    page_size, free_flags, free_depth, *free = struct.unpack_from("<IHH5Q", content, at + 24)
    _, flags, depth, *data = struct.unpack_from("<IHH5Q", content, at + 72)
    last, transaction = struct.unpack_from("<QQ", content, at + 120)
    return Head(
        page_size=page_size,
        last=last,
        transaction=transaction,
        free=Tree(name="free pages", flags=free_flags, depth=free_depth, entries=free[3], root=free[4]),
        data=Tree(name="data", flags=flags, depth=depth, entries=data[3], root=data[4]),
    )


def check_pages(path: Path, *, thorough: bool = False) -> None:
    """Raise BenchError naming the page and what is wrong with it, unless LMDB can read the whole file safely.

    Branch and leaf pages are read, as LMDB does in a lookup; of values in overflow pages only where they are.
    `thorough` also holds the overflow pages and the list of free pages to account, which LMDB needs for writing.
    """
    with _opened(path, thorough=thorough) as file:
        nodes, pages = file.walk(file.head.data, 0)
        used = [pages, _value_pages(file, nodes)]
        if thorough:
            free, free_pages = file.walk(file.head.free, INTEGER_KEY)
            used += [free_pages, _value_pages(file, free)]
            for each in (nodes, free):
                file.check_overflow(each)
        taken = np.concatenate(used)  # (M, 2) first page and number of pages
        taken = taken[np.argsort(taken[:, 0], kind="stable")]
        file.refuse(taken[1:, 0], taken[:-1].sum(axis=1) > taken[1:, 0], "is used twice")
        if thorough:
            file.check_free(free, taken)


def _value_pages(file: _File, nodes: Nodes) -> NDArray[np.int64]:
    """(first overflow page, how many) of each large value."""
    big = nodes.target >= 0
    count = (HEADER_BYTES - 1 + nodes.size[big]) // file.head.page_size + 1
    first = nodes.target[big]
    file.refuse(nodes.page[big], first + count > file.head.last + 1, "has a value that ends behind the last page")
    return np.stack([first, count], axis=1)


@contextlib.contextmanager
def _opened(path: Path, *, thorough: bool) -> Iterator[_File]:
    head = read_head(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield _File(path, handle, head, thorough)
        finally:
            os.close(handle)
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror})", "check the disk") from error


@dataclass(frozen=True)
class _File:
    path: Path
    handle: int
    head: Head
    thorough: bool

    def refuse(self, pages: Numbers, wrong: NDArray[np.bool_], what: str) -> None:
        """Raise BenchError naming the first of `pages` where `wrong` is true."""
        if wrong.any():
            raise BenchError(f"{self.path} is damaged: page {pages[int(wrong.argmax())]} {what}", TODO)

    def read(self, numbers: Numbers, length: int) -> NDArray[np.uint8]:
        """The first `length` bytes of each page (P, length)."""
        size, handle, read = self.head.page_size, self.handle, os.pread  # thousands of calls
        parts = [read(handle, length, number * size) for number in numbers.tolist()]
        content = b"".join(parts)
        if len(content) != length * len(parts):
            short = np.array([len(part) != length for part in parts], bool)
            self.refuse(numbers, short, "is not there: it is cut short")
        return np.frombuffer(content, np.uint8).reshape(-1, length)

    def walk(self, tree: Tree, flags: int) -> tuple[Nodes, NDArray[np.int64]]:
        """(the nodes of a tree's leaves, (first page, 1) of all its pages), level by level.

        A cursor that goes on from leaf to leaf expects them all at one depth. Pages that are used twice, as in a
        circle, are found within a level, so that no more is read than the file has.
        """
        self._expect(tree, tree.flags & TREE_FLAGS == flags, f"has the flags {tree.flags:#x}")
        if tree.root == NO_PAGE:
            self._expect(tree, tree.entries == tree.depth == 0, "is empty and states entries")
            return _NO_NODES, np.empty((0, 2), np.int64)
        self._expect(tree, 1 < tree.root <= self.head.last, f"begins at page {tree.root} of {self.head.last + 1}")
        self._expect(tree, 1 <= tree.depth <= MOST_DEPTH, f"is {tree.depth} pages deep")
        numbers, levels, leaves = np.array([tree.root], np.int64), [], [_NO_NODES]
        for depth in range(1, tree.depth + 1):
            kind = LEAF if depth == tree.depth else BRANCH
            parts = (numbers[at : at + PAGES_AT_ONCE] for at in range(0, len(numbers), PAGES_AT_ONCE))
            found = [self._nodes(part, kind) for part in parts]
            levels.append(numbers)
            if kind == LEAF:
                leaves = found
            else:
                numbers = np.sort(np.concatenate([nodes.target for nodes in found]))
                self.refuse(numbers[1:], numbers[1:] == numbers[:-1], "is used twice")
        nodes, pages = Nodes.joined(leaves), np.concatenate(levels)
        if flags == INTEGER_KEY:
            self.refuse(nodes.page, nodes.key_size != 8, "has a key that is not a number")
        held = len(nodes.page)
        self._expect(tree, held == tree.entries, f"holds {held} entries and states {tree.entries}")
        return nodes, np.stack([pages, np.ones_like(pages)], axis=1)

    def _expect(self, tree: Tree, good: bool, what: str) -> None:
        if not good:
            raise BenchError(f"{self.path} is damaged: its tree of {tree.name} {what}", TODO)

    def _nodes(self, numbers: Numbers, kind: int) -> Nodes:
        """The nodes of pages that must be of one kind, every one within its page."""
        size = self.head.page_size
        pages = self.read(numbers, size)  # (P, page size)
        words = pages.view("<u2")
        flags, lower, upper = (words[:, at].astype(np.int64) for at in (5, 6, 7))
        keys = (lower - HEADER_BYTES) // 2
        name = "leaf" if kind == LEAF else "branch"
        self.refuse(numbers, pages[:, :8].copy().view("<u8")[:, 0] != numbers, "carries the number of another page")
        self.refuse(numbers, flags & KINDS != kind, f"is not a {name} page")
        self.refuse(
            numbers, (lower < HEADER_BYTES) | (lower > upper) | (upper > size) | (lower % 2 != 0), "is out of bounds"
        )
        self.refuse(numbers, keys < (1 if kind == LEAF else 2), f"has too few keys for a {name} page")
        # From here on one row a node: `row` of its page among these, `start` of its bytes in the page.
        row = np.repeat(np.arange(len(numbers)), keys)
        place = np.arange(len(row)) - np.repeat(np.cumsum(keys) - keys, keys)
        page, start = numbers[row], words[row, HEADER_BYTES // 2 + place].astype(np.int64)
        self.refuse(
            page, (start < upper[row]) | (start + NODE_BYTES > size) | (start % 2 != 0), "has a node out of bounds"
        )
        low, high, third, key_size = (words[row, start // 2 + word].astype(np.int64) for word in range(4))
        value = low | high << 16
        if kind == BRANCH:
            held, target = np.zeros_like(value), value | third << 32
        else:
            self.refuse(page, third & ~BIG_DATA != 0, "has a node of an unknown kind")
            self.refuse(page, key_size == 0, "has an empty key")
            held, target = np.where(third == BIG_DATA, 8, value), np.full_like(value, -1)
        self.refuse(page, start + NODE_BYTES + key_size + held > size, "has a node that ends behind it")
        if self.thorough:
            self._require_packed(page, start, start + NODE_BYTES + key_size + held)
        if kind == LEAF and (big := third == BIG_DATA).any():
            at = (start + NODE_BYTES + key_size)[big]
            stated = pages[row[big, None], at[:, None] + np.arange(8)].copy().view("<u8")[:, 0]
            target[big] = np.minimum(stated, np.uint64(2**62)).astype(np.int64)
        elsewhere = (target != -1) & ((target < 2) | (target > self.head.last))
        self.refuse(page, elsewhere, "points outside the file")
        return Nodes(page=page, start=start, key_size=key_size, held=held, size=value, target=target)

    def _require_packed(self, page: Numbers, start: Numbers, end: Numbers) -> None:
        """Nodes follow each other without gaps up to the end of their page: LMDB moves them by their sizes."""
        order = np.lexsort((start, page))
        page, start, end = page[order], start[order], end[order] + end[order] % 2
        following = np.append(start[1:], 0)
        following[np.append(page[1:] != page[:-1], True)] = self.head.page_size
        self.refuse(page, end != following, "has nodes that overlap or leave a gap")

    def check_overflow(self, nodes: Nodes) -> None:
        """Hold the first page of every large value against what its node says of it."""
        big = nodes.target >= 0
        first, size = nodes.target[big], nodes.size[big]
        for at in range(0, len(first), PAGES_AT_ONCE):
            numbers = first[at : at + PAGES_AT_ONCE]
            header = self.read(numbers, HEADER_BYTES)
            own, flags = header[:, :8].copy().view("<u8")[:, 0], header[:, 10:12].copy().view("<u2")[:, 0]
            count = header[:, 12:].copy().view("<u4")[:, 0]
            needed = (HEADER_BYTES - 1 + size[at : at + PAGES_AT_ONCE]) // self.head.page_size + 1
            self.refuse(numbers, own != numbers, "carries the number of another page")
            self.refuse(numbers, flags & KINDS != OVERFLOW, "is not an overflow page")
            self.refuse(numbers, (count < needed) | (numbers + count > self.head.last + 1), "is of another length")

    def check_free(self, nodes: Nodes, taken: NDArray[np.int64]) -> None:
        """Hold the lists of free pages against the pages that are in use, `taken` (M, 2) in order."""
        for page, start, key_size, size, target in zip(
            *(values.tolist() for values in (nodes.page, nodes.start, nodes.key_size, nodes.size, nodes.target)),
            strict=True,
        ):
            at = page * self.head.page_size + start + NODE_BYTES + key_size
            at = at if target < 0 else target * self.head.page_size + HEADER_BYTES
            held = np.frombuffer(os.pread(self.handle, size, at), np.uint8)
            listed = held[: len(held) // 8 * 8].view("<u8")
            where = np.array([page])
            self.refuse(where, np.array([not len(listed) or listed[0] >= len(listed)]), "lists more than it holds")
            free = listed[1 : 1 + int(listed[0])]
            self.refuse(where, np.array([((free < 2) | (free > self.head.last)).any()]), "lists pages outside the file")
            numbers = np.sort(free.astype(np.int64))
            self.refuse(numbers[1:], numbers[1:] == numbers[:-1], "is listed twice as free")
            before = np.searchsorted(taken[:, 0], numbers, "right") - 1
            ends = taken.sum(axis=1)[np.maximum(before, 0)] if len(taken) else np.zeros_like(numbers)
            self.refuse(numbers, (before >= 0) & (numbers < ends), "is in use and listed as free")


_EMPTY: Any = np.empty(0, np.int64)
_NO_NODES = Nodes(page=_EMPTY, start=_EMPTY, key_size=_EMPTY, held=_EMPTY, size=_EMPTY, target=_EMPTY)
