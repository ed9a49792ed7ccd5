"""Writing a pack: parallel readers, one writer under our own lock, whole batches a transaction, the final name by
rename.

After a kill at any moment the same call goes on behind the last committed batch, when the source has not changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import lmdb
import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.data.packs.format import (
    LABELS,
    META,
    PROGRESS,
    Encoded,
    Encoder,
    Meta,
    make_meta,
    meta_bytes,
    sample_keys,
)
from fgmae_bench.data.packs.labels import labels_bytes
from fgmae_bench.data.packs.partial import Keys, Partial, partial_pack, same_facts
from fgmae_bench.data.packs.store import data_file, get, stamp_of, used_bytes
from fgmae_bench.data.packs.workers import in_order
from fgmae_bench.data.synthetic import MARKER, read_marker
from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.system.files import missing_folders, open_regular, remove_empty, still_at, write_json
from fgmae_bench.views.classification import View

BATCH_BYTES, MOST_IN_BATCH = 8 << 20, 512  # of one transaction; a few of them are in memory at a time
PAGE_BYTES = 4096
SPARE_BYTES = 32 << 20  # left on the disk beyond the estimate


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was done: samples in the pack, how many of them by this call, bytes of the file."""

    count: int
    new: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Encodes the samples of one transaction; can be sent to another process."""

    encoder: Encoder

    def __call__(self, samples: list[tuple[Path, int]]) -> list[Encoded]:
        """The samples of each (file, row)."""
        return [self.encoder(path, row) for path, row in samples]


def write_pack(
    card: Card,
    index: Index,
    out: Path,
    *,
    view: View | None = None,
    bands: tuple[str, ...] | None = None,
    workers: int = 0,
    step: Callable[[int], object] = lambda count: None,
) -> Written:
    """Pack every sample of `index`, with its label maps, into the LMDB folder `out`; `step` is
    called with the number of samples done.

    A `view` whose contract gives eight bits makes a uint8 pack of its input before geometry. `bands` is the order of
    the files' bands (the card's by default). `workers` are processes that read; 0 reads in this one. Raises BenchError:
    a broken image or label map, a full disk, another writer, something else at `out`.
    """
    bands = bands or card.signal.bands
    meta, keys = make_meta(card, index, view, bands), sample_keys(index)
    size = None if view is not None else index.size or tuple(card.signal.size)
    encoder = Encoder(card=card, reader=index.reader, bands=bands, view=view, maps=index.maps, size=size)
    with _lock_or_fail(out):
        if out.exists():
            _require_same(out, meta)
            step(len(keys))
            return Written(count=len(keys), new=0, size=stamp_of(out)[2])
        with partial_pack(out.with_name(f"{out.name}.partial"), meta, keys) as partial:
            before, hashes = partial.done, []
            for _, samples in encoded(index, keys[:before], encoder, workers):  # what an earlier process had packed
                hashes += [sample.hashes for sample in samples]
            step(before)
            for part, samples in encoded(index, keys[before:], encoder, workers, partial.folder):
                partial.add(part, samples)
                hashes += [sample.hashes for sample in samples]
                step(len(part))
            _finish(partial, index, keys, hashes)
        _publish(partial.folder, out, index.root)
        return Written(count=len(keys), new=len(keys) - before, size=stamp_of(out)[2])


def encoded(
    index: Index, keys: Keys, encoder: Encoder, workers: int, folder: Path | None = None
) -> Iterator[tuple[Keys, list[Encoded]]]:
    """Yield (keys, their samples) in batches, read by `workers` processes. Raises BenchError when `folder` has no room
    for them.
    """
    if not keys:
        return
    first = keys[0][1]
    size = len(encoder(index.path(first), first).value)
    if folder is not None:
        _require_space(folder, size, len(keys))
    length = min(MOST_IN_BATCH, max(1, BATCH_BYTES // size))
    parts = [keys[at : at + length] for at in range(0, len(keys), length)]
    tasks = ([(index.path(row), row) for _, row in part] for part in parts)
    yield from zip(parts, in_order(Batch(encoder=encoder), tasks, workers), strict=True)


def _require_space(folder: Path, size: int, count: int) -> None:
    """Raise BenchError unless the disk has room for `count` values of about `size` bytes, in whole pages."""
    needed = count * (-(-(size + 16) // PAGE_BYTES) * PAGE_BYTES + 128) + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        what = f"the pack needs about {needed / 2**30:.1f} GiB more at {folder}, {free / 2**30:.1f} GiB are free"
        raise BenchError(what, "free space there or choose another --out, then run the same command again")


def _finish(partial: Partial, index: Index, keys: Keys, hashes: list[tuple[int, ...]]) -> None:
    """Labels and facts in one transaction, then everything on the disk."""
    rows = [row for _, row in keys]
    checksums, content = np.empty(len(keys), np.uint32), np.empty((len(keys), len(hashes[0])), np.uint64)
    checksums[rows], content[rows] = partial.checksums, np.array(hashes, np.uint64)
    partial.pack.commit(
        [(LABELS, labels_bytes(index, checksums, content)), (META, meta_bytes(partial.meta))], drop=PROGRESS
    )
    partial.pack.sync()


def _publish(folder: Path, out: Path, source: Path) -> None:
    """Rename a finished pack; the marker of a synthetic source goes with it."""
    path = data_file(folder)
    with open(path, "rb+") as stream:
        if os.fstat(stream.fileno()).st_size < used_bytes(path):  # LMDB may leave unused pages at the end unwritten
            stream.truncate(used_bytes(path))
        os.fsync(stream.fileno())
    marker = read_marker(source) if source.is_dir() else None
    if marker is not None:
        write_json(folder / MARKER, marker)
    os.rename(folder, out)
    handle = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _require_same(out: Path, meta: Meta) -> None:
    """Raise BenchError unless the pack at `out` was made of the same samples and files in the same way."""
    held = get(out, stamp_of(out), META) if data_file(out).is_file() else None
    if held is None or not same_facts(held, meta):
        raise BenchError(f"{out} is there already and holds something else", "remove it, or give another --out")


@contextlib.contextmanager
def _lock_or_fail(out: Path) -> Iterator[None]:
    """Hold `<out>.lock`; refuses at once where another process does. Errors of system and LMDB become one line."""
    made: list[Path] = []
    try:
        made = missing_folders(out.parent)
        out.parent.mkdir(parents=True, exist_ok=True)
        with _lock(out.with_name(f"{out.name}.lock")):
            yield
    except OSError as error:
        raise os_error(error, error.filename or out) from error
    except lmdb.Error as error:
        raise _lmdb_error(error, out) from error
    finally:
        remove_empty(made)


@contextlib.contextmanager
def _lock(guard: Path) -> Iterator[None]:
    with FileIO(open_regular(guard, os.O_RDWR | os.O_CREAT), "r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BenchError(
                f"another process is packing there: it holds {guard}", "wait for it, or give another --out"
            ) from error
        if not still_at(guard, stream):
            raise BenchError(f"another process has just packed there and held {guard}", "run the command again")
        try:
            yield
        finally:
            guard.unlink(missing_ok=True)


def _lmdb_error(error: lmdb.Error, out: Path) -> BenchError:
    """LMDB reports a write that came out short, as on a full disk or at a quota, as an input/output error."""
    code = getattr(error, "code", 0)
    if code == errno.EIO:
        what = f"no space left while writing {out}, or its disk fails ({error})"
        return BenchError(what, "free space there or choose another --out, then run the same command again")
    return (
        os_error(OSError(code, str(error)), out)
        if code > 0
        else BenchError(f"{out}: LMDB failed ({error})", "check the disk")
    )
