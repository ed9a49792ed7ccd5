"""Pairs of rows tested on their stored predictions, kept as a small file with the records, and read back from it.

Predictions are large and stay where they were made; the differences with their errors are what a board needs of them.
`report --separate` makes the file, every report reads it, and a pair counts only while its records are the same.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.jackknife import Estimate
from fgmae_bench.metrics.separation import Apart, Pairs, apart, pair_estimates
from fgmae_bench.report.pairs import Candidate, Side, side
from fgmae_bench.report.pivot import Pivot, Place, marked, shas
from fgmae_bench.report.predictions import find_predictions
from fgmae_bench.report.row import Row
from fgmae_bench.system.files import write_text

FILE = "separation.json"
SCHEMA = 1
MOST_BYTES = 64 * 2**20
NOT_MADE = "not tested: run report --separate where the predictions are"
Key = tuple[str, tuple[str, ...], tuple[str, ...]]  # metric, body hashes of the records of both rows
Known = dict[Key, Estimate]


def separated(pivots: list[Pivot], results_dir: Path) -> tuple[str, list[str]]:
    """(text of the file, a line for each column or row that could not be tested)."""
    columns, lines = [], []
    for pivot in pivots:
        for c, place in enumerate(pivot.places):
            rows = [cell.row for _, cell in pivot.column(c)]
            found, problems = _column(place, rows, results_dir)
            lines += [f"{pivot.protocol}, {place.heading}: {problem}" for problem in problems]
            columns += [found] if found else []
    body = {"schema": SCHEMA, "columns": columns}
    return json.dumps(body, indent=None, separators=(",", ":"), allow_nan=False).replace('{"metric"', '\n{"metric"') + (
        "\n"
    ), lines


def _column(place: Place, rows: list[Row], results_dir: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The pairs of one column, and why rows or all of it could not be tested."""
    sides: list[Side] = []
    kept: list[Row] = []
    problems = []
    for row in rows:
        try:
            paths = tuple(find_predictions(record, results_dir) for record in row.records)
            candidate = Candidate(name=row.label, records=row.records, predictions=paths, row=True)
            sides.append(side(candidate, sides[0].seeds[0] if sides else None, rows[0].label))
            kept.append(row)
        except BenchError as error:
            problems.append(error.what)
    if len(kept) < 2:
        return None, problems
    seeds = [list(map(str, each.candidate.chances)) for each in sides]
    pairs = pair_estimates([each.units() for each in sides], seeds, place.metric)
    if not pairs:
        problems.append("no pair has a test: too few groups, or a class in too few of them")
    listed = [[i, j, *map(_plain, (e.value, e.error, e.degrees))] for (i, j), e in pairs.items()]
    return {"metric": place.metric, "rows": [list(shas(row)) for row in kept], "pairs": listed}, problems


def _plain(value: float) -> float:
    """A number of eight digits: the last bits of a machine stay out of the file."""
    return float(f"{value:.8g}")


def read(path: Path) -> Known:
    """The tested pairs of a file, none where there is none; raises BenchError where it is not such a file."""
    if not path.is_file():
        return {}
    try:
        content = path.read_bytes()
        if len(content) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        body = json.loads(content)
        if body["schema"] != SCHEMA:
            raise ValueError(f"schema {body['schema']}")
        return {key: estimate for column in body["columns"] for key, estimate in _pairs(column)}
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:100]
        raise BenchError(f"{path}: no tested pairs that can be read ({reason})", "make it again: --separate") from error


def _pairs(column: dict[str, Any]) -> list[tuple[Key, Estimate]]:
    metric, rows = str(column["metric"]), [tuple(map(str, row)) for row in column["rows"]]
    found = []
    for i, j, *numbers in column["pairs"]:
        value, error, degrees = map(float, numbers)
        if not (math.isfinite(value) and math.isfinite(error) and error >= 0 and degrees > 0):
            raise ValueError("numbers that no test gives")
        if i < 0 or j < 0:
            raise ValueError("a row before the first")
        found.append(((metric, rows[i], rows[j]), Estimate(value=value, error=error, degrees=degrees)))
    return found


def between(known: Known, metric: str, rows: list[Row]) -> Pairs:
    """The tested pairs (i, j) of rows, i < j, whichever way round the file holds them."""
    found: Pairs = {}
    names = [shas(row) for row in rows]
    for i, a in enumerate(names):
        for j in range(i + 1, len(names)):
            straight, reverse = known.get((metric, a, names[j])), known.get((metric, names[j], a))
            if straight is not None:
                found[i, j] = straight
            elif reverse is not None:
                found[i, j] = Estimate(value=-reverse.value, error=reverse.error, degrees=reverse.degrees)
    return found


def with_tests(pivot: Pivot, known: Known) -> Pivot:
    """The pivot with what the tests of each column say. A column with an untested row has no set that may be best."""
    found: list[tuple[Apart | None, str]] = []
    for c, place in enumerate(pivot.places):
        rows = [cell.row for _, cell in pivot.column(c)]
        pairs = between(known, place.metric, rows) if known else {}
        if not pairs:
            found.append((None, NOT_MADE))
        elif {i for pair in pairs for i in pair} != set(range(len(rows))):
            lacking = [row.label for i, row in enumerate(rows) if not any(i in pair for pair in pairs)]
            found.append((None, f"not tested as a whole: no predictions of {', '.join(lacking[:3])}"))
        else:
            found.append((apart(len(rows), pairs), ""))
    return marked(pivot, found)


def write(text: str, results_dir: Path) -> Path:
    """Put the file with the records."""
    path = results_dir / FILE
    write_text(path, text)
    return path
