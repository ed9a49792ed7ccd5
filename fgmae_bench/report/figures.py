"""Curves over epochs; matplotlib is imported only when a picture is drawn."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fgmae_bench.errors import BenchError, closest
from fgmae_bench.experiments import Experiment
from fgmae_bench.records import Record
from fgmae_bench.report.canvas import COLOURS, MARKERS, literal, new_axes, outer_legend, save
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
    "miou": "mean IoU over classes with reference (fraction)",
    "miou_union": "mean IoU over classes with reference or prediction (fraction)",
    "miou_all": "mean IoU over all classes (fraction)",
    "fwiou": "IoU weighted by class frequency (fraction)",
}
MAX_CURVES = 12


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
    """The curves of all records of the table that have a history of `metric`, in row order; `lr` is the learning rate."""
    pairs = [(row.label, record) for row in table.rows for record in row.records if _has(record, metric)]
    labels = distinct([label for label, _ in pairs], [record for _, record in pairs])
    together = Counter(labels)
    found = []
    for (_, record), label in zip(pairs, labels, strict=True):
        seed = record["config"]["recipe"].get("seed")
        found.append(_curve(label if together[label] == 1 else f"{label}, seed {seed}", record, metric))
    return found


def _has(record: Record, metric: str) -> bool:
    """Whether any epoch has a value of `metric`."""
    if metric == "lr":
        return any(entry["lr"] is not None for entry in record["history"])
    return any(
        entry["val"].get(metric) is not None or (metric == "loss" and entry["train_loss"] is not None) for entry in record["history"]
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
