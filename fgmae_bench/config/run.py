"""A run as data: `Data`, `Model` and `Recipe` hold what can change a number, `Execution` what may not."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from fgmae_bench.config.encoders import INPUTS
from fgmae_bench.config.names import TRACKERS, TrackerName, listed
from fgmae_bench.config.recipes import (
    RECIPES,
    option,
)


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
    tracker: TrackerName | None = option(
        f"where the run is shown besides TensorBoard: {listed(TRACKERS.values())}", None, shown="nowhere"
    )
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
    "shots",
    "draw",
    "missing_band",
    "bands_as",
    "limit",
    "patch_size",
    "inputs",
    "auxiliary",
    "head_dropout",
    "neck",
    "head_weights",
    "dates",
    "rotate",
    "rotate_fill",
)
# These may be paths; the facts name what they stand for: card, samples of each part, content of the weights.
NOT_HASHED = {"data": ("dataset", "split"), "model": ("weights",), "recipe": ("head_weights",)}
PARTS = ("data", "model", "recipe", "execution")
SECTIONS: dict[str, dict[str, type]] = {
    "linear": {"data": Data, "model": Model, "recipe": RECIPES["linear"], "execution": ProbeExecution},
    "finetune": {"data": Data, "model": Model, "recipe": RECIPES["finetune"], "execution": TrainExecution},
    "segment": {"data": SegmentData, "model": Model, "recipe": RECIPES["segment"], "execution": SegmentExecution},
}
MODEL_ALIASES = {
    "seg_fgmae_s": "vit_small_patch16",
    "seg_fgmae_b": "vit_base_patch16",
    "seg_fgmae_l": "vit_large_patch16",
    "seg_fgmae_h": "vit_huge_patch14",
}


def sections(module: str) -> dict[str, type]:
    """The dataclasses that a module's run is composed of, by section name."""
    return SECTIONS[module]


@cache
def field_sections(module: str) -> dict[str, str]:
    """Field name -> section, for all flags of a module."""
    return {f.name: part for part, kind in sections(module).items() for f in dataclasses.fields(kind)}


def grid_fields(module: str) -> tuple[str, ...]:
    """The flags of a module whose several values are runs of one command."""
    return tuple(f.name for kind in sections(module).values() for f in dataclasses.fields(kind) if f.metadata["grid"])


_DEFAULTS: dict[type, dict[str, Any]] = {}


def defaults_of(kind: type) -> dict[str, Any]:
    """Field name -> default of a section."""
    if kind not in _DEFAULTS:
        _DEFAULTS[kind] = {f.name: f.default for f in dataclasses.fields(kind)}
    return _DEFAULTS[kind]


def counted(part: Any) -> dict[str, Any]:
    """A section of a run as what counts of it: without the younger fields that are at their defaults."""
    defaults = defaults_of(type(part))
    return {name: value for name, value in vars(part).items() if name not in YOUNGER or value != defaults[name]}
