"""A backbone with a classification head, trained end to end."""

from __future__ import annotations

import dataclasses

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from fgmae_bench.backbones import Backbone
from fgmae_bench.errors import BenchError
from fgmae_bench.extractors import TokenPool
from fgmae_bench.randomness import key
from fgmae_bench.recipes import FinetuneRecipe

HEAD_STD = 0.01  # truncated normal, as for the reference's heads
NORM_EPS = 1e-6


class Classifier(nn.Module):
    """(B, 2, S, S) in [0, 1] to logits (B, C). `chunk` images go through the backbone at a time, 0 for all: the sums are the same."""

    def __init__(self, backbone: nn.Module, feature_dim: int, classes: int, recipe: FinetuneRecipe, chunk: int = 0):
        super().__init__()
        self.backbone, self.chunk = backbone, chunk
        self.norm: nn.Module = nn.Identity()
        if recipe.head == "bn_linear":
            self.norm = nn.BatchNorm1d(feature_dim, affine=False, eps=NORM_EPS)
        self.head = nn.Linear(feature_dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=HEAD_STD, generator=torch.Generator().manual_seed(key(recipe.seed, "head") % 2**63))
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        parts = images.split(self.chunk) if self.chunk else (images,)
        return self.head(self.norm(torch.cat([self.backbone(part) for part in parts])))


def has_drop_path(module: nn.Module) -> bool:
    """Whether any layer of a model drops its residual path at random."""
    return any(isinstance(part, DropPath) and part.drop_prob for part in module.modules())


def trainable(backbone: Backbone) -> Backbone:
    """The backbone with its parameters to be trained; averaged tokens get a norm of their own in place of the last block's.

    As in MAE's fine-tuning: `norm` is dropped and `fc_norm` follows the mean of the patch tokens.
    Raises BenchError for a backbone without parameters.
    """
    module, weights = backbone.module, backbone.weights
    if not list(module.parameters()):
        raise BenchError(f"{backbone.name} has no parameters to fine-tune", "probe it with fgmae_bench.linear")
    if isinstance(module, TokenPool) and backbone.pool == "mean" and not isinstance(module.vit.norm, nn.Identity):
        dropped = len(list(module.vit.norm.parameters()))
        module.vit.norm = nn.Identity()
        module.vit.fc_norm = nn.LayerNorm(backbone.feature_dim, eps=NORM_EPS)
        if weights.used:
            weights = dataclasses.replace(
                weights, used=weights.used - dropped, dropped=weights.dropped + dropped, missing=weights.missing + dropped
            )
    if isinstance(module, TokenPool):
        module.vit.attn_pool = None  # type: ignore[assignment]
        module.vit.head = nn.Identity()  # the feature passes through neither
    module.requires_grad_(True)
    return dataclasses.replace(backbone, weights=weights)
