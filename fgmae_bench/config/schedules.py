"""Learning-rate schedules as functions of progress, and the rule that ties the rate to the batch.

`progress`, `warmup` and `total` share one unit, epochs or steps, and may be fractional.
"""

from __future__ import annotations

import math
from typing import Any

from fgmae_bench.errors import BenchError


def cosine(progress: float, *, peak: float, floor: float, warmup: float, total: float) -> float:
    """Learning rate at `progress`: linear warm-up from 0, then half a cosine from `peak` to `floor`.

    The schedule of MAE (util/lr_sched.py), evaluated for each iteration.
    """
    if progress < warmup:
        return peak * progress / warmup
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * _share(progress, warmup, total)))


def poly(progress: float, *, peak: float, floor: float, warmup: float, total: float) -> float:
    """Learning rate at `progress`: linear warm-up from 0, then (1 - share)^0.9 from `peak` to `floor` (DeepLab, arXiv
    1606.00915).
    """
    if progress < warmup:
        return peak * progress / warmup
    return floor + (peak - floor) * (1 - _share(progress, warmup, total)) ** 0.9


def _share(progress: float, warmup: float, total: float) -> float:
    """How much of the decay has passed, in [0, 1]."""
    # past the end the rate stays at its floor
    return min(1.0, (progress - warmup) / (total - warmup)) if total > warmup else 1.0


# Choices of --schedule: to add one is to write its function and its line here.
SCHEDULES = {
    "cosine": cosine,
    "poly": poly,
}


def rate_of(recipe: Any, effective_batch: int) -> float:
    """The absolute learning rate of a recipe: its `lr`, else that of its `blr`, else that of its kind's own base
    rate.
    """
    return float(recipe.lr) if recipe.lr is not None else scaled_lr(recipe.blr or recipe.base_rate, effective_batch)


def require_falling(lr: float, recipe: Any) -> None:
    """Raise BenchError where a schedule would end above its peak."""
    if recipe.min_lr > lr:
        raise BenchError(f"--min_lr {recipe.min_lr:g} is above the learning rate {lr:g}", "give a smaller one")


def scaled_lr(blr: float, effective_batch: int) -> float:
    """Absolute learning rate of a base rate: blr x effective batch / 256."""
    return blr * effective_batch / 256


def base_lr(lr: float, effective_batch: int) -> float:
    """Base rate of an absolute learning rate."""
    return lr * 256 / effective_batch
