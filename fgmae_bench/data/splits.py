"""Which samples train, select and test: stratified, spatial, tile, random and listed splits."""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card, Split
from fgmae_bench.config.run import Data
from fgmae_bench.data.groups import torn, units_of
from fgmae_bench.data.index import Index, Rows, some_of
from fgmae_bench.data.list_splits import PARTS, list_files, published_lists, read_leaky_flag, rows_of_lists
from fgmae_bench.data.multilabel_splits import random_parts, tile_parts
from fgmae_bench.data.spatial import spatial_parts
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.system.randomness import keyed_order

LEAVE_OUT = "leave_out"  # the split over groups that every dataset has whose groups are known: leave_out@GROUP
ORDER = ("test", "val", "train")  # a group that several parts name is in the first of them


def group_parts(index: Index, split: Split, layout_groups: tuple[str, ...] | None = None) -> dict[str, Rows]:
    """Rows of train, val and test: a sample is where a pattern of the part matches what it is called.

    That is the folder's name where the layout has groups (`ROIs0000_test/*`), else the name of its group, else its id;
    of group and id the one that a pattern fits. Raises BenchError where a group has samples in two parts.
    """
    if layout_groups is not None:
        called: list[tuple[str, ...]] = [(name,) for name in layout_groups]
    else:
        called = list(zip(*filter(None, (index.groups, index.ids)), strict=True))
    part_of = {names: next(filter(None, (_part(name, split) for name in names)), "") for names in set(called)}
    parts = [part_of[names] for names in called]
    rows = {name: np.array([row for row, part in enumerate(parts) if part == name], np.int64) for name in ORDER}
    both = (
        torn(index, rows) if layout_groups is None and index.group_kind and " km block" not in index.group_kind else []
    )
    if both:
        what = f"the split's patterns put samples of the {index.group_kind} {both[0]} into two parts"
        raise BenchError(what, "let a pattern fit whole groups")
    return rows


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


def make_split(
    card: Card, index: Index, data: Data, cache: Path, layout_groups: tuple[str, ...] | None = None
) -> Parts:
    """The split that `data` names: one of the card's, or a folder of lists; BenchError where it cannot be made.

    `layout_groups` are the groups of the layout itself, by which a split of the kind `groups` goes.
    """
    if not index.group_kind:  # nobody has looked further than the layout
        layout_groups = index.groups
    name = data.split or card.default_split
    if (one := left_out_split(card, name)) is not None:
        parts = _leave_out(card, index, one, name, cache)
        _refuse_empty_classes(card, index, parts, name)
        return parts
    if name in card.splits:
        split = card.splits[name]
        # a split of the card: its name is known, its lists are looked for next to the data
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
        parts = _by_group(index, split, layout_groups)
    elif split.kind in ("random", "tile"):
        parts = _by_name(index, split, data.split_seed)
    else:
        assert folder is not None
        rows, left_out = rows_of_lists(index, split, folder)
        parts = Parts(**rows, leaky=split.leaky, left_out=left_out)
    _refuse_empty_classes(card, index, parts, name)
    return parts


def left_out_split(card: Card, name: str) -> Split | None:
    """The split that `NAME@UNIT` means: one of the card's of the kind `leave_out`, or `leave_out` over the groups of
    any dataset; None of another name. Raises BenchError where the unit is not named.
    """
    base, at, _ = name.partition("@")
    split = card.splits.get(base, Split(kind="leave_out") if base == LEAVE_OUT else None)
    if split is None or split.kind != "leave_out" or (not at and os.path.isdir(name)):
        return None
    if not at:
        raise BenchError(f"split '{name}' leaves out one unit", f"name it, or a pattern of several: {name}@UNIT")
    return split


def _leave_out(card: Card, index: Index, split: Split, name: str, cache: Path) -> Parts:
    """Test: the units that the pattern behind the @ fits; training: all others."""
    units, pattern = units_of(card, split, index, cache), name.partition("@")[2]
    fits = {unit: fnmatchcase(unit, pattern) for unit in set(units)}
    if not any(fits.values()):
        raise unknown("unit", pattern, fits)
    if all(fits.values()):
        raise BenchError(f"split '{name}' leaves nothing to train on", "name fewer units")
    held = np.array([fits[unit] for unit in units])
    return Parts(train=np.flatnonzero(~held), val=np.zeros(0, np.int64), test=np.flatnonzero(held), leaky=split.leaky)


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


def limited(index: Index, parts: Parts, count: int, seed: int) -> tuple[Index, Parts]:
    """(index, parts) of at most `count` samples of each part, classes in turn, in an order keyed by (seed, id).

    The index holds no others, so that nothing else is read.
    """
    kept = {}
    for part in PARTS:
        rows = getattr(parts, part)
        names = [index.ids[row] for row in rows]
        place = {name: n for n, name in enumerate(keyed_order(seed, "limit", names))}
        order = np.argsort([place[name] for name in names], kind="stable")
        turn = np.zeros(len(rows), np.int64)  # how many of its class come before a sample
        if index.labels.ndim == 1:
            seen: dict[int, int] = {}
            for at in order:
                label = int(index.labels[rows[at]])
                turn[at] = seen[label] = seen.get(label, -1) + 1
        chosen = sorted(order[np.argsort(turn[order], kind="stable")][:count].tolist())
        kept[part] = rows[chosen]
    every = np.unique(np.concatenate(list(kept.values())))
    return some_of(index, every), dataclasses.replace(
        parts, **{part: np.searchsorted(every, rows) for part, rows in kept.items()}
    )


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


def _by_group(index: Index, split: Split, layout_groups: tuple[str, ...] | None) -> Parts:
    """Parts by the groups of the samples; with `everything` each sample is trained on and scored, which measures the
    fit alone.
    """
    rows = np.arange(len(index.files))
    if split.kind == "everything":
        return Parts(train=rows, val=rows[:0], test=rows, leaky=split.leaky)
    parts = group_parts(index, split, layout_groups)
    return Parts(**parts, leaky=split.leaky, left_out=len(rows) - sum(map(len, parts.values())))


def _refuse_empty_classes(card: Card, index: Index, parts: Parts, name: str) -> None:
    for part in ("train", "test"):
        if len(getattr(parts, part)) == 0:
            raise BenchError(f"split '{name}' leaves no {part} samples", "choose another split")
    if index.labels.ndim == 2:  # several labels, targets, or label maps
        return
    missing = set(range(len(card.classes))) - set(index.labels[parts.train].tolist())
    if missing:
        names = ", ".join(card.classes[k] for k in sorted(missing))
        raise BenchError(
            f"split '{name}' leaves no training samples of {names}",
            "give these classes more images, or choose another split",
        )
