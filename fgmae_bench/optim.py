"""Learning-rate schedules as functions of progress, and the rule that ties the rate to the batch."""

from __future__ import annotations

import math


def cosine(progress: float, *, peak: float, floor: float, warmup: float, total: float) -> float:
    """Learning rate at `progress` (in epochs, fractional): linear warm-up from 0, then half a cosine from `peak` to `floor`.

    The schedule of MAE (util/lr_sched.py), evaluated for each iteration.
    """
    if progress < warmup:
        return peak * progress / warmup
    share = min(1.0, (progress - warmup) / (total - warmup)) if total > warmup else 1.0
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * share))


def scaled_lr(blr: float, effective_batch: int) -> float:
    """Absolute learning rate of a base rate: blr x effective batch / 256."""
    return blr * effective_batch / 256


def base_lr(lr: float, effective_batch: int) -> float:
    """Base rate of an absolute learning rate."""
    return lr * 256 / effective_batch
