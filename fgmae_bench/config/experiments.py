"""The schema of `experiments/*.toml`: the runs of a table, how it is laid out, and the published rows next to them."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import typing
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from fgmae_bench.config.cards import Card, card_names, facts_sha256, load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.encoders import encoders
from fgmae_bench.config.layout import Layout, check_layout
from fgmae_bench.config.names import FITTED_HEADS
from fgmae_bench.config.recipes import PROTOCOLS, RECIPES, SGD_ONLY
from fgmae_bench.config.run import MODEL_ALIASES, SECTIONS, YOUNGER, Run, field_sections, sections
from fgmae_bench.config.same_run import effective_batch, same_run, same_value
from fgmae_bench.config.stress import StressOptions, as_plain, protocol_under, protocol_within, stress_options
from fgmae_bench.config.strict import convert, from_plain, load_toml
from fgmae_bench.errors import BenchError, closest

log = logging.getLogger("fgmae_bench")
BATCH = ("batch_size", "accum_iter")
DECISIVE = ("dataset", "model", "weights", "split", "train_frac", "seed")  # looked at before a row is composed


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of `results/published/published_results.csv`: the table, and column values that single it out."""

    table: str
    where: dict[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a reproduction has to reach: a metric within a tolerance of the published number of that name, or of the one
    that `published` names; `legacy` reads the per-batch value of the record.
    """

    metric: str
    tolerance: float
    published: str = ""
    legacy: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A row of the table: flags of the module (a list is a grid), processes, and the published rows next to it."""

    label: str
    protocol: str = ""  # where it is another than the file's
    flags: dict[str, Any] = field(default_factory=dict)
    stress: dict[str, Any] = field(default_factory=dict)  # of a card: flags of `stress`, above the file's
    nproc_per_node: int = 1
    weights_files: tuple[str, ...] = ()  # names of files that hold the same weights as the flag `weights` names
    published: tuple[PublishedRow, ...] = ()
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One file. `common` flags hold for every run unless it overrides them; `expect` says in words what to expect."""

    title: str
    module: str
    protocol: str
    layout: Layout
    runs: tuple[PlannedRun, ...]
    expect: str = ""
    common: dict[str, Any] = field(default_factory=dict)
    stress: dict[str, Any] = field(default_factory=dict)  # flags of `stress`, where the rows are cards
    path: Path = field(default=Path(), metadata={"derived": True})

    @property
    def name(self) -> str:
        """The file's name without its ending: the name of the table."""
        return self.path.stem


def load_experiment(path: Path) -> Experiment:
    """Load and check one file; errors name file and key path."""
    experiment = _beside(dataclasses.replace(from_plain(Experiment, load_toml(path), str(path)), path=path))
    if experiment.module not in RECIPES:
        raise BenchError(f"{path}: unknown module '{experiment.module}'", closest(experiment.module, RECIPES))
    if not experiment.runs:
        raise BenchError(f"{path}: runs is empty", "add [[runs]]")
    check_flags(experiment.module, experiment.common, f"{path}: common")
    seen: dict[str, int] = {}
    for i, run in enumerate(experiment.runs):
        where = f"{path}: runs[{i}]"
        if not run.label.strip():
            raise BenchError(f"{where}.label is empty", "give the run a name: it stands in the table")
        check_flags(experiment.module, run.flags, f"{where}.flags")
        protocol, options = run.protocol or experiment.protocol, stress_of(experiment, run, where)
        if protocol != protocol_under(protocol_within(protocol), options):
            stated = "[stress]" if options is None else "a protocol that begins with stress_"
            raise BenchError(f"{where}: protocol is {protocol}", f"a card has {stated}: add it, or take the other away")
        check_protocol(experiment.module, protocol, {**experiment.common, **run.flags}, where)
        if run.nproc_per_node < 1:
            raise BenchError(f"{where}.nproc_per_node is {run.nproc_per_node}", "give 1 or more")
        if run.label in seen:
            raise BenchError(f"{where}.label repeats runs[{seen[run.label]}]", "give each run a label of its own")
        seen[run.label] = i
        check_gates(run, where)
        if "dataset" not in {**experiment.common, **run.flags}:
            raise BenchError(f"{where}: no dataset", "add dataset to [common] or to the run's flags")
    check_layout(experiment.layout, path)
    return experiment


def _beside(experiment: Experiment) -> Experiment:
    """The experiment with paths of cards as they are from here: in a file they are relative to it, where there is one
    there, else to the working directory.
    """
    folder = experiment.path.parent

    def found(value: Any) -> Any:
        if isinstance(value, list):
            return [found(item) for item in value]
        is_path = isinstance(value, str) and (value.endswith(".toml") or "/" in value) and not value.startswith("~")
        if not is_path or os.path.isabs(value) or not (folder / value).exists():
            return value
        return os.path.relpath(folder / value)

    def placed(flags: dict[str, Any]) -> dict[str, Any]:
        return {name: found(value) if name == "dataset" else value for name, value in flags.items()}

    runs = tuple(dataclasses.replace(run, flags=placed(run.flags)) for run in experiment.runs)
    return dataclasses.replace(experiment, common=placed(experiment.common), runs=runs)


def check_gates(run: PlannedRun, where: str) -> None:
    """Raise BenchError for a gate of an unknown metric, without a tolerance or without its published row."""
    from fgmae_bench.metrics.table import METRICS

    for i, gate in enumerate(run.gates):
        at = f"{where}.gates[{i}]"
        if gate.metric not in METRICS:
            raise BenchError(f"{at}: unknown metric '{gate.metric}'", closest(gate.metric, METRICS))
        if not 0 < gate.tolerance < math.inf:
            raise BenchError(f"{at}.tolerance is {gate.tolerance}", "give how far off the number may be, above 0")
        if not run.published:
            raise BenchError(f"{at}: no published row to be held against", "add [[runs.published]]")


def stress_of(experiment: Experiment, run: PlannedRun, where: str = "") -> StressOptions | None:
    """What the card of a planned run is asked for; None for other runs."""
    given = {**experiment.stress, **run.stress}
    if "despeckler" in given:
        what = f"{where}: stress.despeckler is a file of one machine"
        raise BenchError(what, "leave it out, and make that card by the command: stress --despeckler FILE")
    return stress_options(given, f"{where}: stress") if given else None


def load_experiments(folder: Path) -> list[Experiment]:
    """All experiments of a folder, by name."""
    if not folder.is_dir():
        raise BenchError(f"{folder} is not a folder", "give the folder of the experiment files with --experiments")
    return [load_experiment(path) for path in sorted(folder.glob("*.toml"))]


def check_flags(module: str, flags: dict[str, Any], where: str) -> None:
    """Raise BenchError where a flag is unknown to the module or leaves no record, a value has the wrong type, or a grid
    is empty or holds a value twice.
    """
    hints = flag_types(module)
    for name, value in flags.items():
        if name not in hints:
            raise BenchError(f"{where}: unknown flag '{name}'", closest(name, hints))
        items = [convert(hints[name], item, f"{where}.{name}") for item in choices(hints[name], value)]
        for item in items:
            check_records(module, name, item, f"{where}.{name}")
        if not items:
            raise BenchError(f"{where}.{name} is an empty grid", "give at least one value")
        for i, item in enumerate(items):
            if item in items[:i]:
                raise BenchError(f"{where}.{name} holds {item!r} twice", "name each value once")


def check_records(module: str, name: str, value: Any, where: str) -> None:
    """Raise BenchError for a value with which a command of many would leave no record of its own."""
    if name == "eval" and value is True:
        what = f"{where} is true, which records nothing"
        raise BenchError(what, f"leave it out, and score a checkpoint with python -m fgmae_bench.{module} --eval")
    if name == "resume" and value not in (None, "auto"):
        raise BenchError(
            f"{where} is {value}, the checkpoint of one run", "leave it out: each run goes on from its own"
        )


def check_protocol(module: str, protocol: str, flags: dict[str, Any], where: str) -> None:
    """Raise BenchError where `flags`, defaults included, stand for another protocol than the one that is named."""
    found, protocol = protocols_of(module, flags), protocol_within(protocol)
    if len(found) > 1:
        raise BenchError(f"{where}: its flags give {' and '.join(found)}", "give each protocol a [[runs]] of its own")
    if not found:
        raise BenchError(f"{where}: its flags give no protocol", f"choose from {', '.join(PROTOCOLS)}")
    if found != [protocol]:
        deciding = dict.fromkeys(flag for owner, means in PROTOCOLS.values() if owner == module for flag in means)
        todo = f"set {', '.join(deciding)} or protocol" if deciding else "set protocol"
        raise BenchError(f"{where}: protocol is {protocol}, its flags give {found[0]}", todo)


def protocols_of(module: str, flags: dict[str, Any]) -> list[str]:
    """The protocols that flags stand for, defaults included: several where a grid goes over what distinguishes them."""
    hints = flag_types(module)
    given = {f.name: f.default for f in dataclasses.fields(RECIPES[module])} | flags
    held = {
        flag: choices(hints[flag], given[flag]) for _, means in PROTOCOLS.values() for flag in means if flag in given
    }

    def stands(means: dict[str, Any]) -> bool:
        # as on a command line: of a head that is fitted at once nothing of a backbone is trained
        free = {"freeze_backbone"} if means.get("head") in FITTED_HEADS else set()
        return all(value in held[flag] for flag, value in means.items() if flag not in free)

    found = [name for name, (owner, means) in PROTOCOLS.items() if owner == module and stands(means)]
    if held.get("head") and {*held["head"]} <= {*FITTED_HEADS}:
        return [name for name in found if PROTOCOLS[name][1].get("head") in FITTED_HEADS]
    return found


@cache
def flag_types(module: str) -> dict[str, Any]:
    """Flag -> type of one value, for all flags of a module."""
    return {name: hint for kind in sections(module).values() for name, hint in typing.get_type_hints(kind).items()}


def choices(hint: Any, value: Any) -> list[Any]:
    """The values that a flag takes one after the other: a list is a grid, unless the flag itself holds a list."""
    return value if isinstance(value, list) and typing.get_origin(hint) is not tuple else [value]


YOUNGER_DEFAULTS = {
    f.name: list(f.default) if isinstance(f.default, tuple) else f.default
    for kind in {kind for module in SECTIONS for kind in sections(module).values()}
    for f in dataclasses.fields(kind)
    if f.name in YOUNGER
}  # what a record means that does not hold them


# What a row leaves open where it does not state it, and why: a record with any value of it may fill the row.
OPEN = {
    "model": "a file leaves it to `suite run --set`",
    "weights": "a file leaves them to `suite run --set`",
    "seed": "runs of several seeds are one line: their mean and deviation",
    "draw": "draws of few labels are one line, as seeds are",
}


def matches(experiment: Experiment, run: PlannedRun, record: dict[str, Any]) -> bool:
    """True when a record belongs to a planned run: it holds what the row is composed of, recipe, card and defaults
    included (see `same_run`); of a grid any of its points, and any of what is `OPEN`.
    """
    flags = {**experiment.common, **run.flags}
    if record["protocol"] != (run.protocol or experiment.protocol) or not may_fill(record):
        return False
    if not same_card(experiment, run, record):
        return False
    point = _point_of(experiment.module, flags, run, record)
    if point is None:
        return False
    card = _card_of(str(point["dataset"]))
    if card is None or _of_another_card(record["dataset"], card):
        return False
    try:
        planned = _composed(experiment.module, point, card, run.nproc_per_node)
    except BenchError:  # what is left open of the row takes no value such as the record's
        return False
    return same_run(planned, record, card, run.nproc_per_node, run.weights_files)


def same_card(experiment: Experiment, run: PlannedRun, record: dict[str, Any]) -> bool:
    """Whether a record was asked for the stresses that a planned run asks for, or both for none."""
    options = stress_of(experiment, run)
    held = record["config"].get("facts", {}).get("stress")
    return bool(held == (None if options is None else as_plain(options)))


def may_fill(record: dict[str, Any]) -> bool:
    """Whether a record may fill a row at all: not those that an ablation made wrong on purpose, those of weights whose
    input contract nobody stated, and those of a card that only shares its name with one of the suite.
    """
    if record["config"].get("facts", {}).get("defects"):
        return False
    if record["model"].get("contract", {}).get("assumed") and not _assumed_by_registry(record):
        return False
    name = record["dataset"]["name"]
    return name not in _names() or not _of_another_card(record["dataset"], _shipped(name))


def _assumed_by_registry(record: dict[str, Any]) -> bool:
    """Whether a record is of an encoder whose publishers state no input for Sentinel-1, by its own weights or random
    ones: what is assumed is the registry's choice, which its notes say.
    """
    model = record["config"]["model"]
    held = [entry for entry in encoders().values() if entry.model == model["model"] and entry.code]
    return any(model.get("weights") in (entry.weights, "random") for entry in held)


def _point_of(module: str, flags: dict[str, Any], run: PlannedRun, record: dict[str, Any]) -> dict[str, Any] | None:
    """The flags of a row with one value each, those of the record where it may choose; None where it is of none."""
    hints, owner, config = flag_types(module), field_sections(module), record["config"]
    held = {**config["data"], **config["model"], **config["recipe"]}
    few = "shots" in flags or flags.get("train_frac", 1.0) != 1.0
    trained = flags.get("probe", "sgd") == "sgd" and flags.get("head") not in FITTED_HEADS
    point = {name: held[name] for name in OPEN if name not in flags and (few or name != "draw") and name in held}
    for name, value in flags.items():
        values = choices(hints[name], value)
        if not trained and name in SGD_ONLY:  # no grid: set aside, or candidates of a penalty
            point[name] = value
            continue
        if owner[name] == "execution" or name in BATCH:
            point[name] = values[0]
            continue
        fits = [each for each in values if _meant(name, each, held.get(name), record, run)]
        if not fits and (len(values) > 1 or name in DECISIVE):
            return None
        point[name] = (fits or values)[0]
    if any(isinstance(flags.get(name), list) for name in BATCH):
        point |= _batch_of(flags, effective_batch(record) // run.nproc_per_node)
    return point


def _meant(name: str, value: Any, measured: Any, record: dict[str, Any], run: PlannedRun) -> bool:
    """Whether the value of a flag is what a record holds of it, under whatever name."""
    if name == "dataset" and measured != value:
        card = _card_of(str(value))
        return card is not None and card.name == record["dataset"]["name"]
    if name == "weights" and record["model"]["weights"]["source"] in ("none", *run.weights_files):
        return True
    shots = record["config"]["data"].get("shots")
    if name == "knn_k" and isinstance(shots, int):  # no more neighbours than labels of a class
        return same_value(measured, min(value, shots))
    if name == "model" and measured != value:
        entry = encoders().get(str(value))
        return bool(measured == (MODEL_ALIASES.get(value) if entry is None else entry.model))
    return same_value(measured, value)


def _batch_of(flags: dict[str, Any], wanted: int) -> dict[str, int]:
    """Batch and accumulation of a grid that make `wanted` samples a step of one process, else its first."""
    grids = {name: flags[name] if isinstance(flags[name], list) else [flags[name]] for name in BATCH if name in flags}
    points = [dict(zip(grids, values, strict=True)) for values in product(*grids.values())]
    return next((point for point in points if math.prod(point.values()) == wanted), points[0])


def _composed(module: str, point: dict[str, Any], card: Card, processes: int) -> Run:
    """The one run of flags; composed once where the card is the suite's."""
    if card.name not in _names():
        return compose(module, point, card, processes=processes)[0]
    return _composed_once(module, json.dumps(point, sort_keys=True), card.name, processes)


@cache
def _composed_once(module: str, point: str, name: str, processes: int) -> Run:
    return compose(module, json.loads(point), _shipped(name), processes=processes)[0]


def _card_of(dataset: str) -> Card | None:
    """The card that a row names; None where it is not here, which is said: nothing fills such a row."""
    if dataset in _names():
        return _shipped(dataset)
    try:
        return load_card(dataset)
    except BenchError as error:
        log.warning("%s: no record fills a row of it", error.what)
        return None


@cache
def _names() -> frozenset[str]:
    return frozenset(card_names())


@cache
def _shipped(name: str) -> Card:
    """The suite's card of a name."""
    return load_card(name)


def _of_another_card(dataset: dict[str, Any], card: Card) -> bool:
    """Whether a record has the name and version of a card and other facts; older records hold none."""
    if (dataset["name"], dataset["card_version"]) != (card.name, card.version):
        return dataset["name"] != card.name
    return dataset.get("card_sha256") not in (None, _facts_of(card))


def _facts_of(card: Card) -> str:
    return _shipped_facts(card.name) if card.name in _names() else facts_sha256(card)


@cache
def _shipped_facts(name: str) -> str:
    return facts_sha256(_shipped(name))


def batches(batch_size: int | list[int], accum_iter: int | list[int]) -> set[int]:
    """Samples a step of one process, for each pair of a batch and an accumulation."""
    sizes, accums = (value if isinstance(value, list) else [value] for value in (batch_size, accum_iter))
    return {size * accum for size, accum in product(sizes, accums)}
