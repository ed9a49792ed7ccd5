"""The layout `bigearthnet_v1`: the raw archive, one folder a patch, as the index that runs work with."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.bigearthnet.labels import CLASSES, order_of, reorder
from fgmae_bench.data.bigearthnet.metadata import find_metadata, joined, read_metadata
from fgmae_bench.data.bigearthnet.patch import image_of, image_of_v2, read_patch, read_patch_v2
from fgmae_bench.data.bigearthnet.scan import list_patches, patch_root, problems, scan, scene_root
from fgmae_bench.data.bigearthnet.table import INDEX_FILE, read_table
from fgmae_bench.data.index import Index
from fgmae_bench.data.synthetic import read_marker
from fgmae_bench.errors import BenchError

log = logging.getLogger("fgmae_bench")


def bigearthnet_v1(card: Card, root: Path) -> Index:
    """Index of `<root>/<S1>/<S1>_{VV,VH}.tif` with `<S1>_labels_metadata.json`; one folder around them is stepped into.

    Samples are the whole patches with at least one of the 19 classes, ids their S1 names, groups their tiles, labels
    (N, 19) multi-hot in the card's order. What `index.parquet` says of unchanged patches is taken over, the others are
    read. Raises BenchError where no sample is left or the card's classes are not the 19.
    """
    order = order_of(card)
    root = patch_root(root)
    table = patch_table(root, card.signal.size)
    warn_of_broken(table)
    whole = table.filter(pc.and_(pc.is_null(table["problem"]), pc.invert(pc.fill_null(table["no_19_class"], True))))
    if not len(whole):
        raise BenchError(
            f"{root}: no whole patch with one of the 19 classes is there", f"get the data: {card.origin.get}"
        )
    marker = read_marker(root)
    return Index(
        root=root,
        files=tuple(whole["s1_name"].to_pylist()),
        labels=reorder(hot_labels(whole), "original", order),
        stamps=whole["stamp"].to_numpy(),
        synthetic=marker["fingerprint"] if marker else card.synthetic,
        groups=tuple(whole["tile"].to_pylist()),
        reader=read_patch,
        image=image_of,
        left_out=len(table) - len(whole),
        aliases=tuple(whole["s2_name"].to_pylist()),
    )


def warn_of_broken(table: pa.Table) -> None:
    """Say how many patches are broken, and which is the first."""
    broken = problems(table)
    if broken:
        log.warning("%d broken patches are left out, the first: %s; `prepare index` lists them", len(broken), broken[0])


def patch_table(root: Path, size: tuple[int, ...], version: int = 1) -> pa.Table:
    """The patch table of a folder of patches: its `index.parquet` where current, else completed in memory."""
    path = root / INDEX_FILE
    known = read_table(path, version) if path.is_file() else None
    if known is not None:
        names, stamps = list_patches(root, version)
        if known["s1_name"].to_pylist() == names and np.array_equal(known["stamp"].to_numpy(), stamps):
            return known
    state = "is not there" if known is None else "is not that of the files"
    log.info("%s %s: patches are read now; `prepare index` keeps what they say", path, state)
    return scan(root, size, [] if known is None else [known], version=version)


def hot_labels(table: pa.Table) -> NDArray[np.uint8]:
    """(N, 19) multi-hot labels of a table without null labels, original order."""
    flat = table["labels_19"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.uint8).reshape(-1, CLASSES)


LEFT_OUT = {"snow": "under seasonal snow", "cloud_shadow": "under cloud or shadow", "unlisted": "in no metadata table"}


def bigearthnet_v2(card: Card, root: Path) -> Index:
    """Index of `[BigEarthNet-S1/]<scene>/<S1>/<S1>_{VV,VH}.tif` with `metadata.parquet` in that folder or next to it.

    Samples are the whole patches of the metadata that neither snow nor clouds cover, ids their S1 names, aliases the S2
    names of v2, groups their tiles, parts what the metadata says, labels (N, 19) multi-hot in the card's order. Raises
    BenchError where no sample is left, the metadata is missing or broken, or the card's classes are not the 19.
    """
    order = order_of(card)
    root = scene_root(root)
    table = completed(patch_table(root, card.signal.size, 2), root)
    warn_of_broken(table)
    counts = left_out(table)
    if any(counts.values()):
        log.info(
            "%s: left out are %s",
            root,
            ", ".join(f"{count} patches {LEFT_OUT[why]}" for why, count in counts.items() if count),
        )
    whole = table.filter(pc.and_(pc.is_null(table["problem"]), usable_rows(table)))
    if not len(whole):
        raise BenchError(
            f"{root}: no whole patch that the metadata knows and nothing covers is there",
            f"get the data: {card.origin.get}",
        )
    marker = read_marker(root)
    return Index(
        root=root,
        files=tuple(whole["s1_name"].to_pylist()),
        labels=reorder(hot_labels(whole), "original", order),
        stamps=whole["stamp"].to_numpy() ^ np.uint64(content_number(whole)),
        synthetic=marker["fingerprint"] if marker else card.synthetic,
        groups=tuple(whole["tile"].to_pylist()),
        reader=read_patch_v2,
        image=image_of_v2,
        left_out=len(table) - len(whole),
        aliases=tuple(whole["s2_name"].to_pylist()),
        parts=tuple(whole["split"].to_pylist()),
    )


def completed(table: pa.Table, root: Path) -> pa.Table:
    """The patch table with what the metadata says; warns of patches that it names and `root` lacks."""
    metadata = read_metadata(find_metadata(root))
    absent = len(metadata) - int(
        pc.sum(pc.is_in(metadata["s1_name"], value_set=table["s1_name"].combine_chunks())).as_py() or 0
    )
    if absent:
        log.warning("the metadata of %s names %d of %d patches that are not there", root, absent, len(metadata))
    return joined(table, metadata)


def left_out(table: pa.Table) -> dict[str, int]:
    """How many patches take no part, by the reasons of LEFT_OUT."""
    flags = {"snow": table["snow"], "cloud_shadow": table["cloud_shadow"], "unlisted": pc.is_null(table["split"])}
    return {why: int(pc.sum(flag).as_py() or 0) for why, flag in flags.items()}


def content_number(samples: pa.Table) -> int:
    """A hash (64 bits) of labels, names and parts of samples, which no file of a patch holds."""
    texts = "\n".join([*samples["s2_name"].to_pylist(), *samples["split"].to_pylist()])
    return int.from_bytes(hashlib.blake2b(hot_labels(samples).tobytes() + texts.encode(), digest_size=8).digest())


def usable_rows(table: pa.Table) -> pa.ChunkedArray:
    """Whether a patch is known, covered by nothing and of one of the 19 classes."""
    covered = pc.or_(pc.or_(table["snow"], table["cloud_shadow"]), table["no_19_class"])
    return pc.invert(pc.fill_null(covered, True))
