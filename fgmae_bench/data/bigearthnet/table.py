"""The patch table: one row a patch, as Parquet or CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from fgmae_bench.data.bigearthnet.labels import CLASSES, nomenclature
from fgmae_bench.data.bigearthnet.parquet import read_parquet
from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import replacing

# Version of the dataset -> format of its table, which changes when a row made before must not be taken over.
FORMAT = {1: "bigearthnet_s1_v1/1", 2: "bigearthnet_s1_v2/1"}
INDEX_FILE = "index.parquet"
FORMATS = ("parquet", "csv")
TODO = "give one that prepare index wrote; a damaged one may be removed"

# Times are UTC, corners metres in the projection `epsg`, sizes bytes. Null: not known (no lists given) or not readable
# (see problem).
_FACTS = {"label_order": "original", "classes": json.dumps(nomenclature("original").classes_19)}
_V1 = pa.schema(
    [
        ("s1_name", pa.string()),
        ("s2_name", pa.string()),  # corresponding_s2_patch, the name that the official lists use
        ("scene", pa.string()),  # scene_source: the product without .SAFE
        ("acquisition_time", pa.string()),
        ("orbit_direction", pa.string()),  # derived from the hour of acquisition, not stated by the publishers
        ("tile", pa.string()),
        ("row", pa.int16()),  # southwards, the second number of the name
        ("col", pa.int16()),  # eastwards, the first number of the name
        ("ulx", pa.float64()),
        ("uly", pa.float64()),
        ("lrx", pa.float64()),
        ("lry", pa.float64()),  # `lly` in the published files
        ("epsg", pa.int32()),
        ("labels_43", pa.list_(pa.string())),
        ("labels_19", pa.list_(pa.uint8(), CLASSES)),  # zeros and ones in the original order
        ("snow", pa.bool_()),
        ("cloud_shadow", pa.bool_()),
        ("no_19_class", pa.bool_()),
        ("vv_bytes", pa.int64()),
        ("vh_bytes", pa.int64()),
        ("json_bytes", pa.int64()),
        ("stamp", pa.uint64()),  # hash of sizes and modification times of the three files
        ("problem", pa.string()),  # null where the patch is whole
    ],
    metadata={"format": FORMAT[1], **_FACTS},
)
# The second version has no file of metadata next to each patch. Null labels: the patch is in no metadata table.
_V2 = pa.schema(
    [
        *(field for field in _V1 if field.name not in ("labels_43", "json_bytes")),
        ("s2v1_name", pa.string()),  # of the S2 patch in the first version
        ("country", pa.string()),
        ("split", pa.string()),  # train, val or test, as the publishers divide
    ],
    metadata={"format": FORMAT[2], **_FACTS},
)
SCHEMAS = {1: _V1, 2: _V2}
SEPARATORS = {"labels_43": "; ", "labels_19": " "}  # of lists in CSV; no class name holds a semicolon


def from_rows(rows: list[dict[str, Any]], version: int = 1) -> pa.Table:
    """A table of rows; columns that a row lacks are null."""
    return pa.Table.from_pylist(rows, SCHEMAS[version])


def read_table(path: Path, version: int = 1) -> pa.Table:
    """A patch table of a version of the dataset, from Parquet or CSV by the file's ending.

    Raises BenchError where it is none or of another version.
    """
    if path.suffix != ".csv":
        table = read_parquet(path, "patch table", TODO)
    else:
        try:
            table = _from_csv(path, SCHEMAS[version])
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0][:120]
            raise BenchError(f"{path} cannot be read as a patch table ({reason})", TODO) from error
    kept = (table.schema.metadata or {}).get(b"format", b"").decode(errors="replace")
    if kept != FORMAT[version] or not table.schema.equals(SCHEMAS[version]):
        what = f"{path} is not a patch table of format {FORMAT[version]}"
        raise BenchError(what, "give one that prepare index wrote for this dataset; an outdated one may be removed")
    _require_complete(table, path)
    return table


def _require_complete(table: pa.Table, path: Path) -> None:
    """Raise BenchError unless names and stamps are stated of every patch, and place and labels of the whole ones."""
    whole = table.filter(pc.is_null(table["problem"]))
    needed = {"s1_name": table, "stamp": table, "tile": whole}
    if "labels_43" in table.column_names:  # the second version has labels in tables of its own
        needed["labels_19"] = whole
    for name, rows in needed.items():
        if rows[name].null_count:
            raise BenchError(f"{path}: {name} is empty in some rows", TODO)
    hot = table["labels_19"].combine_chunks().flatten()
    if hot.null_count or (pc.max(hot).as_py() or 0) > 1:
        raise BenchError(f"{path}: labels_19 holds other values than zeros and ones", TODO)


def write_table(path: Path, table: pa.Table, form: str = "parquet") -> None:
    """Write a table by rename as `parquet` or `csv`."""
    with replacing(path) as temporary:
        if form == "csv":
            pyarrow.csv.write_csv(_flat(table), temporary)
        else:
            pq.write_table(table, temporary, compression="zstd")


def mark_synthetic(table: pa.Table, fingerprint: str) -> pa.Table:
    """The table with the fingerprint of the synthetic world that it is of; CSV does not keep it."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), b"synthetic": fingerprint.encode()})


def is_synthetic(path: Path, table: pa.Table) -> bool:
    """Whether a table read from `path` is of a synthetic world: it says so, or is in one."""
    return b"synthetic" in (table.schema.metadata or {}) or (path.parent / MARKER).is_file()


def _flat(table: pa.Table) -> pa.Table:
    """The table with each list as one text."""
    for name, separator in SEPARATORS.items():
        if name not in table.column_names:
            continue
        texts = pc.binary_join(table[name].cast(pa.list_(pa.string())), separator)
        table = table.set_column(table.schema.get_field_index(name), name, texts)
    return table


def _from_csv(path: Path, schema: pa.Schema) -> pa.Table:
    types = {field.name: pa.string() if field.name in SEPARATORS else field.type for field in schema}
    options = pyarrow.csv.ConvertOptions(
        column_types=types, include_columns=list(types), strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    table = pyarrow.csv.read_csv(path, convert_options=options)
    columns = []
    for field in schema:
        column = table[field.name]
        if field.name in SEPARATORS:
            column = (
                pc.split_pattern(column, SEPARATORS[field.name]).cast(pa.list_(field.type.value_type)).cast(field.type)
            )
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
