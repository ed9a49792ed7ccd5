"""The index of any dataset as a table: one row a sample, with its files, group, label, and its part of each split."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.config.run import Data, Execution
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.system.files import replacing, write_text

if TYPE_CHECKING:
    from fgmae_bench.data.index import Index

FORMATS = ("csv", "parquet")
PARTS = ("train", "val", "test")
MEANT = ("dataset", "data_path", "out", "format")


def write_index(card: Card, given: dict[str, Any]) -> None:
    """Write the table by rename, print counts and the size of each split. Raises BenchError on flags of BigEarthNet."""
    from fgmae_bench.data.groups import with_groups
    from fgmae_bench.data.index import check_counts
    from fgmae_bench.data.layouts import build_index

    for name in sorted(set(given) - set(MEANT)):
        raise BenchError(f"--{name} means nothing for {card.title}", "leave it out: it is for BigEarthNet's products")
    root = Path(given.get("data_path") or card.data_path)
    out, form = _target(root, given)
    cache = Path(Execution().cache_dir)
    index = build_index(card, root)
    grouped = with_groups(card, index, cache)
    columns = _columns(card, index, grouped)
    sizes = {}
    for name in card.splits:
        try:
            columns[f"split_{name}"], sizes[name] = _parts(card, grouped, index.groups, name, cache)
        except BenchError as error:
            print(f"split {name}: cannot be made here: {error.what}")
    _write(out, form, columns)
    contradiction = check_counts(card, index)
    print(f"{len(index.ids)} samples in {out}, {contradiction.text if contradiction else 'as many as stated'}")
    if grouped.groups is not None:
        print(f"  {len(set(grouped.groups))} groups ({grouped.group_kind})")
    for name, counts in sizes.items():
        print(f"  split {name}: {', '.join(f'{counts[part]} {part}' for part in PARTS)}")


def _target(root: Path, given: dict[str, Any]) -> tuple[Path, str]:
    """(file of the table, its format); next to the data's folder by default, where it is not part of the data."""
    place = root.resolve()
    form = given.get("format") or (Path(given["out"]).suffix.removeprefix(".") if "out" in given else FORMATS[0])
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    out = Path(given.get("out") or place.with_name(f"{place.name}-index.{form}"))
    if out.suffix != f".{form}":
        raise BenchError(f"--out {out} does not end in .{form}", "make --out and --format agree")
    return out, form


def _columns(card: Card, index: Index, grouped: Index) -> dict[str, list[str]]:
    """What the index says of each sample, as text."""
    found = {"sample": list(index.ids), "file": list(index.files)}
    if index.before is not None:
        found["earlier"] = list(index.before)
    if grouped.groups is not None:
        found["group"] = list(grouped.groups)
    if index.labels.ndim == 1:
        found["label"] = [card.classes[label] for label in index.labels]
    elif card.task == "multi_label":
        found["label"] = [";".join(card.classes[k] for k in np.flatnonzero(row)) for row in index.labels]
    elif card.task == "regression" and index.labels.shape[1]:
        found["target"] = [f"{value:.17g}" for value in index.labels[:, 0]]
    return found


def _parts(
    card: Card, grouped: Index, layout_groups: tuple[str, ...] | None, name: str, cache: Path
) -> tuple[list[str], dict[str, int]]:
    """(part of each sample, empty for none; samples of each part) of one split of the card."""
    from fgmae_bench.data.splits import make_split

    parts = make_split(card, grouped, Data(dataset=card.name, split=name), cache, layout_groups)
    column = [""] * len(grouped.ids)
    for part in PARTS:
        for row in getattr(parts, part):
            column[row] = part
    return column, {part: len(getattr(parts, part)) for part in PARTS}


def _write(out: Path, form: str, columns: dict[str, list[str]]) -> None:
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_text(out, text.getvalue())
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(out) as temporary:
        pq.write_table(pa.table(columns), temporary)
