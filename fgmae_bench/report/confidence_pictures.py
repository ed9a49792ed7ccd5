"""Pictures of what was chosen and of how sure a run is: penalty paths, reliability, selective risk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fgmae_bench.report import figures
from fgmae_bench.report.figures import COLOURS, MARKERS, PNG_DPI, literal, new_axes, outer_legend, save
from fgmae_bench.report.row import Table

PenaltyPath = tuple[str, list[float], list[float], list[float], float]


def paths(table: Table) -> list[PenaltyPath]:
    """(label, penalties, held-out losses, their errors, the penalty chosen) of the first record of rows that chose."""
    found: list[PenaltyPath] = []
    for row in (row for row in table.rows if row.candidates is None and row.records):
        path = (row.records[0].get("selection") or {}).get("path")
        if not isinstance(path, dict):
            continue
        penalties, losses, errors, chosen = (path.get(name) for name in ("penalty", "loss", "error", "chosen"))
        count = len(penalties) if isinstance(penalties, list) else 0
        if not all(_numbers(column, count) for column in (penalties, losses, errors)):
            continue
        if _numbers([chosen], 1):
            label = row.label + (" (synthetic)" if row.synthetic else "")
            found.append((label, list(penalties or ()), list(losses or ()), list(errors or ()), float(chosen or 0)))
    return found


def _numbers(values: Any, count: int) -> bool:
    """Whether it is a list of so many numbers: what a record of another's holds there may be anything."""
    fits = isinstance(values, list) and 0 < len(values) == count
    return fits and all(type(value) in (int, float) for value in values)


def draw_paths(table: Table, path: Path) -> None:
    """Held-out loss over the L2 penalty, a line a row with its standard error; a large mark is what was chosen."""
    every = paths(table)
    figure, axes = new_axes()
    for i, (label, penalties, losses, errors, chosen) in enumerate(every[: figures.MAX_CURVES]):
        colour = COLOURS[i % len(COLOURS)]
        axes.errorbar(
            penalties, losses, errors, color=colour, linewidth=1.2, capsize=2, elinewidth=0.7, label=literal(label)
        )
        if chosen in penalties:
            at = losses[penalties.index(chosen)]
            axes.plot([chosen], [at], color=colour, marker=MARKERS[i % len(MARKERS)], markersize=8, linestyle="")
    axes.set_xscale("log")
    if all(loss > 0 for _, _, losses, _, _ in every for loss in losses):
        axes.set_yscale("log", nonpositive="clip")
    axes.set_xlabel("L2 penalty")
    axes.set_ylabel("held-out loss (nats; of a number: share of its variance)")
    left = f", {len(every) - figures.MAX_CURVES} rows left out" if len(every) > figures.MAX_CURVES else ""
    axes.set_title(literal(f"{table.title}: penalties, and the one within a standard error{left}", 60), fontsize=10)
    outer_legend(axes)
    save(figure, path)


def calibrated(table: Table) -> list[tuple[str, dict[str, Any]]]:
    """(label, calibration) of the rows for which it was derived: the first record of each."""
    return [
        (row.label + (" (synthetic)" if row.synthetic else ""), row.records[0]["calibration"])
        for row in table.rows
        if row.candidates is None and row.records and "calibration" in row.records[0]
    ]


def draw_reliability(table: Table, path: Path) -> None:
    """Share that is right over confidence, and error over the share of samples of most confidence, a line a row."""
    from matplotlib.figure import Figure

    every = calibrated(table)
    figure = Figure(figsize=(10, 4.4), dpi=PNG_DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="#666666", linewidth=0.8, linestyle="--", label="perfectly calibrated")
    for i, (label, found) in enumerate(every[: figures.MAX_CURVES]):
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.2, "markersize": 4}
        held = [(confidence / count, hits / count) for count, confidence, hits in found["reliability"] if count]
        left.plot(*zip(*held, strict=True), marker=MARKERS[i % len(MARKERS)], label=literal(label), **style)
        right.plot(*zip(*found["risk"], strict=True), **style)
    left.set_xlabel("confidence")
    left.set_ylabel("share that is right")
    right.set_xlabel("share of the samples, of most confidence first")
    right.set_ylabel("error among them")
    for axes in (left, right):
        axes.grid(color=figures.GRID, linewidth=0.6)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    more = f", {len(every) - figures.MAX_CURVES} rows left out" if len(every) > figures.MAX_CURVES else ""
    figure.suptitle(literal(f"{table.title}: reliability and selective risk{more}", 120), fontsize=10)
    save(figure, path)
