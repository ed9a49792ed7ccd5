"""What a score costs: parameters, operations, speed, memory, energy of the rows of a pivot, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgmae_bench.metrics.table import METRICS
from fgmae_bench.records import Record
from fgmae_bench.report.columns import energy_joules, gflops, memory_gib
from fgmae_bench.report.figures import COLOURS, GRID, MARKERS, PNG_DPI, literal, save
from fgmae_bench.report.pivot import Pivot, mean_of
from fgmae_bench.report.row import Row

MOST_NAMED = 12
Read = Callable[[Record], float | None]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A cost: its words, how a record holds it, and whether less of it is better."""

    label: str
    read: Read
    less: bool = True


AXES = {
    "params": Axis(label="parameters", read=lambda record: float(record["model"]["params_total"]) or None),
    "gflops": Axis(label="GFLOPs an image", read=gflops),
    "images_per_second": Axis(
        label="images/s", read=lambda record: record["timing"]["images_per_second"] or None, less=False
    ),
    "memory_gib": Axis(label="peak memory (GiB)", read=memory_gib),
    "energy_joules": Axis(label="energy (J)", read=energy_joules),
}
Point = tuple[str, float, float]  # label, cost, score


def of_row(row: Row, axis: str) -> float | None:
    """A cost of a row, mean over its runs; None where one of them does not know it."""
    values = [AXES[axis].read(record) for record in row.records]
    return None if not values or None in values else sum(filter(None, values)) / len(values)


def points(pivot: Pivot, place: int, axis: str) -> list[Point]:
    """The models of a column with a known cost."""
    found = []
    for i, cell in pivot.column(place):
        cost = of_row(cell.row, axis)
        if cost is not None:
            found.append((pivot.lines[i].label, cost, mean_of(cell.value)))
    return found


def front(found: list[Point], *, less: bool = True) -> list[int]:
    """The points that no other is at least as cheap and as good as, and better in one of both; the cheapest first."""
    order = sorted(range(len(found)), key=lambda i: ((found[i][1] if less else -found[i][1]), -found[i][2]))
    kept: list[int] = []
    for i in order:
        if not kept or found[i][2] > found[kept[-1]][2]:
            kept.append(i)
    return kept


def available(pivot: Pivot) -> dict[str, str]:
    """Caption -> file, where a column has two models of different cost."""
    return {"score against cost": f"{pivot.name}-cost.png"} if _panels(pivot) else {}


def _panels(pivot: Pivot) -> list[str]:
    """The costs of which the first column knows two different ones."""
    if not pivot.places:
        return []
    return [axis for axis in AXES if len({cost for _, cost, _ in points(pivot, 0, axis)}) > 1]


def draw(pivot: Pivot, path: Path) -> None:
    """The first column's scores against each known cost, and the front of models that none beats in both.

    All models have a mark of their own where they are few, else those of the fronts.
    """
    from matplotlib.figure import Figure

    panels, place = _panels(pivot), pivot.places[0]
    figure = Figure(figsize=(4.2 * len(panels), 4.4), dpi=PNG_DPI, layout="constrained")
    every = {axis: points(pivot, 0, axis) for axis in panels}
    fronts = {axis: front(every[axis], less=AXES[axis].less) for axis in panels}
    names = list(dict.fromkeys(label for axis in panels for label, _, _ in every[axis]))
    if len(names) > MOST_NAMED:
        names = list(dict.fromkeys(every[axis][i][0] for axis in panels for i in fronts[axis]))[:MOST_NAMED]
    for n, axis in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), n + 1)
        _, costs, scores = zip(*every[axis], strict=True)
        axes.scatter(costs, scores, s=14, color="#bbbbbb", zorder=1)
        best = fronts[axis]
        axes.plot([costs[i] for i in best], [scores[i] for i in best], color="#999999", linewidth=1, zorder=2)
        for label, cost, score in every[axis]:
            if label in names:
                axes.plot([cost], [score], linestyle="", zorder=3, **_mark(names.index(label)))
        axes.set_xscale("log")
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(AXES[axis].label + ("" if AXES[axis].less else " (more is better)"))
        axes.set_ylabel(METRICS[place.metric].axis_label if n == 0 else "")
    for i, label in enumerate(names):
        figure.axes[0].plot([], [], linestyle="", label=literal(label, 40), **_mark(i))
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    protocol = pivot.protocol.replace("_", " ")
    figure.suptitle(literal(f"{place.heading}, {protocol}: score against cost", 90), fontsize=10)
    save(figure, path)


def _mark(i: int) -> dict[str, Any]:
    return {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i % len(COLOURS)]}
