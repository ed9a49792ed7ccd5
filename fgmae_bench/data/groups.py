"""Which samples belong together: the groups that splits, folds, intervals and tests treat as units.

Neighbours share land cover, and all of one acquisition share moisture, incidence angle and calibration: they are not
independent draws. A card states the groups under [groups]; else they are found in the names, in the layout, or as
blocks of the georeference.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, Groups, Split
from fgmae_bench.data.index import Index, ids_sha256
from fgmae_bench.data.raster import open_tiff
from fgmae_bench.data.spatial import block_cells, chip_centres
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.system.files import read_bounded

log = logging.getLogger("fgmae_bench")

MOST_BYTES = 256 << 20  # of a table
BLOCK_KM = 20.0  # of datasets that state nothing: the blocks of EuroSAT-SAR's spatial split
# Names that tell it: ESA's product names hold the datatake, those of BigEarthNet the start of a scene.
PRODUCTS = (
    ("acquisition", r"(S1[A-D])_[A-Z0-9]{2}_[A-Z0-9_]{4}_[A-Z0-9]{4}_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_([0-9A-F]{6})_.*"),
    ("scene", r"(S1[A-D]_[A-Z]{2}_[A-Z]{4}_[A-Z0-9]{4}_\d{8}T\d{6})_.*"),
)
# Tiles of a scene are numbered by row and column, or by p and a number.
TILES = (("scene", r"(.*\w)_(?:r\d+_?c\d+|x\d+_?y\d+|row\d+_col\d+|p\d+|\d+_\d+)"),)
BLOCK = re.compile(r"(\d+(?:\.\d+)? km block) -?\d+ -?\d+")


def with_groups(card: Card, index: Index, cache: Path, *, read: bool = True) -> Index:
    """The index with the group of each sample and, as `group_kind`, what it is; without both where nothing tells.

    Without `read` no file is opened for blocks that the card does not state. Raises BenchError where what the card
    states does not fit the samples.
    """
    if card.groups is not None:
        kind, names = _stated(card, card.groups, index, cache)
    else:
        found = (
            by_name(index.ids, PRODUCTS)
            or _of_layout(index)
            or by_name(index.ids, TILES)
            or (_by_block(index, cache) if read or index.places is not None else None)
        )
        if found is None:
            return dataclasses.replace(index, groups=None, group_kind="")
        kind, names = found
    return dataclasses.replace(index, groups=names, group_kind=kind)


def units_of(card: Card, split: Split, index: Index, cache: Path) -> tuple[str, ...]:
    """What a split of the kind `leave_out` leaves out one at a time, of each sample: its country, by default its group.

    Raises BenchError where no groups are known, or what the card states does not fit the samples.
    """
    if split.by is not None:
        return values_of(card, split.by, index, cache, "by")
    if index.groups is None:
        raise BenchError(f"no groups are known of {card.title}", "state [groups] on the card, or a split of its own")
    return index.groups


def values_of(card: Card, stated: Groups, index: Index, cache: Path, where: str) -> tuple[str, ...]:
    """The value of each sample of what a card states under `where` in the way of groups; BenchError where it does not
    fit the samples.
    """
    return _stated(card, stated, dataclasses.replace(index, groups=None), cache, where)[1]


def by_name(
    ids: Iterable[str], known: Iterable[tuple[str, str]] = (*PRODUCTS, *TILES)
) -> tuple[str, tuple[str, ...]] | None:
    """(kind, group of each) where the last part of every id says so in one way, and a group holds several samples."""
    last = [os.path.basename(name) for name in ids]
    for kind, pattern in known:
        found = [re.fullmatch(pattern, name) for name in last]
        if found and all(found):
            names = tuple("_".join(match.groups()) for match in found if match)
            if len(set(names)) < len(names):
                return kind, names
    return None


def told_by_ids(card: Card, index: Index) -> bool:
    """Whether the groups of an index follow from its sample ids and the card, so that these two fix them: what stands
    in a table, a store, a pack or a georeference does not.
    """
    if index.groups is None or card.groups is not None:
        return card.groups is None or bool(card.groups.pattern)
    of_folder = all(os.path.dirname(name) == group for name, group in zip(index.ids, index.groups, strict=True))
    return of_folder or any(
        all(
            (match := re.fullmatch(pattern, os.path.basename(name))) is not None and "_".join(match.groups()) == group
            for name, group in zip(index.ids, index.groups, strict=True)
        )
        for _, pattern in (*PRODUCTS, *TILES)
    )


def groups_sha256(card: Card, index: Index, rows: Iterable[int]) -> str | None:
    """SHA-256 of ids and groups of some samples, in the order of ids, for the run id; None where `told_by_ids`."""
    if index.groups is None or told_by_ids(card, index):
        return None
    used = sorted({int(row) for row in rows}, key=lambda row: index.ids[row])
    return ids_sha256([f"{index.ids[row]}\t{index.groups[row]}" for row in used])


def block_groups(centres: NDArray[np.float64], block_km: float) -> tuple[str, tuple[str, ...]]:
    """(kind, group of each): blocks of a side of `block_km`, from longitude and latitude (N, 2) in degrees."""
    kind = f"{block_km:g} km block"
    return kind, tuple(f"{kind} {row} {column}" for row, column in block_cells(centres, block_km))


def _stated(
    card: Card, stated: Groups, index: Index, cache: Path, where: str = "groups"
) -> tuple[str, tuple[str, ...]]:
    """What a card states under [groups], or elsewhere in the same way."""
    if stated.block_km:
        held = _packed_blocks(index)
        if held and held[0] == f"{stated.block_km:g} km block":
            return held
        return block_groups(chip_centres(index, cache), stated.block_km)
    if stated.file:
        return stated.unit or stated.column, _of_column(card, stated, index, where)
    unit, expression = pattern_of(stated.pattern)
    whole = "/" in stated.pattern
    names = []
    for sample in index.ids:
        match = re.fullmatch(expression, sample if whole else os.path.basename(sample))
        if match is None:
            what = f"{card.path}: {where}.pattern '{stated.pattern}' does not fit the sample {sample}"
            raise BenchError(what, "correct it; # stands for digits, * for anything, {scene} for what is named")
        names.append("_".join(match.groups()))
    return stated.unit or unit, tuple(names)


def pattern_of(pattern: str) -> tuple[str, str]:
    """(name of the first part in braces, regular expression) of a card's pattern such as `{scene}_#_#`."""
    parts = re.split(r"(\{\w+\}|#|\*)", pattern)
    known = {"#": "[0-9]+", "*": ".*"}
    expression = "".join(known.get(part) or ("(.+)" if part.startswith("{") else re.escape(part)) for part in parts)
    return next((part[1:-1] for part in parts if part.startswith("{")), "group"), expression


def _of_column(card: Card, stated: Groups, index: Index, where: str) -> tuple[str, ...]:
    """Groups from a CSV of the data or next to the card, whose first column names the samples."""
    places = (index.root, index.root.parent, card.path.parent)
    path = next((place / stated.file for place in places if os.path.isfile(place / stated.file)), None)
    if path is None and index.groups is not None:  # a pack holds what the files said
        return index.groups
    if path is None:
        raise BenchError(
            f"{card.path}: {where}.file {stated.file} is neither with the data nor next to the card", "add it"
        )
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        columns = rows.fieldnames or []
        if stated.column not in columns[1:]:
            raise BenchError(f"{path} has no column '{stated.column}'", closest(stated.column, columns[1:]))
        group_of = {row[columns[0]]: row[stated.column] for row in rows}
    except (OSError, ValueError, csv.Error) as error:
        raise BenchError(f"{path}: cannot be read as a table ({error})", "replace the file") from error
    found = [group_of.get(sample) or group_of.get(os.path.basename(sample)) for sample in index.ids]
    lacking = [sample for sample, group in zip(index.ids, found, strict=True) if not group]
    if lacking:
        raise BenchError(f"{path} names no {stated.column} of {len(lacking)} samples, first {lacking[0]}", "add them")
    return tuple(group for group in found if group)


def _of_layout(index: Index) -> tuple[str, tuple[str, ...]] | None:
    """Groups that the layout or a pack knows; samples that are each their own say nothing."""
    if index.groups is None or index.groups == index.ids:
        return None
    return _packed_blocks(index) or (index.group_kind or "scene", index.groups)


def _packed_blocks(index: Index) -> tuple[str, tuple[str, ...]] | None:
    match = BLOCK.fullmatch(index.groups[0]) if index.groups else None
    return (match[1], index.groups) if match and index.groups else None


def _by_block(index: Index, cache: Path) -> tuple[str, tuple[str, ...]] | None:
    """Blocks of the georeference, where a table states it or every sample is a file that has one."""
    if index.places is not None:
        return block_groups(chip_centres(index, cache), BLOCK_KM)
    if not len(index.files) or not index.path(0).is_file():
        return None
    try:
        with open_tiff(index.path(0)) as source:
            if source.crs is None or source.transform.is_identity:
                return None
        return block_groups(chip_centres(index, cache), BLOCK_KM)
    except BenchError as error:
        if isinstance(error.__cause__, OSError):  # of the disk, not of the georeference
            raise
        log.info("no blocks: %s", error.what)
        return None


def to_pack(card: Card, index: Index, cache: Path) -> Index:
    """The index with the groups that a pack of it shall hold, which has neither files nor a georeference."""
    if index.groups is not None and index.groups != index.ids:
        return index
    return dataclasses.replace(index, groups=with_groups(card, index, cache).groups)


def torn(index: Index, parts: dict[str, NDArray[np.int64]]) -> list[str]:
    """Groups that have samples in more than one part, sorted."""
    if index.groups is None:
        return []
    held = [{index.groups[row] for row in rows} for rows in parts.values()]
    return sorted(set.union(*(a & b for i, a in enumerate(held) for b in held[:i]), set()))
