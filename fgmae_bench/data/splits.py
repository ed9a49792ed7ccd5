"""Which samples train, select and test: stratified, spatial, tile, random and listed splits, few-label subsets."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card, Split
from fgmae_bench.config.run import Data
from fgmae_bench.data.index import Index, Rows
from fgmae_bench.data.list_splits import PARTS, list_files, published_lists, read_leaky_flag, rows_of_lists
from fgmae_bench.data.multilabel_splits import random_parts, tile_parts
from fgmae_bench.data.spatial import spatial_parts
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.system.randomness import keyed_order

ORDER = ("test", "val", "train")  # a group that several parts name is in the first of them


def group_parts(index: Index, split: Split) -> dict[str, Rows]:
    """Rows of train, val and test: a sample is where a pattern of the part matches its group, such as
    `ROIs0000_test/*`.
    """
    if index.groups is None:
        raise BenchError(f"{index.root}: the groups of the samples are not known", "choose another split")
    part_of = {group: _part(group, split) for group in set(index.groups)}
    parts = [part_of[group] for group in index.groups]
    return {name: np.array([row for row, part in enumerate(parts) if part == name], np.int64) for name in ORDER}


def _part(group: str, split: Split) -> str:
    return next(
        (part for part in ORDER if any(fnmatchcase(group, pattern) for pattern in split.groups.get(part, ()))), ""
    )


log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Row numbers of the index for each part, in the order of the split; `val` may be empty. `left_out` counts the
    rest.
    """

    train: Rows
    val: Rows
    test: Rows
    leaky: bool
    left_out: int = 0


def make_split(card: Card, index: Index, data: Data, cache: Path) -> Parts:
    """The split that `data` names: one of the card's, or a folder of lists; BenchError where it cannot be made."""
    name = data.split or card.default_split
    if name in card.splits:
        split = card.splits[name]
        # a split of the card: its name is known, its lists are looked for beside the data
        folder = published_lists(card, index, split, name) if split.kind == "lists" else None
    elif os.path.isdir(name):
        folder = Path(name)
        split = Split(kind="lists", files=list_files(folder), leaky=read_leaky_flag(folder))
    else:
        raise unknown("split", name, [*card.splits, "<folder of lists>"])
    if split.kind == "stratified":
        parts = stratified(index, split, data.split_seed, card.classes)
    elif split.kind == "spatial":
        parts = _spatial(index, split, data.split_seed, cache)
    elif split.kind == "stated":
        parts = _stated(index, split, name)
    elif split.kind in ("groups", "everything"):
        parts = _by_group(index, split)
    elif split.kind in ("random", "tile"):
        parts = _by_name(index, split, data.split_seed)
    else:
        assert folder is not None
        rows, left_out = rows_of_lists(index, split, folder)
        parts = Parts(**rows, leaky=split.leaky, left_out=left_out)
    _refuse_empty_classes(card, index, parts, name)
    return parts


def stratified(index: Index, split: Split, seed: int, classes: tuple[str, ...]) -> Parts:
    """scikit-learn's stratified `train_test_split` of the sorted files; a second call divides val and test."""
    from sklearn.model_selection import train_test_split

    assert split.train is not None
    if not 0 <= seed < 2**32:
        raise BenchError(f"--split_seed is {seed}", f"give a whole number from 0 to {2**32 - 1}")
    if index.labels.ndim != 1:
        what = "a stratified split needs one class for each image, which this dataset does not have"
        raise BenchError(what, "choose a split of another kind, or a folder of lists with --split DIR")
    rows = np.arange(len(index.files))
    counts = np.bincount(index.labels, minlength=len(classes))
    needed = 3 if split.val else 2
    if counts.min() < needed:
        name = classes[int(counts.argmin())]
        raise BenchError(
            f"class '{name}' is too small to split ({counts.min()} images)", f"give each class at least {needed} images"
        )
    try:
        train, rest = train_test_split(rows, train_size=split.train, stratify=index.labels, random_state=seed)
        if not split.val:
            return Parts(train=train, val=rows[:0], test=rest, leaky=split.leaky)
        # val's share of what the first call left
        share = split.val / (1 - split.train)
        val, test = train_test_split(rest, train_size=share, stratify=index.labels[rest], random_state=seed)
    except ValueError as error:
        raise BenchError(f"the data is too small to split ({error})", "give more images a class") from error
    return Parts(train=train, val=val, test=test, leaky=split.leaky)


def few_labels(index: Index, rows: Rows, fraction: float, seed: int) -> Rows:
    """The first ceil(fraction x n) samples of each class in an order keyed by (seed, id); `rows` stay in order.

    Multi-label samples belong to several classes and count as one group. Subsets are nested: a smaller fraction is
    contained in a larger one. Nothing is drawn twice.
    """
    if fraction >= 1:
        return rows
    chosen: set[str] = set()
    # one group for multi-label and segmentation
    label_of = index.labels if index.labels.ndim == 1 else np.zeros(len(index.files), np.int64)
    for label in np.unique(label_of[rows]):
        ids = [index.ids[row] for row in rows[label_of[rows] == label]]
        chosen.update(keyed_order(seed, "few_labels", ids)[: max(1, math.ceil(round(fraction * len(ids), 9)))])
    return rows[[index.ids[row] in chosen for row in rows]]


def _spatial(index: Index, split: Split, seed: int, cache: Path) -> Parts:
    assert split.train is not None
    assert split.block_km is not None
    assert split.buffer_m is not None
    parts = spatial_parts(
        index, cache, train=split.train, val=split.val, block_km=split.block_km, buffer_m=split.buffer_m, seed=seed
    )
    kept = sum(map(len, parts))
    return Parts(train=parts[0], val=parts[1], test=parts[2], leaky=split.leaky, left_out=len(index.files) - kept)


def _by_name(index: Index, split: Split, seed: int) -> Parts:
    """Multi-label parts from what the ids say: at random, or by tile and cell."""
    from fgmae_bench.data.bigearthnet.official import Named, grid_of_names

    assert split.train is not None
    # test is what is left
    fractions = (split.train, split.val, 1 - split.train - split.val)
    if split.kind == "random":
        part = random_parts(index.ids, fractions=fractions, seed=seed)
    else:
        grid = grid_of_names([Named(s2=None, s1=os.path.basename(name)) for name in index.ids])
        part = tile_parts(
            grid,
            index.labels,
            fractions=fractions,
            seed=seed,
            block=split.block_patches,
            buffer=split.buffer_patches or 0,
        )
    rows = [np.flatnonzero(part == number) for number in range(3)]
    return Parts(
        train=rows[0], val=rows[1], test=rows[2], leaky=split.leaky, left_out=len(index.files) - sum(map(len, rows))
    )


def _stated(index: Index, split: Split, name: str) -> Parts:
    """Parts as the data itself says them."""
    if index.parts is None:
        todo = "give the raw data, a pack written from it, or a folder of lists with --split DIR"
        raise BenchError(f"{index.root} does not say in which part of split '{name}' its samples are", todo)
    # raw metadata and packs carry the publishers' part of each sample
    said = np.array(index.parts)
    rows = {part: np.flatnonzero(said == part) for part in PARTS}
    return Parts(**rows, leaky=split.leaky, left_out=len(said) - sum(map(len, rows.values())))


def _by_group(index: Index, split: Split) -> Parts:
    """Parts by the groups of the samples; with `everything` each sample is trained on and scored, which measures the
    fit alone.
    """
    rows = np.arange(len(index.files))
    if split.kind == "everything":
        return Parts(train=rows, val=rows[:0], test=rows, leaky=split.leaky)
    parts = group_parts(index, split)
    return Parts(**parts, leaky=split.leaky, left_out=len(rows) - sum(map(len, parts.values())))


def _refuse_empty_classes(card: Card, index: Index, parts: Parts, name: str) -> None:
    for part in ("train", "test"):
        if len(getattr(parts, part)) == 0:
            raise BenchError(f"split '{name}' leaves no {part} samples", "choose another split")
    if index.labels.ndim == 2:
        return
    missing = set(range(len(card.classes))) - set(index.labels[parts.train].tolist())
    if missing:
        names = ", ".join(card.classes[k] for k in sorted(missing))
        raise BenchError(
            f"split '{name}' leaves no training samples of {names}",
            "give these classes more images, or choose another split",
        )
