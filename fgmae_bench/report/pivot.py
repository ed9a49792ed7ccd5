"""Models x datasets of one protocol: what its columns, lines and cells are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fgmae_bench.metrics.separation import Apart
from fgmae_bench.metrics.table import METRICS
from fgmae_bench.report.chosen import main_metric
from fgmae_bench.report.row import Bounds, Row, Spread, summary

STRESSED = "stress_"  # how protocols of stressed views begin: they have cards of their own


@dataclass(frozen=True, kw_only=True)
class Place:
    """A column: a dataset as it was split and labelled, with the metric that it is known by.

    `facts` are those of `every` fact that tell it from the other columns of its dataset; `groups` is what its test
    samples come in, such as `5 scenes`; `null` the row that its distances are from.
    """

    dataset: str
    title: str
    metric: str
    facts: tuple[str, ...]
    every: tuple[tuple[str, Any], ...]
    synthetic: bool
    groups: str
    null: Row | None = None
    apart: Apart | None = None  # of the rows of the column in the order of its lines, where they were tested
    untested: str = ""  # why not

    @property
    def heading(self) -> str:
        """Title with what tells the column from others of the dataset, metric, and how many groups were tested on."""
        marks = ", ".join([*self.facts, *(["synthetic"] if self.synthetic else [])])
        known_by = f" ({marks})" if marks else ""
        return f"{self.title}{known_by}, {METRICS[self.metric].title}, {self.groups}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row on a dataset: its score, the interval over groups, its distance to the null, and whether it may be best."""

    row: Row
    value: float | Spread
    bounds: Bounds | None
    delta: float | None
    best: bool | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A model: what its spread is over, a cell a place, and why it is not ranked, where it is not."""

    label: str
    over: str
    cells: tuple[Cell | None, ...]
    unranked: str = ""
    model: str = ""  # what it is on any dataset and protocol; empty where settings make several lines of one model


@dataclass(frozen=True, kw_only=True)
class Pivot:
    """Lines x places of one protocol; `refused` says which datasets have no column, and why."""

    protocol: str
    places: tuple[Place, ...]
    lines: tuple[Line, ...]
    refused: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"pivot-{self.protocol}"

    @property
    def title(self) -> str:
        """What stands above it."""
        return f"Models x datasets: {self.protocol.replace('_', ' ')}"

    def column(self, index: int) -> list[tuple[int, Cell]]:
        """(number of the line, cell) of the cells that a column holds."""
        return [(i, cell) for i, line in enumerate(self.lines) if (cell := line.cells[index]) is not None]

    def only(self, datasets: Iterable[str]) -> Pivot:
        """The pivot with the columns of some datasets, and the lines that have a cell there."""
        kept = [c for c, place in enumerate(self.places) if place.dataset in set(datasets)]
        lines = [dataclasses.replace(line, cells=tuple(line.cells[c] for c in kept)) for line in self.lines]
        return dataclasses.replace(
            self, places=tuple(self.places[c] for c in kept), lines=tuple(line for line in lines if any(line.cells))
        )


def score_of(row: Row) -> float | Spread | None:
    """The main metric of a row, over its seeds; None where it has none."""
    metric = main_metric(row.records[0]) or ""
    return summary(record["metrics"]["test"].get(metric) for record in row.records)


def mean_of(value: float | Spread | None) -> float:
    """The mean of a score, -infinity where there is none."""
    return float("-inf") if value is None else value.mean if isinstance(value, Spread) else value


def shas(row: Row) -> tuple[str, ...]:
    """The body hashes of a row's records, by which it is known."""
    return tuple(record["sha256"] for record in row.records)


def marked(pivot: Pivot, found: list[tuple[Apart | None, str]]) -> Pivot:
    """The pivot with what tests of each column say: a pair (tests of its cells in line order, why there are none)."""
    places = tuple(
        dataclasses.replace(place, apart=apart, untested=why)
        for place, (apart, why) in zip(pivot.places, found, strict=True)
    )
    best: dict[tuple[int, int], bool] = {}
    for c, (apart, _) in enumerate(found):
        if apart is not None:
            flags = apart.may_be_best().tolist()
            best |= {(i, c): flag for (i, _), flag in zip(pivot.column(c), flags, strict=True)}
    lines = tuple(
        dataclasses.replace(
            line,
            cells=tuple(cell and dataclasses.replace(cell, best=best.get((i, c))) for c, cell in enumerate(line.cells)),
        )
        for i, line in enumerate(pivot.lines)
    )
    return dataclasses.replace(pivot, places=places, lines=lines)
