"""All patches of a raw folder as one table: rows of unchanged patches are kept, the rest is read in parallel."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fgmae_bench.data.bigearthnet.facts import describe, describe_v2, stamp, stamp_v2
from fgmae_bench.data.bigearthnet.labels import is_s1_patch, is_s1_scene, parse_s1
from fgmae_bench.data.bigearthnet.table import from_rows, write_table
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import is_kind
from fgmae_bench.system.progress import Progress

BATCH = 1024  # patches read, and kept as a part, together
S1_FOLDER = "BigEarthNet-S1"  # what the archive of v2 calls the folder of scenes
PARTS = ".parts"  # ending of the folder that keeps them until the table is whole


def patch_root(root: Path) -> Path:
    """The folder that holds the patch folders: `root`, or the only folder in it (twice at most).

    Raises BenchError where no patch is found, and where the data is v2.
    """
    place = root
    for _ in range(3):
        others = []
        with os.scandir(place) as entries:
            for entry in entries:
                if is_s1_patch(entry.name) and is_kind(entry, folder=True):
                    return place
                if not _foreign(entry.name) and is_kind(entry, folder=True):
                    others.append(entry.name)
        if any(map(is_s1_scene, others)):
            raise BenchError(
                f"{place} holds scene folders: the layout of BigEarthNet v2", "give it to --dataset bigearthnet_v2"
            )
        if len(others) != 1:
            break
        place = place / others[0]
    example = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_39"
    raise BenchError(f"{root}: no patch of BigEarthNet-S1 v1 is there", f"expected folders such as {example}")


def scene_root(root: Path) -> Path:
    """The folder that holds the scene folders of v2: `root`, its `BigEarthNet-S1`, or its only folder (twice at most).

    Raises BenchError where no scene is found, and where the data is v1.
    """
    place = root
    for _ in range(3):
        inside = _folders(place)
        if any(map(is_s1_scene, inside)):
            return place
        if any(map(is_s1_patch, inside)):
            raise BenchError(
                f"{place} holds patch folders: the layout of BigEarthNet v1", "give it to --dataset bigearthnet"
            )
        if S1_FOLDER not in inside and len(inside) != 1:
            break
        place = place / (S1_FOLDER if S1_FOLDER in inside else inside[0])
    raise BenchError(
        f"{root}: no scene of BigEarthNet-S1 v2 is there", "expected folders such as S1A_IW_GRDH_1SDV_20170613T165043"
    )


def list_patches(root: Path, version: int = 1) -> tuple[list[str], NDArray[np.uint64]]:
    """(sorted names of the patch folders, their stamps): in `root`, or in the scene folders there.

    Raises BenchError where a patch of v2 is in another scene's folder.
    """
    if version == 1:
        names = sorted(_folders(root))
        return names, np.array([stamp(root / name) for name in names], np.uint64)
    names = []
    for scene in sorted(filter(is_s1_scene, _folders(root))):
        inside = _folders(root / scene)
        strange = [name for name in inside if not name.startswith(f"{scene}_")]
        if strange:
            raise BenchError(
                f"{root / scene / strange[0]} is not a patch of the scene that its folder names",
                "move it where it belongs",
            )
        names += inside
    return sorted(names), np.array([stamp_v2(root, name) for name in sorted(names)], np.uint64)


def scan(
    root: Path,
    size: tuple[int, ...],
    known: list[pa.Table],
    *,
    version: int = 1,
    parts: Path | None = None,
    workers: int = 1,
    strict: bool = False,
) -> pa.Table:
    """One row a patch of `root`, sorted by name. Rows of `known` tables are kept where the stamp is the same.

    `version` is that of the dataset; rows of v2 lack what the tables next to the patches say. `parts`: folder for
    each finished batch as a table. `strict`: the first broken patch is a BenchError.
    """
    names, stamps = list_patches(root, version)
    kept, todo = _take_over(names, stamps, [from_rows([], version), *known])
    tables = [kept]
    batches = [todo[first : first + BATCH] for first in range(0, len(todo), BATCH)]
    with _pool(min(workers, len(batches))) as pool, Progress("indexing", len(todo), "patches") as progress:
        for batch in (pool.map if pool else map)(partial(read_batch, root, size, version), batches):
            if parts is not None:
                write_table(
                    parts / f"{hashlib.sha256(repr(batch['s1_name'].to_pylist()).encode()).hexdigest()[:16]}.parquet",
                    batch,
                )
            if strict:
                refuse_problems(root, batch)
            tables.append(batch)
            progress.step(len(batch))
    table = mark_twins(pa.concat_tables(tables).sort_by("s1_name").combine_chunks())
    if strict:
        refuse_problems(root, table)
    return table


def read_batch(root: Path, size: tuple[int, ...], version: int, names: list[str]) -> pa.Table:
    """Rows of some patches."""
    row_of = describe if version == 1 else describe_v2
    return from_rows([row_of(root, name, size) for name in names], version)


def problems(table: pa.Table) -> list[str]:
    """What is wrong, one text a broken patch."""
    return list(table["problem"].drop_null().to_pylist())


def refuse_problems(root: Path, table: pa.Table) -> None:
    """Raise BenchError on the first broken patch of a table."""
    found = problems(table)
    if found:
        raise BenchError(f"{root}: {found[0]}", "restore the patch from the archive, or leave --strict out")


def mark_twins(table: pa.Table) -> pa.Table:
    """The table with a problem at all patches that claim the same place or the same S2 partner."""
    names, found = table["s1_name"].to_pylist(), table["problem"].to_pylist()
    claims: dict[str, list[int]] = {}
    for row, (name, partner, problem) in enumerate(zip(names, table["s2_name"].to_pylist(), found, strict=True)):
        if problem is None:
            place = parse_s1(name)
            claims.setdefault(f"patch {place.scene} {place.tile} {place.col} {place.row}", []).append(row)
            if partner is not None:
                claims.setdefault(f"S2 patch {partner}", []).append(row)
    for claim, rows in claims.items():
        for row in rows if len(rows) > 1 else ():
            found[row] = f"{', '.join(names[row] for row in rows)} all claim to be {claim}"
    return table.set_column(
        table.schema.get_field_index("problem"), table.schema.field("problem"), pa.array(found, pa.string())
    )


def _take_over(names: list[str], stamps: NDArray[np.uint64], known: list[pa.Table]) -> tuple[pa.Table, list[str]]:
    """(rows of `known` that still hold, names of the patches that must be read); broken ones are looked at again."""
    table = pa.concat_tables(known)
    table = table.filter(pc.is_null(table["problem"]))
    current = dict(zip(names, stamps.tolist(), strict=True))
    rows = []
    for row, (name, kept) in enumerate(zip(table["s1_name"].to_pylist(), table["stamp"].to_pylist(), strict=True)):
        if current.get(name) == kept:
            rows.append(row)
            del current[name]
    return table.take(pa.array(rows, pa.int64())), list(current)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Executor | None]:
    """Processes that end with this one, however it ends; None where one is enough."""
    if workers <= 1:
        yield None
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it is gone: a killed parent cannot stop its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _folders(root: Path) -> list[str]:
    """Names of the folders in `root` that may be patches or scenes."""
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if not _foreign(entry.name) and is_kind(entry, folder=True)]


def _foreign(name: str) -> bool:
    """Hidden folders, what archives of another system leave, the folder of split lists, and our own unfinished work."""
    return name.startswith((".", "__MACOSX")) or name.endswith(PARTS) or name == "splits"
