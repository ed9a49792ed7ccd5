"""Packs of rico-hdl with the tables of BigEarthNet v2 beside them: patches from the one, labels and split from the other."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgmae_bench.cards import Card
from fgmae_bench.contract import BANDS
from fgmae_bench.data.bigearthnet.labels import order_of, reorder
from fgmae_bench.data.bigearthnet.metadata import find_metadata, read_metadata
from fgmae_bench.data.bigearthnet.names import is_s1_patch, parse_s1
from fgmae_bench.data.bigearthnet.raw import hot_labels
from fgmae_bench.data.bigearthnet.raw_v2 import content_number, usable_rows
from fgmae_bench.data.index import Index
from fgmae_bench.data.packs.format import decode_value
from fgmae_bench.data.packs.legacy import PICKLE, open_rico
from fgmae_bench.data.packs.store import Stamp, environment
from fgmae_bench.errors import BenchError

log = logging.getLogger("fgmae_bench")


def rico_patches(root: Path, stamp: Stamp) -> list[str]:
    """Names of the Sentinel-1 patches of a rico-hdl pack in order; empty for a pack of anything else."""
    with environment(root, stamp).begin(buffers=True) as reading:
        cursor = reading.cursor()
        names = [name for key in cursor.iternext(values=False) if is_s1_patch(name := bytes(key).decode(errors="replace"))]
        value = bytes(reading.get(names[0].encode()) or b"") if names else PICKLE
    return names if not value.startswith(PICKLE) and set(BANDS) <= set(decode_value(value, str(root))) else []


def open_rico_v2(card: Card, root: Path, patches: list[str]) -> Index:
    """Index of a rico-hdl pack as the layout `bigearthnet_v2` makes it of files; `metadata.parquet` lies in the pack or beside it.

    Raises BenchError where the metadata is missing or broken, or names no patch of the pack that a run can use.
    """
    order = order_of(card)
    metadata = read_metadata(find_metadata(root)).sort_by("s1_name")
    held = pc.is_in(metadata["s1_name"], value_set=pa.array(patches, pa.string()))
    absent = len(metadata) - int(pc.sum(held).as_py() or 0)
    if absent:
        log.warning("the metadata of %s names %d of %d patches that are not there", root, absent, len(metadata))
    chosen = metadata.filter(pc.and_(held, usable_rows(metadata)))
    if not len(chosen):
        raise BenchError(f"{root}: its metadata names none of its patches as free of snow and clouds", "give the metadata of this pack")
    names = tuple(chosen["s1_name"].to_pylist())
    index = open_rico(card, root, names, reorder(hot_labels(chosen), "original", order), tuple(parse_s1(name).tile or "" for name in names))
    return dataclasses.replace(
        index, stamps=index.stamps ^ np.uint64(content_number(chosen)), left_out=len(patches) - len(chosen),
        aliases=tuple(chosen["s2_name"].to_pylist()), parts=tuple(chosen["split"].to_pylist()),
    )  # fmt: skip
