"""The published lists of BigEarthNet v1, read by one reader: patches of a part, under snow, cloud or shadow, without a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fgmae_bench.data.bigearthnet.names import is_s1_patch, parse_s1, parse_s2
from fgmae_bench.data.text_lists import read_lines
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
    """S2 names of a list in file order. Raises BenchError as `read_list` does, and where a line has an S1 name alone."""
    names = []
    for named in read_list(path):
        if named.s2 is None:
            raise BenchError(f"{path}: {named.s1} is no S2 patch name", "give the published list, which names S2 patches")
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
    return sorted(name for name, none in zip(known["s2_name"], known["no_19_class"], strict=True) if none != (name in listed))


def _parse(line: str) -> Named:
    """One line of a list."""
    first, _, second = (text.strip() for text in line.partition(","))
    if is_s1_patch(first) and not second:
        return Named(s2=None, s1=first)
    parse_s2(first)
    if second:
        parse_s1(second)
    return Named(s2=first, s1=second or None)
