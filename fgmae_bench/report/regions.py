"""`report regions`: what models lose in regions that they were not fitted on, next to what they keep under stress.

    python -m fgmae_bench.report regions --reference leaky --stress offset_acquisition

A model's drop is its score on the split `--reference` less that over the units which runs of `--split leave_out@UNIT`
(or of a card's split of that kind) tested, each by a head that had not seen it; units weigh alike. It is plotted
against the area that its physics card keeps of a stress. Each model is a point; a correlation of ranks is given from
eight models on, with the ceiling that halves of the units agree with one another.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fgmae_bench.config.flags import Parser, spellings
from fgmae_bench.config.stress import AUGMENTED, STRESS_NAMES, protocol_within
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.metrics.ranks import LEAST_MODELS, rank_against
from fgmae_bench.records import Record, all_records
from fgmae_bench.report.chosen import main_metric
from fgmae_bench.report.figures import COLOURS, literal, new_axes, save
from fgmae_bench.report.stress_card import is_card

Ladder = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model: its score on the reference split and on each left-out unit, and the area that its card keeps."""

    name: str
    metric: str
    inside: float
    outside: dict[str, float]
    area: float | None
    synthetic: bool

    @property
    def drop(self) -> float:
        """Reference less the mean over units."""
        return self.inside - float(np.mean(list(self.outside.values())))


def main(argv: list[str]) -> str:
    """Read the records, draw the points, and return the table."""
    given = parser().parse(argv)
    if given["stress"] not in STRESS_NAMES:
        raise unknown("stress", given["stress"], STRESS_NAMES)
    found, _ = all_records(given["results_dir"])
    records = [record for _, record in found if record["status"] == "done"]
    points = points_of(records, given["reference"], given["split"], given["stress"])
    if not points:
        what = f"no model has records of --split {given['reference']} and of {given['split']}@UNIT"
        raise BenchError(what, "run them, with the same probe")
    if given["out"] is not None and any(point.area is not None for point in points):
        draw(points, given["stress"], given["out"])
    return "\n".join(lines(points, given["stress"]))


def parser() -> Parser:
    """The flags of `report regions`."""
    made = Parser("fgmae_bench.report regions", __doc__)

    def flag(name: str, kind: Any, default: Any, text: str) -> None:
        shown = "none" if default is None else default
        made.add_argument(*spellings(name), dest=name, type=kind, default=default, help=f"{text} (default: {shown})")

    flag("results_dir", Path, Path("results"), "folder of the records")
    flag("reference", str, "leaky", "split of the score inside the regions")
    flag("split", str, "leave_out", "split of the kind leave_out: its units are behind the @")
    flag("stress", str, "offset_acquisition", "stress of the physics card")
    flag("out", Path, None, "picture of the points, a .png")
    return made


def points_of(records: list[Record], reference: str, split: str, stress: str) -> list[Point]:
    """A point for each model, with its weights, probe and seed, that has records of both splits."""
    by_model: dict[tuple[Any, ...], dict[str, Record]] = {}
    cards: dict[tuple[Any, ...], dict[Ladder, Record]] = {}
    for record in records:
        if is_card(record):
            fitted_clean = not record["protocol"].startswith(AUGMENTED) and record["dataset"]["split"] == reference
            if fitted_clean and stress in record["metrics"]["tolerance"]:
                cards.setdefault(_model(record), {}).setdefault(_ladder(record, stress), record)
        elif "intervals" in record["metrics"]:
            by_model.setdefault(_model(record), {})[record["dataset"]["split"]] = record
    common = _commonest(cards)
    points = []
    for model, held in by_model.items():
        units = {name.partition("@")[2]: record for name, record in held.items() if name.startswith(f"{split}@")}
        metric = main_metric(held[reference]) if reference in held else None
        if metric is None or not units:
            continue
        scores = {unit: record["metrics"]["test"][metric] for unit, record in sorted(units.items())}
        card = cards.get(model, {}).get(common)
        points.append(
            Point(
                name=_name(held[reference]),
                metric=metric,
                inside=held[reference]["metrics"]["test"][metric],
                outside={unit: score for unit, score in scores.items() if score is not None},
                area=None if card is None else card["metrics"]["tolerance"][stress]["area"],
                synthetic=held[reference]["dataset"]["synthetic"],
            )
        )
    return points


def _ladder(record: Record, stress: str) -> Ladder:
    """The severities of a card's stress: areas over others are of another axis."""
    return tuple(item["severity"] for item in record["stress"] if item["name"] == stress)


def _commonest(cards: dict[tuple[Any, ...], dict[Ladder, Record]]) -> Ladder:
    """The severities that most models have a card of, of several the longest."""
    counts = Counter(ladder for held in cards.values() for ladder in held)
    return max(counts, key=lambda ladder: (counts[ladder], len(ladder), ladder), default=())


def _model(record: Record) -> tuple[Any, ...]:
    """What makes two records of one model: data, protocol, weights and seed; the split is another matter."""
    config, weights = record["config"]["model"], record["model"]["weights"]
    drawn = record["config"]["recipe"]["seed"] if weights["source"] == "random" else None
    protocol = protocol_within(record["protocol"])
    facts = (config["model"], weights["source"], weights.get("sha256"), config.get("patch_size"), config["input_size"])
    return (record["dataset"]["name"], protocol, *facts, drawn)


def _name(record: Record) -> str:
    seed = f", seed {record['config']['recipe']['seed']}" if record["model"]["weights"]["source"] == "random" else ""
    return f"{record['model']['name']} ({record['model']['weights']['source']}{seed}), {record['protocol']}"


def lines(points: list[Point], stress: str) -> list[str]:
    """A Markdown table, the worst drop first, and what may be said of ranks."""
    found = [
        f"| model | {points[0].metric} inside | over {len(points[0].outside)} units | drop | area kept of {stress} |",
        "|---|---|---|---|---|",
    ]
    for point in sorted(points, key=lambda point: -point.drop):
        area = "" if point.area is None else f"{point.area:.3f}"
        mark = " [synthetic data]" if point.synthetic else ""
        outside = point.inside - point.drop
        found.append(f"| {point.name}{mark} | {point.inside:.3f} | {outside:.3f} | {point.drop:+.3f} | {area} |")
    known = [point for point in points if point.area is not None]
    units = sorted(set.intersection(*(set(point.outside) for point in known))) if known else []
    if len(known) < LEAST_MODELS or not units:
        return [*found, "", f"{len(known)} models with a card: no correlation of ranks below {LEAST_MODELS}"]
    drops = np.array([[point.inside - point.outside[unit] for point in known] for unit in units])
    agreed = rank_against(np.array([-point.area for point in known if point.area is not None]), drops)
    ceiling = "" if agreed.ceiling is None else f", ceiling {agreed.ceiling:.2f}"
    text = f"tau-b of drop and area lost over {len(known)} models: {agreed.tau:.2f}"
    return [*found, "", f"{text} ({agreed.low:.2f} to {agreed.high:.2f}){ceiling}"]


def draw(points: list[Point], stress: str, path: Path) -> None:
    """Each model as a point: area kept under the stress against the drop elsewhere."""
    figure, axes = new_axes(7, 4.5)
    for i, point in enumerate(point for point in points if point.area is not None):
        colour = COLOURS[i % len(COLOURS)]
        axes.scatter([point.area], [point.drop], color=colour, s=28, label=literal(point.name, 40))
    axes.legend(fontsize=7)
    axes.set_xlabel(f"area kept under {stress}")
    axes.set_ylabel(f"{points[0].metric} lost in regions left out")
    axes.set_title("synthetic data" if any(point.synthetic for point in points) else "", fontsize=9)
    save(figure, path)
