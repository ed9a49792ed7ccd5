"""BigEarthNet's published lists: the patches of each part, and those that are left out with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgmae_bench.data.bigearthnet.labels import is_s1_patch, parse_s1, parse_s2
from fgmae_bench.data.list_splits import read_lines
from fgmae_bench.data.multilabel_splits import LEFT_OUT, Grid, Part, grid_of
from fgmae_bench.errors import BenchError

# Column of the patch table -> the list that fills it.
FLAG_LISTS = {"snow": "patches_with_seasonal_snow", "cloud_shadow": "patches_with_cloud_and_shadow"}
NO_19_LIST = "patches_with_no_19_class_targets"


@dataclass(frozen=True, kw_only=True)
class Named:
    """A patch as a list names it: by its S2 name, its S1 name, or both."""

    s2: str | None
    s1: str | None

    @property
    def name(self) -> str:
        """The S1 name where it is known, else the S2 name."""
        return self.s1 or self.s2 or ""


def read_list(path: Path) -> tuple[Named, ...]:
    """Patches of a published list, without header: `S2name`, `S2name,S1name` or `S1name` a line; `.bz2` is unpacked.

    Raises BenchError naming file and line where a name is none, and on names that repeat.
    """
    found: dict[str, Named] = {}
    for number, line in read_lines(path):
        try:
            named = _parse(line)
        except BenchError as error:
            todo = "remove the header line" if number == 1 and not line.startswith("S") else error.todo
            raise BenchError(f"{path}, line {number}: {error.what}", todo) from error
        if named.name in found:
            raise BenchError(f"{path}, line {number}: {named.name} is listed twice", "list each patch once")
        found[named.name] = named
    return tuple(found.values())


def s2_names(path: Path) -> tuple[str, ...]:
    """S2 names of a list in file order. Raises BenchError as `read_list` does, and on a lone S1 name."""
    names = []
    for named in read_list(path):
        if named.s2 is None:
            raise BenchError(
                f"{path}: {named.s1} is not an S2 patch name", "give the published list, which names S2 patches"
            )
        names.append(named.s2)
    return tuple(names)


def find_list(folder: Path, stem: str) -> Path:
    """`<stem>.csv.bz2` or `<stem>.csv` in a folder; raises BenchError where neither is there."""
    for ending in (".csv.bz2", ".csv"):
        if (folder / f"{stem}{ending}").is_file():
            return folder / f"{stem}{ending}"
    raise BenchError(f"{folder} holds no {stem}.csv.bz2 or .csv", "give the folder of the published lists with --lists")


def flag(table: pa.Table, folder: Path) -> pa.Table:
    """The table with its columns snow and cloud_shadow from the lists in `folder`; null where s2_name is."""
    for column, stem in FLAG_LISTS.items():
        named = pc.is_in(table["s2_name"], value_set=pa.array(s2_names(find_list(folder, stem)), pa.string()))
        flags = pc.if_else(pc.is_valid(table["s2_name"]), named, pa.scalar(None, pa.bool_()))
        table = table.set_column(table.schema.get_field_index(column), table.schema.field(column), flags)
    return table


def contradictions(table: pa.Table, folder: Path) -> list[str]:
    """S2 names on which the labels and the published list of patches with none of the 19 classes disagree, sorted."""
    listed = set(s2_names(find_list(folder, NO_19_LIST)))
    known = table.filter(pc.is_valid(table["no_19_class"])).select(["s2_name", "no_19_class"]).to_pydict()
    return sorted(
        name for name, none in zip(known["s2_name"], known["no_19_class"], strict=True) if none != (name in listed)
    )


def _parse(line: str) -> Named:
    """One line of a list."""
    first, _, second = (text.strip() for text in line.partition(","))
    if is_s1_patch(first) and not second:
        return Named(s2=None, s1=first)
    parse_s2(first)
    if second:
        parse_s1(second)
    return Named(s2=first, s1=second or None)


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
    """The lists for train, val and test in a folder or its `splits`. Raises BenchError where one is missing."""
    folder = folder / "splits" if (folder / "splits").is_dir() else folder
    lists = {}
    for part in PARTS:
        path = _find(folder, part) or _find(folder, f"bigearthnet-{part}")
        if path is None:
            raise BenchError(
                f"{folder} holds no list for {part}", f"add {part}.csv: S2name,S1name or S2name a line, without header"
            )
        lists[part] = read_list(path)
    seen: dict[str, str] = {}
    for part, names in lists.items():
        for named in names:
            if named.name in seen:
                raise BenchError(
                    f"{folder}: {named.name} is in the lists for {seen[named.name]} and {part}", "list each patch once"
                )
            seen[named.name] = part
    return lists


def read_exclusions(folder: Path) -> dict[str, set[str]]:
    """S2 names by the reason for which they are left out, each under its first reason."""
    found: dict[str, set[str]] = {}
    for reason, stem in EXCLUSIONS.items():
        path = _find(folder, stem)
        if path is not None:
            found[reason] = {named.s2 for named in read_list(path) if named.s2} - set().union(*found.values())
    return found


def grid_of_names(names: Sequence[Named]) -> Grid:
    """Cells of patches: in their tile where the S1 name is known, else in their S2 acquisition (S2 names of v1 omit the
    tile).
    """
    places = [parse_s1(named.s1) if named.s1 else parse_s2(named.s2 or "") for named in names]
    groups = [place.tile or place.scene for place in places]
    return grid_of(groups, [place.row for place in places], [place.col for place in places])


def match(
    patches: Sequence[Named], lists: dict[str, tuple[Named, ...]], tolerance: float = ABSENT_TOLERANCE
) -> tuple[Part, dict[str, int]]:
    """(part of each patch, LEFT_OUT where no list names it; number of names in each list that the data lacks).

    A patch is found by its S2 name, else by its S1 name. Raises BenchError where a list lacks more than `tolerance` of
    its names.
    """
    rows = {name: row for row, named in enumerate(patches) for name in (named.s1, named.s2) if name}
    part = np.full(len(patches), LEFT_OUT, np.int8)
    absent = {}
    for number, (name, listed) in enumerate(lists.items()):
        found = [rows.get(item.s2 or "", rows.get(item.s1 or "", -1)) for item in listed]
        missing = [item.name for item, row in zip(listed, found, strict=True) if row < 0]
        absent[name] = len(missing)
        if len(missing) > tolerance * len(listed):
            what = (
                f"the list for {name} names {len(missing)} of {len(listed)} patches that are not in the data, "
                f"first {missing[0]}"
            )
            raise BenchError(what, f"complete the data, correct the list, or raise --tolerance (now {tolerance:g})")
        part[[row for row in found if row >= 0]] = number
    return part, absent


def _find(folder: Path, stem: str) -> Path | None:
    return next((folder / f"{stem}{ending}" for ending in ENDINGS if (folder / f"{stem}{ending}").is_file()), None)
