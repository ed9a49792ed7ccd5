"""DeepLabV3 (Chen et al. 2017, arXiv 1706.05587) and V3+ (2018, arXiv 1802.02611): atrous spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgmae_bench.models.heads.layers import ConvNorm, Decoder, Separable, resized
from fgmae_bench.models.heads.necks import pyramid

RATES = {8: (1, 12, 24, 36), 16: (1, 6, 12, 18)}  # dilations by the stride of the map they are made for
FINE_DIM = 48  # of V3+: what is left of the finest map


def rates_of(stride: int) -> tuple[int, ...]:
    """Dilations for a map of that stride."""
    return RATES[8 if stride <= 8 else 16]


class DeepLabV3(Decoder):
    """Branches of several dilations and the global average, fused by a 3x3 convolution."""

    separable = False

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 512,
        norm: str = "batch",
        rates: Sequence[int] | None = None,
    ):
        """`dims` and `strides` of the maps, of which the last is used; `rates` by default those for its stride."""
        super().__init__(num_classes, fpn_dim)
        dim, rates = dims[-1], rates or rates_of(strides[-1])
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNorm(dim, fpn_dim, norm=norm, pooled=True))
        self.aspp_modules = nn.ModuleList([self._branch(dim, fpn_dim, rate, norm) for rate in rates])
        self.bottleneck = ConvNorm((len(rates) + 1) * fpn_dim, fpn_dim, 3, norm=norm)

    def _branch(self, dim: int, width: int, rate: int, norm: str) -> nn.Module:
        if rate > 1 and self.separable:
            return Separable(dim, width, norm=norm, dilation=rate)
        return ConvNorm(dim, width, 1 if rate == 1 else 3, norm=norm, dilation=rate)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last is used, to (B, fpn_dim, h, w)."""
        x = maps[-1]
        branches = [resized(self.image_pool(x), x.shape[-2:]), *(branch(x) for branch in self.aspp_modules)]
        out: Tensor = self.bottleneck(torch.cat(branches, dim=1))
        return out


class DeepLabV3Plus(DeepLabV3):
    """The same with separable convolutions, at the size of the finest map, of which 48 channels join."""

    separable = True

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 512,
        norm: str = "batch",
        rates: Sequence[int] | None = None,
        fine_dim: int = FINE_DIM,
    ):
        """`dims` and `strides` of four maps, finest first."""
        neck, dims = pyramid("DeepLabV3+", dims, strides, norm, used=(0, 3))
        super().__init__(dims, strides, num_classes, fpn_dim=fpn_dim, norm=norm, rates=rates)
        self.neck = neck
        self.c1_bottleneck = ConvNorm(dims[0], fine_dim, norm=norm)
        self.sep_bottleneck = nn.Sequential(
            Separable(fpn_dim + fine_dim, fpn_dim, norm=norm), Separable(fpn_dim, fpn_dim, norm=norm)
        )

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, finest first, to (B, fpn_dim, h_0, w_0)."""
        coarse, fine = super().features(maps), self.c1_bottleneck(maps[0])
        out: Tensor = self.sep_bottleneck(torch.cat([resized(coarse, fine.shape[-2:]), fine], dim=1))
        return out
