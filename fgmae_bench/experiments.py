"""The schema of `experiments/*.toml`: the runs of a table, how it is laid out, and the published rows beside them."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgmae_bench.config import RECIPES, field_sections, sections
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.strict import convert, from_plain, load_toml


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of `results/published/published_results.csv`: the table, and column values that single it out."""

    table: str
    where: dict[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A row of the table: flags of the module (a list is a grid), processes, and the published rows beside it."""

    label: str
    flags: dict[str, Any] = field(default_factory=dict)
    nproc_per_node: int = 1
    weights_files: tuple[str, ...] = ()  # names of files that hold the same weights as the flag `weights` names
    published: tuple[PublishedRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the table looks: column names in order (see `report/columns.py`) and metrics drawn as curves."""

    columns: tuple[str, ...]
    curves: tuple[str, ...] = ("loss", "oa")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One file. `common` flags hold for every run unless the run overrides them; `expect` says what to expect in words."""

    title: str
    module: str
    protocol: str
    layout: Layout
    runs: tuple[PlannedRun, ...]
    expect: str = ""
    common: dict[str, Any] = field(default_factory=dict)
    path: Path = field(default=Path(), metadata={"derived": True})

    @property
    def name(self) -> str:
        """The file's name without its ending: the name of the table."""
        return self.path.stem


def load_experiment(path: Path) -> Experiment:
    """Load and check one file; errors name file and key path."""
    experiment = dataclasses.replace(from_plain(Experiment, load_toml(path), str(path)), path=path)
    if experiment.module not in RECIPES:
        raise BenchError(f"{path}: unknown module '{experiment.module}'", closest(experiment.module, RECIPES))
    if not experiment.runs:
        raise BenchError(f"{path}: runs is empty", "add [[runs]]")
    check_flags(experiment.module, experiment.common, f"{path}: common")
    seen: dict[str, int] = {}
    for i, run in enumerate(experiment.runs):
        where = f"{path}: runs[{i}]"
        check_flags(experiment.module, run.flags, f"{where}.flags")
        if run.nproc_per_node < 1:
            raise BenchError(f"{where}.nproc_per_node is {run.nproc_per_node}", "give 1 or more")
        if run.label in seen:
            raise BenchError(f"{where}.label repeats runs[{seen[run.label]}]", "give each run a label of its own")
        seen[run.label] = i
        if "dataset" not in {**experiment.common, **run.flags}:
            raise BenchError(f"{where}: no dataset", "add dataset to [common] or to the run's flags")
    return experiment


def load_experiments(folder: Path) -> list[Experiment]:
    """All experiments of a folder, by name."""
    if not folder.is_dir():
        raise BenchError(f"{folder} is not a folder", "give the folder of the experiment files with --experiments")
    return [load_experiment(path) for path in sorted(folder.glob("*.toml"))]


def check_flags(module: str, flags: dict[str, Any], where: str) -> None:
    """Raise BenchError where a flag is unknown to the module or its value has the wrong type."""
    owner = field_sections(module)
    for name, value in flags.items():
        if name not in owner:
            raise BenchError(f"{where}: unknown flag '{name}'", closest(name, owner))
        kind = sections(module)[owner[name]]
        hint = typing.get_type_hints(kind)[name]
        grid = next(f for f in dataclasses.fields(kind) if f.name == name).metadata["grid"]
        for item in value if grid and isinstance(value, list) else [value]:
            convert(hint, item, f"{where}.{name}")


def matches(experiment: Experiment, run: PlannedRun, record: dict[str, Any]) -> bool:
    """True when a record belongs to a planned run: protocol, effective batch and every flag that the run states agree."""
    flags = {**experiment.common, **run.flags}
    owner = field_sections(experiment.module)
    if record["protocol"] != experiment.protocol or record["recipe"] != flags.get("recipe", "published"):
        return False
    config = record["config"]
    recipe, planned = config["recipe"], flags.get("batch_size")
    if planned is not None:
        effective = recipe.get("batch_size", 1) * recipe.get("accum_iter", 1) * record["environment"]["world_size"]
        if planned * flags.get("accum_iter", 1) * run.nproc_per_node != effective:
            return False
    for name, value in flags.items():
        if name in ("batch_size", "accum_iter", "recipe") or owner[name] == "execution":
            continue
        measured = config[owner[name]].get(name)
        if name == "dataset" and measured != value:
            measured = record["dataset"]["name"]
        if name == "weights" and record["model"]["weights"]["source"] in run.weights_files:
            continue
        if measured not in (value if isinstance(value, list) else [value]):
            return False
    return True
