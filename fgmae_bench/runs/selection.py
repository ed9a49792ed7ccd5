"""Which epoch counts: the order in which epochs are better, and what the reference's sparse evaluations would have printed."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from fgmae_bench import scores
from fgmae_bench.runs.outcome import Outcome
from fgmae_bench.runs.tasks import Task

LEGACY_EVERY = 10  # the reference evaluates every tenth epoch and the last


def rank(metrics: dict[str, Any] | None, selection: str) -> tuple[float, float]:
    """What the best epoch is chosen by: the task's metric, then the loss."""
    if metrics is None or metrics[selection] is None:
        return (-math.inf, -math.inf)
    return (metrics[selection], -metrics["loss"] if metrics["loss"] is not None else -math.inf)


def seen_by_reference(epoch: int, epochs: int) -> bool:
    """True for the epochs that the reference evaluates."""
    return epoch % LEGACY_EVERY == 0 or epoch + 1 == epochs


def legacy_of(outcome: Outcome, targets: NDArray[Any], batch_size: int, task: Task) -> dict[str, Any]:
    """What per-batch averaging would have printed of the test split, and the maximum over the reference's sparse evaluations.

    Without a val split the evaluations were of the test split, as in the reference; with one there is no such maximum.
    """
    assert outcome.logits is not None
    values: dict[str, Any] = dict(task.legacy(outcome.logits, targets, batch_size))
    for name in [name for name in values if name != "loss"] if outcome.best is None else []:
        seen = [entry[name] for entry in outcome.legacy_curve if entry.get(name) is not None]
        values[f"{name}_max"] = max(seen, default=None)
    return {"batch_size": batch_size, **{k: scores.finite(v) if isinstance(v, float) else v for k, v in values.items()}}
