"""Curves over epochs as PNG; matplotlib is imported only when a picture is drawn."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path

from fgmae_bench.errors import BenchError, closest
from fgmae_bench.experiments import Experiment
from fgmae_bench.files import replacing
from fgmae_bench.records import Record
from fgmae_bench.report.row import Table
from fgmae_bench.report.table import distinct

# Metric -> label of its axis, with the unit.
AXES = {
    "loss": "cross-entropy loss (nats)",
    "oa": "overall accuracy (fraction)",
    "aa": "average accuracy over classes (fraction)",
    "kappa": "Cohen's kappa (1 = perfect)",
    "f1_macro": "F1, mean over classes (fraction)",
    "map_micro": "average precision, all labels together (fraction)",
    "map_macro": "average precision, mean over classes (fraction)",
    "f1_micro": "F1, all labels together (fraction)",
}
MAX_CURVES = 12
# Okabe & Ito 2008, without the yellow that vanishes on white; beyond these, markers tell curves apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*PX<>hp"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run's course: `values` and, for the loss, `train` at `epochs`; undefined is NaN."""

    label: str
    synthetic: bool
    epochs: list[int]
    values: list[float]
    train: list[float]


def check_curves(experiment: Experiment) -> None:
    """Raise BenchError, naming file and key path, where the layout names a curve that cannot be drawn."""
    for i, metric in enumerate(experiment.layout.curves):
        if metric not in AXES:
            raise BenchError(f"{experiment.path}: layout.curves[{i}]: unknown metric '{metric}'", closest(metric, AXES))


def file_name(table: str, metric: str) -> str:
    """Name of the picture of a table's metric."""
    return f"{table}-{metric}.png"


def curves(table: Table, metric: str) -> list[Curve]:
    """The curves of all records of the table that have a history of `metric`, in row order."""
    pairs = [(row.label, record) for row in table.rows for record in row.records]
    labels = distinct([label for label, _ in pairs], [record for _, record in pairs])
    found = []
    for (own, record), label in zip(pairs, labels, strict=True):
        alone = sum(other == own for other, _ in pairs) == 1
        seed = record["config"]["recipe"].get("seed")
        curve = _curve(label if alone else f"{label}, seed {seed}", record, metric)
        if any(map(math.isfinite, curve.values + curve.train)):
            found.append(curve)
    return found


def _curve(label: str, record: Record, metric: str) -> Curve:
    history, synthetic = record["history"], record["dataset"]["synthetic"]

    def known(value: float | None) -> float:
        return math.nan if value is None else float(value)

    return Curve(
        label=f"{label} (synthetic)" if synthetic else label,
        synthetic=synthetic,
        epochs=[entry["epoch"] for entry in history],
        values=[known(entry["val"].get(metric)) for entry in history],
        train=[known(entry["train_loss"]) for entry in history] if metric == "loss" else [],
    )


def drawable(table: Table, metrics: tuple[str, ...]) -> dict[str, str]:
    """Metric -> file name, for the metrics of which at least one run has a curve."""
    return {metric: file_name(table.name, metric) for metric in metrics if curves(table, metric)}


def draw(table: Table, metric: str, path: Path) -> None:
    """Draw the curves of one metric to `path` (PNG, 150 dpi): at most MAX_CURVES, the title says how many are left out."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    every = curves(table, metric)
    shown = every[:MAX_CURVES]
    figure = Figure(figsize=(9, 4.5), dpi=150)
    axes = figure.add_subplot()
    for i, curve in enumerate(shown):
        colour, label = COLOURS[i % len(COLOURS)], _literal(curve.label)
        (line,) = axes.plot(curve.epochs, curve.values, color=colour, linewidth=1.4, label=label)
        line.set(marker=MARKERS[i % len(MARKERS)], markersize=4, markevery=max(1, len(curve.epochs) // 10))
        if curve.train:
            axes.plot(curve.epochs, curve.train, color=colour, linestyle="--", linewidth=1.0, label="_nolegend_")
    if metric == "loss":
        axes.plot([], [], color="#666666", label="solid: evaluation split")
        axes.plot([], [], color="#666666", linestyle="--", label="dashed: training split")
    axes.set_xlabel("epoch")
    axes.set_ylabel(AXES[metric])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_title(_title(table, every, shown), fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight", metadata={"Software": None})


def _title(table: Table, every: list[Curve], shown: list[Curve]) -> str:
    parts = [_literal(table.title)]
    if any(curve.synthetic for curve in shown):
        parts.append("synthetic data" if all(curve.synthetic for curve in shown) else "synthetic data where marked")
    if len(every) > len(shown):
        parts.append(f"{len(every) - len(shown)} of {len(every)} runs left out")
    return "\n".join([parts[0], ", ".join(parts[1:])]) if len(parts) > 1 else parts[0]


def _literal(text: str) -> str:
    """Text that matplotlib shows as it is: no mathematics, no hidden legend entry, lines of readable length."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split()).replace("$", r"\$")
    return "\n".join(textwrap.wrap(f" {clean}" if clean.startswith("_") else clean, 48, drop_whitespace=False))
