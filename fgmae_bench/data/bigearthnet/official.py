"""BigEarthNet's published lists: which patches train, select and test, which are left out and why, and where their names lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fgmae_bench.data.bigearthnet.lists import FLAG_LISTS, NO_19_LIST, Named, read_list
from fgmae_bench.data.bigearthnet.names import parse_s1, parse_s2
from fgmae_bench.data.multilabel_splits import LEFT_OUT, Grid, Part, grid_of
from fgmae_bench.errors import BenchError

PARTS = ("train", "val", "test")
ENDINGS = (".csv.bz2", ".csv", ".txt")
# Reason -> the list that names its patches. A patch of several lists counts under the first reason.
EXCLUSIONS = {
    "seasonal snow": FLAG_LISTS["snow"],
    "cloud or shadow": FLAG_LISTS["cloud_shadow"],
    "none of the 19 classes": NO_19_LIST,
}
ABSENT_TOLERANCE = 0.01  # share of a list's names that the data may lack


def read_parts(folder: Path) -> dict[str, tuple[Named, ...]]:
    """The lists for train, val and test in a folder, or in `splits` inside it. Raises BenchError where one is missing."""
    folder = folder / "splits" if (folder / "splits").is_dir() else folder
    lists = {}
    for part in PARTS:
        path = _find(folder, part) or _find(folder, f"bigearthnet-{part}")
        if path is None:
            raise BenchError(f"{folder} holds no list for {part}", f"add {part}.csv: S2name,S1name or S2name a line, without header")
        lists[part] = read_list(path)
    seen: dict[str, str] = {}
    for part, names in lists.items():
        for named in names:
            if named.name in seen:
                raise BenchError(f"{folder}: {named.name} is in the lists for {seen[named.name]} and {part}", "list each patch once")
            seen[named.name] = part
    return lists


def read_exclusions(folder: Path) -> dict[str, set[str]]:
    """S2 names by the reason for which they are left out, each under its first reason; reasons without a list are absent."""
    found: dict[str, set[str]] = {}
    for reason, stem in EXCLUSIONS.items():
        path = _find(folder, stem)
        if path is not None:
            found[reason] = {named.s2 for named in read_list(path) if named.s2} - set().union(*found.values())
    return found


def grid_of_names(names: Sequence[Named]) -> Grid:
    """Cells of patches: in their tile where the S1 name is known, else in their S2 acquisition (S2 names of v1 omit the tile)."""
    places = [parse_s1(named.s1) if named.s1 else parse_s2(named.s2 or "") for named in names]
    groups = [place.tile or place.scene for place in places]
    return grid_of(groups, [place.row for place in places], [place.col for place in places])


def match(
    patches: Sequence[Named], lists: dict[str, tuple[Named, ...]], tolerance: float = ABSENT_TOLERANCE
) -> tuple[Part, dict[str, int]]:
    """(part of each patch, LEFT_OUT where no list names it; number of names in each list that the data lacks).

    A patch is found by its S2 name, else by its S1 name. Raises BenchError where a list lacks more than `tolerance` of its names.
    """
    rows = {name: row for row, named in enumerate(patches) for name in (named.s1, named.s2) if name}
    part = np.full(len(patches), LEFT_OUT, np.int8)
    absent = {}
    for number, (name, listed) in enumerate(lists.items()):
        found = [rows.get(item.s2 or "", rows.get(item.s1 or "", -1)) for item in listed]
        missing = [item.name for item, row in zip(listed, found, strict=True) if row < 0]
        absent[name] = len(missing)
        if len(missing) > tolerance * len(listed):
            what = f"the list for {name} names {len(missing)} of {len(listed)} patches that are not in the data, first {missing[0]}"
            raise BenchError(what, f"complete the data, correct the list, or raise --tolerance (now {tolerance:g})")
        part[[row for row in found if row >= 0]] = number
    return part, absent


def _find(folder: Path, stem: str) -> Path | None:
    return next((folder / f"{stem}{ending}" for ending in ENDINGS if (folder / f"{stem}{ending}").is_file()), None)
