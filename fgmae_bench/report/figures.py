"""Curves over epochs; matplotlib is imported only when a picture is drawn."""

from __future__ import annotations

import io
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fgmae_bench.metrics.table import METRICS
from fgmae_bench.records import Record
from fgmae_bench.report.chosen import few_labels
from fgmae_bench.report.row import Table
from fgmae_bench.report.table import distinct
from fgmae_bench.system.files import replacing
from fgmae_bench.system.fonts import letters_of_all_scripts

# Okabe & Ito 2008, without the yellow that vanishes on white; beyond these, markers distinguish curves.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*PX<>hp"
GRID = "#dddddd"
PNG_DPI = 120


def new_axes(width: float = 9, height: float = 4.5) -> tuple[Any, Any]:
    """(figure, axes) of a size in inches, with a light grid, without the state of pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=PNG_DPI)
    axes = figure.add_subplot()
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def outer_legend(axes: Any) -> None:
    """The legend at the right of the axes."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def literal(text: str, width: int = 48) -> str:
    """Text that matplotlib shows as it is: no mathematics, no hidden legend entry, lines of readable length."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split()).replace("$", r"\$")
    return "\n".join(textwrap.wrap(f" {clean}" if clean.startswith("_") else clean, width, drop_whitespace=False))


def save(figure: Any, path: Path) -> None:
    """Write the figure as `path` (PNG) and as SVG; neither holds a date, a version or a random name."""
    import matplotlib

    with letters_of_all_scripts(), matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            with replacing(path.with_suffix(f".{ending}")) as temporary:
                figure.savefig(temporary, format=ending, bbox_inches=_frame(figure, ending), metadata=metadata)


SVG_DPI = 72  # what matplotlib sets text of an SVG at


def _frame(figure: Any, ending: str) -> Any:
    """The frame that `tight` finds for a format, in inches, without the drawing of everything that `tight` begins with;
    a layout engine needs that drawing.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.backends.backend_svg import RendererSVG

    if figure.get_layout_engine() is not None:
        return "tight"
    dpi, (width, height) = figure.dpi, figure.get_size_inches()
    if ending == "svg":
        figure.dpi = SVG_DPI
        renderer: Any = RendererSVG(width * SVG_DPI, height * SVG_DPI, io.StringIO(), image_dpi=dpi)
    else:
        renderer = RendererAgg(width * dpi, height * dpi, dpi)
    frame = figure.get_tightbbox(renderer).padded(matplotlib.rcParams["savefig.pad_inches"])
    figure.dpi = dpi
    return frame


AXES = {name: metric.axis_label for name, metric in METRICS.items()}
MAX_CURVES = 12


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run's course: `values` and, for the loss, `train` at `epochs`; undefined is NaN."""

    label: str
    synthetic: bool
    epochs: list[int]
    values: list[float]
    train: list[float]


def file_name(table: str, metric: str) -> str:
    """Name of the picture of a table's metric."""
    return f"{table}-{metric}.png"


def curves(table: Table, metric: str) -> list[Curve]:
    """The curves of all records that have a history of `metric` (or `lr`, the learning rate), in row order."""
    rows = [row for row in table.rows if row.candidates is None]
    pairs = [(row.label, record) for row in rows for record in row.records if _has(record, metric)]
    labels = distinct([label for label, _ in pairs], [record for _, record in pairs])
    together = Counter(labels)
    found = []
    for (_, record), label in zip(pairs, labels, strict=True):
        seed = record["config"]["recipe"].get("seed")
        draw = record["config"]["data"].get("draw")
        apart = f"{label}, seed {seed}" + (f", draw {draw}" if few_labels(record) else "")
        found.append(_curve(label if together[label] == 1 else apart, record, metric))
    return found


def _has(record: Record, metric: str) -> bool:
    """Whether any epoch has a value of `metric`."""
    if metric == "lr":
        return any(entry["lr"] is not None for entry in record["history"])
    return any(
        entry["val"].get(metric) is not None or (metric == "loss" and entry["train_loss"] is not None)
        for entry in record["history"]
    )


def _curve(label: str, record: Record, metric: str) -> Curve:
    history, synthetic = record["history"], record["dataset"]["synthetic"]

    def known(value: float | None) -> float:
        return math.nan if value is None else float(value)

    return Curve(
        label=f"{label} (synthetic)" if synthetic else label,
        synthetic=synthetic,
        epochs=[entry["epoch"] for entry in history],
        values=[known(entry["lr"] if metric == "lr" else entry["val"].get(metric)) for entry in history],
        train=[known(entry["train_loss"]) for entry in history] if metric == "loss" else [],
    )


def drawable(table: Table, metrics: tuple[str, ...]) -> dict[str, str]:
    """Metric -> file name, for the metrics of which at least one run has a curve."""
    return {
        metric: file_name(table.name, metric)
        for metric in metrics
        if any(islice((True for row in table.rows for record in row.records if _has(record, metric)), 1))
    }


def draw(table: Table, metric: str, path: Path) -> None:
    """Draw the curves of one metric (or `lr`) to `path`: at most MAX_CURVES, the title says how many are left out."""
    from matplotlib.ticker import MaxNLocator

    every = curves(table, metric)
    shown = every[:MAX_CURVES]
    figure, axes = new_axes()
    for i, curve in enumerate(shown):
        colour = COLOURS[i % len(COLOURS)]
        (line,) = axes.plot(curve.epochs, curve.values, color=colour, linewidth=1.4, label=literal(curve.label))
        line.set(marker=MARKERS[i % len(MARKERS)], markersize=4, markevery=max(1, len(curve.epochs) // 10))
        if curve.train:
            axes.plot(curve.epochs, curve.train, color=colour, linestyle="--", linewidth=1.0, label="_nolegend_")
    if metric == "loss":
        axes.plot([], [], color="#666666", label="solid: evaluation split")
        axes.plot([], [], color="#666666", linestyle="--", label="dashed: training split")
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate" if metric == "lr" else AXES[metric])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(_title(table, every, shown), fontsize=10)
    outer_legend(axes)
    save(figure, path)


def _title(table: Table, every: list[Curve], shown: list[Curve]) -> str:
    parts = [literal(table.title)]
    if any(curve.synthetic for curve in shown):
        parts.append("synthetic data" if all(curve.synthetic for curve in shown) else "synthetic data where marked")
    if len(every) > len(shown):
        parts.append(f"{len(every) - len(shown)} of {len(every)} runs left out")
    return "\n".join([parts[0], ", ".join(parts[1:])]) if len(parts) > 1 else parts[0]


MAX_NUMBERED = 20  # cells a side beyond which numbers would not be read


def draw_matrix(
    axes: Any,
    matrix: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    cols: Sequence[str],
    *,
    title: str = "",
    row_title: str = "",
    col_title: str = "",
    digits: int = 2,
) -> None:
    """Draw a matrix of fractions onto axes."""
    values = [[float("nan") if value is None else float(value) for value in line] for line in matrix]
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(cols)), [literal(name, 24) for name in cols], rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), [literal(name, 32) for name in rows], fontsize=7)
    axes.set_title(literal(title, 60), fontsize=9)
    axes.set_xlabel(literal(col_title), fontsize=8)
    axes.set_ylabel(literal(row_title), fontsize=8)
    if max(len(rows), len(cols)) > MAX_NUMBERED:
        return
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            if value == value:
                colour = "white" if value > 0.6 else "black"
                axes.text(j, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=6, color=colour)


def waterfall(steps: Sequence[tuple[str, float]], path: Path, *, title: str = "", axis: str = "") -> None:
    """Bars from the first step's value through what each further step adds or takes, to the sum, as PNG and SVG.

    `steps` are (label, value): the first value stands for itself, the others are differences.
    """
    figure, axes = new_axes(1.5 + 0.9 * (len(steps) + 1), 4.2)
    level = 0.0
    for i, (_, value) in enumerate(steps):
        start, level = level, level + value
        colour = COLOURS[0] if i == 0 else COLOURS[2] if value >= 0 else COLOURS[1]
        axes.bar(i, value, bottom=start, color=colour, width=0.7)
        axes.text(
            i, max(start, level), f"{value:.3f}" if i == 0 else f"{value:+.3f}", ha="center", va="bottom", fontsize=8
        )
        axes.plot([i + 0.35, i + 0.65], [level, level], color="#666666", linewidth=0.8)
    axes.bar(len(steps), level, color=COLOURS[0], width=0.7)
    axes.text(len(steps), level, f"{level:.3f}", ha="center", va="bottom", fontsize=8)
    labels = [*(literal(label, 16) for label, _ in steps), "all together"]
    axes.set_xticks(range(len(labels)), labels, fontsize=8, rotation=30, ha="right")
    axes.set_ylabel(literal(axis))
    axes.set_title(literal(title, 60), fontsize=10)
    axes.grid(visible=False, axis="x")
    axes.grid(visible=True, axis="y", color=GRID)
    save(figure, path)
