"""SETR (Zheng et al. 2021, arXiv 2012.15840): naive and progressive upsampling of a ViT's last map, and MLA of four."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads.layers import ConvNorm, Decoder, resized


def up(scale: int) -> nn.Upsample:
    """Bilinear by a factor."""
    return nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)


class Naive(Decoder):
    """Layer norm of the last map's places, one 1x1 convolution, four times the size."""

    steps: tuple[tuple[int, int], ...] = ((1, 4),)  # (kernel, factor) of each convolution

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
    ):
        """`dims` are the channels of the maps, of which the last is used; strides are not."""
        super().__init__(num_classes, fpn_dim)
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        inside = (dims[-1], *[fpn_dim] * len(self.steps))
        self.up_convs = nn.ModuleList(
            [
                nn.Sequential(ConvNorm(dim, fpn_dim, kernel, norm=norm), up(scale))
                for dim, (kernel, scale) in zip(inside, self.steps, strict=False)
            ]
        )

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last (B, C, h, w) is used, to (B, fpn_dim, 4h, 4w); of PUP 16 times the size."""
        x: Tensor = self.norm(maps[-1].movedim(1, -1)).movedim(-1, 1).contiguous()
        for step in self.up_convs:
            x = step(x)
        return x


class PUP(Naive):
    """Progressive upsampling: four times a 3x3 convolution and twice the size."""

    steps = ((3, 2),) * 4


class MLANeck(nn.Module):
    """Layer norm and 1x1 convolution of each map, sums from the last on, 3x3 convolutions."""

    def __init__(self, dims: Sequence[int], width: int, norm: str):
        super().__init__()
        self.norm = nn.ModuleList([nn.LayerNorm(dim, eps=1e-6) for dim in dims])
        self.channel_proj = nn.ModuleList([ConvNorm(dim, width, norm=norm) for dim in dims])
        self.feat_extract = nn.ModuleList([ConvNorm(width, width, 3, norm=norm) for _ in dims])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w) to (B, width, h, w), the last first."""
        each = [
            proj(norm(level.movedim(1, -1)).movedim(-1, 1).contiguous())
            for norm, proj, level in zip(self.norm, self.channel_proj, maps, strict=True)
        ]
        sums = accumulate(reversed(each), lambda above, level: resized(above, level.shape[-2:]) + level)
        return [conv(level) for conv, level in zip(self.feat_extract, sums, strict=True)]


class MLA(Decoder):
    """Multi-level aggregation: two 3x3 convolutions of each of four maps, four times the size, side by side."""

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
    ):
        """`dims` of four maps; they are brought to one size. `fpn_dim` is the neck's width, a branch has half."""
        if len(dims) != 4:
            raise BenchError(f"SETR-MLA on {len(dims)} maps", "name four blocks")
        branch = fpn_dim // 2
        super().__init__(num_classes, 4 * branch)
        self.neck = MLANeck(dims, fpn_dim, norm)
        self.up_convs = nn.ModuleList(
            [
                nn.Sequential(ConvNorm(fpn_dim, branch, 3, norm=norm), ConvNorm(branch, branch, 3, norm=norm), up(4))
                for _ in dims
            ]
        )

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """The neck's maps to (B, 2 fpn_dim, 4h, 4w), of a pyramid at the size of its finest."""
        levels = [convs(level) for convs, level in zip(self.up_convs, maps, strict=True)]
        size = max((level.shape[-2:] for level in levels), key=lambda shape: shape[0] * shape[1])
        return torch.cat([level if level.shape[-2:] == size else resized(level, size) for level in levels], dim=1)
