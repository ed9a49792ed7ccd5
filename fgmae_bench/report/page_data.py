"""What the page shows, as plain data: cells with the values they sort by, facets, notes, and thinned curves."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from fgmae_bench.config.layout import INTERVAL, heading
from fgmae_bench.records import Record
from fgmae_bench.report.columns import COLUMNS, Column
from fgmae_bench.report.formats.common import explanations, footnotes, note_numbers, note_texts, readable, shown_columns
from fgmae_bench.report.published import title_of
from fgmae_bench.report.row import Bounds, Note, Row, Spread, Table, Value

FACETS = ("dataset", "model", "recipe")
OTHER_RUNS = "other_runs"
MOST_CLASSES = 3  # whose IoU has a column where no layout asks for it
MAX_POINTS, MIN_POINTS, POINTS_OF_A_SERIES_TOGETHER = (
    100,
    20,
    50_000,
)  # the last bounds the page: 1,000 runs get 50 points each
DIGITS_OF_CURVES, DIGITS_OF_SORTING = 5, 12


def keys(records: list[Record]) -> dict[str, str]:
    """Body hash -> name of the run on the page: its run id, with the start of the hash where two bodies share one."""
    bodies = {record["sha256"]: record["run_id"] for record in records}
    count = Counter(bodies.values())
    return {sha: run_id if count[run_id] == 1 else f"{run_id}-{sha[:10]}" for sha, run_id in bodies.items()}


def table_data(table: Table) -> dict[str, Any]:
    """A table without its rows."""
    return {
        "name": table.name,
        "title": table.title,
        "protocol": table.protocol,
        "expect": table.expect,
        "planned": table.planned_runs,
        "measured": table.measured_runs,
        "columns": columns_of(table),
        "curves": curve_metrics(table),
        "explanations": explanations(table),
        "notes": [text for _, text in note_texts(footnotes(table))],
    }


def columns_of(table: Table) -> list[str]:
    """The columns of every readable format; in front the run's name, which opens its record."""
    return ["run", *(name for name in shown_columns(table) if name != "run")]


def row_data(row: Row, columns: list[str], numbers: dict[Note, int], names: dict[str, str]) -> dict[str, Any]:
    """A row: cells in the order of `columns`, facets in that of FACETS, kind, keys of its runs, numbers of notes."""
    return {
        "kind": kind(row),
        "cells": [None if name == "remarks" else cell(COLUMNS[name], COLUMNS[name].value(row)) for name in columns],
        "facets": [readable(COLUMNS[name], COLUMNS[name].value(row)) for name in FACETS],
        "runs": [names[record["sha256"]] for record in row.records],
        "notes": note_numbers(row.notes, numbers),
    }


def heading_data(name: str) -> list[Any]:
    """Heading of a column, what it means, and whether it is measured (a setting that all share is said once)."""
    return [*heading(name), COLUMNS[name].digits is not None]


def kind(row: Row) -> str:
    """What stands behind a row: synthetic, measured, published or (nothing yet) planned."""
    if row.records:
        return "synthetic" if row.synthetic else "measured"
    return "published" if row.published else "planned"


def cell(column: Column, value: Value) -> str | list[Any]:
    """The text of a cell; with the number that it sorts by where there is one."""
    text = readable(column, value)
    number = value.mean if isinstance(value, Spread) else value.low if isinstance(value, Bounds) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        return text
    return [text, short(number, DIGITS_OF_SORTING)]


def run_data(record: Record, metrics: list[str], points: int) -> dict[str, Any]:
    """A run's curves, at most `points` of each: first and last epoch always among them."""
    entries = thinned(record["history"], points)
    return {
        "seed": record["config"]["recipe"].get("seed"),
        "synthetic": record["dataset"]["synthetic"],
        "epoch": [entry["epoch"] for entry in entries],
        "lr": [short(entry["lr"]) for entry in entries],
        "train": [short(entry["train_loss"]) for entry in entries],
        "val": {metric: [short(entry["val"].get(metric)) for entry in entries] for metric in metrics},
    }


def points_of(runs: int) -> int:
    """Points of a curve on a page of so many runs; the record itself holds them all."""
    return max(MIN_POINTS, min(MAX_POINTS, POINTS_OF_A_SERIES_TOGETHER // max(1, runs)))


def thinned(entries: list[Any], points: int) -> list[Any]:
    """At most `points` entries, evenly spread from the first to the last."""
    if len(entries) <= points:
        return entries
    return [entries[round(i * (len(entries) - 1) / (points - 1))] for i in range(points)]


def short(value: float | None, digits: int = DIGITS_OF_CURVES) -> float | int | None:
    """The number with so many significant digits; None where there is none that JSON could hold."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded


def curve_metrics(table: Table) -> list[str]:
    """The metrics whose curves the page draws, the loss in front; the learning rate is always there."""
    return [name for name in dict.fromkeys(["loss", *table.figures]) if name != "lr"]


def _ious(record: Record) -> list[str]:
    """The classes of a segmentation."""
    held = record["metrics"].get("per_class") or {}
    return [name for name, scores in held.items() if isinstance(scores, dict) and scores.get("iou") is not None]


def _few(records: list[Record]) -> list[str]:
    """The columns that say how few labels were seen, where any record is of few."""
    usual = {"shots": None, "train_frac": 1.0}
    return [
        name
        for name, value in usual.items()
        if any(each["config"]["data"].get(name, value) != value for each in records)
    ]


def other_runs(records: list[Record], title: str = "Runs of no table", pooled: tuple[Row, ...] = ()) -> Table | None:
    """A table of runs that belong to no experiment, None where there are none: a row a run, or those of `pooled`."""
    if not records:
        return None
    titles = {name: title_of(name) for name in {record["dataset"]["name"] for record in records}}
    rows = pooled or tuple(
        Row(
            label=record["run_id"],
            dataset=titles[record["dataset"]["name"]],
            records=(record,),
            notes=tuple(Note(code=note["code"], text=note["text"]) for note in record["notes"]),
        )
        for record in records
    )
    known = {metric for record in records for metric in record["metrics"]["test"]}
    scored = [name for name in COLUMNS if name in known]
    classes = dict.fromkeys(name for record in records for name in _ious(record))
    if len(classes) <= MOST_CLASSES:
        scored += [f"iou:{name}{end}" for name in classes for end in ("", INTERVAL.format(""))]
    few, ids = (_few(records), ["run_id"]) if pooled else ([], [])
    facts = ("dataset", "run", "protocol", "model", "weights", "recipe", "split")
    return Table(
        name=OTHER_RUNS,
        title=title,
        protocol=", ".join(sorted({record["protocol"] for record in records})),
        expect="",
        columns=(*facts, *few, "lr", "epochs", *scored, *ids),
        rows=rows,
        planned_runs=len(rows),
        measured_runs=len(rows),
        figures=dict.fromkeys([name for name in scored if name != "loss"][:1], ""),
    )
