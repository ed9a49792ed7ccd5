"""Pictures other than curves: learning rate, confusion, few labels, penalties, calibration, all models at once."""

from __future__ import annotations

import math
from pathlib import Path

from fgmae_bench.records import Record
from fgmae_bench.report import figures
from fgmae_bench.report.chosen import main_metric, over_draws
from fgmae_bench.report.confidence_pictures import calibrated, draw_paths, draw_reliability, paths
from fgmae_bench.report.figures import COLOURS, MARKERS, PNG_DPI, draw_matrix, literal, new_axes, outer_legend, save
from fgmae_bench.report.row import Row, Spread, Table, summary
from fgmae_bench.report.stress_card import draw_card, is_card

MAX_MATRICES, MAX_CLASSES, MAX_ROWS = 4, 25, 8
ACROSS = "models-across-datasets.png"
Point = tuple[str, str, bool, float, float]  # model, dataset and protocol, synthetic, mean, std


def available(table: Table) -> dict[str, str]:
    """Caption -> file name, for the pictures that the table's records can fill."""
    kinds = {
        "learning rate over epochs": (
            "lr",
            any(entry["lr"] is not None for record in table.records for entry in record["history"]),
        ),
        "confusion matrices": ("confusion", bool(confused(table))),
        "few-label curves": ("few-labels", bool(few_label_lines(table))),
        "k-shot curves": ("shots", bool(few_label_lines(table, shots=True))),
        "penalty paths": ("penalty", bool(paths(table))),
        "reliability and selective risk": ("reliability", bool(calibrated(table))),
    }
    found = {caption: f"{table.name}-{kind}.png" for caption, (kind, there) in kinds.items() if there}
    return found | {f"physics card of {label}": f"card-{run}.png" for label, run in cards(table)}


def cards(table: Table) -> list[tuple[str, str]]:
    """(label, run id) of the physics cards among a table's records: the first seed of each row."""
    rows = [row for row in table.rows if row.candidates is None and row.records and is_card(row.records[0])]
    return [(row.label, row.records[0]["run_id"]) for row in rows]


def draw(table: Table, caption: str, path: Path) -> None:
    """Draw one of the available pictures."""
    if caption == "confusion matrices":
        draw_confusion(table, path)
    elif caption in ("few-label curves", "k-shot curves"):
        draw_few_labels(table, path, shots=caption == "k-shot curves")
    elif caption == "penalty paths":
        draw_paths(table, path)
    elif caption == "reliability and selective risk":
        draw_reliability(table, path)
    elif path.name.startswith("card-"):
        draw_card(next(each for each in table.records if f"card-{each['run_id']}.png" == path.name), path)
    else:
        figures.draw(table, "lr", path)


def confused(table: Table) -> list[tuple[str, Record]]:
    """(label, record) of the rows that can show a confusion matrix: the first seed of each."""
    found = []
    for row in (row for row in table.rows if row.candidates is None):
        matrix = row.records[0]["metrics"].get("confusion") if row.records else None
        if matrix and len(matrix) <= MAX_CLASSES and row.records[0]["metrics"]["per_class"]:
            found.append((row.label + (" (synthetic)" if row.synthetic else ""), row.records[0]))
    return found


def draw_confusion(table: Table, path: Path) -> None:
    """At most MAX_MATRICES confusion matrices, each row divided by its reference count."""
    from matplotlib.figure import Figure

    every = confused(table)
    shown = every[:MAX_MATRICES]
    size = max(len(record["metrics"]["confusion"]) for _, record in shown)
    figure = Figure(figsize=((2.4 + 0.42 * size) * len(shown), 2.0 + 0.36 * size), dpi=PNG_DPI, layout="constrained")
    for i, (label, record) in enumerate(shown):
        matrix, classes = record["metrics"]["confusion"], list(record["metrics"]["per_class"])
        shares = [[value / sum(line) if sum(line) else None for value in line] for line in matrix]
        columns = [*classes, "other"][: len(matrix[0])]
        axes = figure.add_subplot(1, len(shown), i + 1)
        draw_matrix(axes, shares, classes, columns, title=label, row_title="reference", col_title="predicted")
    left = f", {len(every) - len(shown)} of {len(every)} rows left out" if len(every) > len(shown) else ""
    figure.suptitle(literal(f"{table.title}: shares of each reference class{left}", 120), fontsize=10)
    save(figure, path)


def few_label_lines(table: Table, *, shots: bool = False) -> dict[str, list[tuple[float, float, float]]]:
    """Model (with source of weights, recipe and probe) -> (train fraction or shots, mean, half of its band) in order,
    for models with several. The band is the 95 % interval over draws of labels, of older records their deviation.
    """
    lines: dict[str, dict[float, Row]] = {}
    protocols = {record["protocol"] for record in table.records}
    for row in (row for row in table.rows if row.candidates is None):
        if row.records and main_metric(row.records[0]):
            record, data = row.records[0], row.records[0]["config"]["data"]
            if (data.get("shots") is not None) != shots:
                continue
            size = float(data["shots"] if shots else data.get("train_frac", 1.0))
            probe = f", {record['protocol']}" if len(protocols) > 1 else ""
            name = f"{model_name(record)}, {record['recipe']}{probe}{' (synthetic)' if row.synthetic else ''}"
            lines.setdefault(name, {}).setdefault(size, row)
    return {
        name: [(size, *_banded(points[size])) for size in sorted(points)]
        for name, points in lines.items()
        if len(points) > 1
    }


def _banded(row: Row) -> tuple[float, float]:
    mean, deviation = _value(row)
    interval = over_draws(row)
    return mean, deviation if interval is None else (interval.high - interval.low) / 2


def draw_few_labels(table: Table, path: Path, *, shots: bool = False) -> None:
    """The main metric over the share, or number, of training labels: a line a model, with a band."""
    figure, axes = new_axes()
    for i, (name, points) in enumerate(list(few_label_lines(table, shots=shots).items())[: figures.MAX_CURVES]):
        x, y, half = zip(*points, strict=True)
        colour = COLOURS[i % len(COLOURS)]
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(x, y, color=colour, marker=marker, markersize=4, label=literal(name), linewidth=1.3)
        if any(value > 0 for value in half):
            low, high = ([a + sign * b for a, b in zip(y, half, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    metric = next(metric for metric in map(main_metric, table.records) if metric)
    axes.set_xscale("log")
    axes.set_xlabel("training labels of each class" if shots else "share of the training labels")
    axes.set_ylabel(figures.AXES[metric])
    axes.set_title(literal(f"{table.title}: few labels, bands over draws at 95 %", 60), fontsize=10)
    outer_legend(axes)
    save(figure, path)


def across(tables: list[Table]) -> list[Point]:
    """Every measured row: none is picked, which would be a choice made on the test split."""
    found = []
    for table in tables:
        for row in (row for row in table.rows if row.candidates is None):
            metric = main_metric(row.records[0]) if row.records else None
            if metric:
                found.append(
                    (
                        model_name(row.records[0]),
                        f"{row.dataset}, {table.protocol} ({metric})",
                        row.synthetic,
                        *_value(row),
                    )
                )
    return sorted(found)


def draw_across(tables: list[Table], path: Path) -> None:
    """Models across datasets: a line a dataset and protocol, a mark a model; hollow marks are synthetic."""
    points = thinned(across(tables))
    places = {place: i for i, place in enumerate(sorted({point[1] for point in points}))}
    models = sorted({point[0] for point in points})
    figure, axes = new_axes(9, 1.6 + 0.5 * len(places))
    for model, place, synthetic, mean, error in points:
        i = models.index(model)
        fill = "none" if synthetic else COLOURS[i % len(COLOURS)]
        axes.errorbar(
            mean,
            places[place],
            xerr=error or None,
            linestyle="",
            marker=MARKERS[i % len(MARKERS)],
            markersize=7,
            color=COLOURS[i % len(COLOURS)],
            markerfacecolor=fill,
            capsize=2,
        )
    for i, model in enumerate(models[:24]):
        axes.plot(
            [],
            [],
            linestyle="",
            marker=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
            label=literal(model),
        )
    if any(point[2] for point in points):
        axes.plot(
            [], [], linestyle="", marker="o", color="#666666", markerfacecolor="none", label="hollow: synthetic data"
        )
    axes.set_yticks(range(len(places)), [literal(place) for place in places])
    axes.set_ylim(-0.6, len(places) - 0.4)
    axes.set_xlabel("main metric of each dataset, every row of each model (fraction)")
    axes.set_title("Models across datasets", fontsize=10)
    outer_legend(axes)
    save(figure, path)


def thinned(points: list[Point]) -> list[Point]:
    """At most MAX_ROWS rows of each model and place, the lowest and the highest among them."""
    places: dict[tuple[str, str, bool], list[Point]] = {}
    for point in points:
        places.setdefault(point[:3], []).append(point)
    found = []
    for several in places.values():
        last = len(several) - 1
        kept = dict.fromkeys(round(i * last / (MAX_ROWS - 1)) for i in range(MAX_ROWS))
        found += [several[i] for i in kept]
    return found


def model_name(record: Record) -> str:
    """The backbone with the source of its weights."""
    return f"{record['model']['name']} ({record['model']['weights']['source']})"


def _value(row: Row) -> tuple[float, float]:
    metric = main_metric(row.records[0]) or ""
    value = summary(record["metrics"]["test"].get(metric) for record in row.records)
    if isinstance(value, Spread):
        return value.mean, value.std
    return (math.nan if value is None else value), 0.0
