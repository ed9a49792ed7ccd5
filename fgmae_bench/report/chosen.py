"""What tables add to measured rows: the row that val selects of a grid, and areas under curves of few labels."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from fgmae_bench.metrics.label_curves import area_on_log
from fgmae_bench.metrics.selection import best_on_val
from fgmae_bench.metrics.significance import t_quantile
from fgmae_bench.metrics.table import METRICS
from fgmae_bench.records import Record
from fgmae_bench.report.row import Bounds, Note, Row, Spread, summary, unique

GRID = ("lr", "weight_decay")  # of a recipe: what one command goes over
SIZE = ("shots", "train_frac", "knn_k")  # what changes along a curve of labels
LEVEL = 0.95
Settings = Callable[[Record], dict[str, Any]]


def main_metric(record: Record) -> str | None:
    """The metric that a run's task is known by."""
    test = record["metrics"]["test"]
    return next((name for name, metric in METRICS.items() if metric.selects and test.get(name) is not None), None)


def few_labels(record: Record) -> bool:
    """Whether a run saw some of the labels, drawn by its seed and draw."""
    data = record["config"]["data"]
    return data.get("shots") is not None or ("draw" in data and float(data.get("train_frac", 1.0)) < 1)


def chance(record: Record) -> tuple[int, int]:
    """(seed, draw of labels) of a run."""
    return int(record["config"]["recipe"].get("seed") or 0), int(record["config"]["data"].get("draw") or 0)


def spread_words(records: Sequence[Record]) -> str:
    """What the runs of a row differ by: `3 seeds`, `5 draws`, `2 seeds x 5 draws`; where runs of these are lacking, how
    many there are.
    """
    counts = [len(set(numbers)) for numbers in zip(*map(chance, records), strict=True)]
    parts = [f"{count} {name}" for count, name in zip(counts, ("seeds", "draws"), strict=True) if count > 1]
    words = " x ".join(parts) or f"{len(records)} runs"
    return words if not parts or counts[0] * counts[1] == len(records) else f"{len(records)} runs of {words}"


def seeds_or_draws(row: Row) -> int | str | None:
    """How many seeds a row is of; where labels were drawn several times, in words: `5 draws`, `2 seeds x 5 draws`."""
    drawn = {draw for _, draw in map(chance, row.records)}
    return spread_words(row.records) if len(drawn) > 1 else len(row.records) or None


def spread_word(records: Sequence[Record]) -> str:
    """What the runs of rows differ by, in one word: seeds; draws, where they are of one seed and labels are drawn."""
    seeds, draws = (len(set(numbers)) for numbers in zip(*map(chance, records), strict=True))
    return "draws" if draws > 1 and seeds == 1 else "seeds"


def labels_used(record: Record) -> int:
    """Labels of training, and of val where an epoch or a penalty was chosen on it."""
    chosen = record["metrics"]["best"] is not None or (record.get("selection") or {}).get("on") == "val"
    return int(record["dataset"]["n_train"] + (record["dataset"]["n_val"] if chosen else 0))


def with_selected(rows: list[Row], settings: Settings) -> list[Row]:
    """The measured rows of one planned run, and below them, for each grid with a val split, the row that val selects:
    the highest main metric on val, mean over seeds, ties to the first. Its test scores are those of that row.
    """
    grids: dict[str, list[Row]] = {}
    for row in rows:
        if row.records and row.records[0]["dataset"]["n_val"]:
            grids.setdefault(alike(row.records[0], settings, GRID), []).append(row)
    sizes = {id(row): len(several) for several in grids.values() for row in several}
    found = [dataclasses.replace(row, grid=sizes.get(id(row))) for row in rows]
    for several in grids.values():
        best = best_on_val([_on_val(row) for row in several]) if len(several) > 1 else None
        if best is not None:
            found.append(_selected(several, several[best]))
    return found


def selected_on_val(rows: list[Row], settings: Settings) -> Row | None:
    """The row that val selects, where the rows are one grid with a val split; None where they are not."""
    one = {alike(row.records[0], settings, GRID) for row in rows}
    chosen = [row for row in with_selected(rows, settings) if row.candidates]
    return chosen[0] if len(one) == 1 and chosen else None


def with_budgets(rows: list[Row]) -> list[Row]:
    """The rows of a table, those that val selected with a note where others of their dataset had another budget."""
    budgets: dict[str, set[int]] = {}
    for row in rows:
        if row.grid:
            budgets.setdefault(row.dataset, set()).add(row.grid)
    return [_noted(row, sorted(budgets[row.dataset])) if row.candidates else row for row in rows]


def with_areas(rows: list[Row], settings: Settings) -> list[Row]:
    """The rows, those of few labels with the area under the curve that they are points of, over the draws of all."""
    curves: dict[str, list[Row]] = {}
    for row in rows:
        if row.records and not row.candidates and few_labels(row.records[0]) and main_metric(row.records[0]):
            curves.setdefault(alike(row.records[0], settings, SIZE), []).append(row)
    areas = {id(row): _area(several) for several in curves.values() for row in several}
    return [dataclasses.replace(row, area=areas[id(row)]) if id(row) in areas else row for row in rows]


def over_draws(row: Row) -> Bounds | None:
    """The interval of the main metric over draws of few labels: mean ± t(D - 1) standard errors."""
    metric = main_metric(row.records[0]) if row.records and few_labels(row.records[0]) else None
    value = summary(record["metrics"]["test"].get(metric) for record in row.records) if metric else None
    if not isinstance(value, Spread):
        return None
    half = t_quantile(LEVEL, value.n - 1) * value.std / value.n**0.5
    return Bounds(low=value.mean - half, high=value.mean + half)


def alike(record: Record, settings: Settings, without: tuple[str, ...]) -> str:
    """The settings of a record but for those named, as text: what records of one grid or curve share."""
    kept = {name: value for name, value in settings(record).items() if name not in without}
    return json.dumps([kept, record["dataset"]["synthetic"]], sort_keys=True)


def _on_val(row: Row) -> float | None:
    """The main metric on val of the epoch that a run kept, mean over seeds."""
    metric = main_metric(row.records[0])
    values = [(record["metrics"]["best"] or record["metrics"]["final"]).get(metric) for record in row.records]
    return None if metric is None or any(value is None for value in values) else statistics.fmean(values)


def _selected(several: list[Row], best: Row) -> Row:
    edges = []
    for name in GRID:
        values = sorted({float(row.records[0]["config"]["recipe"].get(name) or 0) for row in several})
        own = float(best.records[0]["config"]["recipe"].get(name) or 0)
        edges += [f"{name} {own:g}"] if len(values) > 2 and own in (values[0], values[-1]) else []
    at = f"; {' and '.join(edges)} at the edge of the grid" if edges else ""
    text = f"selected on val: the best of {len(several)} settings by {main_metric(best.records[0])} on val{at}"
    return dataclasses.replace(
        best,
        label=f"{best.label}, selected on val",
        published=None,
        deltas={},
        candidates=len(several),
        notes=unique([Note(code="selected_on_val", text=text), *best.notes]),
    )


def _noted(row: Row, budgets: list[int]) -> Row:
    others = [str(budget) for budget in budgets if budget != row.candidates]
    if not others:
        return row
    text = f"unequal budgets: chosen from {row.candidates} settings, where other rows were from {' and '.join(others)}"
    return dataclasses.replace(row, notes=unique([*row.notes, Note(code="unequal_budgets", text=text)]))


def _area(rows: list[Row]) -> float | Spread | None:
    """Area of each draw that every row holds, as a mean and spread; None for a single point, or scores undefined."""
    metric = main_metric(rows[0].records[0])
    points = [{chance(record): record for record in row.records} for row in rows]
    areas = []
    for draw in (draw for draw in points[0] if all(draw in each for each in points)):
        curve = sorted((labels_used(each[draw]), each[draw]["metrics"]["test"].get(metric)) for each in points)
        labels, scores = zip(*curve, strict=True)
        if len(set(labels)) < max(2, len(labels)) or labels[0] <= 0 or None in scores:
            return None
        areas.append(area_on_log(labels, scores))
    return summary(areas)
