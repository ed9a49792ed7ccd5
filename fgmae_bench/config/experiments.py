"""The schema of `experiments/*.toml`: the runs of a table, how it is laid out, and the published rows next to them."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from fgmae_bench.config.cards import card_names, facts_sha256, load_card
from fgmae_bench.config.layout import Layout, check_layout
from fgmae_bench.config.recipes import PROTOCOLS, RECIPES
from fgmae_bench.config.run import YOUNGER, field_sections, sections
from fgmae_bench.config.stress import StressOptions, as_plain, protocol_under, protocol_within, stress_options
from fgmae_bench.config.strict import convert, from_plain, load_toml
from fgmae_bench.errors import BenchError, closest


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of `results/published/published_results.csv`: the table, and column values that single it out."""

    table: str
    where: dict[str, str | int | float]


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
    experiment = dataclasses.replace(from_plain(Experiment, load_toml(path), str(path)), path=path)
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
        if "dataset" not in {**experiment.common, **run.flags}:
            raise BenchError(f"{where}: no dataset", "add dataset to [common] or to the run's flags")
    check_layout(experiment.layout, path)
    return experiment


def stress_of(experiment: Experiment, run: PlannedRun, where: str = "") -> StressOptions | None:
    """What the card of a planned run is asked for; None of a run that is no card."""
    given = {**experiment.stress, **run.stress}
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
    return [
        name
        for name, (owner, means) in PROTOCOLS.items()
        if owner == module and all(value in choices(hints[flag], given[flag]) for flag, value in means.items())
    ]


@cache
def flag_types(module: str) -> dict[str, Any]:
    """Flag -> type of one value, for all flags of a module."""
    return {name: hint for kind in sections(module).values() for name, hint in typing.get_type_hints(kind).items()}


def choices(hint: Any, value: Any) -> list[Any]:
    """The values that a flag takes one after the other: a list is a grid, unless the flag itself holds a list."""
    return value if isinstance(value, list) and typing.get_origin(hint) is not tuple else [value]


YOUNGER_DEFAULTS = {
    f.name: list(f.default) if isinstance(f.default, tuple) else f.default
    for kind in sections("linear").values()
    for f in dataclasses.fields(kind)
    if f.name in YOUNGER
}  # what a record means that does not hold them


def matches(experiment: Experiment, run: PlannedRun, record: dict[str, Any]) -> bool:
    """True when a record belongs to a planned run: protocol, effective batch and every flag that the run states agree.

    Weights do not distinguish backbones that load none. To no row belong runs that an ablation made wrong on purpose,
    those of weights whose input contract nobody stated, those of a card that only shares its name with one of the suite
    and, where the row does not ask for it, those of few labels, a limit or extra inputs.
    """
    flags = {**experiment.common, **run.flags}
    owner, hints = field_sections(experiment.module), flag_types(experiment.module)
    stated = {name: choices(hints[name], value) for name, value in flags.items()}
    if record["protocol"] != (run.protocol or experiment.protocol) or record["recipe"] not in stated.get(
        "recipe", ["published"]
    ):
        return False
    held = record["config"].get("facts", {})
    options = stress_of(experiment, run)
    if options is not None and held.get("stress") != as_plain(options):
        return False
    if held.get("defects") or record["model"].get("contract", {}).get("assumed"):
        return False
    config, weights = record["config"], record["model"]["weights"]["source"]
    if _unasked(config, stated) or _of_another_card(record["dataset"]):
        return False
    codes = {found["code"] if isinstance(found, dict) else found for found in record["notes"]}
    if "batch_size" not in stated and "effective_batch" in codes:  # the row means the batch of its recipe
        return False
    wanted = batches(stated["batch_size"], stated.get("accum_iter", 1)) if "batch_size" in stated else None
    if wanted is not None and effective_batch(record) not in {batch * run.nproc_per_node for batch in wanted}:
        return False
    for name, values in stated.items():
        if name in ("batch_size", "accum_iter", "recipe") or owner[name] == "execution":
            continue
        measured = config[owner[name]].get(name, YOUNGER_DEFAULTS.get(name))
        if name == "dataset" and measured not in values:
            measured = record["dataset"]["name"]
        if name == "weights" and weights in ("none", *run.weights_files):
            continue
        if not any(_same(measured, value) for value in values):
            return False
    return True


def _unasked(config: dict[str, Any], stated: dict[str, Any]) -> bool:
    """Whether a record has few labels, a limit, extra inputs or the like that its row does not ask for.

    A row that asks for few labels means all of their draws.
    """
    held = {**config["data"], **config["model"]}
    return any(
        name not in (*stated, "draw") and as_json(held.get(name, default)) != default
        for name, default in YOUNGER_DEFAULTS.items()
    )


def _of_another_card(dataset: dict[str, Any]) -> bool:
    """Whether a record has the name and version of a card of the suite and other facts; older records hold none."""
    held = _shipped_facts(dataset["name"])
    found = dataset.get("card_sha256")
    return held is not None and found is not None and dataset["card_version"] == held[0] and found != held[1]


@cache
def _shipped_facts(name: str) -> tuple[int, str] | None:
    """(version, hash of the facts) of the suite's card of that name, None where there is none."""
    if name not in card_names():
        return None
    card = load_card(name)
    return card.version, facts_sha256(card)


def as_json(value: Any) -> Any:
    """A tuple as the list that a record holds."""
    return list(value) if isinstance(value, tuple) else value


def _same(measured: Any, planned: Any) -> bool:
    """Equal, but for the last bits of a number: a rate from a base rate, divided by its factor again, may differ."""
    if isinstance(measured, float) and isinstance(planned, int | float):
        return math.isclose(measured, planned, rel_tol=1e-12)
    return bool(measured == planned)


def batches(batch_size: int | list[int], accum_iter: int | list[int]) -> set[int]:
    """Samples a step of one process, for each pair of a batch and an accumulation."""
    sizes, accums = (value if isinstance(value, list) else [value] for value in (batch_size, accum_iter))
    return {size * accum for size, accum in product(sizes, accums)}


def effective_batch(record: dict[str, Any]) -> int:
    """Samples a step: batch, accumulation and processes together."""
    recipe = record["config"]["recipe"]
    return int(recipe.get("batch_size", 1) * recipe.get("accum_iter", 1) * record["environment"]["world_size"])
