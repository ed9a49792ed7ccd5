"""Damage Parquet tables by a seed and give them to the readers of BigEarthNet's metadata and patch tables.

  python experiments/robustness/fuzz_parquet.py [--count 500] [--readers metadata index rico]
Bytes of footers, page headers and pages are changed; columns get other types, nulls or texts that are not UTF-8; every
tenth file repeats a row or a long text until it is out of proportion. Expected: no signal, no traceback, exit code 0
or 2.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fuzzing import Reader, Work, mutated, run
from safetensors.numpy import save

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.bigearthnet.metadata import CLEAR, COVERED
from fgmae_bench.data.bigearthnet.raw import completed, content_number, hot_labels, left_out, patch_table, usable_rows
from fgmae_bench.data.bigearthnet.scan import problems, scene_root
from fgmae_bench.data.bigearthnet.table import INDEX_FILE, read_table, write_table
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.worlds.bigearthnet_v2 import write_bigearthnet_v2

SEEDS = Path(tempfile.mkdtemp(prefix="fuzz_parquet_"))
PATCHES = 60
KINDS: tuple[dict[str, Any], ...] = (
    {"compression": "zstd"},
    {"compression": "snappy"},
    {"compression": "none", "use_dictionary": False},
    {"compression": "gzip", "data_page_version": "2.0", "row_group_size": 20},
    {"compression": "none", "data_page_size": 200, "write_page_checksum": True},
)


@functools.cache
def world() -> Path:
    """A small synthetic BigEarthNet v2 with its index."""
    write_bigearthnet_v2(SEEDS / "world", patches=PATCHES)
    root = scene_root(SEEDS / "world")
    write_table(root / INDEX_FILE, patch_table(root, load_card("bigearthnet_v2").signal.size, 2))
    return SEEDS / "world"


@functools.cache
def pack() -> bytes:
    """A rico-hdl pack of the patches that the metadata names."""
    names = sorted(pq.read_table(world() / CLEAR)["s1_name"].to_pylist())
    value = save({band: np.full((120, 120), -12, np.float32) for band in ("VV", "VH")})
    with lmdb.open(str(SEEDS / "rico"), map_size=1 << 28) as environment, environment.begin(write=True) as writing:
        for name in names:
            writing.put(name.encode(), value)
    return (SEEDS / "rico" / "data.mdb").read_bytes()


def damaged(rng: np.random.Generator, path: Path) -> bytes:
    """The table at `path` with other bytes, other types, or out of proportion."""
    chance, table = rng.random(), pq.read_table(path)
    if chance < 0.1:
        table = _repeated(rng, table)
    elif chance < 0.4:
        table = _other_column(rng, table)
    content = _written(table, KINDS[int(rng.integers(2 if chance < 0.1 else len(KINDS)))])
    return mutated(rng, content, 2) if chance >= 0.4 else content


def _written(table: pa.Table, options: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


def _repeated(rng: np.random.Generator, table: pa.Table) -> pa.Table:
    """One row 700,000 times, or one text of 100,000 letters in every row of 5,000."""
    name = str(rng.choice([field.name for field in table.schema if pa.types.is_string(field.type)]))
    at = table.schema.get_field_index(name)
    if rng.random() < 0.5:
        return table.slice(0, 1).take(pa.array(np.zeros(700_000, np.int64))).select([name, *_others(table, name)])
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5_000, np.int32)), pa.array(["x" * 100_000]))
    return table.take(pa.array(np.arange(5_000) % len(table))).set_column(at, name, long)


def _others(table: pa.Table, name: str) -> list[str]:
    return [other for other in table.column_names if other != name]


def _other_column(rng: np.random.Generator, table: pa.Table) -> pa.Table:
    """One or two columns of another type, with nulls, with bytes that are not text, dropped, or doubled."""
    for _ in range(int(rng.integers(1, 3))):
        at = int(rng.integers(table.num_columns))
        name, kind = table.column_names[at], int(rng.integers(14))
        if kind == 12:
            table = table.remove_column(at)
        elif kind == 13:
            table = table.append_column(name, table[at])
        else:
            table = table.set_column(at, name, _column(rng, table[at], kind))
    return table


def _column(rng: np.random.Generator, column: pa.ChunkedArray, kind: int) -> pa.Array:
    """Another column of the same length, of one of twelve kinds."""
    rows = len(column)
    bytes_of_no_text = pa.array([b"\xff\xfe"] * rows, pa.binary())
    return [
        pa.nulls(rows, column.type),
        pa.nulls(rows),
        pa.array(rng.integers(-(2**31), 2**31, rows)),
        pa.array(rng.integers(0, 2, rows).astype(np.int8)),
        pa.array([[["Pastures"]]] * rows),
        bytes_of_no_text,
        pa.Array.from_buffers(pa.string(), rows, bytes_of_no_text.buffers()),
        pa.array(["x"] * rows, pa.large_string()),
        pa.array([{"a": 1}] * rows),
        pa.array([None if row % 2 else 1.5 for row in range(rows)]),
        pa.array([[0] * 19] * rows, pa.list_(pa.int64(), 19)),
        column.take(pa.array(np.zeros(rows, np.int64))),
    ][kind]


def metadata(rng: np.random.Generator, folder: Path) -> Work:
    """Metadata that is damaged, joined to the patch table."""
    for name in (CLEAR, COVERED):
        shutil.copy(world() / name, folder)
    name = str(rng.choice([CLEAR, COVERED]))
    (folder / name).write_bytes(damaged(rng, world() / name))
    table = read_table(scene_root(world()) / INDEX_FILE, 2)

    def work() -> None:
        held = completed(table, folder)
        used(held.filter(usable_rows(held)))
        left_out(held)

    return work


def index(rng: np.random.Generator, folder: Path) -> Work:
    """A patch table that is damaged, joined to the metadata."""
    path = folder / INDEX_FILE
    path.write_bytes(damaged(rng, scene_root(world()) / INDEX_FILE))

    def work() -> None:
        table = read_table(path, 2)
        problems(table)
        held = completed(table, world())
        used(held.filter(pc.and_(pc.is_null(held["problem"]), usable_rows(held))))

    return work


def used(table: pa.Table) -> None:
    """What an index takes of the samples that it keeps."""
    hot_labels(table)
    content_number(table)
    table["stamp"].to_numpy()
    for name in ("s1_name", "tile", "s2_name", "split"):
        table[name].to_pylist()


def rico(rng: np.random.Generator, folder: Path) -> Work:
    """A pack of others whose metadata is damaged."""
    (folder / "p.lmdb").mkdir()
    (folder / "p.lmdb" / "data.mdb").write_bytes(pack())
    (folder / CLEAR).write_bytes(damaged(rng, world() / CLEAR))
    card = load_card("bigearthnet_v2")

    def work() -> None:
        held = open_index(card, folder / "p.lmdb")
        held.read(0, card)

    return work


READERS: dict[str, Reader] = {"metadata": metadata, "index": index, "rico": rico}

if __name__ == "__main__":
    pa.set_cpu_count(1)  # no threads in the parent: a child has none of them
    pa.set_io_thread_count(1)
    pack()
    try:
        run(READERS, __doc__ or "")
    finally:
        shutil.rmtree(SEEDS, ignore_errors=True)
