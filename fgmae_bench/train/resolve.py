"""What fine-tuning and segmentation resolve alike: rates, schedules, stochastic depth, activations and memory."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

import torch
from timm.layers import DropPath
from torch import nn

from fgmae_bench.config.names import CLASS_HEADS
from fgmae_bench.config.recipes import FinetuneRecipe, TrainRecipe
from fgmae_bench.config.schedules import base_lr, rate_of, require_falling
from fgmae_bench.errors import BenchError, RunFailed, note
from fgmae_bench.models.backbone import images_a_pass, out_of_memory
from fgmae_bench.system.device import Precision
from fgmae_bench.train.plan import Plan

log = logging.getLogger("fgmae_bench")


def resolved_recipe(recipe: TrainRecipe, plan: Plan, amp: Precision) -> Any:
    """The recipe with its gaps filled and what cannot change its numbers set to one value."""
    effective = plan.effective
    lr = rate_of(recipe, effective)
    require_falling(lr, recipe)
    by_steps = recipe.max_steps is not None
    every = plan.period if by_steps else plan.period // plan.steps_per_epoch
    # What another value stands for, or has no effect, gets one value: runs do not differ by it.
    without: dict[str, Any] = {"momentum": 0.9} if recipe.optimizer != "sgd" else {}
    return dataclasses.replace(
        recipe,
        **without,
        amp=amp,
        lr=lr,
        blr=base_lr(lr, effective),
        eval_every=every,
        clip_grad=recipe.clip_grad or None,
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
    """What enters the run id where results depend on the division of a batch: batch norm, mixing, stochastic depth."""
    return {"batch_size": plan.batch, "accum_iter": plan.accum, "processes": plan.world}


def forward_chunk(size: int, device: torch.device, batch: int) -> int:
    """Images of `size` pixels in a forward pass of a batch: few on a CPU, 0 for the whole batch."""
    wanted = images_a_pass(size)
    return wanted if device.type == "cpu" and wanted < batch else 0


def be_deterministic(wanted: bool) -> None:
    """Ask torch for deterministic kernels."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def checkpoint_activations(module: torch.nn.Module, name: str) -> None:
    """Recompute activations in the backward pass. Raises BenchError where the backbone `name` does not offer it."""
    for part in module.modules():
        switch = getattr(part, "set_grad_checkpointing", None)
        if callable(switch):
            switch(True)
            return
    raise BenchError(f"--grad_checkpointing: {name} does not offer it", "leave it out")


def has_drop_path(module: nn.Module) -> bool:
    """Whether any layer of a model drops its residual path at random."""
    return any(isinstance(part, DropPath) and part.drop_prob for part in module.modules())


def uses_batch_statistics(recipe: TrainRecipe) -> bool:
    """Whether the head of fine-tuning normalises by the samples of a batch."""
    return isinstance(recipe, FinetuneRecipe) and CLASS_HEADS[recipe.head].batch_statistics


def memory_error(error: BaseException, recipe: TrainRecipe) -> RunFailed | None:
    """The error for a run that ran out of memory, with what keeps the effective batch; None for another error."""
    if not out_of_memory(error):
        return None
    mixed = bool(getattr(recipe, "mixup", 0) or getattr(recipe, "cutmix", 0))
    smallest = 2 if mixed or uses_batch_statistics(recipe) else 1
    fits = [
        n
        for n in range(recipe.batch_size // 2, smallest - 1, -1)
        if recipe.batch_size % n == 0 and not (mixed and n % 2)
    ]
    if not fits:
        return RunFailed(
            f"out of memory at --batch_size {recipe.batch_size}; use --grad_checkpointing, --amp bf16 or a "
            "smaller model"
        )
    accum = recipe.accum_iter * recipe.batch_size // fits[0]
    return RunFailed(
        f"out of memory at --batch_size {recipe.batch_size}; use --batch_size {fits[0]} --accum_iter {accum}, "
        "which keep the effective batch, or --grad_checkpointing"
    )
