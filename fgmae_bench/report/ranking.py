"""Models ranked over the datasets of a pivot: average rank, Elo and critical difference where datasets are enough, and
what paired tests say of the order.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.jackknife import Estimate
from fgmae_bench.metrics.leagues import ENOUGH, League, league
from fgmae_bench.metrics.separation import Apart, Pairs, apart, over_places, together
from fgmae_bench.metrics.variance import improvement_probability
from fgmae_bench.report.pivot import Cell, Pivot, Place, mean_of
from fgmae_bench.report.tested import Known, between

# Datasets cut from the same scenes: more of them add no evidence, so they count as one.
SCENES = {
    "bigearthnet": "BigEarthNet",
    "bigearthnet_v2": "BigEarthNet",
    "copernicus_bigearthnet": "BigEarthNet",
    "eurosat": "EuroSAT-SAR",
    "copernicus_eurosat": "EuroSAT-SAR",
    "dfc2020": "DFC2020",
    "copernicus_dfc2020": "DFC2020",
    "kuro_siwo": "Kuro Siwo",
    "copernicus_flood": "Kuro Siwo",
    "sen12ms": "SEN12MS",
    "sen12ms_scenes": "SEN12MS",
    "sen12ms_multilabel": "SEN12MS",
    "terramesh_chips": "TerraMesh",
    "terramesh_masks": "TerraMesh",
    "s1f_chips": "Sen1Floods11",
    "s1f_scenes": "Sen1Floods11",
    "sen1floods11": "Sen1Floods11",
}
DIGITS = 12  # decimals of a mean score: means that differ in the last bits of their sums alone are ties


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A model in the order of average ranks: its place in the pivot, numbers of the league, the ranks that tests leave
    it, and the probability that a run of it beats one of the next.
    """

    label: str
    rank: float
    rank_bounds: tuple[float, float] | None
    elo: float | None
    elo_bounds: tuple[float, float] | None
    iqm: float | None
    iqm_bounds: tuple[float, float] | None
    top: float | None
    possible: tuple[int, int] | None
    better_than_next: float | None
    equal_to: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A ranking of one protocol over `units` of datasets; `why` says why there is none."""

    protocol: str
    units: tuple[str, ...] = ()
    models: tuple[Ranked, ...] = ()
    league: League | None = None
    tests: int = 0
    why: str = ""
    left_out: tuple[str, ...] = ()
    synthetic: bool = False
    apart: Apart | None = None


def ranking(pivot: Pivot, known: Known) -> Ranking:
    """The ranking of a pivot's models, or why there is none: one dataset, or one model that all datasets have."""
    chosen = _places(pivot)
    units: dict[str, list[int]] = {}
    for c in chosen:
        units.setdefault(SCENES.get(pivot.places[c].dataset, pivot.places[c].title), []).append(c)
    lines, left_out = [], []
    for i, line in enumerate(pivot.lines):
        if line.unranked:
            left_out.append(f"{line.label}: {line.unranked}")
        elif all(line.cells[c] is not None for c in chosen):
            lines.append(i)
        elif any(line.cells[c] is not None for c in chosen):
            left_out.append(f"{line.label}: not measured on every dataset")
    why = _too_few(units, lines)
    synthetic = bool(chosen) and pivot.places[chosen[0]].synthetic
    if why:
        return Ranking(protocol=pivot.protocol, units=tuple(units), why=why, left_out=tuple(left_out))
    means = [[statistics.fmean(_mean(pivot, i, c) for c in places) for i in lines] for places in units.values()]
    scores = np.asarray(np.array(means, np.float64).round(DIGITS), np.float64)
    runs = [[np.concatenate([_runs(pivot, i, c) for c in places]) for i in lines] for places in units.values()]
    table = league(scores, runs)
    pairs = _pairs(pivot, lines, list(units.values()), known)
    tests = apart(len(lines), pairs) if pairs else None
    order = sorted(range(len(lines)), key=lambda m: (table.rank[m], m))
    labels = [pivot.lines[i].label for i in lines]
    return Ranking(
        protocol=pivot.protocol,
        units=tuple(units),
        models=tuple(_ranked(m, order, labels, table, tests, runs) for m in order),
        league=table,
        tests=tests.tests if tests else 0,
        left_out=tuple(left_out),
        synthetic=synthetic,
        apart=tests,
    )


def require(found: Ranking) -> Ranking:
    """The ranking; raises BenchError with the reason where there is none."""
    if found.why:
        raise BenchError(
            f"no ranking of {found.protocol}: {found.why}",
            "measure two models on two datasets of other scenes, or more",
        )
    return found


def _too_few(units: dict[str, list[int]], lines: list[int]) -> str:
    if len(units) < 2:
        return (
            f"it would be over {'one dataset' if units else 'no dataset'}"
            f"{f' ({next(iter(units))})' if units else ''}: an order on one dataset does not rank models"
        )
    if len(lines) < 2:
        have = "one model has" if lines else "no model has"
        return f"{have} a score on each of the {len(units)} datasets"
    return ""


def _places(pivot: Pivot) -> list[int]:
    """The columns that a rank is over: genuine ones where there are any, of all labels where there are any."""
    found = list(range(len(pivot.places)))
    for wanted in (lambda place: not place.synthetic, _full):
        found = [c for c in found if wanted(pivot.places[c])] or found
    return found


def _full(place: Place) -> bool:
    every = dict(place.every)
    return every["shots"] is None and every["train fraction"] == 1


def _mean(pivot: Pivot, line: int, place: int) -> float:
    return mean_of(_cell(pivot, line, place).value)


def _runs(pivot: Pivot, line: int, place: int) -> NDArray[np.float64]:
    metric = pivot.places[place].metric
    return np.array([record["metrics"]["test"][metric] for record in _cell(pivot, line, place).row.records], float)


def _cell(pivot: Pivot, line: int, place: int) -> Cell:
    cell = pivot.lines[line].cells[place]
    assert cell is not None
    return cell


def _pairs(pivot: Pivot, lines: list[int], units: list[list[int]], known: Known) -> Pairs:
    """Mean differences over the units that all pairs were tested on; columns of one unit are made one before."""
    each = []
    for places in units:
        tested = [
            between(known, pivot.places[c].metric, [_cell(pivot, i, c).row for i in lines]) if known else {}
            for c in places
        ]
        shared = set(tested[0]).intersection(*tested[1:])
        joined: dict[tuple[int, int], Estimate] = {pair: together([own[pair] for own in tested]) for pair in shared}
        each.append(joined)
    return over_places(each)


def _ranked(
    m: int,
    order: list[int],
    labels: list[str],
    table: League,
    tests: Apart | None,
    runs: list[list[NDArray[np.float64]]],
) -> Ranked:
    def at(values: NDArray[np.float64] | None) -> float | None:
        return None if values is None else float(values[m])

    def bounds(values: NDArray[np.float64] | None) -> tuple[float, float] | None:
        return None if values is None or np.isnan(values[m]).any() else (float(values[m][0]), float(values[m][1]))

    place = order.index(m)
    following = order[place + 1] if place + 1 < len(order) else None
    beats = None
    if following is not None:
        beats = float(np.mean([improvement_probability(line[m], line[following]) for line in runs]))
    equal = () if tests is None else tuple(labels[j] for j in np.flatnonzero(tests.equal[m]))
    return Ranked(
        label=labels[m],
        rank=float(table.rank[m]),
        rank_bounds=bounds(table.rank_bounds),
        elo=at(table.elo),
        elo_bounds=bounds(table.elo_bounds),
        iqm=at(table.iqm),
        iqm_bounds=bounds(table.iqm_bounds),
        top=at(table.top),
        possible=None if tests is None else tests.rank_sets()[m],
        better_than_next=beats,
        equal_to=equal,
    )


def enough(found: Ranking) -> bool:
    """Whether datasets are enough for Elo and critical differences."""
    return len(found.units) >= ENOUGH
