"""SAR-JEPA (ISPRS 218, 2024): a ViT of one channel whose positions are relative alone, by the definition of its code.

Source: waterdisappear/SAR-JEPA @ 1f17f90, Pretraining/models_vit_rp.py and vision_transformer_irpe.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.adapter import NOTHING, Given, require_patches
from fgmae_bench.models.encoders.one_band import OneBand
from fgmae_bench.models.encoders.relative import Block
from fgmae_bench.models.torchgeo_models import as_map

SHAPES = {"base": (768, 12, 12)}  # width, blocks, heads
PATCH, STORED, EPS = 16, 197, 1e-6  # pixels; tokens of a position embedding in its files


class Network(nn.Module):
    """The network under its publishers' names; `pos_embed` stands in its files and is used nowhere."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", torch.zeros(1, STORED, width))
        self.blocks = nn.ModuleList(Block(width, heads, "offsets", scaled=False, eps=EPS) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) to normalised tokens (B, 1 + N, D), the CLS token first."""
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        found: Tensor = self.norm(tokens)
        return found


class SarJepa(OneBand):
    """SAR-JEPA's encoder: its patch tokens as a map, its CLS token as features."""

    grey, optional = 1, "pos_embed"

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/16, S/16)."""
        return as_map(self.network(self.one(images))[:, 1:])

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        features: Tensor = self.network(self.one(images))[:, 0]
        return features


def make(entry: Encoder, size: int, patch: int) -> SarJepa:
    """The encoder with random weights."""
    require_patches(entry.model, size, patch)
    return SarJepa(Network(*SHAPES[entry.variant]), entry)
