"""Fine-tuning for classification: runs made definite, model and job built, handed to the training loop one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from fgmae_bench.config.cards import Card
from fgmae_bench.config.names import CLASS_HEADS
from fgmae_bench.config.recipes import FinetuneRecipe, protocol_of
from fgmae_bench.config.run import Run
from fgmae_bench.config.run_ids import run_id
from fgmae_bench.data.dataset import Dataset, only_usable
from fgmae_bench.errors import BenchError, note
from fgmae_bench.models.build import Backbone
from fgmae_bench.models.cost import cost_of_classifier
from fgmae_bench.models.norms import SyncBatchNorm
from fgmae_bench.models.pooling import TokenPool
from fgmae_bench.runs.assemble import sample_metrics
from fgmae_bench.runs.curve_notes import rate_notes, small_batch_norm
from fgmae_bench.runs.folder import write_predictions
from fgmae_bench.runs.setup import Setup, facts_of, places, set_up
from fgmae_bench.runs.tasks import TASKS, Outcome, legacy_of
from fgmae_bench.system.distributed import World
from fgmae_bench.train.classification import ClassificationJob, Classifier, trainable
from fgmae_bench.train.job import Prepared, Scored
from fgmae_bench.train.plan import Plan, make_plan
from fgmae_bench.train.resolve import (
    be_deterministic,
    checkpoint_activations,
    division,
    forward_chunk,
    resolved_recipe,
    uses_batch_statistics,
    without_idle_drop_path,
)
from fgmae_bench.train.run import one_by_one


def prepare(
    run: Run,
    card: Card,
    notes: list[dict[str, str]],
    world: World,
    device: torch.device,
    grid: int,
    module: nn.Module | None = None,
) -> Prepared:
    """Fill in everything that card, contract and hardware decide, and build model and job of one of `grid` runs."""
    recipe, execution = run.recipe, run.execution
    _require_even(recipe)
    be_deterministic(execution.deterministic)
    setup = set_up(run, card, world, device, module, drop_path=recipe.drop_path)
    make_plan(recipe, len(setup.dataset.parts.train), world.size)  # refuses a batch before any image is read
    backbone = world.raise_together(lambda: trainable(setup.backbone))
    dataset = world.rank0_first(lambda: only_usable(setup.dataset, run, setup.cache))
    plan = make_plan(recipe, len(dataset.parts.train), world.size)
    _require_statistics(recipe, plan)
    recipe, idle = without_idle_drop_path(recipe, backbone.module, backbone.name)
    recipe = dataclasses.replace(recipe, sync_bn=recipe.sync_bn and uses_batch_statistics(recipe) and world.size > 1)
    recipe = resolved_recipe(recipe, plan, setup.amp)
    resolved = Run(data=setup.data, model=setup.model, recipe=recipe, execution=execution)
    facts = facts_of(dataset, backbone) | {"images_per_epoch": plan.images_per_epoch}
    if uses_batch_statistics(recipe) or recipe.mixup or recipe.cutmix or recipe.drop_path:
        facts["division"] = division(plan)
    if uses_batch_statistics(recipe):
        facts["batch_norm_samples"] = plan.batch * (world.size if recipe.sync_bn else 1)
    dataset = dataclasses.replace(dataset, facts=facts)
    setup.remember([facts])
    id = run_id(resolved, facts, world.size)
    job = _job(resolved, setup, dataset, backbone, plan, world, device)
    return Prepared(
        run=resolved,
        id=id,
        protocol=protocol_of("finetune", recipe),
        dataset=dataset,
        backbone=backbone,
        job=job,
        plan=plan,
        world=world,
        device=device,
        amp=setup.amp,
        place=places(card, resolved, id, grid),
        classes=card.outputs,
        schemes=None,
        notes=[
            *notes,
            *idle,
            *setup.notes,
            *rate_notes("finetune", resolved, card, plan.effective),
            *_notes(resolved, plan),
        ],
        cost=lambda: None if execution.compile else cost_of_classifier(job.model, job.image()),
        **_scoring(dataset, recipe.batch_size),
    )


def _job(
    run: Run, setup: Setup, dataset: Dataset, backbone: Backbone, plan: Plan, world: World, device: torch.device
) -> ClassificationJob:
    """The job of a definite run, with its model on the device."""
    chunk, dim = forward_chunk(backbone.contract.size, device, plan.batch), backbone.feature_dim
    model = Classifier(backbone.module, dim, len(dataset.card.outputs), run.recipe, chunk).to(device)
    if run.recipe.sync_bn:
        model.norm = synchronised(model.norm, dim).to(device)
    if run.execution.grad_checkpointing:
        checkpoint_activations(backbone.module, backbone.name)
    if run.execution.compile:
        model.compile()
    return ClassificationJob(
        model=model,
        dataset=dataset,
        view=setup.view,
        recipe=run.recipe,
        world=world,
        device=device,
        amp=setup.amp,
        workers=run.execution.num_workers,
        batch_size=chunk or 256,
        unused_parameters=not isinstance(backbone.module, TokenPool),
        guard=backbone.guarded,
    )


def _scoring(dataset: Dataset, batch_size: int) -> dict[str, Any]:
    """What `Prepared` says of scores: per-batch averages, the record's section, and the file of predictions."""
    task, classes, groups = TASKS[dataset.card.task], dataset.card.outputs, dataset.groups("test")

    def metrics(outcome: Outcome, test: Scored) -> dict[str, Any]:
        outcome.logits, outcome.targets = test.outputs, test.targets
        outcome.legacy = legacy_of(outcome, test.targets, batch_size, task)
        return sample_metrics(outcome, dataset, groups)

    return {
        "legacy": lambda scored: task.legacy(scored.outputs, scored.targets, batch_size),
        "metrics": metrics,
        "write_predictions": lambda path, test: write_predictions(
            path, test.outputs, test.targets, dataset.ids("test"), classes, groups, test.val
        ),
    }


def synchronised(norm: nn.Module, dim: int) -> nn.Module:
    """The same batch norm over all processes; anything else as it is."""
    return SyncBatchNorm(dim, eps=norm.eps, affine=norm.affine) if isinstance(norm, nn.BatchNorm1d) else norm


def _require_statistics(recipe: FinetuneRecipe, plan: Plan) -> None:
    seen = plan.batch * (plan.world if recipe.sync_bn else 1)
    if uses_batch_statistics(recipe) and seen < 2:
        others = " or ".join(name for name, head in CLASS_HEADS.items() if not head.batch_statistics)
        raise BenchError(
            f"--head {recipe.head} with --batch_size 1: one sample has no statistics",
            f"give 2 or more, or --head {others}",
        )


def _require_even(recipe: FinetuneRecipe) -> None:
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size % 2:
        raise BenchError(
            f"--batch_size {recipe.batch_size} with --mixup or --cutmix",
            "give an even batch: images are mixed in pairs",
        )


def _notes(run: Run, plan: Plan) -> list[dict[str, str]]:
    """What the recipe's values give cause to say."""
    recipe, notes = run.recipe, []
    if uses_batch_statistics(recipe) and not recipe.sync_bn:
        notes += small_batch_norm(plan.batch, plan.world)
    if run.execution.compile:
        notes.append(
            note(
                "compiled", "the model was compiled: numbers differ from eager ones in their last bits, in bf16 visibly"
            )
        )
    mixed = [name for name in ("mixup", "cutmix") if getattr(recipe, name)]
    if mixed:
        notes.append(note("mixed", f"{' and '.join(mixed)} were applied to every training batch"))
    return notes


shares = one_by_one(prepare)
