"""The columns a layout may name: a literal registry from the name to what a row shows there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fgmae_bench.config.cards import card_names, load_card
from fgmae_bench.config.layout import class_of, stress_of_column
from fgmae_bench.config.same_run import effective_batch
from fgmae_bench.metrics.table import METRICS
from fgmae_bench.metrics.variance import total_bounds
from fgmae_bench.records import Record
from fgmae_bench.report.chosen import labels_used, over_draws, seeds_or_draws
from fgmae_bench.report.row import Bounds, Row, Spread, Value, shared, summary

Getter = Callable[[Row], Value]
LEVEL = 0.95  # of the intervals
MANY_UNITS = 1000  # of records that do not say over how many samples their intervals are
ONLY_PUBLISHED = ("map",)  # stated without saying whether classes or decisions were averaged: compared with nothing
REQUIRED = (
    "dataset",
    "recipe",
    "split",
    "leaks",
    "effective_batch",
    "seeds",
    "images_per_second",
    "memory_gib",
    "seconds",
    "remarks",
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """`value` of a row; `digits` after the point (None: as short as exact); `spread`: may vary by seed."""

    value: Getter
    digits: int | None = None
    signed: bool = False
    spread: bool = False


def _each(read: Callable[[Record], Any], planned: str = "") -> Column:
    """A setting or fact that the records of a row share; before there are any, the planned setting of that name."""
    return Column(value=lambda row: shared(map(read, row.records)) if row.records else row.planned.get(planned))


def _config(part: str, name: str) -> Column:
    """A field of the resolved configuration."""
    return _each(lambda record: record["config"][part].get(name), planned=name)


def _metric(name: str) -> Column:
    """A metric of the test split, scored once."""
    return Column(
        value=lambda row: summary(record["metrics"]["test"].get(name) for record in row.records), digits=3, spread=True
    )


def _bounds(row: Row, name: str, of: str = "test") -> Bounds | None:
    """The means over seeds of the bounds of a metric, or of a class's IoU (`of` = iou); equal ones, of samples that all
    score alike, bound nothing.
    """
    pairs = [((record["metrics"]["intervals"] or {}).get(of) or {}).get(name) for record in row.records]
    if not pairs or any(pair is None for pair in pairs):
        return None
    low, high = (sum(ends) / len(pairs) for ends in zip(*pairs, strict=True))
    return Bounds(low=low, high=high) if high > low else None


def _interval(name: str) -> Column:
    """The test interval of a metric; over several seeds the means of their bounds, at least as wide as the mean's."""
    return Column(value=lambda row: _bounds(row, name), digits=3)


def _total_interval(name: str) -> Column:
    """The interval over seeds and test samples together, as `total_bounds` makes it; None of one seed."""

    def value(row: Row) -> Bounds | None:
        bounds, spread = _bounds(row, name), _metric(name).value(row)
        if bounds is None or not isinstance(spread, Spread):
            return None
        units = min(record["metrics"]["intervals"].get("units") or MANY_UNITS for record in row.records)
        low, high = total_bounds(spread.mean, (spread.std, spread.n), (bounds.low, bounds.high), units)
        least, most = METRICS[name].bounds or (-math.inf, math.inf)
        return Bounds(low=max(least, low), high=min(most, high))

    return Column(value=value, digits=3)


def _timing(name: str) -> Column:
    """A time or rate of the run."""
    return Column(value=lambda row: summary(record["timing"][name] for record in row.records), digits=1, spread=True)


def memory_gib(record: Record) -> float | None:
    """Peak memory in GiB: the device's where there is one, else the process's, without files."""
    timing = record["timing"]
    peak = timing["peak_device_memory_bytes"] or timing["peak_anonymous_memory_bytes"]
    return peak / 2**30 if peak else None


def gflops(record: Record) -> float | None:
    """Thousand million operations of one image through the model, where the run counted them."""
    value = (record.get("cost") or {}).get("gflops")
    return None if value is None else float(value)


def energy_joules(record: Record) -> float | None:
    """Energy of the run in joules, where the machine reported it."""
    value = (record.get("cost") or {}).get("energy_joules")
    return None if value is None else float(value)


def source_title(source: str) -> str:
    """Where weights come from, in a table: of a file its name, not the folder that it lay in."""
    return re.split(r"[/\\]", source)[-1] if re.search(r"[/\\]", source) and ":" not in source[2:] else source


def _run_ids(row: Row) -> str | None:
    """The run's id; of several the first, and how many others there are."""
    ids = [record["run_id"] for record in row.records]
    return None if not ids else ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"


def leaks(record: Record) -> bool | None:
    """Whether the split tears neighbours or groups apart, as a note of the record says; None for lists that are on no
    card.
    """
    if any(note["code"] in ("leaky_split", "torn_groups") for note in record["notes"]):
        return True
    base, at, _ = record["dataset"]["split"].partition("@")
    return False if base in splits_of(record["dataset"]["name"]) or (at and base == "leave_out") else None


@cache
def splits_of(dataset: str) -> frozenset[str]:
    """Names of the splits on a dataset's card; none where the suite has no card of that name."""
    return frozenset(load_card(dataset).splits) if dataset in card_names() else frozenset()


def _published(metric: str) -> Column:
    """A published number, as published."""
    return Column(value=lambda row: row.published.value(metric) if row.published else None, digits=3)


def _delta(metric: str) -> Column:
    """Measured - published, where the two may be compared, else why not."""

    def value(row: Row) -> Value:
        stated = row.published is not None and row.published.value(metric) is not None
        return row.deltas.get(metric, row.no_difference if stated else None)

    return Column(value=value, digits=3, signed=True)


def overlap(record: Record) -> str:
    """What the pre-training has seen of the dataset, by a note of the record; - without named weights."""
    for note in record["notes"]:
        if note["code"] == "pretraining_overlap":
            return str(note["text"].split(" have seen ", 1)[-1])
        if note["code"] == "pretraining_places":
            return str(note["text"].split(" of this dataset: ", 1)[-1])
    return "-"


def candidates(record: Record) -> int | None:
    """How many settings one was chosen from inside the run."""
    return (record.get("selection") or {}).get("budget")


def chosen_penalty(record: Record) -> float | None:
    """The L2 penalty of logistic regression that was chosen."""
    path = (record.get("selection") or {}).get("path")
    found = path.get("chosen") if isinstance(path, dict) else None
    return float(found) if isinstance(found, int | float) else None


CALIBRATION = (
    "ece",
    "ece_perfect",
    "ece_mass",
    "ece_mass_perfect",
    "ece_classwise",
    "brier",
    "nll",
    "temperature",
    "ece_scaled",
    "nll_scaled",
    "aurc",
)


def _calibration(name: str) -> Column:
    """A number of the calibration, where it was derived."""
    return Column(
        value=lambda row: summary(record.get("calibration", {}).get(name) for record in row.records),
        digits=3,
        spread=True,
    )


RETRIEVAL = tuple(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))


def _retrieval(name: str) -> Column:
    """A recall of texts and images of the test split, of zero-shot runs."""
    return Column(
        value=lambda row: summary((record["metrics"].get("retrieval") or {}).get(name) for record in row.records),
        digits=3,
        spread=True,
    )


def _class_score(score: str, label: str) -> Column:
    """A score of one class over the test split."""
    return Column(
        value=lambda row: summary(
            (record["metrics"]["per_class"].get(label) or {}).get(score) for record in row.records
        ),
        digits=3,
        spread=True,
    )


def _joined_miou(scheme: str) -> Column:
    """The mean IoU under a scheme that joins classes: of runs scored by that scheme their own."""

    def read(record: Record) -> float | None:
        if (record["dataset"]["label_scheme"]["eval"] or "").partition(" of ")[0] == scheme:
            return record["metrics"]["test"].get("miou")
        return (record["metrics"].get("schemes", {}).get(scheme) or {}).get("miou")

    return Column(value=lambda row: summary(map(read, row.records)), digits=3, spread=True)


def _class_iou_interval(label: str) -> Column:
    """Its interval, the means of the bounds of several seeds."""
    return Column(value=lambda row: _bounds(row, label, of="iou"), digits=3)


def _tolerance(name: str) -> Column:
    """What a card tolerates of a stress; `> X` where it is never reached, nothing where it is withheld."""

    def value(row: Row) -> Value:
        found = [record["metrics"].get("tolerance", {}).get(name) for record in row.records]
        if not found or any(each is None or each["withheld"] for each in found):
            return None
        if all(each["value"] is not None for each in found):
            return summary(each["value"] for each in found)
        last = [item["severity"] for record in row.records for item in record["stress"] if item["name"] == name][-1]
        texts = [f"> {last:g}" if each["value"] is None else f"{each['value']:.2f}" for each in found]
        return ", ".join(dict.fromkeys(texts))

    return Column(value=value, digits=2, spread=True)


def _of_stress(score: str, name: str) -> Column:
    """Another score of a card: the area that is kept, or what is said of the last severity."""

    def read(record: Record) -> float | None:
        if score == "area":
            return (record["metrics"].get("tolerance", {}).get(name) or {}).get("area")
        items = [item["metrics"] for item in record.get("stress") or [] if item["name"] == name]
        return items[-1].get({"flips": "flip_rate"}.get(score, score)) if items else None

    signed = score == "beyond_null"
    return Column(value=lambda row: summary(map(read, row.records)), digits=3, signed=signed, spread=True)


class Columns(dict[str, Column]):
    """Columns by name; those of one class or stress, such as `iou:Water`, are made when they are asked for."""

    def __contains__(self, name: object) -> bool:
        made = isinstance(name, str) and (class_of(name) is not None or stress_of_column(name) is not None)
        return super().__contains__(name) or made

    def __missing__(self, name: str) -> Column:
        card = stress_of_column(name)
        if card is not None:
            return _tolerance(card.stress) if card.score == "tolerance" else _of_stress(*card)
        held = class_of(name)
        if held is None:
            raise KeyError(name)
        if held.score == "miou":
            return _joined_miou(held.label)
        return _class_iou_interval(held.label) if held.interval else _class_score(held.score, held.label)


COLUMNS: dict[str, Column] = {
    "dataset": Column(value=lambda row: row.dataset + (" (synthetic)" if row.synthetic else "")),
    "synthetic": Column(value=lambda row: row.synthetic),
    "split": _each(lambda record: record["dataset"]["split"], planned="split"),
    "leaks": _each(leaks),
    "overlap": _each(overlap),
    "run": Column(value=lambda row: row.label),
    "run_id": Column(value=_run_ids),
    "protocol": _each(lambda record: record["protocol"]),
    "model": _each(lambda record: record["model"]["name"], planned="model"),
    "weights": _each(lambda record: source_title(record["model"]["weights"]["source"]), planned="weights"),
    "recipe": _each(lambda record: record["recipe"], planned="recipe"),
    "probe": _config("recipe", "probe"),
    "features": _config("recipe", "features"),
    "views": _config("recipe", "views"),
    "epochs": _config("recipe", "epochs"),
    "lr": _config("recipe", "lr"),
    "weight_decay": _config("recipe", "weight_decay"),
    "batch_size": _config("recipe", "batch_size"),
    "world_size": _each(lambda record: record["environment"]["world_size"], planned="world_size"),
    "effective_batch": _each(effective_batch, planned="effective_batch"),
    "amp": _config("recipe", "amp"),
    "train_frac": _config("data", "train_frac"),
    "shots": _config("data", "shots"),
    "labels": _each(labels_used),
    "label_area": Column(value=lambda row: row.area, digits=3, spread=True),
    "draws_interval": Column(value=over_draws, digits=3),
    "penalty": _each(chosen_penalty),
    "candidates": Column(value=lambda row: row.candidates or shared(map(candidates, row.records))),
    "n_train": _each(lambda record: record["dataset"]["n_train"]),
    "n_val": _each(lambda record: record["dataset"]["n_val"]),
    "n_test": _each(lambda record: record["dataset"]["n_test"]),
    "params_trainable": _each(lambda record: record["model"]["params_trainable"]),
    "params_total": _each(lambda record: record["model"]["params_total"]),
    "feature_dim": _each(lambda record: record["model"]["feature_dim"]),
    "seeds": Column(value=seeds_or_draws),
    **{name: _metric(name) for name in METRICS},
    **{f"{name}_interval": _interval(name) for name, metric in METRICS.items() if metric.interval},
    **{f"{name}_total_interval": _total_interval(name) for name, metric in METRICS.items() if metric.interval},
    **{f"published_{name}": _published(name) for name in (*METRICS, *ONLY_PUBLISHED)},
    **{f"delta_{name}": _delta(name) for name in METRICS},
    "gate": Column(value=lambda row: "; ".join(verdict.words for verdict in row.gates) or None),
    "source": Column(value=lambda row: row.published.source if row.published else None),
    **{name: _calibration(name) for name in CALIBRATION},
    **{name: _retrieval(name) for name in RETRIEVAL},
    "seconds": _timing("total_seconds"),
    "images_per_second": _timing("images_per_second"),
    "memory_gib": Column(value=lambda row: summary(map(memory_gib, row.records)), digits=2, spread=True),
    "gflops": Column(value=lambda row: summary(map(gflops, row.records)), digits=2),
    "energy_joules": Column(value=lambda row: summary(map(energy_joules, row.records)), digits=0, spread=True),
    "device": _each(lambda record: record["environment"]["device_name"] or record["environment"]["device"]),
    "remarks": Column(value=lambda row: row.notes),
}
COLUMNS = Columns(COLUMNS)
