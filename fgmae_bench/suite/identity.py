"""Which planned runs are recorded: decided by `same_run`, on what is kept of each record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fgmae_bench.config.data_files import Held, held_by_data, held_by_model
from fgmae_bench.config.experiments import may_fill, same_card
from fgmae_bench.config.names import FITTED_HEADS
from fgmae_bench.config.same_run import effective_batch, same_run
from fgmae_bench.config.schedules import rate_of
from fgmae_bench.records import SCHEMA_VERSION, record_files
from fgmae_bench.suite.command import Command, Point


class Shelf:
    """The records of a results folder, by what distinguishes runs; only what decides is kept of each."""

    def __init__(self, results_dir: Path):
        self.results_dir = results_dir
        self.seen: set[Path] = set()
        self.by_facts: dict[Key, list[tuple[Path, dict[str, Any]]]] = {}
        self.broken: list[str] = []
        self.models: set[str] = set()
        self.content: dict[Path, Held] = {}  # of the parts that a record is of
        self.weights: dict[Path, Held] = {}  # of its model, as runs remember it

    def refresh(self) -> None:
        """Take in the records that have appeared since."""
        for path in [path for path in record_files(self.results_dir) if path not in self.seen]:
            self.seen.add(path)
            try:
                whole = json.loads(path.read_text(encoding="utf-8"))
                if whole["schema"] != SCHEMA_VERSION:
                    continue  # an older record does not say of which pixels it is: its run is made again
                record = _slim(whole)
                key = _facts(record)
                hash((key, record["config"]["model"]["model"]))  # a list in place of a number is a TypeError
                facts = whole["config"].get("facts", {})
                content = held_by_data(whole["dataset"]["content_sha256"], facts)
                weights = held_by_model(record["model"]["weights"]["sha256"], facts)
                if whole["run_id"] != path.stem:  # a synchroniser's copy, or a file that was renamed
                    raise ValueError
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
                self.broken.append(f"{path}: not a readable record of that name")
                continue
            self.content[path], self.weights[path] = content, weights
            self.models.add(str(record["config"]["model"]["model"]))
            self.by_facts.setdefault(key, []).append((path, record))

    def find(
        self,
        command: Command,
        point: Point,
        contents: list[Held] | None = None,
        tensors: list[Held] | None = None,
    ) -> Path | None:
        """Path of the record of a planned run, None where there is none; of data with one of `contents` and of a model
        with one of `tensors` where given.
        """
        held = self.by_facts.get(_meant(command, point), [])
        return next(
            (
                path
                for path, record in held
                if (contents is None or self.content[path] in contents)
                and (tensors is None or self.weights[path] in tensors)
                and fills(command, point, record)
            ),
            None,
        )


def fills(command: Command, point: Point, record: dict[str, Any]) -> bool:
    """Whether a record is that of a run: it holds what the run is composed of, the card is of the same version, both
    are synthetic or neither.
    """
    dataset = record["dataset"]
    if command.synthetic not in (None, dataset["synthetic"]) or dataset["card_version"] != command.card.version:
        return False
    if dataset["name"] != command.card.name or not may_fill(record):
        return False
    if not same_card(command.experiment, command.planned, record):
        return False
    if point.run.data.train_frac < 1 and "draw" not in record["config"]["data"]:
        return False  # drawn by the seed of the split: another subset
    return same_run(point.run, record, command.card, command.processes, command.planned.weights_files)


def _slim(record: dict[str, Any]) -> dict[str, Any]:
    """What decides of a record."""
    config, facts = record["config"], record["config"].get("facts", {})
    environment, contract = record["environment"], record["model"]["contract"]
    return {
        "protocol": record["protocol"],
        "config": {part: config[part] for part in ("data", "model", "recipe")}
        | {"departs": config.get("departs", [])}
        | {"execution": {"class_text": config.get("execution", {}).get("class_text")}}
        | {"facts": {name: facts[name] for name in ("defects", "batch_norm_samples", "stress") if name in facts}},
        "dataset": {name: record["dataset"].get(name) for name in ("name", "card_version", "card_sha256", "synthetic")},
        "model": {
            "weights": {name: record["model"]["weights"].get(name) for name in ("source", "sha256")},
            "contract": {name: contract.get(name) for name in ("geometry", "assumed")},
        },
        "notes": {note["code"] for note in record["notes"]},
        "environment": {"world_size": environment["world_size"], "device": environment["device"]},
    }


Key = tuple[str, str, int, float, int, float, float | None]


def _facts(record: dict[str, Any]) -> Key:
    """What a record is looked up by."""
    config = record["config"]
    recipe = config["recipe"]
    batch = effective_batch(record)
    named = (record["protocol"], config["model"]["model"], recipe["seed"], config["data"]["train_frac"])
    return (*named, batch, recipe["weight_decay"], _rounded(recipe["lr"]))


def _meant(command: Command, point: Point) -> Key:
    """What the record of a run is looked up by."""
    run, recipe = point.run, point.run.recipe
    named = (command.protocol, run.model.model, recipe.seed, run.data.train_frac)
    if vars(recipe).get("head") in FITTED_HEADS:  # nothing of it is trained, see `fgmae_bench.train.fitted`
        return (*named, 1, 0.0, None)
    batch = recipe.batch_size * recipe.accum_iter * command.processes
    rate = rate_of(recipe, batch) if vars(recipe).get("probe", "sgd") == "sgd" else None
    return (*named, batch, recipe.weight_decay, _rounded(rate))


def _rounded(rate: float | None) -> float | None:
    """A rate without its last bits: one from a base rate may differ in them."""
    return None if rate is None else float(f"{rate:.9g}")
