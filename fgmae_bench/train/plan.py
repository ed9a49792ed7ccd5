"""How a training run is divided: samples of each step and process, its learning rate, when it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from fgmae_bench.config.recipes import FinetuneRecipe, TrainRecipe
from fgmae_bench.config.schedules import SCHEDULES
from fgmae_bench.data.index import Rows
from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import epoch_order


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`total` steps of up to `accum` micro-batches of `batch` samples a process; an epoch drops what is left over."""

    samples: int  # of the training split
    batch: int
    accum: int
    world: int
    total: int
    period: int  # steps between evaluations
    warmup: float  # steps
    seed: int
    by_steps: bool = False  # the schedule counts steps, not samples
    whole_steps: bool = False  # an incomplete accumulation at the end of an epoch is discarded

    @property
    def effective(self) -> int:
        """Samples a whole step."""
        return self.batch * self.accum * self.world

    @property
    def micro_batches(self) -> int:
        """Micro-batches an epoch, over all processes at once."""
        return self.samples // (self.batch * self.world)

    @property
    def steps_per_epoch(self) -> int:
        """Steps an epoch; the last may hold fewer micro-batches than the others, unless `whole_steps`."""
        return steps_of(self.micro_batches, self.accum, self.whole_steps)

    @property
    def images_per_epoch(self) -> int:
        """Images that an epoch learns from; what an incomplete batch holds is left out."""
        used = self.steps_per_epoch * self.accum if self.whole_steps else self.micro_batches
        return used * self.batch * self.world

    def micro_steps(self, step: int, rank: int) -> list[Rows]:
        """Positions in the training split of the micro-batches of a step on `rank`, in the epoch's keyed order."""
        # Ranks take every size-th sample of a step, which so holds the same samples on any number of them.
        epoch, index = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, self.samples)
        size = self.batch * self.world
        first, last = index * self.accum, min((index + 1) * self.accum, self.micro_batches)
        share = order[first * size : last * size][rank :: self.world]
        return [share[i : i + self.batch] for i in range(0, len(share), self.batch)]

    def progress(self, step: int) -> float:
        """Where a step begins: in steps, or, for a schedule of epochs, in steps of equal numbers of samples."""
        if self.by_steps:
            return float(step)
        # The last step of an epoch may be shorter: its place is that of its first sample.
        epoch, index = divmod(step, self.steps_per_epoch)
        return epoch * self.steps_per_epoch + index * self.accum * self.steps_per_epoch / self.micro_batches

    def rate(self, step: int, recipe: TrainRecipe) -> float:
        """Learning rate of a step."""
        schedule = SCHEDULES[recipe.schedule]
        return schedule(
            self.progress(step), peak=recipe.lr or 0.0, floor=recipe.min_lr, warmup=self.warmup, total=self.total
        )

    def evaluated_after(self, step: int) -> bool:
        """True when the split is evaluated after `step` completed steps."""
        return step % self.period == 0 or step == self.total


def steps_of(micro_batches: int, accum: int, whole_steps: bool) -> int:
    """Steps that `micro_batches` make at `accum` a step: an incomplete last one counts, unless `whole_steps`."""
    return micro_batches // accum if whole_steps else -(-micro_batches // accum)


def make_plan(recipe: TrainRecipe, samples: int, world: int) -> Plan:
    """The plan of a recipe on `samples` training samples; raises BenchError where a batch does not fit into them."""
    size = recipe.batch_size * world
    if size > samples:
        what = (
            f"a batch of {recipe.batch_size} on {world} processes is larger than the training split ({samples} images)"
        )
        raise BenchError(what, f"use --batch_size {max(1, samples // world)} or less")
    # the reference zeroes its gradients when an epoch begins: what had been accumulated by then is lost
    whole_steps = recipe.recipe == "published" and isinstance(recipe, FinetuneRecipe)
    epoch = steps_of(samples // size, recipe.accum_iter, whole_steps)
    if not epoch:
        what = f"--accum_iter {recipe.accum_iter} takes more batches than an epoch has ({samples // size})"
        raise BenchError(what, f"use --accum_iter {samples // size} or less")
    # in steps where the schedule is one of steps, else in epochs
    every = recipe.eval_every or (max(1, recipe.max_steps // 10) if recipe.max_steps else 1)
    # a budget stretches schedule and warm-up alike, so that only the length differs
    total = (recipe.max_steps or recipe.epochs * epoch) * recipe.budget
    warmup = (recipe.warmup_steps if recipe.warmup_steps is not None else recipe.warmup_epochs * epoch) * recipe.budget
    if warmup >= total:
        given = "--warmup_steps" if recipe.warmup_steps is not None else "--warmup_epochs"
        raise BenchError(f"the warm-up is {warmup:g} of {total} steps", f"give a longer schedule or a shorter {given}")
    return Plan(
        samples=samples,
        batch=recipe.batch_size,
        accum=recipe.accum_iter,
        world=world,
        total=total,
        period=every if recipe.max_steps else every * epoch,
        warmup=warmup,
        seed=recipe.seed,
        by_steps=recipe.max_steps is not None,
        whole_steps=whole_steps,
    )
