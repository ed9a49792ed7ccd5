"""TerraFM (arXiv 2506.06281) on Sentinel-1: a ViT behind a patch embedding of its own, by the definition of its code.

Source: mbzuai-oryx/TerraFM @ e186ad8, terrafm.py. Of its three patch embeddings the two for Sentinel-2 are left out.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, require_patches
from fgmae_bench.models.torchgeo_models import as_map

SHAPES = {"base": (768, 12, 12), "large": (1024, 24, 16)}  # width, blocks, heads
PATCH, GRID = 16, 14  # pixels; patches a side of the stored position embedding
BANDS = 2


class Projection(nn.Module):
    """Tokens (B, N, A) to (B, N, D): what stands for attention over modalities where there is one."""

    def __init__(self, inner: int, width: int):
        super().__init__()
        self.proj1 = nn.Linear(inner, inner, bias=False)
        self.norm_input = nn.LayerNorm(inner)
        self.proj2 = nn.Linear(inner, inner)
        self.proj3 = nn.Linear(inner, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, A) to (B, N, D)."""
        found: Tensor = self.proj3(self.proj2(self.norm_input(self.proj1(tokens))))
        return found


class RadarPatches(nn.Module):
    """Images (B, 2, H, W) to tokens (B, N, D)."""

    def __init__(self, width: int):
        super().__init__()
        inner = 3 * width
        self.conv2d_s1 = nn.Conv2d(BANDS, inner, PATCH, PATCH)
        self.s1_embed = nn.Parameter(torch.zeros(1, inner))
        self.projection = Projection(inner, width)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2, H, W) to (B, N, D)."""
        tokens = self.conv2d_s1(images).flatten(2).transpose(1, 2) + self.s1_embed
        found: Tensor = self.projection(tokens)
        return found


class Network(nn.Module):
    """The network under its publishers' names; `grid` is that of the stored position embedding."""

    def __init__(self, width: int, depth: int, heads: int, grid: int = GRID):
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.patch_embed = RadarPatches(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid**2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.norm = norm(width)
        for token in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2, H, W) to normalised tokens (B, 1 + N, D), the CLS token first."""
        tokens = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + self._positions(images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        for block in self.blocks:
            tokens = block(tokens)
        found: Tensor = self.norm(tokens)
        return found

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position embedding on another grid, as DINO resizes it: bicubic by factors with 0.1 patches too many."""
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if rows == columns == side:
            return self.pos_embed
        patches = self.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        factors = ((rows + 0.1) / side, (columns + 0.1) / side)
        resized = interpolate(patches, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class TerraFM(Adapter):
    """TerraFM's radar encoder: its patch tokens as a map, its CLS token as features."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/16, S/16)."""
        return as_map(self.network(images)[:, 1:])

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        features: Tensor = self.network(images)[:, 0]
        return features


def make(entry: Encoder, size: int, patch: int) -> TerraFM:
    """The encoder with random weights."""
    require_patches(entry.model, size, patch)
    return TerraFM(Network(*SHAPES[entry.variant]))
