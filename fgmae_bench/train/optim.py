"""Optimisers and the groups of parameters that they update: learning rates by layer, weight decay by kind."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fgmae_bench.config.names import OPTIMIZERS, code_of
from fgmae_bench.config.recipes import TrainRecipe
from fgmae_bench.errors import BenchError

STEM = ("cls_token", "pos_embed", "reg_token", "dist_token", "patch_embed.", "norm_pre.")  # layer 0
NO_DECAY = ("cls_token", "pos_embed", "reg_token", "dist_token")


def make_optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of what a model trains; each step sets the rate of its groups, times their `lr_scale`."""
    optimizer: torch.optim.Optimizer = code_of("optimizer", recipe.optimizer, OPTIMIZERS)(model, recipe)
    return optimizer


def sgd(model: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """SGD with momentum; every parameter is decayed, as in the reference."""
    groups = param_groups(model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay, decay_all=True)
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum)


def adamw(model: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101); vectors and embeddings are not decayed."""
    groups = param_groups(model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay, decay_all=False)
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999))


def param_groups(model: nn.Module, *, weight_decay: float, layer_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """Groups of a model's trainable parameters for an optimiser, each with its `lr_scale`, `weight_decay` and `name`.

    The rule of MAE (util/lr_decay.py): embeddings are layer 0, block i is layer i + 1, what follows is the last layer;
    layer k of n is scaled by layer_decay^(n - k). Without `decay_all`, vectors, biases and embeddings of position and
    class are not decayed. Raises BenchError for a layer decay on a model without a ViT.
    """
    prefix, depth = _vit(model)
    if depth is None and layer_decay != 1:
        raise BenchError(
            f"--layer_decay {layer_decay}: the backbone has no blocks of a ViT",
            "pass --layer_decay 1 (where none was given, the recipe says it)",
        )
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        last = (depth or 0) + 1  # everything outside the ViT too, heads above all
        layer = _layer(name.removeprefix(prefix), last) if depth is not None and name.startswith(prefix) else last
        # norms' scales and biases are vectors
        decayed = decay_all or not (parameter.ndim <= 1 or name.rpartition(".")[2] in NO_DECAY)
        key = f"layer_{layer}{'' if decayed else '_no_decay'}"
        group = groups.setdefault(
            key,
            {
                "params": [],
                "name": key,
                "lr_scale": layer_decay ** (last - layer),
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _vit(model: nn.Module) -> tuple[str, int | None]:
    """(prefix of the names of the ViT's parameters, its number of blocks), or ("", None)."""
    for name, module in model.named_modules():
        if isinstance(module, VisionTransformer):
            return f"{name}." if name else "", len(module.blocks)
    return "", None


def _layer(name: str, last: int) -> int:
    if name.startswith(STEM):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return last
