"""Runs from flags: the grid of a command, with what file, recipe and defaults say where a flag does not."""

from __future__ import annotations

import dataclasses
import math
import os
from itertools import product
from pathlib import Path
from typing import Any

from fgmae_bench.config.cards import Card
from fgmae_bench.config.contract import require_read
from fgmae_bench.config.encoders import EMBEDDINGS, HANDMADE, INPUTS, Encoder, adapter_of, encoders
from fgmae_bench.config.names import AFTER, FITTED_HEADS, READS
from fgmae_bench.config.recipes import (
    ANY,
    EITHER,
    NAMED_RECIPES,
    NEVER_PUBLISHED,
    PENALTIES,
    RANGES,
    SGD_ONLY,
    TUNED_FROM,
)
from fgmae_bench.config.run import (
    DRAWS,
    EFFECTIVE,
    MODEL_ALIASES,
    OWN_WEIGHTS,
    PARTS,
    RESOLVED,
    Model,
    Run,
    field_sections,
    grid_fields,
    sections,
)
from fgmae_bench.config.strict import from_plain, load_toml, plain_path
from fgmae_bench.errors import BenchError, closest, unknown


def read_config(path: Path, module: str) -> dict[str, Any]:
    """Flags from a `config.toml` (sections data, model, recipe, execution).

    A file that says `resolved = true`, as runs leave it, stands for the named recipe's values too.
    """
    known, flat = sections(module), {}
    for part, values in load_toml(path).items():
        if part == RESOLVED and isinstance(values, bool):
            flat[RESOLVED] = values
            continue
        if part not in known or not isinstance(values, dict):
            raise BenchError(f"{path}: unknown section '{part}'", "use the sections " + ", ".join(known))
        names = {f.name for f in dataclasses.fields(known[part])}
        for key, value in values.items():
            if key not in names:
                raise BenchError(f"{path}: {part}: unknown key '{key}'", "remove it")
            flat[key] = value
    return flat


def compose(
    module: str,
    given: dict[str, Any],
    card: Card,
    config: dict[str, Any] | None = None,
    processes: int | None = None,
) -> list[Run]:
    """All runs of a command: the grid over the fields that may hold several values.

    Precedence: `given` (command line), `config` (file), the named recipe (the card's above the module's), the fields'
    defaults. A recipe states the effective batch: where neither the batch of a process nor the accumulation is given,
    both follow from it and from the number of `processes`, by default those of torchrun. Raises BenchError on values of
    the wrong type or range, and on processes that do not divide the effective batch.
    """
    if module == "segment":
        config, given = ({**layer, **_without_alias(layer)} for layer in (config or {}, given))
    given, config = plain_path(given, "flags"), plain_path(dict(config or {}), "config")
    resolved = config.pop(RESOLVED, False)
    if resolved and _another_run(module, given, config):
        # The folders are those of the run that the file describes.
        config = {name: value for name, value in config.items() if name not in ("output_dir", "log_dir")}
    # From here on: the named recipe below the file, the file below the command line.
    explicit = {**config, **given}
    entry = _of_registry(given, config, explicit)
    name = explicit.get("recipe", "published")
    if not isinstance(name, str) or name not in NAMED_RECIPES[module]:
        raise unknown("recipe", str(name), NAMED_RECIPES[module])
    frozen = explicit.get("freeze_backbone") is True
    named = () if resolved else named_recipe(module, name, card, str(explicit.get("model", Model.model)), frozen)
    flat = merged(*named, config, given)
    if entry is not None or ":" in str(flat.get("model", "")):
        flat.setdefault("weights", OWN_WEIGHTS if entry is None else entry.weights)
    owner = field_sections(module)
    processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
    flat = _divided(flat, explicit, processes)
    flat = _scaled(flat, explicit, merged(*named), processes) if name == "corrected" else flat
    for key in flat:
        if key not in owner:
            raise BenchError(f"{module}: unknown flag '{key}'", closest(key, owner))
    flat = _implied(module, flat, explicit)
    if name == "published" and any(explicit.get(flag) for flag in NEVER_PUBLISHED if flag in owner):
        flat |= {"recipe": "corrected", "split": flat.get("split", card.default_split)}
    _refuse_pool(flat, explicit)
    runs = [_with_few_labels(_canonical(run)) for run in _points(module, flat)]
    for run in runs:
        check(run)
        _refuse_files_of_others(run)
        _require_band(run, card)
    if len({(run.data, run.recipe) for run in runs}) != len(runs):
        twice = "--lr and --weight_decay" if len({run.data for run in runs}) == 1 else "--shots and --draw"
        raise BenchError(f"the grid of {twice} holds a value twice", "name each value once")
    return runs


def _require_band(run: Run, card: Card) -> None:
    """Raise BenchError where the one band that the run's model, or its fitted head, reads has no place in the data."""
    data, entry, head = run.data, adapter_of(run.model.model), getattr(run.recipe, "head", "")
    readers = {run.model.model: entry.one_band if entry else "", f"--head {head}": READS.get(head, "")}
    for reader, band in readers.items():
        if band:
            require_read(reader, band, card.signal.bands, data.missing_band, data.bands_as)


def _implied(module: str, flat: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """Flags with what others decide: probes that are not trained, draws of few labels, heads without a backbone."""
    if flat.get("probe", "sgd") != "sgd":
        flat = _closed_form(flat, explicit)
    if module == "linear" and flat.get("shots") is not None:
        flat = {"draw": list(range(DRAWS))} | flat
    if flat.get("model") in (*HANDMADE, EMBEDDINGS) and "normalizer" not in explicit:  # a card's is for networks
        flat = {name: value for name, value in flat.items() if name != "normalizer"}
    if flat.get("head") in FITTED_HEADS:
        flat = flat | {"freeze_backbone": True} | ({} if "dates" in explicit else {"dates": AFTER})
    return flat


def _points(module: str, flat: dict[str, Any]) -> list[Run]:
    """One run for each combination of the values of the fields that may hold several."""
    owner = field_sections(module)
    grid = [name for name in grid_fields(module) if isinstance(flat.get(name), list | tuple)]
    runs = []
    for values in product(*(flat[key] for key in grid)):
        point = flat | dict(zip(grid, values, strict=True))
        parts: dict[str, Any] = {
            part: from_plain(kind, {k: v for k, v in point.items() if owner.get(k) == part}, f"{module} {part}")
            for part, kind in sections(module).items()
        }
        runs.append(Run(**parts))
    return runs


def _canonical(run: Run) -> Run:
    """The run with one spelling of what means the same: lists without order, a patch that is the default."""
    data, model, recipe = run.data, run.model, run.recipe
    entry = adapter_of(model.model)
    if entry is not None and model.patch_size == entry.patch:
        model = dataclasses.replace(model, patch_size=None)
    if model.inputs:
        known = tuple(name for name in INPUTS if name in model.inputs)
        strange = tuple(name for name in model.inputs if name not in INPUTS)  # refused by name further on
        model = dataclasses.replace(model, inputs=known + strange)
    if data.bands_as:
        pairs = sorted(part.strip().upper() for part in data.bands_as.split(","))
        data = dataclasses.replace(data, bands_as=",".join(pairs))
    if getattr(recipe, "penalties", ()):
        recipe = dataclasses.replace(recipe, penalties=tuple(sorted(set(recipe.penalties))))
    return Run(data=data, model=model, recipe=recipe, execution=run.execution)


def _refuse_pool(flat: dict[str, Any], explicit: dict[str, Any]) -> None:
    """Raise BenchError on a pool that somebody states for a module which pools on its own; a recipe's own passes."""
    own = ":" in str(flat.get("model", "")) or flat.get("weights") == OWN_WEIGHTS
    if own and explicit.get("pool") is not None:
        what = f"--pool {explicit['pool']} means nothing for {flat['model']}: it pools its features on its own"
        raise BenchError(what, "leave it out, and let the module return what is to be probed")


def _with_few_labels(run: Run) -> Run:
    """The run with what its few labels allow: no more neighbours than shots. Raises BenchError on what they do not."""
    data, recipe = run.data, run.recipe
    if data.shots is None and not (isinstance(data.train_frac, float) and data.train_frac < 1):
        if data.draw:
            raise BenchError(f"--draw {data.draw} with all labels: nothing is drawn", "give --shots or --train_frac")
        return run
    if data.shots is None:
        return run
    if data.train_frac != 1:
        raise BenchError(f"--shots {data.shots} with --train_frac {data.train_frac:g}", "leave one out")
    probe = getattr(recipe, "probe", "sgd")
    if probe == "knn" and 0 < data.shots < recipe.knn_k:
        return dataclasses.replace(run, recipe=dataclasses.replace(recipe, knn_k=data.shots))
    if (
        probe == "lbfgs"
        and data.shots < TUNED_FROM
        and len(recipe.penalties) > 1
        and recipe.penalties != PENALTIES["lbfgs"]
    ):
        what = f"{len(recipe.penalties)} penalties to choose from and --shots {data.shots}: too few labels to choose on"
        raise BenchError(what, f"give one, or {TUNED_FROM} shots and more")
    return run


def _divided(flat: dict[str, Any], explicit: dict[str, Any], processes: int) -> dict[str, Any]:
    """Flags with the recipe's effective batch as batch of a process and accumulation; those that are given stay.

    The recipe's `batch_size` is the largest forward pass of a process: what a batch norm that is not synchronised sees.
    """
    effective = flat.get(EFFECTIVE)
    flat = {name: value for name, value in flat.items() if name != EFFECTIVE}
    if effective is None or "batch_size" in explicit:
        return flat
    if "accum_iter" in explicit:
        if not isinstance(explicit["accum_iter"], int) or explicit["accum_iter"] < 1:
            return flat  # refused by name where types and ranges are checked
        share, rest = divmod(effective, explicit["accum_iter"] * processes)
        if rest or not share:
            what = f"--accum_iter {explicit['accum_iter']} on {processes} processes"
            raise BenchError(f"{what} does not divide the recipe's effective batch of {effective}", "give --batch_size")
        return flat | {"batch_size": share}
    share, rest = divmod(effective, processes)
    if rest:
        fits = max(n for n in range(1, processes) if effective % n == 0)
        raise BenchError(
            f"{processes} processes do not divide the recipe's effective batch of {effective}",
            f"start {fits}, or give --batch_size and --accum_iter",
        )
    largest = min(flat.get("batch_size", share), share)
    batch = next(size for size in range(largest, 0, -1) if share % size == 0)
    return flat | {"batch_size": batch, "accum_iter": share // batch}


def _scaled(flat: dict[str, Any], explicit: dict[str, Any], named: dict[str, Any], processes: int) -> dict[str, Any]:
    """Flags of a shorter run than the recipe's, or of a smaller batch, with a warm-up and a base rate that fit it.

    The warm-up keeps its share of the schedule, the rate of AdamW follows `small_batch_blr`; what is given stays.
    """
    flat = dict(flat)
    steps, epochs = flat.get("max_steps"), flat.get("epochs")
    if "warmup_epochs" in named and "epochs" in named and not {"warmup_epochs", "warmup_steps"} & explicit.keys():
        share = named["warmup_epochs"] / named["epochs"]
        if type(steps) is int:
            flat["warmup_steps"] = int(share * steps)
            flat.pop("warmup_epochs", None)
        elif type(epochs) is int and epochs < named["epochs"]:
            flat["warmup_epochs"] = share * epochs
    batches = [flat.get(name, 1) for name in ("batch_size", "accum_iter")]
    if "blr" in named and not {"lr", "blr"} & explicit.keys() and all(type(n) is int and n > 0 for n in batches):
        flat["blr"] = small_batch_blr({**named, **flat}, named[EFFECTIVE], batches[0] * batches[1] * processes)
    return flat


def small_batch_blr(recipe: dict[str, Any], stated: int, batch: int) -> float:
    """Base rate (per 256 samples) of a recipe at a smaller effective `batch` than it states.

    The rate of AdamW falls with the square root of the batch (Malladi et al. 2022, arXiv 2205.10287), that of SGD with
    the batch itself, which is what a base rate does.
    """
    falls = recipe.get("optimizer") == "adamw" and batch < stated
    return float(recipe["blr"]) * (math.sqrt(stated / batch) if falls else 1.0)


def _another_run(module: str, given: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether the command line changes what a resolved configuration says of its run, execution aside."""
    owner = field_sections(module)
    return any(
        owner.get(name) != "execution" and _single(value) != _single(config.get(name)) for name, value in given.items()
    )


def _single(value: Any) -> Any:
    """The one value of a list of one."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _without_alias(layer: dict[str, Any]) -> dict[str, Any]:
    """The model that a segmentation script's name for it means."""
    return {"model": MODEL_ALIASES[layer["model"]]} if layer.get("model") in MODEL_ALIASES else {}


def _of_registry(given: dict[str, Any], config: dict[str, Any], explicit: dict[str, Any]) -> Encoder | None:
    """The entry of an encoder's name in the registry, which is replaced by the model that it stands for."""
    entry = encoders().get(str(explicit.get("model")))
    if entry is not None:
        layer = given if "model" in given else config
        layer["model"] = explicit["model"] = entry.model
    return entry


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Flags of several layers, later ones above; of two that exclude each other the last layer with either decides."""
    flat: dict[str, Any] = {}
    for layer in layers:
        for one, other in (*EITHER, *((b, a) for a, b in EITHER)):
            if one in layer and other not in layer:
                flat.pop(other, None)
        flat |= layer
    return flat


def named_recipe(
    module: str, name: str, card: Card, model: str, frozen: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flags of a named recipe: (the module's, the card's); its tables `frozen`, where the backbone is, and `by_model`
    stand above the others.
    """

    def flags(layer: dict[str, Any]) -> dict[str, Any]:
        plain = {key: value for key, value in layer.items() if key not in ("by_model", "frozen")}
        return plain | (layer.get("frozen", {}) if frozen else {}) | layer.get("by_model", {}).get(model, {})

    return flags(NAMED_RECIPES[module][name]), flags(card.recipes.get(module, {}).get(name, {}))


def _closed_form(flat: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """Flags of a probe that is fitted, not trained: what belongs to SGD is set aside, runs do not differ by it.

    `--weight_decay` of `lbfgs` and `ridge` names the candidates of the penalty.
    """
    kept = {key: value for key, value in flat.items() if key not in SGD_ONLY}
    if kept["probe"] in PENALTIES and "penalties" not in kept:
        given = explicit.get("weight_decay", PENALTIES[kept["probe"]])
        kept["penalties"] = list(given) if isinstance(given, list | tuple) else [given]
    return kept | {"weight_decay": 0.0, "epochs": 1}


def _refuse_files_of_others(run: Run) -> None:
    """Raise BenchError where a run is given a file that runs of its kind do not read."""
    probe, head = getattr(run.recipe, "probe", "sgd"), getattr(run.recipe, "head", None)
    fitted = f"--head {head}" if head in FITTED_HEADS else f"--probe {probe}" if probe != "sgd" else None
    if fitted and run.execution.resume not in (None, "auto"):
        what = f"--resume {run.execution.resume} with {fitted}, which is fitted at once and has no checkpoint"
        raise BenchError(what, "leave it out")
    if getattr(run.execution, "class_text", None) is not None and probe != "zero_shot":
        raise BenchError(f"--class_text with --probe {probe}, which reads no texts", "add --probe zero_shot")


def check(run: Run) -> None:
    """Raise BenchError on a value outside its range (see `fgmae_bench.config.recipes.RANGES`)."""
    for part in PARTS:
        for name, value in vars(getattr(run, part)).items():
            for item in value if isinstance(value, tuple) else (value,):
                fits, todo = RANGES.get(name, ANY)
                if item is not None and not fits(item):
                    raise BenchError(f"--{name} is {item}", todo)
    steps, every = getattr(run.recipe, "max_steps", None), getattr(run.recipe, "eval_every", None)
    if steps is not None and every is not None and every > steps:
        raise BenchError(f"--eval_every {every} with --max_steps {steps}", f"give {steps} or less")
