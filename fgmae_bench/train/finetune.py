"""Fine-tuning for classification: runs resolved and handed to the training loop one after the other."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import torch

from fgmae_bench.cards import Card
from fgmae_bench.config import Run, named_recipe, run_id
from fgmae_bench.data.dataset import only_usable
from fgmae_bench.device import resolve_device
from fgmae_bench.distributed import World, join_world, leave_world
from fgmae_bench.errors import BenchError
from fgmae_bench.optim import base_lr, scaled_lr
from fgmae_bench.recipes import FinetuneRecipe, TrainRecipe
from fgmae_bench.records import Record, note, read_record, record_path
from fgmae_bench.runs.assemble import classification_metrics
from fgmae_bench.runs.curve_notes import lr_off_rule, small_batch_norm
from fgmae_bench.runs.folder import write_predictions
from fgmae_bench.runs.outcome import Outcome
from fgmae_bench.runs.selection import legacy_of
from fgmae_bench.runs.setup import Setup, facts_of, places, set_up
from fgmae_bench.runs.tasks import TASKS
from fgmae_bench.runs.tensors import BEST, LAST, load_tensors
from fgmae_bench.train.classification import ClassificationJob
from fgmae_bench.train.classifier import Classifier, trainable
from fgmae_bench.train.job import Scored
from fgmae_bench.train.plan import Plan, make_plan
from fgmae_bench.train.run import Prepared, train_and_record

log = logging.getLogger("fgmae_bench")
PROTOCOL = "finetune"
REFERENCE_BATCH = 256  # 64 images on 4 processes, what absolute rates of published recipes were used with


def run_finetune(runs: list[Run], card: Card, notes: list[dict[str, str]]) -> list[Record]:
    """Fine-tune each run of a grid and return the records in order; runs whose record exists are read, not repeated.

    Under torchrun every rank calls this; rank 0 writes.
    """
    world, device = join_world(resolve_device(runs[0].execution.device))
    try:
        return [_one(run, card, notes, world, device, len(runs)) for run in runs]
    finally:
        leave_world()


def evaluate_checkpoint(runs: list[Run], card: Card) -> dict[str, Any]:
    """Scores over the test split of the checkpoint that `--resume` names; nothing is recorded."""
    if len(runs) != 1:
        raise BenchError("--eval scores one checkpoint", "give one --lr")
    world, device = join_world(resolve_device(runs[0].execution.device))
    try:
        prepared = prepare(runs[0], card, [], world, device, 1)
        named = runs[0].execution.resume
        folder = prepared.place[0]
        path = (folder / BEST if (folder / BEST).exists() else folder / LAST) if named in (None, "auto") else Path(str(named))
        content = world.together(lambda: load_tensors(path))
        if content.get("run_id") != prepared.id:
            what = f"{path} belongs to {content.get('run_id')}, this is {prepared.id}: model, data, batch or recipe differ"
            raise BenchError(what, "repeat the flags of that run")
        prepared.job.model.load_state_dict(content["model"])
        prepared.job.model.eval()
        scored = prepared.job.evaluate("test")
        return {"run_id": prepared.id, "which": path.name, "test": scored.metrics, "legacy": prepared.legacy(scored)}
    finally:
        leave_world()


def _one(run: Run, card: Card, notes: list[dict[str, str]], world: World, device: torch.device, grid: int) -> Record:
    prepared = prepare(run, card, notes, world, device, grid)
    results = Path(run.execution.results_dir)
    path = record_path(results, (card.name, PROTOCOL, prepared.id))
    done = world.broadcast(world.together(lambda: read_record(path) if world.rank == 0 and path.exists() else None))
    if done is not None:
        log.info("%s is recorded already: nothing to do (%s)", prepared.id, path)
        return done
    return train_and_record(prepared, results)


def prepare(run: Run, card: Card, notes: list[dict[str, str]], world: World, device: torch.device, grid: int) -> Prepared:
    """Fill in everything that card, contract and hardware decide, and build model and job."""
    recipe, execution = run.recipe, run.execution
    _require_even(recipe)
    if execution.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    setup = set_up(run, card, world, device, drop_path=recipe.drop_path)
    make_plan(recipe, len(setup.dataset.parts.train), world.size)
    backbone = world.together(lambda: trainable(setup.backbone))
    dataset = world.in_turn(lambda: only_usable(setup.dataset, run, setup.cache))
    plan = make_plan(recipe, len(dataset.parts.train), world.size)
    effective = plan.batch * plan.accum * plan.world
    resolved = Run(data=setup.data, model=setup.model, recipe=resolved_recipe(recipe, plan, setup, effective), execution=execution)
    chunk = _chunk(setup, device, plan.batch)
    model = Classifier(backbone.module, backbone.feature_dim, len(card.classes), resolved.recipe, chunk).to(device)
    if recipe.sync_bn:
        model.norm = synchronised(model.norm, backbone.feature_dim)
    if execution.grad_checkpointing:
        _checkpoint_activations(backbone.module, backbone.name)
    if execution.compile:
        model.compile()
    facts = facts_of(dataset, backbone) | {"images_per_epoch": plan.micro_batches * plan.batch * plan.world}
    dataset = dataclasses.replace(dataset, facts=facts)
    id = run_id(resolved, facts, world.size)
    task = TASKS[card.task]
    job = ClassificationJob(
        model=model, dataset=dataset, view=setup.view, recipe=resolved.recipe, world=world, device=device, amp=setup.amp,
        workers=execution.num_workers, batch_size=chunk or 256,
    )  # fmt: skip
    model.norm = model.norm.to(device)
    batch_size = recipe.batch_size

    def metrics(outcome: Outcome, test: Scored) -> dict[str, Any]:
        outcome.logits, outcome.targets = test.outputs, test.targets
        outcome.legacy = legacy_of(outcome, test.targets, batch_size, task)
        return classification_metrics(outcome, task, card.classes)

    return Prepared(
        run=resolved, id=id, protocol=PROTOCOL, dataset=dataset, backbone=backbone, job=job, plan=plan, world=world, device=device,
        amp=setup.amp, place=places(card, resolved, id, grid), classes=card.classes, schemes=None,
        notes=[*notes, *setup.notes, *_recipe_notes(resolved, card, plan, effective)],
        legacy=lambda scored: task.legacy(scored.outputs, scored.targets, batch_size), metrics=metrics,
        write_predictions=lambda path, test: write_predictions(path, test.outputs, test.targets, dataset.ids("test"), card.classes),
    )  # fmt: skip


def resolved_recipe(recipe: TrainRecipe, plan: Plan, setup: Setup, effective: int) -> Any:
    """The recipe with its gaps filled and what cannot change its numbers set to one value."""
    lr = recipe.lr if recipe.lr is not None else scaled_lr(recipe.blr or 1e-3, effective)
    by_steps = recipe.max_steps is not None
    every = plan.period if by_steps else plan.period // plan.steps_per_epoch
    return dataclasses.replace(
        recipe, amp=setup.amp, lr=lr, blr=base_lr(lr, effective), eval_every=every, epochs=1 if by_steps else recipe.epochs,
        warmup_epochs=0.0 if recipe.warmup_steps is not None else recipe.warmup_epochs,
    )  # fmt: skip


def synchronised(norm: torch.nn.Module, dim: int) -> torch.nn.Module:
    """The same batch norm over all processes; anything else as it is."""
    from fgmae_bench.sync_bn import SyncBatchNorm

    return SyncBatchNorm(dim, eps=norm.eps, affine=norm.affine) if isinstance(norm, torch.nn.BatchNorm1d) else norm


def _require_even(recipe: FinetuneRecipe) -> None:
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size % 2:
        raise BenchError(f"--batch_size {recipe.batch_size} with --mixup or --cutmix", "give an even batch: images are mixed in pairs")


def _chunk(setup: Setup, device: torch.device, batch: int) -> int:
    """Images a forward pass on a CPU, so that activations stay in its caches; 0 for the whole batch."""
    side = setup.backbone.contract.size or 64
    wanted = min(32, max(8, round(8 * (224 / side) ** 2)))
    return wanted if device.type == "cpu" and wanted < batch else 0


def _checkpoint_activations(module: torch.nn.Module, name: str) -> None:
    for part in module.modules():
        switch = getattr(part, "set_grad_checkpointing", None)
        if callable(switch):
            switch(True)
            return
    raise BenchError(f"--grad_checkpointing: {name} does not offer it", "leave it out")


def _recipe_notes(run: Run, card: Card, plan: Plan, effective: int) -> list[dict[str, str]]:
    """What the recipe's values give cause to say."""
    recipe = run.recipe
    named: dict[str, Any] = {}
    for layer in named_recipe("finetune", recipe.recipe, card, run.model.model):
        for rate, other in (("lr", "blr"), ("blr", "lr")):
            if rate in layer:
                named.pop(other, None)
        named |= layer
    notes = lr_off_rule(recipe.lr, effective, named.get("blr") or base_lr(named["lr"], REFERENCE_BATCH))
    if recipe.head == "bn_linear" and not recipe.sync_bn:
        notes += small_batch_norm(plan.batch, plan.world)
    if run.execution.compile:
        notes.append(note("compiled", "the model was compiled: numbers differ from eager ones in their last bits, in bf16 visibly"))
    mixed = [name for name in ("mixup", "cutmix") if getattr(recipe, name)]
    if mixed:
        notes.append(note("mixed", f"{' and '.join(mixed)} were applied to every training batch"))
    return notes
