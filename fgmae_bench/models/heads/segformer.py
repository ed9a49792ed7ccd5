"""SegFormer's head (Xie et al. 2021, arXiv 2105.15203) in mmsegmentation's form: convolutions in place of linears."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgmae_bench.models.heads.layers import ConvNorm, Decoder, resized
from fgmae_bench.models.heads.necks import pyramid


class SegFormer(Decoder):
    """Each map through a 1x1 convolution, at the size of the finest, fused by another."""

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
    ):
        """`dims` and `strides` of four maps, finest first."""
        super().__init__(num_classes, fpn_dim)
        self.neck, dims = pyramid("SegFormer's head", dims, strides, norm)
        self.convs = nn.ModuleList([ConvNorm(dim, fpn_dim, norm=norm) for dim in dims])
        self.fusion_conv = ConvNorm(len(dims) * fpn_dim, fpn_dim, norm=norm)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, finest first, to (B, fpn_dim, h_0, w_0)."""
        size = maps[0].shape[-2:]
        levels = [resized(conv(level), size) for conv, level in zip(self.convs, maps, strict=True)]
        out: Tensor = self.fusion_conv(torch.cat(levels, dim=1))
        return out
