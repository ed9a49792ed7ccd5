"""Which planned runs are recorded: decided by `experiments.matches`, fed with everything that a run is composed of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from fgmae_bench.config.experiments import Experiment, PlannedRun, effective_batch, matches
from fgmae_bench.config.run import Run
from fgmae_bench.config.schedules import rate_of
from fgmae_bench.records import SCHEMA_VERSION, record_files
from fgmae_bench.suite.command import Command, Point
from fgmae_bench.system.stamps import Parts

# What an engine resolves to a value of its own, so that a record may differ from the plan: the rate of `blr` stands in
# `lr`, the number of classes in the scheme; `features` is judged below.
RESOLVED = ("blr", "nb_classes", "features")


class Shelf:
    """The records of a results folder, by what distinguishes runs; only what decides is kept of each."""

    def __init__(self, results_dir: Path):
        self.results_dir = results_dir
        self.seen: set[Path] = set()
        self.by_facts: dict[tuple[Any, ...], list[tuple[Path, dict[str, Any]]]] = {}
        self.broken: list[str] = []
        self.models: set[str] = set()
        self.content: dict[Path, dict[str, str]] = {}  # of the parts that a record is of

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
                content = dict(whole["dataset"]["content_sha256"])
                if whole["run_id"] != path.stem:  # a synchroniser's copy, or a file that was renamed
                    raise ValueError
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
                self.broken.append(f"{path}: not a readable record of that name")
                continue
            self.content[path] = content
            self.models.add(str(record["config"]["model"]["model"]))
            for rate in {key[-1], None}:
                self.by_facts.setdefault((*key[:-1], rate), []).append((path, record))

    def find(self, command: Command, point: Point, contents: list[Parts] | None = None) -> Path | None:
        """Path of the record of a planned run, None where there is none; of data with one of `contents` where given."""
        experiment, run = command.experiment, definite(command, point)
        recipe = point.run.recipe
        batch = recipe.batch_size * recipe.accum_iter * command.processes
        facts = (
            command.protocol,
            point.run.model.model,
            recipe.seed,
            point.run.data.train_frac,
            batch,
            recipe.weight_decay,
            recipe.lr,
        )
        held = self.by_facts.get(facts, [])
        return next(
            (
                path
                for path, record in held
                if (contents is None or self.content[path] in contents)
                and fills(experiment, run, command, point, record)
            ),
            None,
        )


def definite(command: Command, point: Point) -> PlannedRun:
    """The planned run with every value stated that it is composed of, defaults and named recipe included."""
    run = point.run
    flags = {
        name: list(value) if isinstance(value, tuple) else value  # as a record holds it
        for part in (run.data, run.model, run.recipe)
        for name, value in vars(part).items()
        if value is not None and name not in {*RESOLVED, *_unstated(run), *_without_meaning(run.recipe)}
    }
    flags["split"] = run.data.split or command.default_split
    if vars(run.recipe).get("probe", "sgd") == "sgd":
        flags["lr"] = rate_of(run.recipe, run.recipe.batch_size * run.recipe.accum_iter * command.processes)
    return dataclasses.replace(command.planned, flags=flags)


def _unstated(run: Run) -> set[str]:
    """Means and deviations that a plan leaves to the contract; what a record holds of them is that contract's own."""
    return {name for name in ("mean", "std") if not getattr(run.model, name)}


def _without_meaning(recipe: Any) -> set[str]:
    """Fields of a training recipe that its other fields set aside, so that the record holds another value."""
    given = vars(recipe)
    names = {"epochs"} if given.get("max_steps") is not None else set()
    if given.get("warmup_steps") is not None:
        names.add("warmup_epochs")
    if "optimizer" in given:
        names |= {"sync_bn"} | ({"momentum"} if given["optimizer"] != "sgd" else set())
    if given.get("freeze_backbone"):
        names |= {"layer_decay", "drop_path"}
    if "probe" in given:
        names |= {name for name, probe in (("knn_k", "knn"), ("penalties", "lbfgs")) if given["probe"] != probe}
    return names


def _set_aside(record: dict[str, Any]) -> set[str]:
    """Fields that a run set aside for what it found: random views of an image whose features were computed once, idle
    drop path.
    """
    recipe, names = record["config"]["recipe"], {"drop_path"} & record["notes"]
    if recipe.get("features") == "cached":
        names |= {"augment"} | ({"crop_scale"} if recipe.get("views", 1) == 1 else set())
    return names


def fills(experiment: Experiment, run: PlannedRun, command: Command, point: Point, record: dict[str, Any]) -> bool:
    """Whether a record is that of a definite run: it matches, the card is of the same version, both are synthetic or
    neither.
    """
    dataset = record["dataset"]
    if command.synthetic not in (None, dataset["synthetic"]) or dataset["card_version"] != command.card_version:
        return False
    if point.run.data.train_frac < 1 and "draw" not in record["config"]["data"]:
        return False  # drawn by the seed of the split: another subset
    stated = point.run.model.normalizer is not None or point.run.model.mean
    if not stated and "contract_mismatch" in record["notes"]:  # somebody laid another contract over the weights'
        return False
    aside = _set_aside(record)
    run = dataclasses.replace(run, flags={name: value for name, value in run.flags.items() if name not in aside})
    return _same_features(point, record) and matches(dataclasses.replace(experiment, common={}), run, record)


def _same_features(point: Point, record: dict[str, Any]) -> bool:
    """Runs on streamed and on cached features differ; left open in a plan, the published recipe means streamed ones."""
    recipe = vars(point.run.recipe)
    if "features" not in recipe:
        return True
    measured, native = record["config"]["recipe"].get("features"), record["model"]["geometry"] == "native"
    if native or recipe.get("probe", "sgd") != "sgd" or recipe.get("views", 1) > 1:
        return bool(measured == "cached")
    planned = recipe["features"] or ("stream" if recipe["recipe"] == "published" else None)
    return planned in (None, measured)


def _slim(record: dict[str, Any]) -> dict[str, Any]:
    """What decides of a record."""
    return {
        "protocol": record["protocol"],
        "recipe": record["recipe"],
        "config": {part: record["config"][part] for part in ("data", "model", "recipe")}
        | {"facts": {name: record["config"].get("facts", {}).get(name) for name in ("defects", "stress")}},
        "dataset": {name: record["dataset"][name] for name in ("name", "card_version", "synthetic")},
        "model": {
            "weights": {"source": record["model"]["weights"]["source"]},
            "geometry": record["model"]["contract"].get("geometry"),
        },
        "notes": {note["code"] for note in record["notes"]},
        "environment": {"world_size": record["environment"]["world_size"]},
    }


def _facts(record: dict[str, Any]) -> tuple[Any, ...]:
    config = record["config"]
    recipe = config["recipe"]
    return (
        record["protocol"],
        config["model"]["model"],
        recipe["seed"],
        config["data"]["train_frac"],
        effective_batch(record),
        recipe["weight_decay"],
        recipe["lr"],
    )
