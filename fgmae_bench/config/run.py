"""A run as data: `Data`, `Model` and `Recipe` hold what can change a number, `Execution` what may not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from fgmae_bench.config.cards import Card
from fgmae_bench.config.encoders import INPUTS, Encoder, adapter_of, encoders
from fgmae_bench.config.names import FITTED_HEADS
from fgmae_bench.config.recipes import (
    ANY,
    EITHER,
    NAMED_RECIPES,
    NEVER_PUBLISHED,
    PENALTIES,
    RANGES,
    RECIPES,
    SGD_ONLY,
    TUNED_FROM,
    option,
)
from fgmae_bench.config.strict import from_plain, load_toml, plain_path
from fgmae_bench.errors import BenchError, closest, unknown


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which samples, and how they are divided."""

    dataset: str = option("dataset name, or path of a card.toml")
    split: str | None = option("split name on the card, or a folder of lists", None, shown="from recipe and card")
    split_seed: int = option("seed of the split", 42)
    train_frac: float = option("share of each class's training labels, in (0, 1], drawn by --seed and --draw", 1.0)
    shots: int | None = option(
        "training labels of each class, drawn by --seed and --draw; one or several", None, shown="all", grid=True
    )
    draw: int = option(
        "which draw of few labels; one or several", 0, shown="0; with --shots on linear 0 to 4", grid=True
    )
    band_order: str | None = option("order of the bands in the files, such as VH,VV", None, shown="from card")
    limit: int | None = option(
        "samples of each part, for a trial; the record is in no table that does not ask for it", None, shown="all"
    )
    nb_classes: int | None = option("number of classes; checked against the label scheme", None, shown="from card")
    missing_band: Literal["mean", "offset"] | None = option(
        "a band that the data lacks: mean, the band's after the normaliser; offset: the other band, 7.7 dB away",
        None,
        shown="the encoder's own mask, else mean",
    )
    bands_as: str | None = option(
        "bands of the data that stand for others, such as HH=VV,HV=VH; noted", None, shown="none"
    )


@dataclass(frozen=True, kw_only=True)
class SegmentData(Data):
    """Which labels stand for the pixels, in training and in evaluation."""

    train_labels: str | None = option("label source of training: dfc, igbp, …", None, shown="from card")
    train_scheme: str | None = option("label scheme of training: dfc10, dfc8, igbp17, …", None, shown="from card")
    eval_labels: str | None = option("label source of evaluation", None, shown="as in training")
    eval_scheme: str | None = option("label scheme of evaluation", None, shown="as in training")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which backbone, with which weights, fed how."""

    model: str = option("backbone: a registry or timm name, or module:factory", "vit_small_patch16")
    weights: str = option(
        "registry name, path, imagenet (timm's own), random, or module: those that a factory made",
        "fgmae",
        aliases=("finetune",),
        shown="fgmae; of module:factory, its own",
    )
    weights_prefix: str | None = option(
        "beginning of the backbone's keys in the file", None, shown="found by the layouts that are known"
    )
    patch_size: int | None = option("side of a patch in pixels, where the encoder takes several", None, shown="its own")
    inputs: tuple[str, ...] = option(
        f"extra inputs that the encoder is given: {', '.join(INPUTS)}", (), shown="none: masked or assumed"
    )
    pool: Literal["cls", "mean"] | None = option(
        "token that becomes the feature", None, shown="cls, or mean where there is none"
    )
    input_size: int | Literal["native"] | None = option(
        "side of the input, pixels; native: the image as it is", None, shown="from the backbone's contract"
    )
    normalizer: str | None = option("normaliser of the input", None, shown="from the backbone's contract")
    mean: tuple[float, ...] = option(
        "means that the normaliser subtracts, dB, VV then VH", (), shown="from the contract"
    )
    std: tuple[float, ...] = option("deviations that it divides by, dB, VV then VH", (), shown="from the contract")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how fast; nothing here may change a number."""

    data_path: str | None = option("folder of the data", None, shown="data next to the card")
    output_dir: str | None = option(
        "folder of this run's log, config and checkpoints", None, shown="runs/<dataset>/<run id>"
    )
    log_dir: str | None = option("folder of TensorBoard events", None, shown="<output_dir>/tensorboard")
    results_dir: str = option("folder of records and predictions", "results")
    cache_dir: str = option(
        "folder of indexes and feature banks",
        os.path.expanduser(os.environ.get("FGMAE_BENCH_CACHE", "~/.cache/fgmae_bench")),
        shown="$FGMAE_BENCH_CACHE, else ~/.cache/fgmae_bench",
    )
    num_workers: int = option("threads that read and prepare images", 2)
    device: str = option("cpu, cuda, cuda:N, or auto", "auto")
    compile: bool = option("compile the backbone with torch.compile; changes the last bits, noted in the record", False)
    resume: str | None = option(
        "auto: go on from the checkpoint in the output folder; or a path", None, shown="auto where one is this run's"
    )
    checkpoint_seconds: float = option("seconds between checkpoints, each at the end of an epoch", 10.0)
    eval: bool = option("score the checkpoint that --resume names on the test split, and record nothing", False)
    legacy_metrics: bool = option("also print what per-batch averages, as in the reference code, would say", False)
    trust_data: bool = option("go on where the pixels contradict the card; recorded as a note", False)
    partial: bool = option("go on with fewer samples than the card counts; every check still runs; noted", False)


@dataclass(frozen=True, kw_only=True)
class ProbeExecution(Execution):
    """Where and how fast a probe runs."""

    class_text: str | None = option(
        "zero_shot: the file of `text classes`; its content, not its place, is part of the run", None, shown="none"
    )


@dataclass(frozen=True, kw_only=True)
class TrainExecution(Execution):
    """Where and how fast a model is trained."""

    checkpoint_seconds: float = option("seconds between checkpoints; SIGTERM and SIGINT save one as well", 300.0)
    grad_checkpointing: bool = option("recompute activations in the backward pass: less memory, more time", False)
    deterministic: bool = option("deterministic kernels on a GPU: slower, the same bits again", False)


@dataclass(frozen=True, kw_only=True)
class SegmentExecution(TrainExecution):
    """Where and how fast a decoder is trained."""

    strict: bool = option("refuse splits that share tiles or parts of them", False)
    panels: int = option("test samples drawn into panels.png, 0 for none", 6)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: everything its entry needs."""

    data: Any  # Data, or the module's own
    model: Model
    recipe: Any  # the module's own: see `fgmae_bench.config.recipes`
    execution: Any  # Execution, or the module's own


EFFECTIVE = "effective_batch"  # of a recipe: samples a step, over accumulation and processes
NATIVE = "native"  # of --input_size: images as they are
OWN_WEIGHTS = "module"  # weights of a factory or a module of the user's, as it made them
IMAGENET = "imagenet"  # weights that timm publishes for a model, most of them trained on ImageNet
RESOLVED = "resolved"  # in a config.toml: every value that is not the field's default stands in the file
DRAWS = 5  # of few labels, where a probe is asked for shots and no draw is named
# Fields younger than ids and records in use: one at its default does not count, a record without it means that.
YOUNGER = (
    "shots", "draw", "missing_band", "bands_as", "limit", "patch_size", "inputs", "auxiliary", "head_dropout", "neck",
    "head_weights",
)  # fmt: skip
PARTS = ("data", "model", "recipe", "execution")
SECTIONS: dict[str, dict[str, type]] = {
    "linear": {"data": Data, "model": Model, "recipe": RECIPES["linear"], "execution": ProbeExecution},
    "finetune": {"data": Data, "model": Model, "recipe": RECIPES["finetune"], "execution": TrainExecution},
    "segment": {"data": SegmentData, "model": Model, "recipe": RECIPES["segment"], "execution": SegmentExecution},
}
MODEL_ALIASES = {
    "seg_fgmae_s": "vit_small_patch16", "seg_fgmae_b": "vit_base_patch16", "seg_fgmae_l": "vit_large_patch16",
    "seg_fgmae_h": "vit_huge_patch14",
}  # fmt: skip


def sections(module: str) -> dict[str, type]:
    """The dataclasses that a module's run is composed of, by section name."""
    return SECTIONS[module]


def field_sections(module: str) -> dict[str, str]:
    """Field name -> section, for all flags of a module."""
    return {f.name: part for part, kind in sections(module).items() for f in dataclasses.fields(kind)}


def grid_fields(module: str) -> tuple[str, ...]:
    """The flags of a module whose several values are runs of one command."""
    return tuple(f.name for kind in sections(module).values() for f in dataclasses.fields(kind) if f.metadata["grid"])


def counted(part: Any) -> dict[str, Any]:
    """A section of a run as what counts of it: without the younger fields that are at their defaults."""
    defaults = {f.name: f.default for f in dataclasses.fields(part)}
    return {name: value for name, value in vars(part).items() if name not in YOUNGER or value != defaults[name]}


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
    if len({(run.data, run.recipe) for run in runs}) != len(runs):
        twice = "--lr and --weight_decay" if len({run.data for run in runs}) == 1 else "--shots and --draw"
        raise BenchError(f"the grid of {twice} holds a value twice", "name each value once")
    return runs


def _implied(module: str, flat: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """Flags with what others decide: probes that are not trained, draws of few labels, heads without a backbone."""
    if flat.get("probe", "sgd") != "sgd":
        flat = _closed_form(flat, explicit)
    if module == "linear" and flat.get("shots") is not None:
        flat = {"draw": list(range(DRAWS))} | flat
    return flat | ({"freeze_backbone": True} if flat.get("head") in FITTED_HEADS else {})


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


def run_hash(run: Run, facts: dict[str, Any], world_size: int = 1) -> str:
    """SHA-256 of what can change a number: resolved Data, Model, Recipe and the `facts` of card and weights.

    Batch, accumulation and world size count by their product only; paths, workers and device do not count.
    """
    recipe = counted(run.recipe)
    recipe.pop("head_weights", None)  # a path: the facts hold its content
    recipe["effective_batch"] = recipe.pop("batch_size") * recipe.pop("accum_iter") * world_size
    # These three may be paths; the facts name what they stand for: card, samples of each part, content of the weights.
    data = {key: value for key, value in counted(run.data).items() if key not in ("dataset", "split")}
    model = {key: value for key, value in counted(run.model).items() if key != "weights"}
    body = {"data": data, "model": model, "recipe": recipe, "facts": facts}
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def run_id(run: Run, facts: dict[str, Any], world_size: int = 1) -> str:
    """`<model>-<recipe>-<10 hex>`, safe as a file name."""
    model = re.sub(r"[^A-Za-z0-9_.]+", "_", run.model.model).strip("._") or "model"
    return f"{model}-{run.recipe.recipe}-{run_hash(run, facts, world_size)[:10]}"


def to_plain(run: Run) -> dict[str, dict[str, Any]]:
    """The run as nested dicts, as it stands in a record and, without the nulls, in `config.toml`.

    Places below the home folder begin with `~`: a record that is passed on names nobody's home.
    """
    plain = {part: dataclasses.asdict(getattr(run, part)) for part in PARTS}
    home = os.path.expanduser("~").rstrip("/") + "/"
    plain["execution"] = {
        name: "~/" + value[len(home) :] if isinstance(value, str) and value.startswith(home) and home != "/" else value
        for name, value in plain["execution"].items()
    }
    return plain
