"""Remarks that a run's own curve and recipe justify."""

from __future__ import annotations

import math
from typing import Any

from fgmae_bench.config.cards import Card
from fgmae_bench.config.compose import merged, named_recipe, small_batch_blr
from fgmae_bench.config.recipes import NEVER_PUBLISHED
from fgmae_bench.config.run import EFFECTIVE, Run
from fgmae_bench.config.schedules import base_lr
from fgmae_bench.errors import note
from fgmae_bench.metrics.table import MULTI, SEGMENTATION, SINGLE

STILL = 0.005  # rise of the metric's mean from one tenth of the evaluations to the last
MOST_OFF = 2.0  # factor by which a base rate may differ from the recipe's
HARDLY_MOVED = 0.95  # of the loss of equal probabilities
SMALL_BATCH = 32  # samples of one process below which batch statistics are noisy


def still_improving(history: list[dict[str, Any]], metric: str) -> list[dict[str, str]]:
    """A note where the metric still rose between the last two tenths of at least ten evaluations."""
    values = [entry["val"].get(metric) for entry in history]
    tenth = max(1, len(values) // 10)
    if len(values) < 10 or any(value is None for value in values[-2 * tenth :]):
        return []
    rise = (sum(values[-tenth:]) - sum(values[-2 * tenth : -tenth])) / tenth
    if rise <= STILL:
        return []
    text = (
        f"{metric} rose by {rise:.3f} over the last tenth of the schedule; a decaying rate does that: only "
        "--budget 2 shows more"
    )
    return [note("still_improving", text)]


def head_not_trained(history: list[dict[str, Any]], task: str, classes: int) -> list[dict[str, str]]:
    """A note where the training loss of the last epoch is above 95 % of what a head that says nothing has.

    That is ln K for softmax over K classes and ln 2 for independent labels: the cross-entropy of equal probabilities,
    which a fresh head begins with (Karpathy 2019, A Recipe for Training Neural Networks: "verify loss @ init").
    """
    if task not in (SINGLE, MULTI, SEGMENTATION):  # a regression has no probabilities
        return []
    nothing = math.log(2 if task == MULTI else classes)
    loss = history[-1]["train_loss"] if history else None
    if loss is None or not HARDLY_MOVED * nothing < loss < math.inf:
        return []
    text = (
        f"the training loss ended at {loss:.3f}, where a head that says nothing has {nothing:.3f}: it is hardly "
        "trained, or the features say nothing; give more steps or a higher --lr"
    )
    return [note("head_not_trained", text)]


def lr_off_rule(lr: float, effective_batch: int, recipe_blr: float | None) -> list[dict[str, str]]:
    """A note where lr = blr x batch / 256 would give another rate at this batch than the one that is used."""
    used = base_lr(lr, effective_batch)
    if not recipe_blr or 1 / MOST_OFF <= used / recipe_blr <= MOST_OFF:
        return []
    text = (
        f"lr {lr:g} at an effective batch of {effective_batch} is a base rate of {used:g}; the recipe's is "
        f"{recipe_blr:g}"
    )
    return [note("lr_off_rule", text)]


def rate_notes(module: str, run: Run, card: Card, effective_batch: int) -> list[dict[str, str]]:
    """A note where the learning rate is far from what the named recipe's rule gives at this batch."""
    names = [run.recipe.recipe]
    if any(getattr(run.recipe, flag, 0) for flag in NEVER_PUBLISHED):
        names.append("published")  # whose other values may have been kept
    found = []
    for name in names:
        frozen = getattr(run.recipe, "freeze_backbone", False)
        named = merged(*named_recipe(module, name, card, run.model.model, frozen))
        blr = named.get("blr") or base_lr(named["lr"], named[EFFECTIVE])
        if name == "corrected" and "blr" in named:
            blr = small_batch_blr(named, named[EFFECTIVE], effective_batch)
        found.append([*lr_off_rule(run.recipe.lr, effective_batch, blr), *another_batch(effective_batch, named)])
    return min(found, key=len)


def another_batch(effective_batch: int, named: dict[str, Any]) -> list[dict[str, str]]:
    """A note where a run takes another effective batch than its recipe states."""
    stated = named[EFFECTIVE]
    if effective_batch == stated:
        return []
    return [note("effective_batch", f"an effective batch of {effective_batch} where the recipe states {stated}")]


def small_batch_norm(batch: int, processes: int) -> list[dict[str, str]]:
    """A note where batch norm sees few samples of one process at a time."""
    if batch >= SMALL_BATCH:
        return []
    text = (
        f"batch norm in the head sees {batch} samples at a time on each of {processes} processes: results depend "
        "on that number"
    )
    return [note("small_batch_norm", text)]
