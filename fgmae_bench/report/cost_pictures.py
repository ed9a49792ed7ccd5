"""What a score costs: parameters, operations, speed, memory, energy of the rows of a pivot, and the Pareto front."""

from __future__ import annotations

from collections import Counter
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
PANEL = (4.0, 3.7)  # inches of a dataset's panel
Read = Callable[[Record], float | None]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A cost: its words, how a record holds it, whether less of it is better, and whether it says as much of the
    machine: then values of two machines do not stand on one axis.
    """

    label: str
    read: Read
    less: bool = True
    of_machine: bool = False


AXES = {
    "params": Axis(label="parameters", read=lambda record: float(record["model"]["params_total"]) or None),
    "gflops": Axis(label="GFLOPs an image", read=gflops),
    "images_per_second": Axis(
        label="images/s",
        read=lambda record: record["timing"]["images_per_second"] or None,
        less=False,
        of_machine=True,
    ),
    "memory_gib": Axis(label="peak memory (GiB)", read=memory_gib, of_machine=True),
    "energy_joules": Axis(label="energy (J)", read=energy_joules, of_machine=True),
}
Point = tuple[str, float, float]  # label, cost, score


def of_row(row: Row, axis: str) -> float | None:
    """A cost of a row, mean over its runs; None where one of them does not know it."""
    values = [AXES[axis].read(record) for record in row.records]
    return None if not values or None in values else sum(filter(None, values)) / len(values)


def machine_of(row: Row) -> str:
    """What the runs of a row ran on: processor or GPU, with threads or processes; empty where they differ or it is not
    known.
    """
    names = {_machine(record["environment"]) for record in row.records}
    return names.pop() if len(names) == 1 else ""


def _machine(environment: dict[str, Any]) -> str:
    name, processes = environment.get("device_name") or environment.get("device") or "", environment.get("world_size")
    threads = environment.get("threads") if environment.get("device") == "cpu" else None
    counted = f"{processes} x {name}" if name and processes and processes > 1 else name
    return f"{counted}, {threads} thread{'s' * (threads > 1)}" if name and threads else counted


def points(pivot: Pivot, place: int, axis: str) -> list[Point]:
    """The models of a column with a known cost; one that costs nothing has no place on an axis of ratios.

    Of a cost that depends on the machine those of one machine, see `measured_on`.
    """
    machine, _ = measured_on(pivot, place, axis)
    return [point for of, point in _costs(pivot, place, axis) if of == machine]


def measured_on(pivot: Pivot, place: int, axis: str) -> tuple[str, int]:
    """(the machine on which most models of a column know a cost, of several the one that comes first; models of others,
    which are left out). No machine for a cost that depends on none, or where nothing is known.
    """
    counts = Counter(machine for machine, _ in _costs(pivot, place, axis) if machine)
    machine = max(counts, key=counts.__getitem__) if counts else ""
    if not AXES[axis].of_machine:
        return "", 0
    return machine, sum(of != machine for of, _ in _costs(pivot, place, axis))


def _costs(pivot: Pivot, place: int, axis: str) -> list[tuple[str, Point]]:
    """(machine, empty for a cost that depends on none or where runs differ; point) of each model of a column."""
    found = []
    for i, cell in pivot.column(place):
        cost = of_row(cell.row, axis)
        if cost is not None and cost > 0:
            machine = machine_of(cell.row) if AXES[axis].of_machine else ""
            found.append((machine, (pivot.lines[i].label, cost, mean_of(cell.value))))
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
        left=0.7 / wide, right=1 - 0.2 / wide, bottom=0.9 / tall, top=1 - 0.8 / tall, wspace=0.3, hspace=0.75
    )
    for row, c in enumerate(shown):
        for axis in every[c]:
            axes = figure.add_subplot(len(shown), len(costs), row * len(costs) + costs.index(axis) + 1)
            _panel(axes, held[c, axis], fronts[c, axis], names, axis_label(pivot, c, axis))
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


def axis_label(pivot: Pivot, place: int, axis: str) -> str:
    """The words of an axis: the cost, the machine where it depends on one, and how many models of others it lacks."""
    machine, others = measured_on(pivot, place, axis)
    more = "" if AXES[axis].less else " (more is better)"
    where = f"\n{literal(machine, 44)}" if machine else ""
    left = f"\n{others} of other machines left out" if others else ""
    return f"{AXES[axis].label}{more}{where}{left}"


def _panel(axes: Any, found: list[Point], best: list[int], names: list[str], label: str) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator

    _, costs, scores = zip(*found, strict=True)
    axes.scatter(costs, scores, s=14, color="#bbbbbb", zorder=1)
    axes.plot([costs[i] for i in best], [scores[i] for i in best], color="#999999", linewidth=1, zorder=2)
    for name, cost, score in found:
        if name in names:
            axes.plot([cost], [score], linestyle="", zorder=3, **_mark(names.index(name)))
    axes.set_xscale("log")
    if max(costs) < 10 * min(costs):  # matplotlib would write every tenth of a decade, one over the other
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(label)


def _mark(i: int) -> dict[str, Any]:
    return {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i % len(COLOURS)]}
