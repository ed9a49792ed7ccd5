"""The training loop: steps of accumulated micro-batches, evaluated and saved, the same on any number of processes."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fgmae_bench.config.plugins import Guard, unguarded
from fgmae_bench.config.recipes import TrainRecipe
from fgmae_bench.data.index import Rows
from fgmae_bench.errors import BenchError, RunFailed
from fgmae_bench.features.loader import ahead
from fgmae_bench.system.device import Precision, as_input, autocast
from fgmae_bench.system.distributed import World
from fgmae_bench.system.randomness import key
from fgmae_bench.train.job import Job
from fgmae_bench.train.optim import make_optimizer
from fgmae_bench.train.plan import Plan

log = logging.getLogger("fgmae_bench")
MICRO_BATCHES_BETWEEN_LOOKS = {"cpu": 1, "cuda": 20}  # a look waits for the device


@dataclass
class Period:
    """What is summed since the last evaluation."""

    loss: float = 0.0
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass(kw_only=True)
class Loop:
    """A model on its way through the steps of a plan; `step` counts completed ones.

    `stop` says whether the process was asked to end; `on_steps` is called with the number of steps done since.
    """

    job: Job
    plan: Plan
    recipe: TrainRecipe
    world: World
    device: torch.device
    amp: Precision
    workers: int
    stop: Callable[[], bool]
    on_steps: Callable[[int], object] = lambda steps: None
    guard: Guard = unguarded  # of a module of the user
    step: int = 0
    period: Period = field(default_factory=Period)

    def __post_init__(self) -> None:
        model = self.job.model
        # a model of the user's may be float64
        self.dtype = next(p for p in model.parameters() if p.requires_grad).dtype
        self.optimizer = make_optimizer(model, self.recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == "fp16")
        self.parallel: nn.Module = model
        if self.world.size > 1:
            # the wrapper is called, `job.model` is saved: checkpoints are the same on any number of processes
            self.parallel = DistributedDataParallel(
                model,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                find_unused_parameters=self.job.unused_parameters,
            )

    def tensors(self) -> dict[str, Any]:
        """States of model, optimiser and scaler."""
        return {
            "model": self.job.kept.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: dict[str, Any], step: int, period: dict[str, float]) -> None:
        """Go on after `step` steps; raises BenchError where the tensors are not this model's."""
        try:
            self.job.kept.load_state_dict(tensors["model"])
            self.optimizer.load_state_dict(tensors["optimizer"])
            self.scaler.load_state_dict(tensors["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0][:160]
            raise BenchError(
                f"the checkpoint does not fit the model ({reason})", "start again, or choose another --output_dir"
            ) from error
        self.step = step
        self.period = Period(
            period["loss"], int(period["steps"]), int(period["images"]), period["seconds"], period["waited"]
        )

    def run(self, after_period: Callable[[], None], save: Callable[[], None], due: Callable[[], bool]) -> None:
        """Train to the end of the plan.

        `after_period` evaluates; `save` is called where rank 0 finds it `due` and before an interruption, never after a
        non-finite loss. A state that was saved between the last step of a period and its evaluation is evaluated first.
        Raises KeyboardInterrupt when asked to stop and RunFailed for a non-finite loss.
        """
        while True:
            # Where a state was saved after the last step of a period, its evaluation comes first.
            if self.period.steps and self.plan.evaluated_after(self.step):
                after_period()
                self.period = Period()
                # agreed on by all: a process that left alone would leave the others waiting in an exchange
                stop = self._agree(self.stop())
                if stop or self._agree(self.world.rank == 0 and due()):
                    self._keep(save)
                if stop:
                    raise KeyboardInterrupt
            if self.step >= self.plan.total:
                return
            self._run_period(save, due)

    def stop_if_requested(self, save: Callable[[], None]) -> None:
        """Between batches of an evaluation: when any process was asked to stop, save and end."""
        if self._agree(self.stop()):
            self._keep(save)
            raise KeyboardInterrupt

    def warm_up_ddp(self) -> None:
        """One backward pass, thrown away: DDP orders its buckets by the first, and sums in the order of its buckets."""
        if self.world.size > 1:
            first = self._read(0, self.plan.micro_steps(0, self.world.rank)[0])
            with self.guard("the first batch"):
                self._loss(*first, 0).backward()
            self.optimizer.zero_grad(set_to_none=True)

    def _run_period(self, save: Callable[[], None], due: Callable[[], bool]) -> None:
        """Steps up to the next evaluation."""
        last = self.step + 1  # the step after which the split is evaluated
        while not self.plan.evaluated_after(last):
            last += 1
        # (step, micro-batch, rows) of this process up to the evaluation
        places = [
            (s, m, rows)
            for s in range(self.step, last)
            for m, rows in enumerate(self.plan.micro_steps(s, self.world.rank))
        ]
        # Loader threads read ahead of the steps; a look at losses and signals waits for the device: rare on a GPU.
        read = ahead(lambda place: self._read(place[0], place[2]), places, self.workers)
        look = max(1, MICRO_BATCHES_BETWEEN_LOOKS[self.device.type] // self.plan.accum)
        self.parallel.train()  # the last evaluation left it otherwise
        with contextlib.ExitStack() as stack:
            stack.callback(read.close)
            losses: list[Tensor] = []
            started = time.perf_counter()
            while self.step < last:
                losses.append(self._step(read))
                self.step += 1
                if self.step % look == 0 or self.step == last:
                    stop, wanted = self._look(losses, due)
                    losses = []
                    now = time.perf_counter()
                    self.period.seconds += now - started
                    started = now
                    if stop or wanted:
                        self._keep(save)
                        started = time.perf_counter()
                    if stop:
                        raise KeyboardInterrupt

    def _keep(self, save: Callable[[], None]) -> None:
        """Save, unless a weight is NaN or infinite; no process goes on before it is saved."""
        self.require_finite()
        save()
        self.world.barrier()

    def require_finite(self) -> None:
        """Raise NonFinite where a parameter is NaN or infinite."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.job.kept.parameters()):
            raise NonFinite(
                f"the weights became non-finite in step {self.step} at lr "
                f"{self.plan.rate(self.step - 1, self.recipe):.3g}"
            )

    def _read(self, step: int, rows: Rows) -> tuple[Tensor, Tensor]:
        """Images and targets of a micro-batch, in a loader thread."""
        try:
            images, targets = self.job.read(self.job.train[rows], step // self.plan.steps_per_epoch)
        except BenchError as error:
            if self.world.rank:
                log.error("error: %s", error)  # rank 0 does not have this error
            raise
        pinned = self.device.type == "cuda"
        tensors = torch.from_numpy(images), torch.from_numpy(targets)
        return (tensors[0].pin_memory(), tensors[1].pin_memory()) if pinned else tensors

    def _step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        """One step of the optimiser over all its micro-batches; their mean loss on this process."""
        count = len(self.plan.micro_steps(self.step, self.world.rank))
        rate = self.plan.rate(self.step, self.recipe)
        for group in self.optimizer.param_groups:
            # layer decay is a factor of the group, the schedule one of the step
            group["lr"] = rate * group["lr_scale"]
        # float64: the mean of many micro-batches must not depend on how they are divided
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for micro in range(count):
            waiting = time.perf_counter()
            images, targets = next(batches)
            self.period.waited += time.perf_counter() - waiting
            with (
                self._sync(last=micro + 1 == count),
                self.guard(f"batch {micro + 1} of {count} in step {self.step + 1}"),
            ):
                loss = self._loss(images, targets, micro)
                # gradients add up: each micro-batch counts with its share of the step
                self.scaler.scale(loss / count).backward()
            total += loss.detach().double() / count
            self.period.images += len(images) * self.world.size
        if self.recipe.clip_grad:  # the norm is that of the true gradients, without fp16's scale
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.job.kept.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _loss(self, images: Tensor, targets: Tensor, micro: int) -> Tensor:
        """Loss of one micro-batch."""
        # Stochastic depth and dropout draw from torch's generator: keyed here, a resumed run draws the same.
        torch.manual_seed(key(self.recipe.seed, "forward", self.step, micro, self.world.rank) % 2**63)
        mixed, labels = self.job.mix(
            as_input(images, self.device, self.dtype),
            targets.to(self.device, non_blocking=True),
            (self.step, micro, self.world.rank),
        )
        with autocast(self.amp, self.device):
            return self.job.loss(self.parallel(mixed), labels)

    def _sync(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are exchanged in the backward pass of a step's last micro-batch only."""
        if isinstance(self.parallel, DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        return contextlib.nullcontext()

    def _look(self, losses: list[Tensor], due: Callable[[], bool]) -> tuple[bool, bool]:
        """(whether any process was asked to stop, whether rank 0 wants to save), exchanged along with the losses.

        Raises NonFinite for a loss that is NaN or infinite, on every process.
        """
        flags = torch.tensor(
            [float(bool(self.stop())), float(self.world.rank == 0 and due())], dtype=torch.float64, device=self.device
        )
        shared = torch.cat([torch.stack(losses) / self.world.size, flags])  # one exchange for all of it
        if self.world.size > 1:
            dist.all_reduce(shared)
        # the one wait for the device
        *means, stop, wanted = shared.tolist()
        for i, loss in enumerate(means):
            if not math.isfinite(loss):
                step = self.step - len(means) + i
                epoch = step // self.plan.steps_per_epoch
                raise NonFinite(
                    f"the loss became {loss} in step {step + 1} (epoch {epoch}) at lr "
                    f"{self.plan.rate(step, self.recipe):.3g}"
                )
        self.period.loss += sum(means)
        self.period.steps += len(means)
        self.on_steps(len(means))
        return stop > 0, wanted > 0

    def _agree(self, mine: bool) -> bool:
        """True on every process when it is on any."""
        if self.world.size == 1:
            return mine
        # a sum above 0: somebody wants to
        count = torch.tensor(float(mine), device=self.device)
        dist.all_reduce(count)
        return bool(count.item())


class NonFinite(RunFailed):
    """The loss or a weight is NaN or infinite."""


class StopRequest:
    """True once the process was asked to stop. A second SIGINT ends it at once."""

    asked = False

    def __bool__(self) -> bool:
        return self.asked

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Yield the request that SIGTERM and SIGINT set; earlier handlers return afterwards. Main thread only."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
