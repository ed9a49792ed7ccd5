"""Recipes: fields that are also flags, the named recipes, which protocol each stands for, and what it may hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fgmae_bench.config.encoders import INPUTS
from fgmae_bench.config.names import (
    AFTER,
    CLASS_HEADS,
    DATES,
    FITTED_HEADS,
    HEADS,
    NECKS,
    NORMS,
    OPTIMIZERS,
    PROBES,
    ClassHeadName,
    DatesName,
    HeadName,
    NeckName,
    NormName,
    OptimizerName,
    ProbeName,
    ScheduleName,
    listed,
)


def option(
    text: str, default: Any = dataclasses.MISSING, *, aliases: tuple[str, ...] = (), shown: str = "", grid: bool = False
) -> Any:
    """A field and flag: help `text` with its unit, other spellings, its default as `shown`, many values if `grid`."""
    return dataclasses.field(default=default, metadata={"help": text, "aliases": aliases, "shown": shown, "grid": grid})


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe:
    """How a frozen backbone is probed."""

    base_rate: ClassVar[float] = 0.1  # blr where neither lr nor blr is given

    recipe: Literal["published", "corrected"] = option("named recipe that fills what is not given", "published")
    probe: ProbeName = option(listed(PROBES.values()), "sgd")
    features: Literal["stream", "cached"] | None = option(
        "stream: a fresh random view each epoch; cached: features computed once and reused",
        None,
        shown="stream on a GPU or with recipe published, else cached",
    )
    views: int = option("cached: random views a training image; 1 = the evaluation view", 1)
    epochs: int = option("passes over the training split", 50, shown="50, from recipe")
    warmup_epochs: float = option("linear warm-up, epochs", 0.0, shown="0, from recipe")
    batch_size: int = option("samples per step and process", 256, shown="from the recipe's effective batch")
    accum_iter: int = option("batches a step; the head is fitted on all of them at once", 1)
    lr: float | None = option("learning rate, absolute; one or several", None, shown="0.1, from recipe", grid=True)
    blr: float | None = option(
        "base learning rate: lr = blr x effective batch / 256, where lr is not given", None, shown="from recipe"
    )
    min_lr: float = option("learning rate at the end of the cosine", 0.0)
    weight_decay: float = option(
        "L2 penalty; one or several (lbfgs, ridge: candidates)", 0.001, shown="0.001, from recipe", grid=True
    )
    momentum: float = option("momentum of SGD", 0.9)
    penalties: tuple[float, ...] = option(
        "lbfgs, ridge: candidates of the L2 penalty", (), shown="1e-8 to 1e4, decades; ridge 1e-6 to 100, half decades"
    )
    crop_scale: float = option(
        "smallest area of a random crop, as a share of the image", 0.08, shown="0.08, from recipe"
    )
    knn_k: int = option("neighbours of --probe knn", 5)
    seed: int = option("seed of initialisation, order and augmentation", 42)
    amp: Literal["off", "bf16", "fp16"] | None = option(
        "mixed precision of the backbone",
        None,
        shown="fp16 on CUDA with recipe published, else bf16 where the hardware has it",
    )


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """What fine-tuning and segmentation share: everything of the one training loop that can change a number."""

    base_rate: ClassVar[float] = 1e-3  # blr where neither lr nor blr is given

    recipe: Literal["published", "corrected"] = option("named recipe that fills what is not given", "published")
    optimizer: OptimizerName = option(listed(OPTIMIZERS.values()), "adamw", shown="from recipe")
    epochs: int = option("passes over the training split", 50, shown="from recipe")
    max_steps: int | None = option("steps in place of --epochs", None, shown="none")
    schedule: ScheduleName = option("decay of the learning rate after warm-up", "cosine", shown="from recipe")
    eval_every: int | None = option(
        "epochs, or steps with --max_steps, between evaluations", None, shown="1, or a tenth of --max_steps"
    )
    warmup_epochs: float = option("linear warm-up, epochs", 0.0, shown="from recipe")
    warmup_steps: int | None = option("linear warm-up, steps, in place of --warmup_epochs", None, shown="none")
    batch_size: int = option("samples per forward pass and process", 64, shown="from the recipe's effective batch")
    accum_iter: int = option("batches whose gradients add up to one step", 1, shown="1, from recipe")
    lr: float | None = option("learning rate, absolute; one or several", None, shown="from recipe", grid=True)
    blr: float | None = option(
        "base learning rate: lr = blr x effective batch / 256, where lr is not given", None, shown="from recipe"
    )
    min_lr: float = option("learning rate at the end of the schedule", 0.0, shown="from recipe")
    weight_decay: float = option("weight decay", 0.05, shown="from recipe")
    momentum: float = option("momentum of SGD", 0.9)
    layer_decay: float = option(
        "factor on the learning rate from each block to the one below it, in (0, 1]", 1.0, shown="from recipe"
    )
    drop_path: float = option("rate of stochastic depth at the last block", 0.0, shown="from recipe")
    clip_grad: float | None = option("largest norm of the gradient, 0 for any", None, shown="from recipe")
    crop_scale: float = option("smallest area of a random crop, as a share of the image", 0.08, shown="from recipe")
    vflip: bool = option("random vertical flips as well as horizontal ones", False, shown="from recipe")
    budget: int = option("factor on the schedule: 2 repeats a run at twice its length", 1)
    seed: int = option("seed of initialisation, order and augmentation", 42)
    amp: Literal["off", "bf16", "fp16"] | None = option(
        "mixed precision", None, shown="fp16 on CUDA with recipe published, else bf16 where the hardware has it"
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(TrainRecipe):
    """How a backbone is fine-tuned for classification."""

    head: ClassHeadName = option(listed(CLASS_HEADS.values()), "linear", shown="from recipe")
    mixup: float = option("alpha of mixup, 0 for none", 0.0, shown="0, from recipe")
    cutmix: float = option("alpha of cutmix, 0 for none", 0.0, shown="0, from recipe")
    smoothing: float = option("label smoothing", 0.0, shown="0, from recipe")
    sync_bn: bool = option("batch norm of the head over all processes", False, shown="from recipe")


@dataclass(frozen=True, kw_only=True)
class SegmentRecipe(TrainRecipe):
    """How a decode head is trained on a backbone, with it or on top of it."""

    head: HeadName = option(f"decode head: {listed([*HEADS.values(), *FITTED_HEADS.values()])}", "upernet")
    freeze_backbone: bool = option("train the head alone: protocol frozen_<head>", False)
    features: Literal["stream", "cached"] | None = option(
        "frozen backbone: fresh random views, or features computed once",
        None,
        shown="stream, or cached on a CPU with recipe corrected",
    )
    augment: bool = option("random views of the training images", True)
    rotate: float = option("largest angle of random rotations of training images, degrees, half of the time", 0.0)
    rotate_fill: Literal["ignore", "zero"] = option(
        "what stands where a rotation leads outside: ignore, each band's mean and no label; zero, 0 in images and "
        "labels, as Copernicus-Bench pads: there the first class is learnt",
        "ignore",
    )
    fpn_dim: int = option("channels of the decoder", 256)
    norm: NormName = option(f"{listed(NORMS.values())}, in the decoder", "batch")
    auxiliary: bool = option("a convolution and a classifier on the third map too, their loss times 0.4", False)
    head_dropout: float = option("rate of the dropout of a head, which all have at 0 unless this is given", 0.0)
    neck: NeckName = option(
        f"from a ViT's maps to a pyramid: {'; '.join(f'{name}: {words}' for name, words in NECKS.items())}", "scales"
    )
    head_weights: str | None = option(
        "checkpoint of mmsegmentation whose decode_head the head begins with", None, shown="drawn from --seed"
    )
    blocks: tuple[int, ...] = option("indices of the blocks that the decoder sees", (), shown="four, evenly spaced")
    dates: DatesName = option(
        "what the decoder sees of two dates: " + ", ".join(f"{name}, {words}" for name, words in DATES.items()), AFTER
    )
    stride: int | None = option(
        "pixels between windows over scenes larger than --input_size", None, shown="none: scenes are resized"
    )


SGD_ONLY = (
    "lr",
    "blr",
    "min_lr",
    "warmup_epochs",
    "weight_decay",
    "epochs",
    "batch_size",
    "accum_iter",
    "momentum",
    "crop_scale",
)
# Candidates of the L2 penalty when none are given, by probe; those of lbfgs are extended at an edge.
PENALTIES = {
    "lbfgs": tuple(10.0**power for power in range(-8, 5)),
    "ridge": tuple(10 ** (power / 2) for power in range(-12, 5)),
}
TUNED_FROM = 10  # labels of the smallest class from which on a few-label run chooses anything
FIXED_PENALTY = 0.1  # of lbfgs below that
# Fields of which one stands for the other: the nearest layer of a run's values that names either decides.
EITHER = (("lr", "blr"), ("max_steps", "epochs"), ("warmup_steps", "warmup_epochs"))
NEVER_PUBLISHED = (
    "mixup",
    "cutmix",
)  # passed by published commands, never applied by their code: applied, the recipe is `corrected`
RECIPES: dict[str, type] = {"linear": ProbeRecipe, "finetune": FinetuneRecipe, "segment": SegmentRecipe}
# Protocol -> the module that runs it, and the values of its recipe that it stands for.
PROTOCOLS: dict[str, tuple[str, dict[str, Any]]] = {
    **{probe.protocol: ("linear", {"probe": name}) for name, probe in PROBES.items()},
    "finetune": ("finetune", {}),
    **{f"frozen_{name}": ("segment", {"freeze_backbone": True, "head": name}) for name in HEADS},
    **{name: ("segment", {"freeze_backbone": True, "head": name}) for name in FITTED_HEADS},
    "segmentation_finetune": ("segment", {"freeze_backbone": False}),
}


def protocol_of(module: str, recipe: Any) -> str:
    """The protocol that a module's recipe stands for."""
    fitting = (
        name
        for name, (owner, values) in PROTOCOLS.items()
        if owner == module and all(getattr(recipe, field) == value for field, value in values.items())
    )
    return next(fitting)


# Recipes of a module that hold for every dataset; a card's own table of the same name stands above them. A table
# `by_model` in a recipe holds values for single models, `frozen` those of a head on a backbone that is not trained.
NAMED_RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "linear": {
        "published": {
            "effective_batch": 256,
            "lr": 0.1,
            "weight_decay": 0.001,
            "epochs": 50,
            "warmup_epochs": 0.0,
            "crop_scale": 0.08,
        },
        "corrected": {
            "effective_batch": 256,
            "blr": 0.1,
            "weight_decay": 0.0,
            "epochs": 100,
            "warmup_epochs": 5.0,
            "crop_scale": 0.2,
        },
    },
    "finetune": {
        "published": {
            "effective_batch": 256,
            "batch_size": 64,
            "optimizer": "sgd",
            "lr": 0.01,
            "weight_decay": 0.001,
            "epochs": 50,
            "warmup_epochs": 0.0,
            "min_lr": 0.0,
            "layer_decay": 1.0,
            "drop_path": 0.0,
            "crop_scale": 0.08,
            "head": "bn_linear",
            "pool": "cls",
            "sync_bn": False,
        },
        "corrected": {
            "effective_batch": 64,
            "optimizer": "adamw",
            "blr": 1e-3,
            "weight_decay": 0.05,
            "epochs": 50,
            "warmup_epochs": 5.0,
            "min_lr": 1e-6,
            "layer_decay": 0.75,
            "drop_path": 0.1,
            "crop_scale": 0.2,
            "vflip": True,
            "head": "linear",
            "pool": "mean",
            "sync_bn": True,
            "clip_grad": 1.0,
        },
    },
    "segment": {
        # FGMAE's paper, as quoted: AdamW with layer decay (of an unstated factor), 40k iterations of 8 tiles
        "published": {
            "optimizer": "adamw",
            "lr": 1e-4,
            "weight_decay": 0.05,
            "max_steps": 40_000,
            "warmup_steps": 500,
            "schedule": "poly",
            "effective_batch": 8,
            "min_lr": 0.0,
            "layer_decay": 0.75,
            "drop_path": 0.1,
            "crop_scale": 0.5,
        },
        "corrected": {
            "optimizer": "adamw",
            "blr": 1e-3,
            "weight_decay": 0.05,
            "epochs": 50,
            "warmup_epochs": 3.0,
            "schedule": "poly",
            "effective_batch": 16,
            "min_lr": 0.0,
            "layer_decay": 0.75,
            "drop_path": 0.1,
            "crop_scale": 0.25,
            "vflip": True,
            "clip_grad": 1.0,
            # a head alone: 1e-3 at 16 images, as Copernicus-Bench trains its frozen UPerNet
            "frozen": {"blr": 0.016},
        },
    },
}

Range = tuple[Callable[[Any], bool], str]


def _at_least(smallest: int, unit: str = "") -> Range:
    return (lambda value: value >= smallest), f"give {unit}{smallest} or more"


def _zero_or_more(value: float) -> bool:
    return 0 <= value < math.inf


ANY: Range = (lambda value: True), ""
COUNT, RATE, AMOUNT = (
    _at_least(1),
    ((lambda value: 0 < value < math.inf), "give a positive number"),
    (_zero_or_more, "give zero or more"),
)
SHARE = (lambda value: 0 < value <= 1), "give a share in (0, 1]"
BELOW_ONE = (lambda value: 0 <= value < 1), "give a number in [0, 1)"

# What a field may hold wherever it stands: (does the value fit, what to give). None is always allowed where the type
# allows it.
RANGES: dict[str, Range] = {
    "train_frac": SHARE,
    "shots": COUNT,
    "draw": AMOUNT,
    "limit": COUNT,
    "crop_scale": SHARE,
    "layer_decay": SHARE,
    "epochs": COUNT,
    "max_steps": COUNT,
    "eval_every": COUNT,
    "batch_size": COUNT,
    "accum_iter": COUNT,
    "views": COUNT,
    "knn_k": COUNT,
    "input_size": (lambda value: value == "native" or value >= 1, "give a number of pixels from 1, or native"),
    "patch_size": COUNT,
    "inputs": (lambda value: value in INPUTS, f"choose from {', '.join(INPUTS)}"),
    "fpn_dim": COUNT,
    "stride": _at_least(1, "pixels, "),
    "budget": COUNT,
    "seed": ((lambda value: 0 <= value < 2**32), "give a number from 0 to 4294967295"),
    "lr": RATE,
    "blr": RATE,
    "clip_grad": AMOUNT,
    "min_lr": AMOUNT,
    "weight_decay": AMOUNT,
    "warmup_epochs": AMOUNT,
    "warmup_steps": AMOUNT,
    "penalties": AMOUNT,
    "panels": AMOUNT,
    "mixup": AMOUNT,
    "cutmix": AMOUNT,
    "checkpoint_seconds": AMOUNT,
    "num_workers": AMOUNT,
    "momentum": BELOW_ONE,
    "drop_path": BELOW_ONE,
    "rotate": ((lambda value: 0 <= value <= 180), "give degrees from 0 to 180"),
    "head_dropout": BELOW_ONE,
    "smoothing": BELOW_ONE,
}
