"""From experiment files to commands: grids multiplied, every run composed and checked, nothing planned twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from fgmae_bench.checkpoints.registry import WEIGHTS
from fgmae_bench.config.cards import Card, find_card, load_card
from fgmae_bench.config.compose import check, compose
from fgmae_bench.config.encoders import HANDMADE
from fgmae_bench.config.experiments import (
    Experiment,
    PlannedRun,
    check_protocol,
    check_records,
    choices,
    flag_types,
    stress_of,
)
from fgmae_bench.config.run import IMAGENET, Run, counted, field_sections, grid_fields
from fgmae_bench.config.stress import as_plain
from fgmae_bench.config.strict import convert
from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.errors import BenchError, closest, unknown
from fgmae_bench.suite.command import Command, Point

OUTPUT_ROOT = "runs/suite"
# `train_frac` does with `draw`, which means nothing without few labels.
DECIDES_ALONE = {"seed": "recipe", "train_frac": "data", "split_seed": "data"}
BANK_RECIPE = ("features", "views", "amp", "probe", "crop_scale")


def expand(experiments: Iterable[Experiment], overrides: dict[str, Any] | None = None) -> list[Command]:
    """All commands in the order of the files, those that share a feature bank brought together.

    `overrides` are execution flags that stand above the files'. A run that two files name stands once. Raises
    BenchError naming file and key path on impossible values and on a run that one file names twice.
    """
    found: dict[str, Command] = {}
    for experiment in experiments:
        seen: dict[str, str] = {}
        for i, planned in enumerate(experiment.runs):
            for command in _commands(experiment, planned, f"{experiment.path}: runs[{i}]", overrides or {}):
                for point in command.points:
                    if point.key in seen:
                        raise BenchError(
                            f"{command.where} ({command.label}) repeats {seen[point.key]}", "name each run once"
                        )
                    seen[point.key] = command.where.split(": ")[-1]
                found.setdefault(command.key, command)
    order = {bank: i for i, bank in reversed(list(enumerate(command.bank for command in found.values())))}
    return sorted(found.values(), key=lambda command: order[command.bank])


def _commands(experiment: Experiment, planned: PlannedRun, where: str, overrides: dict[str, Any]) -> Iterator[Command]:
    """The commands of one `[[runs]]`: lists multiply, but for those that the module fits in one pass."""
    flags = {**experiment.common, **planned.flags, **_known(experiment, overrides)}
    hints, in_one_pass = flag_types(experiment.module), _in_one_pass(experiment.module)
    grids = {
        name: value for name, value in flags.items() if len(choices(hints[name], value)) > 1 and name not in in_one_pass
    }
    flags |= {
        name: value[0] for name, value in flags.items() if choices(hints[name], value) is value and len(value) == 1
    }
    for values in product(*grids.values()):
        chosen = dict(zip(grids, values, strict=True))
        settings = ", ".join(f"{name} {value}" for name, value in chosen.items())
        label = f"{planned.label} ({settings})" if settings else planned.label
        yield _command(experiment, planned, flags | chosen, label, where)


def _command(experiment: Experiment, planned: PlannedRun, flags: dict[str, Any], label: str, where: str) -> Command:
    try:
        card = _card(str(flags["dataset"]))
        root = flags.pop("output_dir", OUTPUT_ROOT)
        log_root = flags.pop("log_dir", None)
        runs = _composed(experiment.module, flags, card, planned.nproc_per_node)
    except BenchError as error:
        raise BenchError(f"{where}.flags: {error.what}", error.todo) from error
    check_protocol(
        experiment.module, planned.protocol or experiment.protocol, vars(runs[0].recipe), where
    )  # a card may name a value
    place = data_place(str(flags["dataset"]), runs[0].execution.data_path)
    points = tuple(
        Point(key=_key(_what(experiment, planned), card, run, place, planned.nproc_per_node), run=run) for run in runs
    )
    key = points[0].key if len(points) == 1 else _sha("\n".join(sorted(point.key for point in points)))
    command = Command(
        key=key,
        experiment=experiment,
        planned=planned,
        label=label,
        where=where,
        flags=flags,
        points=points,
        bank=_bank(card, runs[0], place),
        place=Path(place),
        output_dir=Path(root),
        card=card,
        synthetic=_synthetic(place),
        needs_gpu=not runs[0].execution.device.startswith("cpu"),
    )
    more = {"log_dir": str(Path(log_root) / command.name)} if log_root else {}
    return dataclasses.replace(command, output_dir=Path(root) / command.name, flags=flags | more)


def _composed(module: str, flags: dict[str, Any], card: Card, processes: int) -> list[Run]:
    """The runs of a command. Flags that decide about no other are laid over runs composed once: a thousand seeds cost
    one.
    """
    hints = flag_types(module)
    named = [name for name in DECIDES_ALONE if name in flags and not (name == "train_frac" and "draw" in flags)]
    alone = {name: convert(hints[name], flags[name], name) for name in named}
    rest = {name: value for name, value in flags.items() if name not in alone}
    made = []
    for run in _composed_once(module, json.dumps(rest, sort_keys=True), str(card.path), processes):
        parts = {
            part: dataclasses.replace(
                getattr(run, part), **{name: value for name, value in alone.items() if DECIDES_ALONE[name] == part}
            )
            for part in ("data", "recipe")
        }
        made.append(dataclasses.replace(run, **parts))
        check(made[-1])
    return made


@cache
def _composed_once(module: str, flags: str, card: str, processes: int) -> list[Run]:
    return compose(module, json.loads(flags), _card(card), processes=processes)


def data_place(dataset: str, given: str | None) -> str:
    """Absolute path of a dataset's data."""
    return os.path.abspath(given or _card(dataset).data_path)


@cache
def _synthetic(place: str) -> bool | None:
    """Whether the folder is a synthetic world; None where it is not here or is a pack, which does not say it by a
    file.
    """
    root = Path(place)
    if (root / MARKER).is_file():
        return True
    return None if not root.is_dir() or (root / "data.mdb").exists() else False


def _what(experiment: Experiment, planned: PlannedRun) -> str:
    """The module of a run; of a card also what it is asked for."""
    options = stress_of(experiment, planned)
    return experiment.module if options is None else f"{experiment.module} {json.dumps(as_plain(options))}"


def _key(module: str, card: Card, run: Run, place: str, processes: int) -> str:
    """Hash of what a run means before anything is opened; batch, accumulation and processes count by their product
    only.
    """
    recipe = counted(run.recipe)
    recipe["effective_batch"] = recipe.pop("batch_size") * recipe.pop("accum_iter") * processes
    data = counted(run.data) | {"dataset": [card.name, card.version], "place": place}
    if texts := vars(run.execution).get("class_text"):
        data["class_text"] = texts
    return _sha(json.dumps([module, data, counted(run.model), recipe], sort_keys=True))


def _bank(card: Card, run: Run, place: str) -> str:
    """Hash of what a run's features are made of; a run that keeps none stands for its backbone on its data."""
    model, recipe = vars(run.model), vars(run.recipe)
    drawn = run.model.weights == "random" and run.model.model not in HANDMADE and ":" not in run.model.model
    seed = run.recipe.seed if drawn else None  # a random backbone is drawn from it
    return _sha(
        json.dumps([card.name, place, model, {name: recipe.get(name) for name in BANK_RECIPE}, seed], sort_keys=True)
    )


def _card(dataset: str) -> Card:
    """The card of a name or a path, which may be relative to another folder at the next call."""
    return _read_once(str(find_card(dataset)))


@cache
def _read_once(path: str) -> Card:
    return load_card(path)


@cache
def _in_one_pass(module: str) -> frozenset[str]:
    """Flags whose lists one call of the module takes."""
    return frozenset(grid_fields(module))


def _known(experiment: Experiment, overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides; raises BenchError for flags that decide of a number and stand in the file, or leave no record."""
    owner = field_sections(experiment.module)
    open_flags = (
        {"model", "weights"} - experiment.common.keys() - {name for run in experiment.runs for name in run.flags}
    )
    allowed = [name for name, part in owner.items() if part == "execution" or name in open_flags]
    for name, value in overrides.items():
        if name not in allowed:
            what = f"--set {name}: not an execution flag of {experiment.module}, nor one that the file leaves open"
            raise BenchError(what, closest(name, allowed))
        check_records(experiment.module, name, value, f"--set {name}")
    return overrides


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


ASK = """
import json, sys
from fgmae_bench.models.build import architecture
from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.errors import BenchError
for name in sys.argv[1:]:
    try:
        architecture(name)
    except BenchError as error:
        print(json.dumps([name, error.what, error.todo]))
"""


def require_known(commands: list[Command], recorded: set[str]) -> None:
    """Raise BenchError naming file and key path for a model or weights that nobody knows.

    `recorded` are models that stand in records: they are known.
    """
    models = {model for named in WEIGHTS.values() for model in named} | {*HANDMADE} | recorded
    strange: dict[str, Command] = {}
    for command in commands:
        model = command.points[0].run.model
        if ":" not in model.model and model.model not in models:
            strange.setdefault(model.model, command)
        path_like = "/" in model.weights or "." in model.weights
        if (
            model.model not in HANDMADE
            and ":" not in model.model
            and model.weights not in (*WEIGHTS, "random", IMAGENET)
            and not path_like
        ):
            error = unknown("weights", model.weights, ["random", IMAGENET, *WEIGHTS])
            raise BenchError(f"{command.where}.flags.weights: {error.what}", error.todo)
    if not strange:
        return
    asked = subprocess.run([sys.executable, "-c", ASK, *strange], capture_output=True, text=True)
    for line in asked.stdout.splitlines():
        name, what, todo = json.loads(line)
        raise BenchError(f"{strange[name].where}.flags.model: {what}", todo)
