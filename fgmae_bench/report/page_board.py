"""What the board of the page shows, as plain data: pivots with their tests and costs, ranks, agreement of conditions,
physics cards and label curves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from fgmae_bench.metrics.table import METRICS
from fgmae_bench.records import Record
from fgmae_bench.report import cost_pictures, rank_sheets
from fgmae_bench.report.board import Board
from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.formats.common import readable
from fgmae_bench.report.page_data import short
from fgmae_bench.report.pictures import few_label_lines, model_name
from fgmae_bench.report.pivot import STRESSED, Cell, Pivot, mean_of
from fgmae_bench.report.published import title_of
from fgmae_bench.report.ranking import Ranking
from fgmae_bench.report.row import Table
from fgmae_bench.report.sheet import Sheet, of_pivot

MOST_STATED = 60  # lines up to which the page holds what each test of a pair said


def board_data(
    made: Board, tables: Iterable[Table], records: Iterable[Record], names: dict[str, str]
) -> dict[str, Any]:
    """Everything of the board; `names` are the names of runs on the page by their body hash."""
    agreement = rank_sheets.of_agreement(list(made.compared))
    return {
        "costs": {name: [axis.label, axis.less, axis.of_machine] for name, axis in cost_pictures.AXES.items()},
        "pivots": [
            pivot_data(pivot, ranking, names) for pivot, ranking in zip(made.pivots, made.rankings, strict=True)
        ],
        "agreement": None if agreement is None else sheet_data(agreement),
        "cards": card_data(records, names),
        "labels": label_data(tables),
    }


def pivot_data(pivot: Pivot, ranking: Ranking, names: dict[str, str]) -> dict[str, Any]:
    """A pivot with its ranking."""
    sheet = of_pivot(pivot, {})
    return {
        "name": pivot.name,
        "title": pivot.title,
        "sentences": list(sheet.sentences),
        "notes": list(sheet.notes),
        "places": [
            {
                "heading": place.heading,
                "axis": METRICS[place.metric].axis_label,
                "synthetic": place.synthetic,
                "tests": _tests(pivot, c),
            }
            for c, place in enumerate(pivot.places)
        ],
        "lines": [
            {
                "label": line.label,
                "over": line.over,
                "cells": [
                    cell and _cell(cell, place.metric, names)
                    for cell, place in zip(line.cells, pivot.places, strict=True)
                ],
            }
            for line in pivot.lines
        ],
        "rank": {"why": ranking.why} if ranking.why else sheet_data(rank_sheets.of_ranking(ranking)),
    }


def _tests(pivot: Pivot, column: int) -> dict[str, list[list[int]]] | None:
    """The pairs (upper, lower) of lines that are separated, and those that are equal; None where none was tested."""
    apart, lines = pivot.places[column].apart, [i for i, _ in pivot.column(column)]
    if apart is None or len(lines) > MOST_STATED:
        return None

    def pairs(which: np.ndarray) -> list[list[int]]:
        return [[lines[i], lines[j]] for i, j in np.argwhere(which).tolist()]

    return {"above": pairs(apart.above), "equal": pairs(np.triu(apart.equal))}


def _cell(cell: Cell, metric: str, names: dict[str, str]) -> list[Any]:
    """[text, number, interval, distance to the null, may be best, runs, costs in the order of the axes, machine]."""
    costs = [cost_pictures.of_row(cell.row, axis) for axis in cost_pictures.AXES]
    return [
        readable(COLUMNS[metric], cell.value),
        short(mean_of(cell.value), 8),
        "" if cell.bounds is None else readable(COLUMNS[f"{metric}_interval"], cell.bounds),
        "" if cell.delta is None else f"{cell.delta:+.3f}",
        cell.best,
        [names[record["sha256"]] for record in cell.row.records],
        [short(cost) for cost in costs],
        cost_pictures.machine_of(cell.row),
    ]


def sheet_data(sheet: Sheet) -> dict[str, Any]:
    """A sheet: headings, texts of its rows, what is said above and below."""
    return {
        "name": sheet.name,
        "title": sheet.title,
        "sentences": list(sheet.sentences),
        "headings": [[head.text, head.number] for head in sheet.headings],
        "rows": [[entry.text for entry in row] for row in sheet.rows],
        "notes": list(sheet.notes),
    }


def card_data(records: Iterable[Record], names: dict[str, str]) -> list[dict[str, Any]]:
    """A line a stress record: its run, what it is of, its clean score, and what each stress leaves of it."""
    found = []
    for record in records:
        tolerances = record["metrics"].get("tolerance") or {}
        if not record["protocol"].startswith(STRESSED) or not tolerances:
            continue
        metric = next(iter(tolerances.values()))["metric"]
        found.append(
            {
                "run": names[record["sha256"]],
                "model": model_name(record),
                "dataset": title_of(record["dataset"]["name"]),
                "protocol": record["protocol"].removeprefix(STRESSED),
                "split": record["dataset"]["split"],
                "synthetic": record["dataset"]["synthetic"],
                "metric": metric,
                "clean": short(tolerances[next(iter(tolerances))]["clean"]),
                "stresses": {name: _tolerated(record, name) for name in tolerances},
            }
        )
    alike = Counter(_heading(card) for card in found)
    return [{**card, "of": card["run"] if alike[_heading(card)] > 1 else ""} for card in found]


def _heading(card: dict[str, Any]) -> tuple[str, ...]:
    """What a card is headed by; cards that share it are distinguished by their runs."""
    return tuple(card[name] for name in ("model", "dataset", "split", "protocol"))


def _tolerated(record: Record, name: str) -> list[Any]:
    """[what is tolerated in words, unit, scores by severity]."""
    tolerance = record["metrics"]["tolerance"][name]
    items = [item for item in record["stress"] or [] if item["name"] == name]
    scores = [[item["severity"], short(item["metrics"].get(tolerance["metric"]))] for item in items]
    if tolerance.get("withheld"):
        return ["withheld", tolerance["withheld"], scores]
    if tolerance["value"] is None:
        return [f"> {scores[-1][0]:g}" if scores else "never lost", tolerance["unit"], scores]
    return [f"{tolerance['value']:.2f}", tolerance["unit"], scores]


def label_data(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """The curves over few labels of each table, by share of the labels and by shots."""
    found = []
    for table in tables:
        for shots in (False, True):
            lines = few_label_lines(table, shots=shots)
            if lines:
                found.append(
                    {
                        "name": f"labels-{table.name}{'-shots' * shots}",
                        "title": f"{table.title}: {'k-shot' if shots else 'few-label'} curves",
                        "axis": "training labels of each class" if shots else "share of the training labels",
                        "lines": [
                            [name, [[size, short(mean), short(half)] for size, mean, half in points]]
                            for name, points in lines.items()
                        ],
                    }
                )
    return found
