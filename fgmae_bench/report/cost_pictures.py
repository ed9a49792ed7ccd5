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

MOST_NAMED, MOST_PLACES = 12, 8
PANEL = (4.0, 3.4)  # inches of a dataset's panel
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
    """The models of a column with a known cost; one that costs nothing has no place on an axis of ratios."""
    found = []
    for i, cell in pivot.column(place):
        cost = of_row(cell.row, axis)
        if cost is not None and cost > 0:
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


def _panels(pivot: Pivot) -> dict[int, list[str]]:
    """Column -> the costs of which it knows two different ones, for the columns that know any."""
    found = {
        c: [axis for axis in AXES if len({cost for _, cost, _ in points(pivot, c, axis)}) > 1]
        for c in range(len(pivot.places))
    }
    return {c: known for c, known in found.items() if known}


def draw(pivot: Pivot, path: Path) -> None:
    """Scores against each known cost, a row of panels a dataset, each with the front of models that none beats in both.

    All models have a mark of their own where they are few, else those of the fronts.
    """
    from matplotlib.figure import Figure

    every = _panels(pivot)
    shown = list(every)[:MOST_PLACES]
    held = {(c, axis): points(pivot, c, axis) for c in shown for axis in every[c]}
    fronts = {(c, axis): front(found, less=AXES[axis].less) for (c, axis), found in held.items()}
    costs = [axis for axis in AXES if any(axis in every[c] for c in shown)]
    names = _named(held, fronts)
    wide, tall = PANEL[0] * len(costs), PANEL[1] * len(shown)
    figure = Figure(figsize=(wide, tall), dpi=PNG_DPI)
    figure.subplots_adjust(
        left=0.7 / wide, right=1 - 0.2 / wide, bottom=0.6 / tall, top=1 - 0.8 / tall, wspace=0.3, hspace=0.55
    )
    for row, c in enumerate(shown):
        for axis in every[c]:
            axes = figure.add_subplot(len(shown), len(costs), row * len(costs) + costs.index(axis) + 1)
            _panel(axes, held[c, axis], fronts[c, axis], names, axis)
            first = axis == every[c][0]
            axes.set_ylabel(METRICS[pivot.places[c].metric].axis_label if first else "")
            axes.set_title(literal(pivot.places[c].heading, 44) if first else "", fontsize=8, loc="left")
    for i, label in enumerate(names):
        figure.axes[0].plot([], [], linestyle="", label=literal(label, 40), **_mark(i))
    figure.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    left = f", {len(every) - len(shown)} of {len(every)} datasets left out" if len(every) > len(shown) else ""
    figure.suptitle(literal(f"{pivot.protocol.replace('_', ' ')}: score against cost{left}", 90), fontsize=10)
    save(figure, path)


def _named(held: dict[tuple[int, str], list[Point]], fronts: dict[tuple[int, str], list[int]]) -> list[str]:
    """The models that have a mark of their own: all where they are few, else those of the fronts."""
    names = list(dict.fromkeys(label for found in held.values() for label, _, _ in found))
    if len(names) <= MOST_NAMED:
        return names
    return list(dict.fromkeys(held[key][i][0] for key, best in fronts.items() for i in best))[:MOST_NAMED]


def _panel(axes: Any, found: list[Point], best: list[int], names: list[str], axis: str) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator

    _, costs, scores = zip(*found, strict=True)
    axes.scatter(costs, scores, s=14, color="#bbbbbb", zorder=1)
    axes.plot([costs[i] for i in best], [scores[i] for i in best], color="#999999", linewidth=1, zorder=2)
    for label, cost, score in found:
        if label in names:
            axes.plot([cost], [score], linestyle="", zorder=3, **_mark(names.index(label)))
    axes.set_xscale("log")
    if max(costs) < 10 * min(costs):  # matplotlib would write every tenth of a decade, one over the other
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(AXES[axis].label + ("" if AXES[axis].less else " (more is better)"))


def _mark(i: int) -> dict[str, Any]:
    return {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i % len(COLOURS)]}
