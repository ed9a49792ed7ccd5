"""The columns a layout may name: a literal registry from the name to what a row shows there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fgmae_bench.errors import BenchError, closest
from fgmae_bench.experiments import Experiment
from fgmae_bench.records import Record
from fgmae_bench.report.row import Row, Value, shared, summary

Getter = Callable[[Row], Value]


@dataclass(frozen=True, kw_only=True)
class Column:
    """`value` of a row; `digits` after the point in readable formats (None: as short as exact); `spread`: may vary by seed."""

    value: Getter
    digits: int | None = None
    signed: bool = False
    spread: bool = False


def effective_batch(record: Record) -> int:
    """Samples per step over all processes and accumulated batches."""
    recipe = record["config"]["recipe"]
    return int(recipe["batch_size"] * recipe.get("accum_iter", 1) * record["environment"]["world_size"])


def _each(read: Callable[[Record], Any], planned: str = "") -> Column:
    """A setting or fact that the records of a row share; before there are any, the planned setting of that name."""
    return Column(value=lambda row: shared(map(read, row.records)) if row.records else row.planned.get(planned))


def _config(part: str, name: str) -> Column:
    """A field of the resolved configuration."""
    return _each(lambda record: record["config"][part].get(name), planned=name)


def _metric(name: str) -> Column:
    """A metric of the test split, scored once."""
    return Column(value=lambda row: summary(record["metrics"]["test"].get(name) for record in row.records), digits=3, spread=True)


def _timing(name: str) -> Column:
    """A time or rate of the run."""
    return Column(value=lambda row: summary(record["timing"][name] for record in row.records), digits=1, spread=True)


def _published(metric: str) -> Column:
    """A published number, as published."""
    return Column(value=lambda row: row.published.value(metric) if row.published else None, digits=3)


def _delta(metric: str) -> Column:
    """Measured - published, where the two may be compared."""
    return Column(value=lambda row: row.deltas.get(metric), digits=3, signed=True)


COLUMNS: dict[str, Column] = {
    "dataset": Column(value=lambda row: row.dataset + (" (synthetic)" if row.synthetic else "")),
    "synthetic": Column(value=lambda row: row.synthetic),
    "split": _each(lambda record: record["dataset"]["split"], planned="split"),
    "run": Column(value=lambda row: row.label),
    "run_id": _each(lambda record: record["run_id"]),
    "model": _each(lambda record: record["model"]["name"], planned="model"),
    "weights": _each(lambda record: record["model"]["weights"]["source"], planned="weights"),
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
    "n_train": _each(lambda record: record["dataset"]["n_train"]),
    "n_val": _each(lambda record: record["dataset"]["n_val"]),
    "n_test": _each(lambda record: record["dataset"]["n_test"]),
    "params_trainable": _each(lambda record: record["model"]["params_trainable"]),
    "params_total": _each(lambda record: record["model"]["params_total"]),
    "feature_dim": _each(lambda record: record["model"]["feature_dim"]),
    "seeds": Column(value=lambda row: len(row.records) or None),
    "oa": _metric("oa"),
    "aa": _metric("aa"),
    "kappa": _metric("kappa"),
    "f1_macro": _metric("f1_macro"),
    "map_micro": _metric("map_micro"),
    "map_macro": _metric("map_macro"),
    "f1_micro": _metric("f1_micro"),
    "loss": _metric("loss"),
    "published_oa": _published("oa"),
    "published_aa": _published("aa"),
    "published_map_micro": _published("map_micro"),
    "published_f1_micro": _published("f1_micro"),
    "delta_oa": _delta("oa"),
    "delta_map_micro": _delta("map_micro"),
    "delta_f1_micro": _delta("f1_micro"),
    "delta_aa": _delta("aa"),
    "source": Column(value=lambda row: row.published.source if row.published else None),
    "seconds": _timing("total_seconds"),
    "images_per_second": _timing("images_per_second"),
    "device": _each(lambda record: record["environment"]["device_name"] or record["environment"]["device"]),
    "remarks": Column(value=lambda row: row.notes),
}


def check_columns(experiment: Experiment) -> None:
    """Raise BenchError, naming file and key path, where the layout names a column that does not exist or repeats one."""
    names = experiment.layout.columns
    for i, name in enumerate(names):
        where = f"{experiment.path}: layout.columns[{i}]"
        if name not in COLUMNS:
            raise BenchError(f"{where}: unknown column '{name}'", closest(name, COLUMNS))
        if name in names[:i]:
            raise BenchError(f"{where} repeats '{name}'", "name each column once")
