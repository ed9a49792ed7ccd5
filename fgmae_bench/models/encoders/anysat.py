"""AnySat (arXiv 2412.14123) on one Sentinel-1 image: encoders of a pixel, a patch and a tile, by its code's definition.

Source: gastruc/AnySat @ e03e72e, hubconf.py and src/models/networks/encoder. Of its sensors `s1-asc` alone is built: VV
and VH; of a series of dates one, over which its attention in time changes nothing.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block as PlainBlock
from torch import Tensor, nn

from fgmae_bench.config.encoders import ENCODERS, Encoder
from fgmae_bench.errors import BenchError
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, require_patches
from fgmae_bench.models.encoders.relative import Block, RelativeKeys
from fgmae_bench.models.torchgeo_models import as_map

SHAPES = {"base": (768, 6, 12)}  # width, blocks of each transformer, heads
SENSOR = "projector_s1-asc"
ASSUMED_DAY, DAYS = 165, 367  # of the year, from 0; period of the date's sines
HEADS_IN_TIME, GROUPS = 16, 4  # of which each gets the date once; groups of channels that are normalised
RESOLUTION = 10  # metres a pixel
MOST_PATCHES = ENCODERS["anysat"].most_patches
PIXELS, PATCHES = 16_384, 512  # a pass


class PixelEncoder(nn.Module):
    """VV and VH of a pixel to a vector: an MLP, the date added, another layer (L-TAE of a single date)."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        widths = [2, width // 8, width // 2, width, 2 * width, width]
        layers: list[nn.Module] = []
        for inner, outer in itertools.pairwise(widths):
            # the last stands for dropout, whose place counts in the names
            layers += [nn.Linear(inner, outer), nn.GroupNorm(GROUPS, outer), nn.ReLU(), nn.Identity()]
        self.patch_embed = nn.ModuleDict(
            {
                "inconv": nn.Sequential(*layers),
                "mlp": nn.Sequential(nn.Linear(width, width), nn.GroupNorm(GROUPS, width), nn.ReLU()),
                "out_norm": nn.GroupNorm(HEADS_IN_TIME, width),
            }
        )

    def forward(self, images: Tensor, days: Tensor) -> Tensor:
        """(B, 2, H, W) and days of the year (B,) to (B, H, W, D)."""
        batch, bands, height, width = images.shape
        pixels = images.permute(0, 2, 3, 1).reshape(-1, bands)
        dates = sines(days, self.width).repeat_interleave(height * width, 0)
        parts = []
        for start in range(0, len(pixels), PIXELS):
            part = slice(start, start + PIXELS)
            x = self.patch_embed["inconv"](pixels[part]) + dates[part]
            parts.append(self.patch_embed["out_norm"](self.patch_embed["mlp"](x)))
        return torch.cat(parts).view(batch, height, width, -1)


def sines(days: Tensor, width: int) -> Tensor:
    """Days (B,) to (B, D): sines and cosines in turn, the same for each head in time."""
    own = width // HEADS_IN_TIME
    periods = DAYS ** (2 * (torch.arange(own, device=days.device) // 2) / own)
    angles = days[:, None] / periods
    even = torch.arange(own, device=days.device) % 2 == 0
    return torch.where(even, angles.sin(), angles.cos()).repeat(1, HEADS_IN_TIME)


def positions(side: int, step: float, width: int, like: Tensor) -> Tensor:
    """Sines of columns, then of rows, a `step` apart (1, 1 + side x side, D); zeros for the CLS token."""
    half = width // 2
    omega = 1 / 10_000 ** (torch.arange(half // 2, device=like.device) / (half / 2))
    places = torch.arange(side, device=like.device) * step
    angles = places[:, None] * omega  # (side, D/4)
    each = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = each.repeat(side, 1), each.repeat_interleave(side, 0)
    found = torch.cat([columns, rows], dim=1).to(like.dtype)
    return torch.cat([found.new_zeros(1, width), found])[None]


class PatchEncoder(nn.Module):
    """The pixels of a patch (P, s x s, D) to a vector (P, D): a transformer, its CLS token."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.predictor_blocks = nn.ModuleList(
            Block(width, heads, "distance", scaled=True, eps=1e-5) for _ in range(depth)
        )
        self.predictor_norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """(P, s x s, D) to (P, D)."""
        width = pixels.shape[2]
        where = positions(math.isqrt(pixels.shape[1]), RESOLUTION, width, pixels)
        parts = []
        for start in range(0, len(pixels), PATCHES):
            part = pixels[start : start + PATCHES]
            tokens = torch.cat([self.cls_token.expand(len(part), -1, -1), part], dim=1) + where
            for block in self.predictor_blocks:
                tokens = block(tokens)
            parts.append(self.predictor_norm(tokens[:, 0]))
        return torch.cat(parts)


class Mixing(nn.Module):
    """Attention whose queries are learnt and know places alone: it joins sensors, here one."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q_learned = nn.Parameter(torch.zeros(1, 1, width))
        self.wk, self.wv, self.proj = (nn.Linear(width, width) for _ in range(3))
        self.rpe_k = RelativeKeys(width // heads, "distance", first_head=True)

    def forward(self, tokens: Tensor, where: Tensor) -> Tensor:
        """(B, 1 + N, D) and its places (1, 1 + N, D) to (B, 1 + N, D)."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

        q = split((self.q_learned + where).expand(len(tokens), -1, -1))
        pairs = self.scale * q @ split(self.wk(tokens)).transpose(2, 3) + self.rpe_k(q)
        mixed: Tensor = self.proj((pairs.softmax(-1) @ split(self.wv(tokens))).transpose(1, 2).flatten(2))
        return mixed


class MixingBlock(nn.Module):
    """A transformer block around `Mixing`, which replaces its tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Mixing(width, heads)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, tokens: Tensor, where: Tensor) -> Tensor:
        """(B, 1 + N, D) to (B, 1 + N, D)."""
        tokens = self.attn(self.norm1(tokens), where)
        found: Tensor = tokens + self.mlp(self.norm2(tokens))
        return found


class Network(nn.Module):
    """The network under its publishers' names."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.add_module(SENSOR, PixelEncoder(width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.spatial_encoder = PatchEncoder(width, depth, heads)
        plain = [PlainBlock(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)]
        self.blocks = nn.ModuleList([*plain, MixingBlock(width, heads)])
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor, days: Tensor, patch: int) -> Tensor:
        """(B, 2, S, S), days (B,), pixels a side of a patch, to tokens (B, 1 + N, D), the CLS token first."""
        pixels = self.get_submodule(SENSOR)(images, days)  # (B, S, S, D)
        batch, side, width = len(pixels), pixels.shape[1] // patch, pixels.shape[3]
        cells = pixels.view(batch, side, patch, side, patch, width).transpose(2, 3)
        where = positions(side, patch, width, images)
        tokens = self.spatial_encoder(cells.reshape(-1, patch**2, width)).view(batch, side**2, width) + where[:, 1:]
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], dim=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        found: Tensor = self.blocks[-1](tokens, where)
        return found


class AnySat(Adapter):
    """AnySat, given the day of the year: its patch tokens as a map, its tile token as features."""

    def __init__(self, network: nn.Module, patch: int):
        super().__init__(network)
        self.patch = patch

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/p, S/p)."""
        return as_map(self._tokens(images, given)[:, 1:])

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        return self._tokens(images, given)[:, 0]

    def _tokens(self, images: Tensor, given: Given) -> Tensor:
        side = images.shape[-1]
        require_patches("anysat", side, self.patch)
        if (side // self.patch) ** 2 > MOST_PATCHES:
            what = f"images of {side} px in patches of {self.patch} px are more than {MOST_PATCHES} patches"
            raise BenchError(f"{what}, which is the most that anysat takes", "choose a larger --patch_size")
        days = images.new_full((len(images),), ASSUMED_DAY)
        if "day_of_year" in given:
            days = given["day_of_year"].to(images.dtype)
        tokens: Tensor = self.network(images, days, self.patch)
        return tokens


def make(entry: Encoder, size: int, patch: int) -> AnySat:
    """The encoder with random weights."""
    return AnySat(Network(*SHAPES[entry.variant]), patch)
