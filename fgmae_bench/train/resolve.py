"""What fine-tuning and segmentation resolve alike: rates, schedules, activations, and the driver of a grid of runs."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.layers import DropPath
from torch import nn

from fgmae_bench.config.recipes import TrainRecipe
from fgmae_bench.config.run import Run
from fgmae_bench.config.schedules import base_lr, rate_of, require_falling
from fgmae_bench.errors import BenchError, Diverged, note
from fgmae_bench.records import Record, read_record, record_path
from fgmae_bench.runs.tensors import BEST, LAST, load_tensors
from fgmae_bench.system.device import Precision, resolve_device
from fgmae_bench.system.distributed import World, join_world, leave_world
from fgmae_bench.train.job import Prepared
from fgmae_bench.train.plan import Plan
from fgmae_bench.train.run import train_and_record

log = logging.getLogger("fgmae_bench")
Prepare = Callable[[Run, World, torch.device], Prepared]


def run_each(runs: list[Run], prepare: Prepare) -> list[Record]:
    """Train each run of a grid and return the records in order; runs whose record exists are read, not repeated.

    Under torchrun every rank calls this; rank 0 writes.
    """
    world, device = join_world(resolve_device(runs[0].execution.device))
    try:
        records, failed = [], []
        for run in runs:
            try:
                records.append(run_one(prepare(run, world, device)))
            except Diverged as error:
                failed.append(error)
                if len(runs) > 1:
                    log.error("%s; the other runs go on", error.what)
        if failed:
            raise Diverged(failed[0].what, records) from failed[0]
        return records
    finally:
        leave_world()


def score_checkpoint(runs: list[Run], prepare: Prepare) -> dict[str, Any]:
    """Scores over the test split of the checkpoint that `--resume` names, by default the best or last of the output
    folder.
    """
    if len(runs) != 1:
        raise BenchError("--eval scores one checkpoint", "give one --lr")
    world, device = join_world(resolve_device(runs[0].execution.device))
    try:
        prepared = prepare(runs[0], world, device)
        named, folder = runs[0].execution.resume, prepared.place[0]
        path = (
            (folder / BEST if (folder / BEST).exists() else folder / LAST)
            if named in (None, "auto")
            else Path(str(named))
        )
        content = world.raise_together(lambda: load_tensors(path))
        if content.get("run_id") != prepared.id:
            what = (
                f"{path} belongs to {content.get('run_id')}, this is {prepared.id}: model, data, batch or recipe differ"
            )
            raise BenchError(what, "repeat the flags of that run")
        prepared.job.kept.load_state_dict(content["model"])
        prepared.job.model.eval()
        scored = prepared.job.evaluate("test")
        return {"run_id": prepared.id, "which": path.name, "test": scored.metrics, "legacy": prepared.legacy(scored)}
    finally:
        leave_world()


def recorded(prepared: Prepared) -> Record | None:
    """The record of a run that is done already, on every rank; None where there is none."""
    world = prepared.world
    path = record_path(
        Path(prepared.run.execution.results_dir), (prepared.dataset.card.name, prepared.protocol, prepared.id)
    )
    done: Record | None = world.broadcast(
        world.raise_together(lambda: read_record(path) if world.rank == 0 and path.exists() else None)
    )
    if done is not None:
        how = " as diverged" if done["status"] == "diverged" else ""
        log.info("%s is recorded already%s: nothing to do (%s)", prepared.id, how, path)
    return done


def run_one(prepared: Prepared) -> Record:
    """The record of a prepared run: read where it exists, else trained."""
    return recorded(prepared) or train_and_record(prepared, Path(prepared.run.execution.results_dir))


def resolved_recipe(recipe: TrainRecipe, plan: Plan, amp: Precision) -> Any:
    """The recipe with its gaps filled and what cannot change its numbers set to one value."""
    effective = plan.effective
    lr = rate_of(recipe, effective)
    require_falling(lr, recipe)
    by_steps = recipe.max_steps is not None
    every = plan.period if by_steps else plan.period // plan.steps_per_epoch
    without: dict[str, Any] = {"momentum": 0.9} if recipe.optimizer != "sgd" else {}
    return dataclasses.replace(
        recipe,
        **without,
        amp=amp,
        lr=lr,
        blr=base_lr(lr, effective),
        eval_every=every,
        epochs=1 if by_steps else recipe.epochs,
        warmup_epochs=0.0 if recipe.warmup_steps is not None else recipe.warmup_epochs,
    )


def without_idle_drop_path(recipe: Any, module: torch.nn.Module, name: str) -> tuple[Any, list[dict[str, str]]]:
    """The recipe without a drop path that the backbone called `name` does not have, and the note that says so."""
    if not recipe.drop_path or has_drop_path(module):
        return recipe, []
    text = f"{name} has no stochastic depth: --drop_path {recipe.drop_path:g} is not applied"
    log.warning(text)
    return dataclasses.replace(recipe, drop_path=0.0), [note("drop_path", text)]


def division(plan: Plan) -> dict[str, int]:
    """What enters the run id where results depend on how a batch is divided: batch norm of a process, mixing,
    stochastic depth.
    """
    return {"batch_size": plan.batch, "accum_iter": plan.accum, "processes": plan.world}


def forward_chunk(size: int, device: torch.device, batch: int) -> int:
    """Images of `size` pixels a forward pass on a CPU, so that activations stay in its caches; 0 for the whole
    batch.
    """
    wanted = min(32, max(8, round(8 * (224 / (size or 64)) ** 2)))
    return wanted if device.type == "cpu" and wanted < batch else 0


def be_deterministic(wanted: bool) -> None:
    """Ask torch for deterministic kernels."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def checkpoint_activations(module: torch.nn.Module, name: str) -> None:
    """Recompute activations in the backward pass; raises BenchError where the backbone called `name` does not offer
    it.
    """
    for part in module.modules():
        switch = getattr(part, "set_grad_checkpointing", None)
        if callable(switch):
            switch(True)
            return
    raise BenchError(f"--grad_checkpointing: {name} does not offer it", "leave it out")


def has_drop_path(module: nn.Module) -> bool:
    """Whether any layer of a model drops its residual path at random."""
    return any(isinstance(part, DropPath) and part.drop_prob for part in module.modules())
