"""Remarks that a run's own curve and recipe justify."""

from __future__ import annotations

from typing import Any

from fgmae_bench.config.cards import Card
from fgmae_bench.config.recipes import NEVER_PUBLISHED
from fgmae_bench.config.run import Run, merged, named_recipe
from fgmae_bench.config.schedules import base_lr
from fgmae_bench.errors import note

REFERENCE_BATCH = 256  # 64 images on 4 processes, what absolute rates of published recipes were used with
STILL = 0.005  # rise of the metric's mean from one tenth of the evaluations to the last
MOST_OFF = 2.0  # factor by which a base rate may differ from the recipe's
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
        named = merged(*named_recipe(module, name, card, run.model.model))
        batch = named.get("batch_size", 64) if "max_steps" in named else REFERENCE_BATCH
        found.append(lr_off_rule(run.recipe.lr, effective_batch, named.get("blr") or base_lr(named["lr"], batch)))
    return min(found, key=len)


def small_batch_norm(batch: int, processes: int) -> list[dict[str, str]]:
    """A note where batch norm sees few samples of one process at a time."""
    if batch >= SMALL_BATCH:
        return []
    text = (
        f"batch norm in the head sees {batch} samples at a time on each of {processes} processes: results depend "
        "on that number"
    )
    return [note("small_batch_norm", text)]
