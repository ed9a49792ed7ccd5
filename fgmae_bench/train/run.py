"""One training run from its first step to its record: resumed, interrupted, selected, scored."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fgmae_bench.backbones import Backbone
from fgmae_bench.config import Run
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.device import Precision, device_name
from fgmae_bench.distributed import World
from fgmae_bench.environment import MemoryPeak, describe, now
from fgmae_bench.errors import BenchError, RunFailed
from fgmae_bench.files import missing_folders, remove_empty
from fgmae_bench.locks import held
from fgmae_bench.progress import Progress
from fgmae_bench.records import Record, note, read_record, store
from fgmae_bench.runs.assemble import Params, assemble
from fgmae_bench.runs.curve_notes import still_improving
from fgmae_bench.runs.folder import RunFolder
from fgmae_bench.runs.outcome import Outcome
from fgmae_bench.runs.selection import rank, seen_by_reference
from fgmae_bench.runs.tensors import BEST, LAST, load_tensors
from fgmae_bench.train.job import Job, Scored
from fgmae_bench.train.loop import Loop, NonFinite, Period
from fgmae_bench.train.plan import Plan
from fgmae_bench.train.state import TrainState, find_state, save_best, save_state
from fgmae_bench.train.stop import listening

log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run made definite, and what only its task knows.

    `legacy` gives what per-batch averages would say of an evaluation; `metrics` turns outcome and test scores into the record's
    section; `write_predictions` writes the file of one run; `finish` is for pictures and the like.
    """

    run: Run
    id: str
    protocol: str
    dataset: Dataset
    backbone: Backbone
    job: Job
    plan: Plan
    world: World
    device: torch.device
    amp: Precision
    place: tuple[Path, Path]  # output folder, TensorBoard folder
    classes: tuple[str, ...]
    schemes: tuple[str, str] | None
    notes: list[dict[str, str]]
    legacy: Callable[[Scored], dict[str, Any]]
    metrics: Callable[[Outcome, Scored], dict[str, Any]]
    write_predictions: Callable[[Path, Scored], None]
    finish: Callable[[Path], None] = lambda folder: None  # what else belongs into the output folder


@dataclass
class Training:
    """A prepared run under way."""

    prepared: Prepared
    folder: RunFolder | None  # rank 0 only
    outcome: Outcome = field(default_factory=Outcome)
    last: Scored | None = None
    memory: MemoryPeak = field(default_factory=MemoryPeak)
    waited: float = 0.0
    trained: float = 0.0
    evaluated: float = 0.0

    @property
    def selects(self) -> bool:
        """True where a val split chooses the epoch that is tested."""
        return len(self.prepared.dataset.parts.val) > 0

    def execute(self, results: Path) -> Record | None:
        """Train, score and record; the record on rank 0, None on the others."""
        prepared, recipe = self.prepared, self.prepared.run.recipe
        started = time.perf_counter()
        state = self._find()
        saved = [time.monotonic()]

        def save() -> None:
            self._save(loop)
            saved[0] = time.monotonic()

        def due() -> bool:
            return time.monotonic() - saved[0] >= prepared.run.execution.checkpoint_seconds

        with listening() as stop:
            loop = Loop(
                job=prepared.job, plan=prepared.plan, recipe=recipe, world=prepared.world, device=prepared.device, amp=prepared.amp,
                workers=prepared.run.execution.num_workers, stop=lambda: bool(stop),
            )  # fmt: skip
            if state is not None:
                self._restore(loop, state)
            with Progress("training", prepared.plan.total - loop.step, "steps", show=prepared.world.rank == 0) as progress:
                loop.told = progress.step

                def after_period() -> None:
                    self._evaluate(loop)
                    if loop.step == prepared.plan.total:
                        save()

                try:
                    loop.run(after_period, save, due)
                except NonFinite as error:
                    self._diverged(str(error), results, time.perf_counter() - started)
                    raise
                except KeyboardInterrupt:
                    log.info("stopped after step %d of %d; the same command goes on from there", loop.step, prepared.plan.total)
                    raise
        test = self._score()
        return self._record(test, results, time.perf_counter() - started)

    def _find(self) -> TrainState | None:
        """The checkpoint to go on from, the same on every process, with the thread count it was made with."""
        prepared, world = self.prepared, self.prepared.world
        named = prepared.run.execution.resume
        state = world.together(lambda: find_state(prepared.id, prepared.place[0], named))
        if world.broadcast(state and state.step) != (state and state.step):
            raise BenchError(f"{prepared.place[0]} is not the same on every machine", "give an --output_dir that all processes share")
        if state is not None and state.threads != torch.get_num_threads():
            log.info("using %d threads, as before the interruption, so that the result stays the same", state.threads)
            torch.set_num_threads(state.threads)
        return state

    def _restore(self, loop: Loop, state: TrainState) -> None:
        loop.restore(state.tensors, state.step, state.period)
        self.outcome.best, self.outcome.history, self.outcome.legacy_curve = state.best, state.history, state.legacy
        log.info("%s goes on after step %d of %d", self.prepared.id, state.step, self.prepared.plan.total)
        if self.folder is not None:
            self.folder.go_on(state.history)

    def _save(self, loop: Loop) -> None:
        if self.folder is None:
            return
        self.folder.write_log()
        save_state(self.folder, TrainState(
            run_id=self.prepared.id, step=loop.step, tensors=loop.tensors(), best=self.outcome.best, history=self.outcome.history,
            legacy=self.outcome.legacy_curve, threads=torch.get_num_threads(), period=dataclasses.asdict(loop.period),
        ))  # fmt: skip

    def _evaluate(self, loop: Loop) -> None:
        """Score the evaluation split after a period; keep the curve and the best model."""
        prepared, job, period = self.prepared, self.prepared.job, loop.period
        started = time.perf_counter()
        prepared.world.same_buffers(job.model)
        job.model.eval()
        self.last = scored = job.evaluate("val" if self.selects else "test")
        self.evaluated += time.perf_counter() - started
        self.trained += period.seconds
        self.waited += period.waited
        self.memory.look()
        plan, recipe = prepared.plan, prepared.run.recipe
        epoch = len(self.outcome.history)
        entry = {
            "epoch": epoch, "lr": plan.rate(loop.step - 1, recipe), "train_loss": period.loss / period.steps, "val": scored.metrics,
            "seconds": period.seconds, "images_per_second": period.images / period.seconds,
        }  # fmt: skip
        self.outcome.history.append(entry)
        if seen_by_reference(epoch, -(-plan.total // plan.period)):
            self.outcome.legacy_curve.append({"epoch": epoch, **prepared.legacy(scored)})
        better = rank(scored.metrics, job.selection) > rank(self.outcome.best, job.selection)
        if self.selects and better:
            self.outcome.best = {"epoch": epoch, **scored.metrics}
            if self.folder is not None:
                save_best(self.folder, prepared.id, epoch, job.kept.state_dict(), prepared.classes)
        if self.folder is not None:
            self.folder.epoch(entry)
        loop.period = Period()

    def _score(self) -> Scored:
        """Test scores: of the best epoch on val, or of the last one where nothing selects."""
        prepared = self.prepared
        if self.selects:
            prepared.world.barrier()
            best = prepared.world.together(lambda: load_tensors(prepared.place[0] / BEST))
            prepared.job.kept.load_state_dict(best["model"])
        if self.selects or self.last is None:
            started = time.perf_counter()
            prepared.job.model.eval()
            self.last = prepared.job.evaluate("test")
            self.evaluated += time.perf_counter() - started
        return self.last

    def _diverged(self, text: str, results: Path, seconds: float) -> None:
        """Record a run whose loss is no number any more; the last good checkpoint stays."""
        if self.folder is None:
            return
        self.outcome.diverged = True
        self.outcome.notes.append(note("diverged", text))
        kept = self.folder.folder / LAST
        if kept.exists():
            log.info("the last good checkpoint is %s", kept)
        self._record(None, results, seconds)

    def _record(self, test: Scored | None, results: Path, seconds: float) -> Record | None:
        """Write everything of the run; its record comes last."""
        prepared, outcome, folder = self.prepared, self.outcome, self.folder
        if folder is None:
            return None
        dataset, job = prepared.dataset, prepared.job
        outcome.final = dict(outcome.history[-1]["val"]) if outcome.history else {}
        outcome.test = dict(test.metrics) if test is not None else {}
        counts = {part: len(getattr(dataset.parts, part)) for part in ("train", "val", "test")}
        predictions = results / "predictions" / f"{prepared.id}.safetensors"
        made = missing_folders(predictions.parent)
        try:
            described = None
            if test is not None:
                prepared.write_predictions(predictions, test)
                described = {
                    "sha256": hashlib.sha256(predictions.read_bytes()).hexdigest(),
                    "file": f"predictions/{prepared.id}.safetensors",
                }
            record = assemble(
                prepared.run, prepared.id, dataset, prepared.backbone, protocol=prepared.protocol, params=_params(job),
                metrics=prepared.metrics(outcome, test) if test is not None else _no_metrics(outcome), counts=counts,
                history=outcome.history, predictions=described, environment=self._environment(), timing=self._timing(seconds),
                created=now(), notes=[*outcome.notes, *still_improving(outcome.history, job.selection), *prepared.notes],
                diverged=outcome.diverged, schemes=prepared.schemes,
            )  # fmt: skip
            folder.finish(record["config"])
            if test is not None:
                prepared.finish(folder.folder)
            if described:
                folder.copy_in(predictions, "predictions-test.safetensors")
            stored = store(record, results)
        except BaseException:
            predictions.unlink(missing_ok=True)
            remove_empty(made)
            raise
        folder.copy_in(stored, "record.json")
        return read_record(stored)

    def _environment(self) -> dict[str, Any]:
        return describe(self.prepared.device.type, device_name(self.prepared.device), self.prepared.world.size)

    def _timing(self, seconds: float) -> dict[str, Any]:
        on_gpu = self.prepared.device.type == "cuda"
        plan = self.prepared.plan
        rate = [entry["images_per_second"] for entry in self.outcome.history]
        return {
            "total_seconds": seconds, "train_seconds": self.trained, "eval_seconds": self.evaluated,
            "data_wait_fraction": min(1.0, self.waited / self.trained) if self.trained else None,
            "images_per_second": sum(rate) / len(rate) if rate and plan.total else None, "peak_anonymous_memory_bytes": self.memory.bytes,
            "peak_device_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        }  # fmt: skip


def train_and_record(prepared: Prepared, results: Path) -> Record:
    """Run a prepared run to its record; every rank calls this, rank 0 writes, all return the record.

    Raises BenchError when another process trains into the same folder or memory does not suffice, RunFailed for a non-finite
    loss. What the run wrote is taken back unless it left a checkpoint to go on from.
    """
    world = prepared.world
    folder = RunFolder(*prepared.place) if world.rank == 0 else None
    lock = prepared.place[0] / ".lock"
    with held(lock if world.rank == 0 else None, f"another run is training into {prepared.place[0]}", "give another --output_dir"):
        training = Training(prepared, folder)
        try:
            record = training.execute(results)
        except BaseException as error:
            if folder is not None and not folder.trained and not training.outcome.diverged:
                folder.abandon()
            told = _memory_error(error, prepared)
            if told is not None:
                raise told from error
            raise
    return world.broadcast(record)


def _memory_error(error: BaseException, prepared: Prepared) -> RunFailed | None:
    """The line for a run that ran out of memory, with a batch and an accumulation of the same effective batch."""
    text = str(error)
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in text:
        return None
    recipe = prepared.run.recipe
    smaller = next((size for size in range(recipe.batch_size // 2, 0, -1) if recipe.batch_size % size == 0), None)
    if smaller is None:
        return RunFailed("out of memory at batch 1; use --grad_checkpointing, --amp bf16 or a smaller model")
    accum = recipe.accum_iter * recipe.batch_size // smaller
    return RunFailed(
        f"out of memory at --batch_size {recipe.batch_size}; use --batch_size {smaller} --accum_iter {accum}, "
        "which keep the effective batch, or --grad_checkpointing"
    )


def _params(job: Job) -> Params:
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in job.model.parameters()]
    return Params(sum(n for n, _ in counts), sum(n for n, wanted in counts if wanted))


def _no_metrics(outcome: Outcome) -> dict[str, Any]:
    """The record's `metrics` of a run that was never scored."""
    return {
        "final": outcome.final, "best": outcome.best, "test": {}, "per_class": {}, "classes_scored": [], "legacy": None, "intervals": None,
    }  # fmt: skip


def check_resumable(run: Run) -> None:
    """Raise BenchError for an `--eval` without a checkpoint to score."""
    if run.execution.eval and run.execution.resume is None and run.execution.output_dir is None:
        raise BenchError("--eval needs a checkpoint", "name it with --resume PATH, or its folder with --output_dir")
