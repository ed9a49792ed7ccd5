"""Epochs of the linear probe: one stream of features, all heads of the grid, every epoch evaluated over the whole split."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.config import ProbeRecipe
from fgmae_bench.features import Bank, Extractor, Features, Rows, Spent, extract
from fgmae_bench.optim import cosine
from fgmae_bench.probe.outcome import SELECTION, Outcome, evaluate_logits
from fgmae_bench.probe.sgd import HeadGrid, head_logits
from fgmae_bench.randomness import generator, key
from fgmae_bench.records import note
from fgmae_bench.views import Augmentation

CHUNK = 8192  # rows of a bank that are in memory at once
Batches = Iterator[tuple[Features, Rows]]


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What the heads are fitted on: labels by row, train rows, and the banks of the evaluation view by part."""

    labels: NDArray[np.int64]
    train: Rows
    evaluation: dict[str, tuple[Bank, Rows]]
    train_banks: tuple[Bank, ...]  # cached: one for each view; empty in stream mode
    extractor: Extractor
    spent: Spent


def fit_sgd(
    materials: Materials, recipes: list[ProbeRecipe], effective_batch: int, classes: int, dim: int,
    on_epoch: Callable[[int, dict[str, Any]], None],
) -> list[Outcome]:  # fmt: skip
    """Fit all recipes (they differ in lr and weight decay only) together; `on_epoch(g, history entry)` is told of each epoch."""
    recipe = recipes[0]
    heads = HeadGrid.start(dim, classes, len(recipes), key(recipe.seed, "head") % 2**63)
    decay = torch.tensor([r.weight_decay for r in recipes], dtype=torch.float32)
    selects = "val" in materials.evaluation
    watched = "val" if selects else "test"
    outcomes = [Outcome() for _ in recipes]
    best = [(-math.inf, -math.inf)] * len(recipes)
    steps = len(materials.train) // effective_batch
    for epoch in range(recipe.epochs):
        start = time.perf_counter()
        losses, seen, lr = torch.zeros(len(recipes)), 0, torch.zeros(len(recipes))
        for i, (features, rows) in enumerate(_batches(materials, recipe, epoch, effective_batch)):
            lr = _rates(recipes, epoch + i / steps)
            targets = torch.from_numpy(materials.labels[rows])
            losses += heads.step(torch.from_numpy(features), targets, lr, decay, recipe.momentum)
            seen += 1
        seconds = time.perf_counter() - start
        for g, logits in enumerate(_all_logits(heads, *materials.evaluation[watched])):
            metrics, _ = evaluate_logits(logits, materials.labels[materials.evaluation[watched][1]])
            entry = {
                "epoch": epoch, "lr": float(lr[g]), "train_loss": _finite(losses[g] / max(seen, 1)), "val": metrics,
                "seconds": seconds, "images_per_second": seen * effective_batch / seconds,
            }  # fmt: skip
            outcomes[g].history.append(entry)
            on_epoch(g, entry)
            rank = (metrics[SELECTION], -metrics["loss"] if metrics["loss"] is not None else -math.inf)
            if selects and rank > best[g]:
                best[g], outcomes[g].best, outcomes[g].parameters = rank, {"epoch": epoch, **metrics}, heads.head(g)
    for g, outcome in enumerate(outcomes):
        _finish(outcome, heads.head(g), materials, selects)
    return outcomes


def _finish(outcome: Outcome, last: dict[str, torch.Tensor], materials: Materials, selects: bool) -> None:
    """Final and test scores: without a val split the last epoch is both; with one, the best epoch on val is tested once."""
    outcome.final = dict(outcome.history[-1]["val"])
    chosen = outcome.parameters if selects and outcome.parameters else last
    bank, rows = materials.evaluation["test"]
    chunks = [head_logits(chosen, torch.from_numpy(bank.features[part])).numpy() for part in _chunks(rows)]
    outcome.logits = np.concatenate(chunks)
    outcome.test, outcome.confusion = evaluate_logits(outcome.logits, materials.labels[rows])
    outcome.parameters = {"last": last, "best": outcome.parameters} if selects else {"last": last}
    bad = next((entry["epoch"] for entry in outcome.history if entry["train_loss"] is None or entry["val"]["loss"] is None), None)
    if bad is not None:
        outcome.diverged = True
        outcome.notes.append(note("diverged", f"the loss became non-finite in epoch {bad}"))


def _rates(recipes: list[ProbeRecipe], progress: float) -> torch.Tensor:
    """Learning rate (G,) at a fractional epoch."""
    rates = [
        cosine(progress, peak=r.lr or 0.0, floor=r.min_lr, warmup=r.warmup_epochs, total=r.epochs)
        for r in recipes
    ]  # fmt: skip
    return torch.tensor(rates, dtype=torch.float32)


def epoch_order(seed: int, epoch: int, count: int) -> Rows:
    """The order of an epoch, keyed by seed and epoch alone."""
    return generator(seed, "order", epoch).permutation(count)


def _batches(materials: Materials, recipe: ProbeRecipe, epoch: int, size: int) -> Batches:
    """Whole batches (features (B, D), rows (B,)) of an epoch in its keyed order; the last incomplete batch is dropped."""
    rows = materials.train[epoch_order(recipe.seed, epoch, len(materials.train))]
    if materials.train_banks:
        bank = materials.train_banks[epoch % len(materials.train_banks)]
        for i in range(0, len(rows) - size + 1, size):
            yield bank.features[rows[i : i + size]], rows[i : i + size]
        return
    augmentation = Augmentation(seed=recipe.seed, epoch=epoch, crop_scale=recipe.crop_scale)
    waiting: list[Features] = []
    waiting_rows: list[Rows] = []
    for chunk, features, usable in extract(materials.extractor, rows, augmentation, materials.spent):
        waiting.append(features[usable])
        waiting_rows.append(chunk[usable])
        if sum(map(len, waiting)) >= size:
            x, r = np.concatenate(waiting), np.concatenate(waiting_rows)
            full = len(x) // size * size
            for i in range(0, full, size):
                yield x[i : i + size], r[i : i + size]
            waiting, waiting_rows = [x[full:]], [r[full:]]


def _all_logits(heads: HeadGrid, bank: Bank, rows: Rows) -> Iterator[NDArray[np.float32]]:
    """Logits (N, C) of each head over `rows`, from one pass over the bank."""
    chunks = [heads.logits(torch.from_numpy(bank.features[part])).numpy() for part in _chunks(rows)]
    for g in range(heads.heads):
        yield np.concatenate([chunk[:, g] for chunk in chunks])


def _chunks(rows: Rows) -> list[Rows]:
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]


def _finite(value: torch.Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None
