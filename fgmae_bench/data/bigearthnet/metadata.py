"""The tables of BigEarthNet v2 next to its patches: labels, split, country, and cover by snow or clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fgmae_bench.data.bigearthnet.labels import CLASSES, nomenclature
from fgmae_bench.data.bigearthnet.parquet import read_parquet
from fgmae_bench.data.bigearthnet.table import SCHEMAS
from fgmae_bench.errors import BenchError, closest

CLEAR, COVERED = "metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
# Column of the patch table -> column of the published tables.
COLUMNS = {
    "s1_name": "s1_name",
    "s2_name": "patch_id",
    "s2v1_name": "s2v1_name",
    "country": "country",
    "split": "split",
    "snow": "contains_seasonal_snow",
    "cloud_shadow": "contains_cloud_or_shadow",
}
LABELS = "labels"
PARTS = {"train": "train", "validation": "val", "test": "test"}
TODO = "restore it from the archive"


def find_metadata(root: Path) -> list[Path]:
    """The tables in `root`, else next to it; the one on covered patches may be missing. Raises BenchError without the
    other.
    """
    for folder in (root, root.parent):
        if (folder / CLEAR).is_file():
            return [folder / name for name in (CLEAR, COVERED) if (folder / name).is_file()]
    raise BenchError(
        f"{root}: {CLEAR} is neither in it nor next to it", f"put {CLEAR} of the archive next to BigEarthNet-S1"
    )


def read_metadata(paths: list[Path]) -> pa.Table:
    """Columns COLUMNS, `labels_19` and `no_19_class` of all patches that the tables name, each once.

    Raises BenchError naming the table: unreadable, without a column, with an unknown label or part, with a patch that
    has two rows.
    """
    table = pa.concat_tables([_read_one(path) for path in paths])
    for column, what in (("s1_name", "S1"), ("s2_name", "S2")):
        counts = pc.value_counts(table[column].combine_chunks())
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            name = twice.field("values")[0].as_py()
            raise BenchError(
                f"{' and '.join(map(str, paths))}: {len(twice)} {what} patches have several rows, first {name}", TODO
            )
    return table


def joined(table: pa.Table, metadata: pa.Table) -> pa.Table:
    """The patch table with what `metadata` says of each patch; null where it says nothing."""
    rows = pc.index_in(table["s1_name"].combine_chunks(), value_set=metadata["s1_name"].combine_chunks())
    for name in metadata.column_names:
        if name != "s1_name":
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(name), metadata[name].combine_chunks().take(rows))
    return table


def _read_one(path: Path) -> pa.Table:
    table = read_parquet(path, "table", TODO, [*COLUMNS.values(), LABELS])
    try:
        columns = {
            name: table[source].cast(SCHEMAS[2].field(name).type).combine_chunks() for name, source in COLUMNS.items()
        }
        labels = table[LABELS].cast(pa.list_(pa.string())).combine_chunks()
    except pa.ArrowException as error:
        raise BenchError(f"{path}: a column is of another type ({str(error).splitlines()[0][:120]})", TODO) from error
    empty = sorted(name for name, column in {**columns, LABELS: labels}.items() if column.null_count)
    if empty:
        raise BenchError(f"{path}: {', '.join(COLUMNS.get(name, name) for name in empty)} is empty in some rows", TODO)
    columns["split"] = _parts(columns["split"], path)
    hot = _multi_hot(labels, path)
    columns["labels_19"] = pa.FixedSizeListArray.from_arrays(pa.array(hot.ravel()), CLASSES)
    columns["no_19_class"] = pa.array(hot.sum(axis=1) == 0)
    return pa.table(columns)


def _parts(said: pa.StringArray, path: Path) -> pa.StringArray:
    for name in pc.unique(said).to_pylist():
        if name not in PARTS:
            raise BenchError(f"{path}: unknown split '{name}'", closest(name, PARTS))
    return pc.if_else(pc.equal(said, "validation"), "val", said)


def _multi_hot(labels: pa.ListArray, path: Path) -> NDArray[np.uint8]:
    """(N, 19) zeros and ones in the original order."""
    classes = nomenclature().classes_19
    place = pc.index_in(labels.flatten(), value_set=pa.array(classes))
    if place.null_count:
        label = str(labels.flatten().filter(pc.is_null(place))[0])
        raise BenchError(f"{path}: unknown label '{label}'", closest(label, classes))
    hot = np.zeros((len(labels), CLASSES), np.uint8)
    hot[pc.list_parent_indices(labels).to_numpy(), place.to_numpy()] = 1
    return hot
