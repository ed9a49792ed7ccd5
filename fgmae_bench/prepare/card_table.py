"""What a table of samples says: which column names the image, which the label or the target, group and split."""

from __future__ import annotations

import csv
import functools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fgmae_bench.data.bigearthnet.parquet import THRIFT_LIMITS
from fgmae_bench.data.files import PARTS, stem_of
from fgmae_bench.data.gather import Found, find_images, store_in
from fgmae_bench.data.geometry import geometry_columns
from fgmae_bench.data.table import NOTHING, PARQUET, read_table
from fgmae_bench.data.zarr_layout import likely_images
from fgmae_bench.data.zarr_store import open_store
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare.card_names import named_options
from fgmae_bench.prepare.card_plan import Plan

GROUPS = ("group", "site", "scene", "tile", "location", "region", "event", "aoi", "place", "country", "city", "area")
SPLITS = ("split", "part", "subset", "set", "partition", "fold")
LABELS = ("label", "labels", "class", "classes", "category", "land_cover", "landcover", "target", "y")
SEPARATORS = (";", "|", ",")
# What tables of other kinds are, and how they become one that is read.
GEO = (".geojson", ".json", ".gpkg", ".shp", ".kml")
OTHER_TABLES = {
    **dict.fromkeys((".geojson", ".json"), "GeoJSON, or other JSON"),
    **dict.fromkeys((".gpkg", ".shp", ".kml"), "a layer of geometries"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet"),
    **dict.fromkeys((".feather", ".arrow", ".jsonl", ".h5", ".mat", ".pkl", ".npy"), "no CSV or Parquet file"),
}
OTHER_TODO = dict.fromkeys(GEO, "write it as GeoParquet: geopandas.read_file(FILE).to_parquet('labels.parquet')")
SPREADSHEET_TODO = "write it as CSV or Parquet, one row an image"
PLACES = ((("lon", "longitude", "long", "lng"), 180.0), (("lat", "latitude"), 90.0))
MOST_CLASSES = 200
FLAGS = {"0", "1", "0.0", "1.0", "true", "false"}
Columns = dict[str, list[str]]


def plan_of_table(root: Path, table: Path) -> Plan:
    """What a folder with a table of its samples is. Raises BenchError where no column names images, or none labels."""
    folder, (root, table) = root.resolve(), _common(root, table)
    held = _read(table)
    images, _ = find_images(root)
    if not images:
        raise BenchError(f"{root} holds no image that is read", "give a folder of TIFF, PNG or .npy files")
    path, stems = _path_column(table, held, images)
    plan = Plan(root=root, task="single_label", kind="table", images=[])
    plan.options |= {"table": table.relative_to(root).as_posix()} | ({} if path == "file" else {"path": path})
    store = store_in(root)
    if store is not None:
        plan.kind, plan.options = "zarr", store_options(root, store) | plan.options
    else:
        plan.options |= _where(root, folder, held[path], stems)
    plan.images = [stems[stem] for value in held[path] if (stem := _stem(value)) in stems]
    absent = sum(_stem(value) not in stems for value in held[path])
    if absent:
        plan.remark("layout", f"{absent} of {len(held[path])} rows name no image that is there: a run refuses them")
    columns(plan, {name: values for name, values in held.items() if name != path}, table)
    geometries = list(geometry_columns(table)) if table.suffix.lower() in PARQUET else []
    if geometries:
        plan.options["place"] = geometries[:1]
    return plan


def store_options(root: Path, store: Path) -> dict[str, Any]:
    """`store` and `variable` of [layout], as far as they have to be said."""
    variable, _ = likely_images(open_store(store))
    found = {} if store == root else {"store": store.relative_to(root).as_posix()}
    return found | {"variable": variable}


def columns(plan: Plan, rest: Columns, where: Path) -> None:
    """Say of columns of values, of a table or a store, which holds label or target, group, split and places."""
    split = _named(rest, SPLITS, lambda values: {v.lower() for v in values} - {""} <= set(PARTS))
    group = _named(rest, GROUPS, lambda values: len(set(values)) >= 2)
    for name, column in (("split", split), ("group", group)):
        if column:
            plan.options[name] = column
    plan.stated = bool(split)
    if group:
        plan.groups = rest[group]
    place = [_named(rest, names, functools.partial(_within, most)) for names, most in PLACES]
    if all(place):
        plan.options["place"] = place
    if not plan.label_folder:
        known = (split, group, *(place if all(place) else ()))
        _label(plan, {name: values for name, values in rest.items() if name not in known}, where)


def _within(most: float, values: list[str]) -> bool:
    """Whether all values are degrees up to `most`."""
    numbers = _numbers(set(values))
    return numbers is not None and all(abs(number) <= most for number in numbers)


def _common(root: Path, table: Path) -> tuple[Path, Path]:
    """(the data's folder, which holds the table, the table)."""
    if not root.is_dir():
        raise BenchError(f"{root} is not a folder", "give the folder of the images")
    if not table.is_file():
        raise BenchError(f"{table} is not a file", "give a CSV or Parquet file with --labels")
    kind = table.suffix.lower()
    if kind in OTHER_TABLES:
        raise BenchError(f"{table} is {OTHER_TABLES[kind]}", OTHER_TODO.get(kind, SPREADSHEET_TODO))
    root, table = root.resolve(), table.resolve()
    if table.is_relative_to(root):
        return root, table
    if root.is_relative_to(table.parent):
        return table.parent, table
    raise BenchError(f"{table} is neither in {root} nor next to it", "put it there")


def _read(table: Path) -> Columns:
    """Values of every column as text."""
    try:
        if table.suffix.lower() in PARQUET:
            schema = pq.ParquetFile(table, **THRIFT_LIMITS).schema_arrow
            names = [field.name for field in schema if not pa.types.is_binary(field.type) and field.name != "geometry"]
        else:
            with open(table, encoding="utf-8-sig", newline="") as stream:
                first = stream.readline(1 << 16)
            mark = max(",;\t", key=first.count)
            names = [name.strip() for name in next(csv.reader([first], delimiter=mark), [])]
    except (OSError, ValueError, pa.ArrowException, csv.Error) as error:
        raise BenchError(f"{table} cannot be read as a table ({error})", "give a CSV in UTF-8, or Parquet") from error
    names = list(filter(None, names))
    rows = read_table(table, names, ";")
    if not rows:
        raise BenchError(f"{table} has no rows", "give one line an image")
    return {name: [row.values[name] for row in rows] for name in names}


def _stem(value: str) -> str:
    return stem_of(os.path.basename(value.replace("\\", "/")))


def _path_column(table: Path, held: Columns, images: list[Found]) -> tuple[str, dict[str, Found]]:
    """(the column that names images, images by name without folder and ending)."""
    stems = {_stem(image.name): image for image in images}
    shares = {name: sum(_stem(value) in stems for value in values) / len(values) for name, values in held.items()}
    best = max(shares, key=lambda name: shares[name], default="")
    if not best or shares[best] < 0.5:
        named = ", ".join(held)
        what = f"{table}: no column names images of the folder ({named})"
        raise BenchError(what, f"give a column with names such as {next(iter(stems))}")
    return best, stems


def _where(root: Path, given: Path, values: list[str], stems: dict[str, Found]) -> dict[str, str]:
    """`images` of [layout] where the table's values are not paths of files as they stand, but perhaps below `given`."""
    known = [(value, stems[_stem(value)]) for value in values if _stem(value) in stems]
    if _are_files(root, known):
        return {}
    endings = {image.files[0].suffix for _, image in known}
    if given != root and len(endings) == 1 and _are_files(given, known):
        return {"images": f"{given.relative_to(root).as_posix()}/*{endings.pop()}"}
    folders = {image.files[0].parent.relative_to(root).as_posix() for _, image in known}
    if len(folders) != 1:
        raise BenchError(
            f"{root}: images are in {len(folders)} folders, which the table does not name",
            "write paths relative to the folder into the table",
        )
    folder = folders.pop()
    lead = "" if folder == "." else f"{folder}/"
    first = known[0][1]
    named = named_options([first], first.files[0].name).get("images", f"*{first.files[0].suffix}")
    return {"images": lead + named}


def _are_files(folder: Path, known: list[tuple[str, Found]]) -> bool:
    """Whether values are, as they stand, paths of files below `folder` that hold all bands."""
    return all(not image.bands and os.path.isfile(folder / value.replace("\\", "/")) for value, image in known)


def _named(held: Columns, names: tuple[str, ...], fits: Callable[[list[str]], bool]) -> str:
    """The first column of one of some names whose values fit, empty without any."""
    by_name = {name.lower(): name for name in held}
    return next((by_name[name] for name in names if name in by_name and fits(held[by_name[name]])), "")


def _label(plan: Plan, held: Columns, table: Path) -> None:
    """Decide on the task and its columns; of several that would do, the one named as labels are, else the first."""
    kinds = {name: kind for name, values in held.items() if (kind := _kind(values))}
    flags = [name for name, kind in kinds.items() if kind == "flag"]
    order = sorted(kinds, key=lambda name: (name.lower() not in LABELS, list(kinds).index(name)))
    named = next((name for name in order if name.lower() in LABELS and kinds[name] != "flag"), "")
    if len(flags) >= 2 and not named:
        plan.task, plan.classes = "multi_label", flags
        plan.per_class = {name: sum(value.lower() in ("1", "1.0", "true") for value in held[name]) for name in flags}
        plan.remark("layout", f"{len(flags)} columns of 0 and 1: guessed to be one class each")
        return
    chosen = named or next(
        (name for kind in ("many", "one", "number", "flag") for name in order if kinds[name] == kind), ""
    )
    if not chosen:
        raise BenchError(f"{table}: no column holds labels ({', '.join(held)})", "give a column of classes or numbers")
    others = [name for name in kinds if name != chosen]
    if others:
        plan.remark("layout", f"GUESSED: '{chosen}' is what is predicted; it could also be {', '.join(others[:8])}")
    values = [value for value in held[chosen] if value.lower() not in NOTHING]
    if len(values) < len(held[chosen]):
        plan.remark("layout", f"{len(held[chosen]) - len(values)} rows without a value are left out and counted")
    if kinds[chosen] == "number":
        if any("," in value for value in values):
            plan.options["decimal"] = ","
            plan.remark("layout", f"GUESSED: a comma is the decimal point, as in {next(v for v in values if ',' in v)}")
        plan.task, plan.target, plan.options["target"] = "regression", chosen, chosen
        numbers = sorted(_numbers(set(values)) or ())
        plan.remark("target", f"{len(values)} values from {numbers[0]:g} to {numbers[-1]:g}; give it its unit")
        return
    plan.options["label"] = chosen
    if kinds[chosen] == "many":
        mark = next(mark for mark in SEPARATORS if any(mark in value for value in values))
        plan.task, plan.options["separator"] = "multi_label", mark
        values = [name.strip() for value in values for name in value.split(mark) if name.strip()]
    counts = Counter(values)
    plan.classes, plan.per_class = sorted(counts), dict(sorted(counts.items()))


def _kind(values: list[str]) -> str:
    """flag, many (several classes in a cell), one (a class), number, or empty where a column is none of them."""
    known = [value for value in values if value.lower() not in NOTHING]
    different = set(known)
    if len(different) < 2:
        return ""
    if {value.lower() for value in different} <= FLAGS:
        return "flag"
    numbers = _numbers(different)
    if numbers is not None:
        whole = all(number == round(number) for number in numbers)
        return "one" if whole and len(different) <= 20 and len(known) >= 4 * len(different) else "number"
    for mark in SEPARATORS:
        parts = [part.strip() for value in known for part in value.split(mark)]
        several = sum(mark in value for value in known) >= 0.1 * len(known)
        if several and 2 * len(set(parts)) <= len(parts) and len(set(parts)) <= MOST_CLASSES:  # classes occur again
            return "many"
    return "one" if len(different) <= min(MOST_CLASSES, max(2, len(known) // 2)) else ""


def _numbers(values: set[str]) -> list[float] | None:
    """Values as numbers, with decimal commas too where none has a point; None where one is not a number."""
    commas = any("," in value for value in values) and not any("." in value for value in values)
    try:
        return [float(value.replace(",", ".", 1) if commas else value) for value in values]
    except ValueError:
        return None
