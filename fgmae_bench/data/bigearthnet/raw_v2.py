"""The layout `bigearthnet_v2` (reBEN): scenes of patches with tables beside them, as the index that runs work with."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgmae_bench.cards import Card
from fgmae_bench.data.bigearthnet.labels import order_of, reorder
from fgmae_bench.data.bigearthnet.metadata import find_metadata, joined, read_metadata
from fgmae_bench.data.bigearthnet.patch import read_patch_v2
from fgmae_bench.data.bigearthnet.raw import hot_labels, patch_table, warn_of_broken
from fgmae_bench.data.bigearthnet.scan import scene_root
from fgmae_bench.data.index import Index, read_marker
from fgmae_bench.errors import BenchError

log = logging.getLogger("fgmae_bench")
LEFT_OUT = {"snow": "under seasonal snow", "cloud_shadow": "under cloud or shadow", "unlisted": "in no metadata table"}


def bigearthnet_v2(card: Card, root: Path) -> Index:
    """Index of `[BigEarthNet-S1/]<scene>/<S1>/<S1>_{VV,VH}.tif` with `metadata.parquet` in that folder or beside it.

    Samples are the whole patches of the metadata that neither snow nor clouds cover, ids their S1 names, aliases the S2 names of
    v2, groups their tiles, parts what the metadata says, labels (N, 19) multi-hot in the card's order.
    Raises BenchError where no sample is left, the metadata is missing or broken, or the card's classes are not the 19.
    """
    order = order_of(card)
    root = scene_root(root)
    table = completed(patch_table(root, card.signal.size, 2), root)
    warn_of_broken(table)
    counts = left_out(table)
    if any(counts.values()):
        log.info("%s: left out are %s", root, ", ".join(f"{count} patches {LEFT_OUT[why]}" for why, count in counts.items() if count))
    whole = table.filter(pc.and_(pc.is_null(table["problem"]), usable_rows(table)))
    if not len(whole):
        raise BenchError(f"{root}: no whole patch that the metadata knows and nothing covers is there", f"get the data: {card.origin.get}")
    marker = read_marker(root)
    return Index(
        root=root, files=tuple(whole["s1_name"].to_pylist()), labels=reorder(hot_labels(whole), "original", order),
        stamps=whole["stamp"].to_numpy() ^ np.uint64(content_number(whole)), synthetic=marker["fingerprint"] if marker else card.synthetic,
        groups=tuple(whole["tile"].to_pylist()), reader=read_patch_v2, left_out=len(table) - len(whole),
        aliases=tuple(whole["s2_name"].to_pylist()), parts=tuple(whole["split"].to_pylist()),
    )  # fmt: skip


def completed(table: pa.Table, root: Path) -> pa.Table:
    """The patch table with what the metadata says; warns of patches that it names and `root` lacks."""
    metadata = read_metadata(find_metadata(root))
    absent = len(metadata) - int(pc.sum(pc.is_in(metadata["s1_name"], value_set=table["s1_name"].combine_chunks())).as_py() or 0)
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
