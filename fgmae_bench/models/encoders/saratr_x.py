"""SARATR-X (arXiv 2405.09365): HiViT, a ViT behind two stages of MLPs inside each patch, by the definition of its code.

Source: waterdisappear/SARATR-X @ e71184d, pre-training/models/models_hivit.py, as its linear probes build it: absolute
positions, no relative ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.one_band import GREY, OneBand
from fgmae_bench.models.torchgeo_models import as_map

SHAPES = {"base": (512, (2, 2, 20), 8)}  # width, blocks of each stage, heads
PATCH, INNER, SIZE, EPS = 16, 4, 224, 1e-6  # pixels, cells a side of a patch, pixels
STEM_RATIO, LEVELS = 3, 7  # width of an MLP before attention; of its decoder's input, in widths

norm: Any = partial(nn.LayerNorm, eps=EPS)


class Cells(nn.Module):
    """Images (B, 3, H, W) to the cells of each patch (B, N, 4, 4, D)."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(GREY, width, PATCH // INNER, PATCH // INNER)
        self.norm = norm(width)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, N, 4, 4, D)."""
        cells = self.proj(images).unflatten(3, (-1, INNER)).unflatten(2, (-1, INNER))  # (B, D, h, 4, w, 4)
        found: Tensor = self.norm(cells.permute(0, 2, 4, 3, 5, 1).flatten(1, 2))
        return found


class CellBlock(nn.Module):
    """An MLP on each cell."""

    def __init__(self, width: int):
        super().__init__()
        self.norm2 = norm(width)
        self.mlp = Mlp(width, STEM_RATIO * width)

    def forward(self, cells: Tensor) -> Tensor:
        """(B, N, n, n, D) to (B, N, n, n, D)."""
        found: Tensor = cells + self.mlp(self.norm2(cells))
        return found


class Merge(nn.Module):
    """Four cells to one of twice the width."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = norm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, cells: Tensor) -> Tensor:
        """(B, N, n, n, D) to (B, N, n/2, n/2, 2D)."""
        quarters = [cells[..., row::2, column::2, :] for column in (0, 1) for row in (0, 1)]
        found: Tensor = self.reduction(self.norm(torch.cat(quarters, dim=-1)))
        return found


class Network(nn.Module):
    """The network under its publishers' names; `norm` is of their decoder's input and is used nowhere here."""

    def __init__(self, width: int, depths: tuple[int, ...], heads: int, size: int = SIZE):
        super().__init__()
        stem = width // 4
        self.patch_embed = Cells(stem)
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, (size // PATCH) ** 2, width))
        before = [*(CellBlock(stem) for _ in range(2 * depths[0])), Merge(stem)]
        before += [*(CellBlock(2 * stem) for _ in range(2 * depths[1])), Merge(2 * stem)]
        main = [Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depths[2])]
        self.blocks, self.cells = nn.ModuleList([*before, *main]), len(before)
        self.norm = norm(LEVELS * width)
        nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to a map (B, D, S/16, S/16)."""
        x = self.patch_embed(images)
        for block in self.blocks[: self.cells]:
            x = block(x)
        x = x[..., 0, 0, :] + self.absolute_pos_embed  # (B, N, D)
        for block in self.blocks[self.cells :]:
            x = block(x)
        return as_map(x)


class SaratrX(OneBand):
    """SARATR-X's encoder: its tokens as a map, their mean as features; its own probes train a norm after it."""

    optional = r"norm\..*"


def make(entry: Encoder, size: int, patch: int) -> SaratrX:
    """The encoder with random weights, at the size of its positions."""
    return SaratrX(Network(*SHAPES[entry.variant]), entry)
