"""The published lists of S2 patch names: patches under snow, cloud or shadow, and those with none of the 19 classes."""

from __future__ import annotations

import bz2
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fgmae_bench.data.bigearthnet.names import parse_s2
from fgmae_bench.errors import BenchError

# Column of the patch table -> the list that fills it.
FLAG_LISTS = {"snow": "patches_with_seasonal_snow", "cloud_shadow": "patches_with_cloud_and_shadow"}
NO_19_LIST = "patches_with_no_19_class_targets"


def read_names(path: Path) -> tuple[str, ...]:
    """S2 names of a list in file order: one a line, or the first of two columns; `.bz2` is unpacked.

    Raises BenchError naming file and line where a line is no S2 patch name.
    """
    try:
        content = path.read_bytes()
        text = (bz2.decompress(content) if path.suffix == ".bz2" else content).decode()
    except (OSError, ValueError, EOFError) as error:
        raise BenchError(f"{path}: cannot be read as a list ({error})", "replace the file") from error
    names = []
    for number, line in enumerate(text.splitlines(), 1):
        name = line.split(",")[0].strip()
        if not name:
            continue
        try:
            parse_s2(name)
        except BenchError as error:
            raise BenchError(f"{path}, line {number}: {error.what}", error.todo) from error
        names.append(name)
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
        named = pc.is_in(table["s2_name"], value_set=pa.array(read_names(find_list(folder, stem)), pa.string()))
        flags = pc.if_else(pc.is_valid(table["s2_name"]), named, pa.scalar(None, pa.bool_()))
        table = table.set_column(table.schema.get_field_index(column), table.schema.field(column), flags)
    return table


def contradictions(table: pa.Table, folder: Path) -> list[str]:
    """S2 names on which the labels and the published list of patches with none of the 19 classes disagree, sorted."""
    listed = set(read_names(find_list(folder, NO_19_LIST)))
    known = table.filter(pc.is_valid(table["no_19_class"])).select(["s2_name", "no_19_class"]).to_pydict()
    return sorted(name for name, none in zip(known["s2_name"], known["no_19_class"], strict=True) if none != (name in listed))
