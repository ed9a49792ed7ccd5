"""Epochs of the linear probe: one stream of features for all heads of a grid, scored on the whole split each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.config.recipes import ProbeRecipe
from fgmae_bench.config.schedules import cosine
from fgmae_bench.data.index import Rows
from fgmae_bench.errors import note
from fgmae_bench.features.bank import Bank
from fgmae_bench.features.extract import Features, extract
from fgmae_bench.probe.checkpoint import HeadState
from fgmae_bench.probe.heads import HeadGrid, head_logits
from fgmae_bench.probe.resolve import Materials
from fgmae_bench.runs.tasks import Outcome, Task, legacy_of, rank, seen_by_reference
from fgmae_bench.system.randomness import epoch_order, key
from fgmae_bench.views.classification import Augmentation

CHUNK = 8192  # rows of a bank that are in memory at once
Batches = Iterator[tuple[Features, Rows]]
OnEpoch = Callable[[int, dict[str, Any]], None]


class GridFit:
    """A grid of heads (recipes that differ in lr and weight decay only) on its way through the epochs."""

    def __init__(
        self,
        materials: Materials,
        recipes: dict[str, ProbeRecipe],
        effective_batch: int,
        classes: int,
        dim: int,
        task: Task,
    ):
        self.materials, self.ids, self.recipes = materials, list(recipes), list(recipes.values())
        self.recipe, self.batch, self.task = self.recipes[0], effective_batch, task
        self.heads = HeadGrid.start(dim, classes, len(recipes), key(self.recipe.seed, "head") % 2**63)
        self.decay = torch.tensor([r.weight_decay for r in self.recipes], dtype=torch.float32)
        self.outcomes = [Outcome() for _ in recipes]
        self.best: list[dict[str, torch.Tensor]] = [{} for _ in recipes]
        self.selects = "val" in materials.evaluation
        self.done = [0] * len(recipes)  # completed epochs of each head

    def resume(self, states: dict[str, HeadState]) -> None:
        """Put heads where their checkpoints left them; heads without one start at the beginning."""
        for g, id in enumerate(self.ids):
            if id in states:
                state = states[id]
                self.done[g], self.best[g] = state.epochs, state.best_head
                self.outcomes[g].best, self.outcomes[g].history = state.best, list(state.history)
                self.outcomes[g].legacy_curve = list(state.legacy)
        # The head furthest back is put last: the standardisation goes on from its epoch.
        for g in sorted(range(len(self.ids)), key=lambda g: -self.done[g]):
            if self.ids[g] in states:
                self.heads.put(g, states[self.ids[g]].head, states[self.ids[g]].velocity)
        if min(self.done) == 0:
            fresh = HeadGrid.start(len(self.heads.running_mean), self.heads.classes, 1, 0)
            self.heads.running_mean, self.heads.running_var = fresh.running_mean, fresh.running_var

    def run(self, on_epoch: OnEpoch, after_epoch: Callable[[int], None]) -> list[Outcome]:
        """Train the epochs left; `on_epoch(g, entry)` is called for each head, `after_epoch(epochs)` for all."""
        for epoch in range(min(self.done), self.recipe.epochs):
            # Heads further on than this epoch are set aside: they share the pass, and get back what they were.
            ahead = {
                g: (self.heads.head(g), self.heads.velocity(g)) for g, done in enumerate(self.done) if done > epoch
            }
            losses, lr, seconds, images = self._train(epoch)
            shared = (self.heads.running_mean.clone(), self.heads.running_var.clone())
            # `put` sets the standardisation too, which belongs to the heads that were trained now.
            for g, (head, velocity) in ahead.items():
                self.heads.put(g, head, velocity)
            self.heads.running_mean, self.heads.running_var = shared
            self._evaluate(epoch, losses, lr, seconds, images, on_epoch)
            after_epoch(epoch + 1)
        bank, rows = self.materials.evaluation["test"]
        tested = (
            (logits_of(best, bank, rows) for best in self.best) if self.selects else _all_logits(self.heads, bank, rows)
        )
        for outcome, logits in zip(self.outcomes, tested, strict=True):
            self._finish(outcome, logits)
        return self.outcomes

    def state(self, g: int) -> HeadState:
        """Where head `g` stands."""
        outcome = self.outcomes[g]
        return HeadState(
            run_id=self.ids[g],
            epochs=self.done[g],
            head=self.heads.head(g),
            velocity=self.heads.velocity(g),
            best_head=self.best[g],
            best=outcome.best,
            history=outcome.history,
            legacy=outcome.legacy_curve,
            threads=torch.get_num_threads(),
        )

    def _train(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor, float, int]:
        """One epoch of steps: (mean loss (G,), last rates (G,), seconds, images)."""
        start = time.perf_counter()
        losses, seen, lr = torch.zeros(len(self.ids)), 0, torch.zeros(len(self.ids))
        steps = len(self.materials.train) // self.batch
        for i, (features, rows) in enumerate(_batches(self.materials, self.recipe, epoch, self.batch)):
            lr = _rates(self.recipes, epoch + i / steps)
            targets = torch.from_numpy(self.materials.labels[rows])
            losses += self.heads.step(
                torch.from_numpy(features), targets, lr, self.decay, self.recipe.momentum, self.task.loss_and_grad
            )
            seen += 1
        assert seen, "no batch was trained on"  # resolve refuses a batch larger than the split
        return losses / seen, lr, time.perf_counter() - start, seen * self.batch

    def _evaluate(
        self, epoch: int, losses: torch.Tensor, lr: torch.Tensor, seconds: float, images: int, on_epoch: OnEpoch
    ) -> None:
        bank, rows = self.materials.evaluation["val" if self.selects else "test"]
        targets = self.materials.labels[rows]
        for g, logits in enumerate(_all_logits(self.heads, bank, rows)):
            if self.done[g] > epoch:
                continue
            metrics = self.task.evaluate(logits, targets)
            outcome = self.outcomes[g]
            entry = {
                "epoch": epoch,
                "lr": self._rate(g, epoch, images),
                "train_loss": _finite(losses[g]),
                "val": metrics,
                "seconds": seconds,
                "images_per_second": images / seconds,
            }
            outcome.history.append(entry)
            if seen_by_reference(epoch, self.recipe.epochs):
                outcome.legacy_curve.append(
                    {"epoch": epoch, **self.task.legacy(logits, targets, self.recipe.batch_size)}
                )
            if self.selects and rank(metrics, self.task.selection) > rank(outcome.best, self.task.selection):
                outcome.best, self.best[g] = {"epoch": epoch, **metrics}, self.heads.head(g)
            self.done[g] = epoch + 1
            on_epoch(g, entry)

    def _rate(self, g: int, epoch: int, images: int) -> float:
        """Learning rate of the last step of an epoch, in float64."""
        steps = len(self.materials.train) // self.batch
        return _rate(self.recipes[g], epoch + (images // self.batch - 1) / steps)

    def _finish(self, outcome: Outcome, logits: NDArray[np.float32]) -> None:
        """Final and test scores: of the last epoch, or, with a val split, of the best on val, tested once."""
        targets = self.materials.labels[self.materials.evaluation["test"][1]]
        outcome.logits, outcome.targets = logits, targets
        outcome.test = self.task.evaluate(logits, targets)
        outcome.final = dict(outcome.history[-1]["val"]) if self.selects else dict(outcome.test)
        outcome.legacy = legacy_of(outcome, targets, self.recipe.batch_size, self.task)
        bad = next((e["epoch"] for e in outcome.history if e["train_loss"] is None or e["val"]["loss"] is None), None)
        if bad is not None:
            outcome.diverged = True
            outcome.notes.append(note("diverged", f"the loss became non-finite in epoch {bad}"))


def logits_of(head: dict[str, torch.Tensor], bank: Bank, rows: Rows) -> NDArray[np.float32]:
    """Evaluation logits (N, C) of one head over rows of a bank."""
    return np.concatenate([head_logits(head, torch.from_numpy(bank.features[part])).numpy() for part in _chunks(rows)])


def _rates(recipes: list[ProbeRecipe], progress: float) -> torch.Tensor:
    """Learning rate (G,) at a fractional epoch."""
    return torch.tensor([_rate(recipe, progress) for recipe in recipes], dtype=torch.float32)


def _rate(recipe: ProbeRecipe, progress: float) -> float:
    return cosine(
        progress, peak=recipe.lr or 0.0, floor=recipe.min_lr, warmup=recipe.warmup_epochs, total=recipe.epochs
    )


def _batches(materials: Materials, recipe: ProbeRecipe, epoch: int, size: int) -> Batches:
    """Whole batches (features (B, D), rows (B,)) of an epoch in its keyed order; what is left over is dropped."""
    rows = materials.train[epoch_order(recipe.seed, epoch, len(materials.train))]
    if materials.train_banks:
        # with several cached views the epochs take them in turn
        bank = materials.train_banks[epoch % len(materials.train_banks)]
        for i in range(0, len(rows) - size + 1, size):
            yield bank.features[rows[i : i + size]], rows[i : i + size]
        return
    rows = rows[: len(rows) // size * size]  # what would be dropped need not be computed
    augmentation = Augmentation(seed=recipe.seed, epoch=epoch, crop_scale=recipe.crop_scale)
    waiting: list[Features] = []
    waiting_rows: list[Rows] = []
    for chunk, features, _ in extract(materials.extractor, rows, augmentation, materials.spent):
        waiting.append(features)
        waiting_rows.append(chunk)
        # forward passes and batches have sizes of their own: rows wait until a batch is full
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
