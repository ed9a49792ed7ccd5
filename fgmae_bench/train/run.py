"""One training run from its first step to its record: resumed, interrupted, selected, scored."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fgmae_bench.config.cards import Card
from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError, note
from fgmae_bench.records import Record, record_path
from fgmae_bench.runs.folder import RunFolder
from fgmae_bench.runs.grid import Share, require_same_run, resume_path, use_threads
from fgmae_bench.runs.tasks import Outcome, rank, seen_by_reference
from fgmae_bench.runs.tensors import BEST, LAST, load_tensors
from fgmae_bench.runs.trackers import tracking_of
from fgmae_bench.system.device import gpu_id
from fgmae_bench.system.distributed import World
from fgmae_bench.system.environment import MemoryPeak
from fgmae_bench.system.files import lock_or_fail
from fgmae_bench.system.progress import Progress
from fgmae_bench.train.job import Prepared, Scored
from fgmae_bench.train.loop import Loop, NonFinite, listening
from fgmae_bench.train.recording import SpentTime, as_plain, record_run
from fgmae_bench.train.resolve import memory_error
from fgmae_bench.train.state import TrainState, find_state, save_best, save_state

log = logging.getLogger("fgmae_bench")
Tensors = dict[str, torch.Tensor]


@dataclass
class Training:
    """A prepared run under way."""

    prepared: Prepared
    folder: RunFolder | None  # rank 0 only
    outcome: Outcome = field(default_factory=Outcome)
    last: Scored | None = None  # of the newest evaluation
    best_val: Scored | None = None  # of the best one on val, None after an interruption until there is a better one
    best_model: Tensors = field(default_factory=dict)  # rank 0 only: what is tested where a val split selects
    memory: MemoryPeak = field(init=False)
    spent: SpentTime = field(default_factory=SpentTime)
    started: float = field(default_factory=time.perf_counter)
    saved: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.memory = MemoryPeak(gpu_id(self.prepared.device))

    @property
    def selects(self) -> bool:
        """True where a val split chooses the epoch that is tested."""
        return len(self.prepared.dataset.parts.val) > 0

    def execute(self, results: Path) -> Record | None:
        """Train, score and record; the record on rank 0, None on the others."""
        prepared = self.prepared
        if prepared.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(prepared.device)
        with listening() as stop:
            loop = Loop(
                job=prepared.job,
                plan=prepared.plan,
                recipe=prepared.run.recipe,
                world=prepared.world,
                device=prepared.device,
                amp=prepared.amp,
                workers=prepared.run.execution.num_workers,
                stop=lambda: bool(stop),
                guard=prepared.backbone.guarded,
            )
            self._go_on(loop)
            with Progress(
                "training", prepared.plan.total - loop.step, "steps", show=prepared.world.rank == 0
            ) as progress:
                loop.on_steps = progress.step
                try:
                    loop.run(lambda: self._evaluate(loop), lambda: self._save(loop), self._due)
                except NonFinite as error:
                    return self._diverged(str(error), results)
                except KeyboardInterrupt:
                    log.info(
                        "stopped after step %d of %d; the same command goes on from there",
                        loop.step,
                        prepared.plan.total,
                    )
                    raise
        test = self._score()
        return self._record(test, results)

    def _due(self) -> bool:
        return time.monotonic() - self.saved >= self.prepared.run.execution.checkpoint_seconds

    def _go_on(self, loop: Loop) -> None:
        """Take up the run's checkpoint, if any, on every process, with the thread count that it was made with."""
        prepared, world = self.prepared, self.prepared.world
        state = world.raise_together(lambda: find_state(prepared.id, prepared.place[0], prepared.run.execution.resume))
        steps = world.all_gather(state.step if state else None)
        if len(set(steps)) > 1:
            raise BenchError(
                f"{prepared.place[0]} is not the same on every machine", "give an --output_dir that all processes share"
            )
        if state is None:
            return
        use_threads(state.threads)
        loop.warm_up_ddp()  # before the state is restored, which undoes what it changes
        world.raise_together(lambda: loop.restore(state.tensors, state.step, state.period))
        self.outcome.best, self.outcome.history, self.outcome.legacy_curve = state.best, state.history, state.legacy
        self.spent = SpentTime(**state.spent)
        self.memory.energy.forget()  # what was used before the interruption is not known
        log.info("%s goes on after step %d of %d", prepared.id, state.step, prepared.plan.total)
        if self.folder is not None:
            self.folder.go_on(state.history)
            self.best_model = state.tensors["best_model"]
            if state.best is not None:
                save_best(self.folder, prepared.id, state.best["epoch"], self.best_model, prepared.classes)

    def _save(self, loop: Loop) -> None:
        self.saved = time.monotonic()
        if self.folder is None:
            return
        self.folder.write_log()
        spent = dataclasses.replace(self.spent, total=self._total())
        save_state(
            self.folder,
            TrainState(
                run_id=self.prepared.id,
                step=loop.step,
                tensors={**loop.tensors(), "best_model": self.best_model},
                best=self.outcome.best,
                history=self.outcome.history,
                legacy=self.outcome.legacy_curve,
                threads=torch.get_num_threads(),
                period=dataclasses.asdict(loop.period),
                spent=as_plain(spent),
            ),
        )

    def _total(self) -> float:
        """Seconds of this run so far, those before an interruption included."""
        return self.spent.total + time.perf_counter() - self.started

    def _evaluate(self, loop: Loop) -> None:
        """Score the evaluation split after a period, keep curve and best model, and save at the end of the plan."""
        prepared, job, period, plan = self.prepared, self.prepared.job, loop.period, self.prepared.plan
        started = time.perf_counter()
        prepared.world.same_buffers(job.model)  # running statistics differ where each process has its own
        job.model.eval()
        loop.require_finite()
        self.last = scored = job.evaluate(
            "val" if self.selects else "test", lambda: loop.stop_if_requested(lambda: self._save(loop))
        )
        if not scored.finite:
            rate = plan.rate(loop.step - 1, prepared.run.recipe)
            raise NonFinite(f"the evaluation loss is NaN or infinite after step {loop.step} at lr {rate:.3g}")
        self.spent.evaluated += time.perf_counter() - started
        self.spent.trained += period.seconds
        self.spent.waited += period.waited
        self.memory.look()
        entry = self._entry(loop, scored)
        epoch = entry["epoch"]
        self.outcome.history.append(entry)
        if seen_by_reference(epoch, -(-plan.total // plan.steps_per_epoch)):
            self.outcome.legacy_curve.append({"epoch": epoch, **prepared.legacy(scored)})
        if self.selects and (
            self.outcome.best is None or rank(scored.metrics, job.selection) > rank(self.outcome.best, job.selection)
        ):
            self.outcome.best, self.best_val = {"epoch": epoch, **scored.metrics}, scored
            self._keep_best(epoch)
        if self.folder is not None:
            self.folder.epoch(entry)
        loop.period = type(period)()
        if loop.step == plan.total:
            self._save(loop)

    def _entry(self, loop: Loop, scored: Scored) -> dict[str, Any]:
        """The line of the curve for the period that ends here."""
        plan, period = self.prepared.plan, loop.period
        return {
            "epoch": (loop.step - 1) // plan.steps_per_epoch,
            "step": loop.step,
            "lr": plan.rate(loop.step - 1, self.prepared.run.recipe),
            "train_loss": period.loss / period.steps,
            "val": scored.metrics,
            "seconds": period.seconds,
            "images_per_second": period.images / period.seconds,
        }

    def _keep_best(self, epoch: int) -> None:
        if self.folder is not None:
            self.best_model = {
                name: tensor.detach().cpu().clone() for name, tensor in self.prepared.job.kept.state_dict().items()
            }
            save_best(self.folder, self.prepared.id, epoch, self.best_model, self.prepared.classes)

    def _score(self) -> Scored:
        """Test scores: of the best epoch on val, or of the last one where nothing selects."""
        prepared = self.prepared
        if self.selects:
            if self.folder is not None:
                prepared.job.kept.load_state_dict(self.best_model)
            prepared.world.same_tensors(prepared.job.kept)
        if self.selects or self.last is None:
            started = time.perf_counter()
            prepared.job.model.eval()
            self.last = prepared.job.evaluate("test")
            if self.selects and len(self.last.targets):
                held = self.best_val or prepared.job.evaluate("val")  # an interruption came between
                self.last.val = held.outputs, held.targets
            self.spent.evaluated += time.perf_counter() - started
        return self.last

    def _diverged(self, text: str, results: Path) -> Record | None:
        """Record a run whose loss is NaN or infinite; the last good checkpoint stays."""
        self.outcome.diverged = True
        self.outcome.notes.append(note("diverged", text))
        if self.folder is not None and self.folder.trained:
            log.info("the last good checkpoint is %s", self.folder.folder / LAST)
        return self._record(None, results)

    def _record(self, test: Scored | None, results: Path) -> Record | None:
        if self.folder is None:
            return None
        self.spent.total = self._total()
        self.memory.look()
        return record_run(self.prepared, self.outcome, test, self.folder, results, self.spent, self.memory)


def one_by_one(prepare: Callable[..., Prepared]) -> Callable[..., Iterator[Share]]:
    """The engine of an entry that trains its runs one after the other: each is a share of its own, and is prepared,
    with model and data, when it is asked for.

    `prepare` takes (run, card, notes, world, device, number of runs, module) and may train `module` in place.
    """

    def shares(
        runs: list[Run],
        card: Card,
        notes: list[dict[str, str]],
        world: World,
        device: torch.device,
        module: nn.Module | None = None,
    ) -> Iterator[Share]:
        for run in runs:
            yield share_of(prepare(run, card, notes, world, device, len(runs), module))

    return shares


def share_of(prepared: Prepared) -> Share:
    """The share of a grid that is one prepared run."""
    return Share(
        runs={prepared.id: prepared.run},
        card=prepared.dataset.card,
        protocol=prepared.protocol,
        compute=lambda ids: {prepared.id: train_and_record(prepared)},
        score=lambda: _score_checkpoint(prepared),
    )


def load_tested(prepared: Prepared, *, last: bool = False) -> Path:
    """Load the model of the checkpoint that `--resume` names, by default the best or last of the folder; its path.

    Of a checkpoint to go on from that is the best model where val selects, as in its record, or the `last` one. Raises
    BenchError for a checkpoint of another run.
    """
    folder = prepared.place[0]
    path = resume_path(prepared.run, folder / (BEST if (folder / BEST).exists() else LAST))
    content = prepared.world.raise_together(lambda: load_tensors(path))
    require_same_run(content.get("run_id"), prepared.id, path)
    best = None if last else content.get("best_model")
    prepared.job.kept.load_state_dict(best or content["model"])
    return path


def _score_checkpoint(prepared: Prepared) -> dict[str, Any]:
    """Scores over the test split of the checkpoint that `--resume` names, by default the best or last of the folder."""
    path = load_tested(prepared, last=True)
    prepared.job.model.eval()
    scored = prepared.job.evaluate("test")
    return {"run_id": prepared.id, "which": path.name, "test": scored.metrics, "legacy": prepared.legacy(scored)}


def train_and_record(prepared: Prepared) -> Record:
    """Run a prepared run to its record; every rank calls this, rank 0 writes, all return the record.

    A run whose loss became non-finite is recorded as diverged. Raises BenchError when another process trains into the
    same folder or works on the same run, RunFailed where memory does not suffice. What the run wrote is taken back
    unless it left a checkpoint to go on from.
    """
    world, results = prepared.world, Path(prepared.run.execution.results_dir)
    tracking = tracking_of(prepared.run, prepared.id, prepared.place[0])
    folder = RunFolder(*prepared.place, tracking) if world.rank == 0 else None
    with contextlib.ExitStack() as locks:
        world.raise_together(lambda: _lock(locks, prepared, results) if world.rank == 0 else None)
        training = Training(prepared, folder)
        try:
            record = training.execute(results)
        except BaseException as error:
            if folder is not None and not folder.trained and not training.outcome.diverged:
                folder.abandon()
            failure = memory_error(error, prepared.run.recipe)
            if failure is not None:
                if world.rank:  # rank 0 does not have this error, and only its line is shown
                    log.error("error: %s", failure)
                raise failure from error
            raise
    return world.broadcast(record)


def _lock(locks: contextlib.ExitStack, prepared: Prepared, results: Path) -> None:
    """Hold the output folder and the place of the record until the run is over."""
    output = prepared.place[0]
    locks.enter_context(
        lock_or_fail(output / ".lock", f"another run is training into {output}", "give another --output_dir")
    )
    record = record_path(results, (prepared.dataset.card.name, prepared.protocol, prepared.id))
    name = record.with_name(f".{prepared.id}.lock")
    locks.enter_context(
        lock_or_fail(name, f"{prepared.id} is under way in another process", "wait for it: the record will be the same")
    )
